"""`python -m remanent` is the program `remanent`."""

from remanent.cli.main import main

if __name__ == "__main__":
    main()
