"""The system's parts, one noun a file.

The providers' SDKs define some hundred thousand things that stay until the end. Looking through
them for garbage again and again, and once more at the exit, would take half of the program's time:
see docs/performance.md.
"""

import atexit
import gc

gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
