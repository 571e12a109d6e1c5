"""A simulated VM, as the daemon sees it: boot it, put sockets into its network, end it."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rehearsal.machines import image_files
from rehearsal.machines.keeper import IMAGE, METADATA_ADDRESS, PATH
from rehearsal.world import World

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
COMMANDS = {path.stem.replace("_", "-"): str(path) for path in (HERE / "bin").glob("*.py")}
"""Stand-in commands of the guest, and the program of each."""
ABSENT = COMMANDS.pop("absent")
"""What stands for a command that a boot image lacks."""

LONGEST_LINE = 2**20
"""Bytes of a line that a command may write."""

NO_GPU: dict[str, Any] = {"type": None, "count": 0, "memory_gib": 0, "driver": ""}


@dataclass(frozen=True)
class Image:
    """What a container image starts, and as whom."""

    module: str
    """The Python module that stands for its entry point; empty where the image has none."""
    arguments: tuple[str, ...] = ()
    """What the entry point puts before the container's arguments; without one, the default
    command."""
    user: str = "0:0"
    programs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Commands on the image's PATH, each with the module that stands for it: for a container that
    is started with another entry point. An empty module is this machine's Python itself."""


IMAGES = {
    "vllm/vllm-openai": Image(
        "rehearsal.containers.vllm", programs={"hf": "huggingface_hub.cli.hf"}
    ),
    "cloudflare/cloudflared": Image(
        "rehearsal.containers.cloudflared", ("--no-autoupdate",), "65532:65532"
    ),
    "ollama/ollama": Image(
        "rehearsal.containers.ollama", programs={"ollama": "rehearsal.containers.ollama"}
    ),
    "library/python": Image("", ("python3",), programs={"python": "", "python3": ""}),
}
"""Container images by their name on Docker Hub, with their real entry points and users."""

NOT_ON_COS = ("apt-get", "nvidia-ctk", "nvidia-smi", "python3")
"""What a script might look for and Container-Optimized OS has not."""
READ_ONLY_ON_COS = ("root", "usr")


@dataclass(frozen=True)
class Share:
    """A folder of the clouds that a machine has mounted."""

    source: Path
    target: str
    """Where, in the machine."""
    readonly: bool


@dataclass(frozen=True)
class MachineSpec:
    """What a machine is made of."""

    name: str
    zone: str
    internal_ip: str
    gpu_type: str | None
    gpu_count: int
    gpu_memory_gib: float
    hosts: Mapping[str, str]
    """Host name -> address inside the guest."""
    ca: Path
    """Certificate authority that the guest trusts besides the usual ones (PEM)."""
    images: Mapping[str, Image] = field(default_factory=lambda: IMAGES)
    gpu_driver: str = "580.82.07"
    """Version of the NVIDIA driver."""
    boot_image: str = ""
    """Reference of the image on its disk; of those, only Container-Optimized OS lacks anything."""
    pulled: tuple[str, ...] = ()
    """Container images that are on its disk from the start."""
    shares: tuple[Share, ...] = ()
    disk: Path | None = None
    """What a disk of another machine had on it (`Machine.save`); this one begins with it."""
    boot_s: float = 0.0
    """Seconds, of this machine's clock, that its kernel has been running when its init starts."""


