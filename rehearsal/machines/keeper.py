"""Holds one guest's namespaces, network and disk, and boots an init in them when told to.

A process of its own, on the standard library alone. It dies with the daemon that started it, and
everything in the guest dies with it, mounts included. It works as root and as an ordinary user:
either way the guest's root is nobody but the user who rehearses.

`keeper.py FD` takes its orders from that socket (SOCK_SEQPACKET), one JSON list a message: first
["make", guest], then ["listen"|"connect", address, port], ["boot"], ["signal", number], or ["save",
folder] once the guest is off: its disk, as another guest's "disk" may name it. It answers {} with a
descriptor where there is one, or {"errno": ..., "error": ...}.
"""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

Guest = dict[str, Any]

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_NEWTIME = 0x80
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
LOCKED = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME
"""Flags of a mount from outside that an ordinary user cannot take away."""
PR_SET_PDEATHSIG = 1
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, IFF_UP_RUNNING = 0x8914, 0x8916, 0x891C, 0x41

METADATA_ADDRESS = "169.254.169.254"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IMAGE = ("usr", "etc", "var", "opt", "nix", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""What of this machine's file system is the guest's boot image; homes are not in it."""
OWNED = (
    *("etc/docker", "etc/pki/tls/certs", "etc/ssl/certs", "etc/systemd/system"),
    *("usr/local/bin", "usr/local/sbin", "var/cache", "var/lib", "var/log", "var/tmp"),
)
"""Folders that the guest's root may write to even where this machine's user may not."""
AUTHORITIES = ("etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt")
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")


def call(name: str, *arguments: object) -> None:
    """A function of libc. OSError with the reason when it fails."""
    if getattr(_libc, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def mount(source: Path | str, target: Path | str, type: str = "", flags: int = 0, data: str = ""):
    """mount(2). OSError names the target."""
    try:
        names = os.fsencode(source), os.fsencode(target), type.encode()
        call("mount", *names, ctypes.c_ulong(flags), data.encode() or None)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({target})") from None


def tmpfs(target: Path, mode: str = "0755") -> None:
    """An empty folder in memory."""
    target.mkdir(parents=True, exist_ok=True)
    mount("tmpfs", target, "tmpfs", data=f"mode={mode}")


def bind(source: Path, target: Path, readonly: bool = False, recursive: bool = True) -> None:
    """Show a file or folder at `target` too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))
    if readonly:
        make_readonly(target)


