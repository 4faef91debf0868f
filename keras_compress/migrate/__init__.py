"""Models of other libraries, made into this one's."""
