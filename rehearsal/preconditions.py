"""What this machine must offer before a rehearsal begins, each with the way out."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rehearsal.errors import RehearsalError
from rehearsal.machines import keeper

ROOT = Path(__file__).parent.parent
DISK_GIB = 2.0
"""Free space wanted: logs, state and what simulated machines write (they write to memory)."""
PROBE_TIMEOUT_S = 30.0

COMMANDS = {"bash": "bash", "curl": "curl", "setpriv": "util-linux"}
"""What guests and checks run of this machine, and the package that has it."""

FORBIDDING = (
    *(
        (f"/proc/sys/user/max_{kind}_namespaces", "0", f"sysctl -w user.max_{kind}_namespaces=9999")
        for kind in ("user", "mnt", "net", "uts", "ipc", "pid")
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
"""Settings that forbid namespaces: the file, the value that does, and what allows them."""

WAYS_OUT = (
    (
        "no space left|disk is full|quota exceeded",
        "The disk is full: make room (a rehearsal needs {gib:g} GiB under {here}), then try again.",
    ),
    (
        "read-only file system|permission denied: '",
        "A rehearsal writes under {here}: clone the repository to a place that can be written to.",
    ),
    (
        "cannot allocate memory|too many open files",
        "This machine is short of memory or of open files: end something, then run it again.",
    ),
)
"""What an error says, in lower case, and what a person can do about it."""


def check(home: Path) -> None:
    """Raises RehearsalError naming the first thing that is missing, and what to do about it."""
    if platform.system() != "Linux":
        raise RehearsalError(
            f"The rehearsal boots machines in Linux namespaces; this is {platform.system()}. "
            "Run it in a Linux machine or container (WSL 2 and Lima work)."
        )
    for command, package in COMMANDS.items():
        if shutil.which(command) is None:
            raise RehearsalError(f"`{command}` is not on the PATH: install the package {package}.")
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free / 2**30
    if free < DISK_GIB:
        raise RehearsalError(
            f"{home} has {free:.1f} GiB free; a rehearsal needs {DISK_GIB:g} GiB: make room."
        )
    _check_machines(home)


def with_way_out(error: str) -> str:
    """The error, with what a person can do where this machine is at fault."""
    for pattern, way_out in WAYS_OUT:
        if re.search(pattern, error.lower()):
            return f"{error}\n{way_out.format(gib=DISK_GIB, here=ROOT)}"
    return error


def _check_machines(home: Path) -> None:
    """Boot a machine that ends at once. RehearsalError with what this system refused."""
    with tempfile.TemporaryDirectory(dir=home, prefix="probe-") as folder:
        probe = subprocess.run(
            [sys.executable, "-m", "rehearsal.preconditions", folder],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    if probe.returncode == 0:
        return
    said = (probe.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise RehearsalError(
        "The rehearsal boots its machines in Linux namespaces, and this system does not allow that "
        f"({said}).\n{way_out(said)}"
    )


def way_out(said: str) -> str:
    """What allows machines here."""
    for path, value, command in FORBIDDING:
        if Path(path).exists() and Path(path).read_text().strip() == value:
            return f"{path} is {value}. Allow machines: sudo {command}"
    if "overlay" in said and "No such device" in said:
        return "The kernel lacks overlayfs. Load it: sudo modprobe overlay"
    return (
        "In a container, start that with --privileged (or with --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --security-opt systempaths=unconfined); elsewhere, ask "
        "whoever looks after this machine to allow user namespaces, or use another one."
    )


def _boot_nothing(folder: str) -> None:
    """What the keeper does for every machine, with /bin/true for init. OSError where refused."""
    guest: keeper.Guest = {
        "folder": folder,
        "disk": "",
        "name": "probe",
        "internal_ip": "10.0.0.2",
        "ca": "/dev/null",
        "hosts": {},
        "commands": {},
        "binds": [],
        "world": "/nonexistent",
        "python": "/bin/true",
        "init": "",
        "uptime_s": 0.0,
    }
    keeper.enter_namespaces()
    keeper.bring_up_network([keeper.METADATA_ADDRESS])
    holder, ended = keeper.boot(keeper.make_disk(guest), guest)
    started = os.read(ended, 32)
    _, status = os.waitpid(holder, 0)
    if status or not started:
        sys.exit(1)


if __name__ == "__main__":
    try:
        _boot_nothing(sys.argv[1])
    except OSError as error:
        sys.exit(str(error))