def make_readonly(mountpoint: Path) -> None:
    """Forbid writing through one mount."""
    kept = os.statvfs(mountpoint).f_flag & LOCKED
    mount("none", mountpoint, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def die_with_parent() -> None:
    """Be killed when the process that started this one ends, however it ends."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def enter_namespaces() -> None:
    """Become root of namespaces that share nothing with this machine. OSError where forbidden."""
    uid, gid = os.getuid(), os.getgid()
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def bring_up_network(addresses: list[str]) -> None:
    """Loopback, with the guest's other addresses on it."""

    def request(number: int, address: str) -> bytes:
        name, packed = f"lo:{number}".encode(), socket.inet_aton(address)
        return struct.pack("16sH2s4s8x", name, socket.AF_INET, b"", packed)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        up = struct.pack("16sH14x", b"lo", IFF_UP_RUNNING)
        fcntl.ioctl(control, SIOCSIFFLAGS, up)
        for number, address in enumerate(addresses):
            fcntl.ioctl(control, SIOCSIFADDR, request(number, address))
            fcntl.ioctl(control, SIOCSIFNETMASK, request(number, "255.255.255.255"))


def make_disk(guest: Guest) -> Path:
    """The boot disk: this machine's system folders, changed in memory only. Returns its root."""
    disk = Path(guest["folder"], "disk")
    tmpfs(disk)
    os.chdir(disk)  # overlayfs options are relative, for a comma in a path would end one
    root = disk / "root"
    root.mkdir()
    bind(root, root)  # a mount of its own, which a container can make read-only
    if guest["disk"]:
        shutil.copytree(guest["disk"], "upper", symlinks=True)
    for path in OWNED:
        Path("upper", path).mkdir(parents=True, exist_ok=True)
    for name in IMAGE:
        source = Path("/", name)
        if source.is_symlink():
            (root / name).symlink_to(source.readlink())
        elif source.is_dir():
            overlay(Path(name))
    configure(root, guest)
    return root


def save(folder: Path) -> None:
    """What was written to the disk, into `folder`; not what was deleted of this machine's."""

    def special(source: str, names: list[str]) -> set[str]:
        paths = [Path(source, name) for name in names]
        return {it.name for it in paths if not (it.is_symlink() or it.is_file() or it.is_dir())}

    shutil.copytree("upper", folder, symlinks=True, ignore=special, dirs_exist_ok=True)


def overlay(path: Path) -> None:
    """An overlay of this machine's /path at root/path.

    A folder with other mounts in it cannot be a lower layer for an ordinary
    user; such a folder is put together from its parts.
    """
    upper, work, target = Path("upper", path), Path("work", path), Path("root", path)
    for folder in (upper, work, target):
        folder.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir=/{path},upperdir={upper},workdir={work},userxattr"
    try:
        mount("overlay", target, "overlay", data=options)
    except OSError:
        if f" /{path}/" not in Path("/proc/self/mountinfo").read_text():
            raise
        for entry in Path("/", path).iterdir():
            if entry.is_symlink():
                Path("root", path, entry.name).symlink_to(entry.readlink())
            elif entry.is_dir():
                overlay(path / entry.name)
            elif entry.is_file() and os.access(entry, os.R_OK):
                shutil.copy2(entry, target / entry.name)


RESOLVER = "nameserver 127.1.0.1\noptions use-vc timeout:1 attempts:1\n"
"""For names that /etc/hosts lacks: google/dns.py answers, if anything does."""


def configure(root: Path, guest: Guest) -> None:
    """What a cloud's image and its first boot set up: names, authorities, commands."""
    names = {"localhost": "127.0.0.1", guest["name"]: guest["internal_ip"], **guest["hosts"]}
    names["metadata.google.internal"] = METADATA_ADDRESS
    replace(root / "etc/hosts", "".join(f"{address} {name}\n" for name, address in names.items()))
    replace(root / "etc/resolv.conf", RESOLVER)
    replace(root / "etc/hostname", guest["name"] + "\n")
    authority = Path(guest["ca"]).read_text()
    for path in AUTHORITIES:
        if Path("/", path).exists():
            replace(root / path, Path("/", path).read_text() + "\n" + authority)
    for name, program in guest["commands"].items():
        command = root / "usr/local/sbin" / name
        command.unlink(missing_ok=True)
        command.symlink_to(program)


def replace(path: Path, text: str) -> None:
    """Write a new file; the old one may be a link out of the disk or somebody else's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o644)


def mount_volatile(root: Path, guest: Guest) -> None:
    """What a boot makes anew: /proc, /dev, /run, /tmp, and what the stand-ins need of ours."""
    for name in ("proc", "sys", "mnt"):
        (root / name).mkdir(exist_ok=True)
    mount("proc", root / "proc", "proc")
    mount("/sys", root / "sys", flags=MS_BIND | MS_REC)
    for name, mode in (("dev", "0755"), ("run", "0755"), ("root", "0700"), ("home", "0755")):
        tmpfs(root / name, mode)
    for name in ("tmp", "dev/shm"):
        tmpfs(root / name, "1777")
    for name in DEVICES:
        bind(Path("/dev", name), root / "dev" / name)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (root / "dev" / name).symlink_to(f"/proc/self/{target}")
    for path in map(Path, guest["binds"]):
        if path.parts[1] not in IMAGE:
            bind(path, root / path.relative_to("/"), readonly=True)
    world = root / Path(guest["world"]).relative_to("/")
    if world.is_dir():
        tmpfs(world)  # the clouds' own files are not on any of their machines
    for source, target, readonly in guest["shares"]:
        bind(Path(source), root / target.lstrip("/"), readonly)
    for name in filter(Path.is_mount, (root / name for name in guest["readonly"])):
        make_readonly(name)
    # Not recursive: the disk is mounted inside that folder.
    bind(Path(guest["folder"]), root / "run/rehearsal", recursive=False)
    bind(Path(guest["faults"]), root / "run/rehearsal/faults")


def boot(root: Path, guest: Guest) -> tuple[int, int]:
    """Start init. Returns the process to signal, and a descriptor: init's id, and its end."""
    ended, alive = os.pipe()
    holder = os.fork()
    if holder:
        os.close(alive)
        return holder, ended
    try:
        become_holder(root, guest, alive)
    except OSError as error:
        print(f"boot failed: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(1)


def become_holder(root: Path, guest: Guest, alive: int) -> None:
    """Hold a process namespace whose first process is init; pass the power button on to it."""
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    call("unshare", CLONE_NEWPID | CLONE_NEWNS)
    with suppress(OSError):  # some kernels have none of it; they show this machine's uptime
        count_uptime_from(guest["uptime_s"])
    init = os.fork()
    if init:
        signal.signal(signal.SIGPWR, lambda number, _: os.kill(init, number))
        os.write(alive, str(init).encode())
        os.close(alive)
        os.waitpid(init, 0)
        os._exit(0)
    die_with_parent()
    mount_volatile(root, guest)
    os.chroot(root)
    os.chdir("/")
    os.set_inheritable(alive, True)
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "TERM": "linux"}
    argv = [guest["python"], "-IS", guest["init"], str(alive)]
    os.execve(guest["python"], argv, environment)  # noqa: S606 -- a shell is not wanted


def count_uptime_from(uptime_s: float) -> None:
    """Let /proc/uptime say that the guest's kernel has been running for so long, to its init."""
    call("unshare", CLONE_NEWTIME)
    offset_ns = int((uptime_s - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1e9)
    seconds, nanoseconds = divmod(offset_ns, 10**9)
    Path("/proc/self/timens_offsets").write_text(f"boottime {seconds} {nanoseconds}")


def serve(control: socket.socket) -> None:
    """Carry out orders until the daemon is gone."""
    guest: Guest = {}
    root, holder = Path(), 0
    while message := control.recv(1 << 16):
        order, *arguments = json.loads(message)
        descriptors: list[int] = []
        try:
            if order == "make":
                guest = arguments[0]
                enter_namespaces()
                socket.sethostname(guest["name"])
                bring_up_network(guest["addresses"])
                root = make_disk(guest)
            elif order == "boot":
                holder, ended = boot(root, guest)
                descriptors = [ended]
            elif order == "save":
                save(Path(arguments[0]))
            elif order == "signal":
                os.kill(holder, arguments[0])
            elif order == "listen":
                descriptors = [socket.create_server(tuple(arguments), backlog=128).detach()]
            elif order == "connect":
                connected = socket.create_connection(tuple(arguments), timeout=2)
                connected.settimeout(None)
                descriptors = [connected.detach()]
            answer: dict[str, object] = {}
        except OSError as error:
            answer = {"errno": error.errno, "error": error.strerror or str(error)}
        socket.send_fds(control, [json.dumps(answer).encode()], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to answer
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    serve(socket.socket(fileno=int(sys.argv[1])))
