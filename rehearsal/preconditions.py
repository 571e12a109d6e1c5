"""What this machine must offer before a rehearsal begins, each with the way out."""

import platform
import shutil
import subprocess
from pathlib import Path

from rehearsal.errors import RehearsalError

DISK_GIB = 2.0
"""Free space wanted: logs, state and what simulated machines write (they write to memory)."""

GUEST_PROBE = (
    "mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w /mnt/m && "
    "mount -t overlay -o lowerdir=/usr,upperdir=/mnt/u,workdir=/mnt/w none /mnt/m"
)


def check(home: Path) -> None:
    """Raises RehearsalError naming the first thing that is missing, and what to do about it."""
    if platform.system() != "Linux":
        raise RehearsalError(
            f"The rehearsal boots machines in Linux namespaces; this is {platform.system()}. "
            "Run it in a Linux machine or container (WSL 2 and Lima work)."
        )
    for command, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("curl", "curl")):
        if shutil.which(command) is None:
            raise RehearsalError(f"`{command}` is not on the PATH: install the package {package}.")
    free = shutil.disk_usage(home.parent if home.parent.exists() else home).free / 2**30
    if free < DISK_GIB:
        raise RehearsalError(
            f"{home} has {free:.1f} GiB free; a rehearsal needs {DISK_GIB:g} GiB: free some space."
        )
    probe = subprocess.run(
        ["unshare", "-Urmpnu", "--fork", "--mount-proc", "sh", "-c", GUEST_PROBE],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode != 0:
        raise RehearsalError(
            "This machine does not let you make namespaces, in which the rehearsal boots its "
            f"machines ({probe.stderr.strip().splitlines()[-1] if probe.stderr else 'unshare'}).\n"
            "Allow them: `sudo sysctl -w kernel.unprivileged_userns_clone=1` (Debian), "
            "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 24.04 on), "
            "or in a container `--privileged`."
        )
