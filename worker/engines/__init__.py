"""Trainers that no library has; an objective names its own by a dotted path (`engine`)."""
