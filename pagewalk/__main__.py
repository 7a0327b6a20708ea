"""`python -m pagewalk`: the command line."""

from guest.cli.start import start

start("pagewalk")
