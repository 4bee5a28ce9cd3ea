"""Speed of bpflat against stated yardsticks, measured in the same run: ``make bench``."""