class Machine:
    """A guest. Its network and disk live until `delete`, through any number of boots."""

    def __init__(
        self, spec: MachineSpec, folder: Path, keeper: Process, control: socket.socket
    ) -> None:
        self.spec = spec
        self._folder = folder
        self._keeper = keeper
        self._control = control
        self._ended = asyncio.Event()
        self._ended.set()
        self._booted = asyncio.Event()
        self._init = 0

    @property
    def running(self) -> bool:
        """Whether the guest's init is alive."""
        return not self._ended.is_set()

    async def listen(self, address: str, port: int) -> socket.socket:
        """A listening TCP socket in the guest's network; it outlives a reboot.

        Raises OSError (EADDRINUSE, EADDRNOTAVAIL) as `bind` does.
        """
        return self._socket("listen", address, port)

    async def connect(self, address: str, port: int) -> socket.socket:
        """A TCP connection from inside the guest. Raises OSError (ECONNREFUSED, ...)."""
        return self._socket("connect", address, port)

    async def wait(self) -> None:
        """Return when the guest is off, whatever ended it."""
        await self._ended.wait()

    async def start(self) -> None:
        """Boot the guest's disk. Raises OSError when the guest is gone."""
        (ended,) = self._order("boot")
        self._ended.clear()
        self._booted.clear()
        loop = asyncio.get_running_loop()
        heard = bytearray()

        def hear() -> None:
            if said := os.read(ended, 32):  # init's process id, and a line's end once it is up
                heard.extend(said)
                if b"\n" in heard and heard.strip():
                    self._init = int(heard)
                    self._booted.set()
                return
            loop.remove_reader(ended)
            os.close(ended)
            self._ended.set()
            self._booted.set()  # nothing is left to wait for

        loop.add_reader(ended, hear)

    async def run(self, *command: str, stdin: bytes = b"") -> tuple[int, str]:
        """A command typed by somebody who has logged in as root: its exit code and output."""
        process = await self.start_command(*command, stdin=PIPE)
        output, _ = await process.communicate(stdin)
        return process.returncode or 0, output.decode(errors="replace")

    async def start_command(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        stdin: int = DEVNULL,
    ) -> Process:
        """The same, left running: what it writes, errors too, is read from its `stdout`.

        Waits until the guest is up. Raises OSError when it is off.
        """
        await self._booted.wait()
        if not self.running:
            raise ConnectionResetError(f"machine {self.spec.name} is off")
        namespaces = "--user --mount --net --uts --ipc --pid --time --preserve-credentials"
        enter = f"nsenter --target={self._init} {namespaces} --root --wdns=/".split()
        return await asyncio.create_subprocess_exec(
            *enter,
            *command,
            stdin=stdin,
            stdout=PIPE,
            stderr=STDOUT,
            limit=LONGEST_LINE,
            env={**(environment or {}), "PATH": PATH},
        )

    async def come_back(self) -> bool:
        """Boot again, if the guest went down for a reboot of its own."""
        mark = self._folder / "reboot"
        if not mark.exists():
            return False
        mark.unlink()
        await self.start()
        return True

    async def reboot(self, grace_s: float = 90) -> None:
        """Shut the guest down and boot it again."""
        await self.stop(grace_s)
        await self.start()

    async def stop(self, grace_s: float) -> None:
        """Press the power button; after `grace_s` seconds, pull the plug. The disk stays."""
        if not self.running:
            return
        self._order("signal", signal.SIGPWR)
        try:
            await asyncio.wait_for(self._ended.wait(), grace_s)
        except TimeoutError:
            self._order("signal", signal.SIGKILL)
            await self._ended.wait()

    async def save(self, folder: Path) -> None:
        """Keep what is on the disk. Raises OSError when the guest runs."""
        if self.running:
            raise BlockingIOError(f"machine {self.spec.name} is not off")
        self._order("save", str(folder))

    async def delete(self) -> None:
        """End the guest at once, with its network and its disk. May be called again."""
        self._control.close()
        await self._keeper.wait()
        await self._ended.wait()

    def _socket(self, order: str, address: str, port: int) -> socket.socket:
        (descriptor,) = self._order(order, address, port)
        return socket.socket(fileno=descriptor)

    def _order(self, *order: object) -> list[int]:
        """What the keeper opened for an order; it answers within milliseconds."""
        try:
            self._control.send(json.dumps(order).encode())
            answer, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 1)
        except OSError as error:
            raise OSError(error.errno, f"machine {self.spec.name} is gone") from error
        if not answer:
            raise ConnectionResetError(f"machine {self.spec.name} is gone")
        refusal: dict[str, Any] = json.loads(answer)
        if refusal:
            raise OSError(refusal["errno"], refusal["error"])
        return descriptors


