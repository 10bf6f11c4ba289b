"""The jobs that the command line and the first functions of the library run: one file each."""
