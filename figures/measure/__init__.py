"""Numbers, from minima: training what is missing, measuring it, and the statistics of what was measured."""
