"""The figures: a script for each, `program` for their command line, `measure` for numbers, `draw` for pictures."""
