"""Whether each objective learns something that can be told on rows it has not seen, with the defaults that are shipped: see `__main__`."""
