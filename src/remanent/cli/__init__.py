"""The program `remanent`: one file per command, each of which calls a job."""
