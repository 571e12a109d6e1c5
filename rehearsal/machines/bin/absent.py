#!/run/rehearsal/python -IS
"""A command that this machine's boot image lacks, though the machine that rehearses has it."""

import sys
from pathlib import Path

if __name__ == "__main__":
    print(f"bash: {Path(sys.argv[0]).name}: command not found", file=sys.stderr)
    sys.exit(127)
