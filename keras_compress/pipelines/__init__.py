"""Whole ways from a float model to a file: several methods, trained, converted and measured in turn."""
