#!/run/rehearsal/python -IS
"""sleep, in the clouds' time: what would wait ten seconds waits ten divided by the speed."""

import json
import sys
import time
from pathlib import Path

FLOOR_S = 0.05
"""So that a loop that polls does not spin."""

if __name__ == "__main__":
    speed = json.loads(Path("/run/rehearsal/machine.json").read_text())["speed"]
    time.sleep(max(FLOOR_S, float(sys.argv[1]) / speed))
