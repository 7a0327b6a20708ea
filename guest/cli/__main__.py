"""`python -m guest.cli`: the command line without an installed `pagewalk`."""

from guest.cli.start import start

start()
