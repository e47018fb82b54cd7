"""Every figure the docs quote comes from a script in here that prints it."""
