"""Damaged files, made-up files, wrong command lines and interruptions: a sample in the suite, all by ``make fuzz``."""

import os

ALL = os.environ.get("BPFLAT_FUZZ") == "all"