async def boot(world: World, spec: MachineSpec) -> Machine:
    """Make a machine and boot it.

    Its folder in the world (`machines/<name>/`) is the guest's /run/rehearsal
    and gets console.log and timeline.jsonl. Raises OSError where this system
    forbids namespaces or overlays.
    """
    folder = world.directory / "machines" / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.json").write_text(json.dumps(_facts(world, spec), indent=2))
    (folder / "timeline.jsonl").touch()
    world.faults.folder.mkdir(exist_ok=True)
    python = folder / "python"  # what the stand-in commands name as their interpreter
    python.unlink(missing_ok=True)
    python.symlink_to(sys.executable)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(30)
    with theirs, (folder / "console.log").open("a") as console:
        keeper = await asyncio.create_subprocess_exec(
            sys.executable,
            "-IS",
            str(HERE / "keeper.py"),
            str(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            stdin=DEVNULL,
            stdout=console,
            stderr=console,
        )
    machine = Machine(spec, folder, keeper, ours)
    try:
        machine._order("make", _guest(world, spec, folder))  # pyright: ignore[reportPrivateUsage] -- the two halves of one thing
        await machine.start()
    except BaseException:
        await machine.delete()
        raise
    return machine


def _facts(world: World, spec: MachineSpec) -> dict[str, Any]:
    """machine.json: what the stand-ins know of the machine that they are on."""
    gpu = {
        "type": spec.gpu_type,
        "count": spec.gpu_count,
        "memory_gib": spec.gpu_memory_gib,
        "driver": spec.gpu_driver,
    }
    return {
        "name": spec.name,
        "zone": spec.zone,
        "speed": world.speed,
        "gpu": gpu if spec.gpu_type else NO_GPU,
        "timeline": "/run/rehearsal/timeline.jsonl",
        "faults": "/run/rehearsal/faults",
        "python": sys.executable,
        "plain_python": str(Path(sys.executable).resolve()),
        "pythonpath": str(REPOSITORY),
        "ours": [str(it) for it in _ours(world) if it.parts[1] not in IMAGE],
        "pulled": list(spec.pulled),
        "gguf": str(world.gguf.resolve()) if world.gguf else None,
        "images": {name: asdict(image) for name, image in spec.images.items()},
    }


def unpacked(reference: str) -> str:
    """Where a guest looks for the files of a built image that it has on its disk."""
    return f"/var/lib/docker/unpacked/{image_files.digest(reference.encode())}"


def _ours(world: World) -> list[Path]:
    """What of this machine is on every guest, for the stand-ins."""
    ours = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)}
    ours.add(Path(sys.executable).resolve().parent.parent)
    if world.gguf:
        ours.add(world.gguf.resolve())
    return sorted(ours)


def _guest(world: World, spec: MachineSpec, folder: Path) -> dict[str, Any]:
    """What the keeper needs to know."""
    addresses = {METADATA_ADDRESS, spec.internal_ip, *spec.hosts.values()}
    cos = "cos-cloud" in spec.boot_image
    return {
        "name": spec.name,
        "internal_ip": spec.internal_ip,
        "addresses": sorted(it for it in addresses if not it.startswith("127.")),
        "hosts": dict(spec.hosts),
        "ca": str(spec.ca),
        "folder": str(folder),
        "world": str(world.directory),
        "disk": str(spec.disk) if spec.disk else "",
        "faults": str(world.faults.folder),
        "binds": [str(path) for path in _ours(world)],
        "uptime_s": spec.boot_s,
        "shares": [(str(it.source), it.target, it.readonly) for it in spec.shares],
        "commands": COMMANDS | (dict.fromkeys(NOT_ON_COS, ABSENT) if cos else {}),
        "readonly": READ_ONLY_ON_COS if cos else (),
        "python": sys.executable,
        "init": str(HERE / "init.py"),
    }
