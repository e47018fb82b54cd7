"""The commands of `luthier`, one file for each family. A module here imports only typer at its top, so that help stays quick."""
