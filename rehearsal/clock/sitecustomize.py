"""Lets time pass faster in the Python commands that `pulumi up` runs, where a rehearsal wants that.

Python imports this by itself where it is on its path. Their minutes of waiting are compressed like
the clouds' own; what they wait for on the network is not.
"""

import os
import time

FASTER = float(os.environ["REHEARSAL_CLOCK"])
SHORTEST_S = 0.1
"""Real seconds: whoever asks every second of his time shall not ask all the time."""

_sleep, _monotonic = time.sleep, time.monotonic
_start = _monotonic()


def sleep(seconds: float) -> None:
    """time.sleep, of the faster clock."""
    _sleep(max(seconds / FASTER, min(seconds, SHORTEST_S)))


def monotonic() -> float:
    """time.monotonic, of the faster clock."""
    return _start + (_monotonic() - _start) * FASTER


time.sleep, time.monotonic = sleep, monotonic
