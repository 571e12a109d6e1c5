#!/run/rehearsal/python -IS
"""nvidia-ctk: that it is there says that the image has the NVIDIA container toolkit."""

import sys

if __name__ == "__main__":
    if sys.argv[1:] != ["--version"]:
        sys.exit("nvidia-ctk: only --version is simulated")
    print("NVIDIA Container Toolkit CLI version 1.18.0")
