"""`python -m pagewalk`: the command line."""

from guest.cli.main import main

main(prog_name="pagewalk")
