"""The memory that a process of a test takes."""

import re
import resource
import sys
from pathlib import Path


def peak_memory():
    """Largest memory of this process so far (bytes).

    Of its own memory alone where Linux tells it: the resources of a child begin with the peak of its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
