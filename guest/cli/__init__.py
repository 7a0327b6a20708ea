"""The command line: `pagewalk`, a file for each command."""
