"""A report in the languages it is written in, each from the same sections."""
