"""What `docker build` does in a guest: a Dockerfile's commands really run, and become layers.

It knows the instructions and flags that this project uses and refuses the others. A command runs
in a root of its own: the machine's system folders, to read, and next to them whatever it writes,
which is the layer. Absent on purpose: build contexts, stages, caches, whiteouts.
"""

import gzip
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rehearsal.machines import image_files, keeper

SECRETS = "run/secrets"
MOUNT = re.compile(r"--mount=type=secret,id=([\w-]+)\s+")
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class BuildError(Exception):
    """The build fails, for a reason that docker gives at its end."""


class Step(NamedTuple):
    """One instruction of a Dockerfile."""

    instruction: str
    operand: str


class Run(NamedTuple):
    """A command to run for a layer."""

    command: str
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    """Those that are mounted, by id; a build that was not given one mounts nothing."""


class Built(NamedTuple):
    """What a build has made on top of its base."""

    base: dict[str, Any]
    """The record of the image that it began with."""
    layers: list[bytes]
    environment: dict[str, str]
    history: list[str]


def steps(dockerfile: str) -> list[Step]:
    """The instructions. BuildError for those that are not played here."""
    lines = [it for it in dockerfile.splitlines() if not it.lstrip().startswith("#")]
    found = list[Step]()
    for line in "\n".join(lines).replace("\\\n", "\\\0").splitlines():
        name, _, operand = line.replace("\\\0", "").strip().partition(" ")
        if not name:
            continue
        if name not in ("ARG", "ENV", "FROM", "RUN"):
            raise BuildError(f"dockerfile parse error: the rehearsal does not play {name}")
        found.append(Step(name, operand.strip()))
    return found


class Builder:
    """One build, from its Dockerfile to the layers."""

    def __init__(
        self,
        arguments: Mapping[str, str],
        secrets: Mapping[str, str],
        pull: Callable[[str], dict[str, Any]],
        run: Callable[[Run, dict[str, Any]], Iterator[str]],
        root: Path,
    ) -> None:
        self._arguments = arguments
        self._secrets = secrets
        self._pull = pull
        self._run = run
        self._root = root
        self._number = 0

    def build(self, dockerfile: str) -> Built:
        """Carry out a Dockerfile, saying how it goes as BuildKit's plain progress does."""
        todo = steps(dockerfile)
        total = sum(step.instruction in ("FROM", "RUN") for step in todo)
        given: dict[str, str] = {}
        built: Built | None = None
        done = 0
        for instruction, operand in todo:
            if instruction == "FROM":
                operand = expand(operand, given)
            if instruction in ("FROM", "RUN"):
                done += 1
                self._say(f"[{done}/{total}] {instruction} {operand}", new=True)
            if instruction == "FROM":
                if built:
                    raise BuildError("the rehearsal plays builds of one stage only")
                built = Built(self._pull(operand), [], {}, [])
                given = {}
            elif instruction == "ARG":
                name, _, default = operand.partition("=")
                if name in self._arguments or default:
                    given[name] = self._arguments.get(name, default)
            elif built is None:
                raise BuildError("no build stage in current context")
            elif instruction == "ENV":
                for pair in shlex.split(operand):
                    name, _, value = pair.partition("=")
                    built.environment[name] = expand(value, given | built.environment)
                built.history.append(f"ENV {operand}")
            else:
                self._layer(operand, given, built)
        if built is None:
            raise BuildError("the Dockerfile cannot be empty: no build stage in current context")
        return built

    def _layer(self, operand: str, given: dict[str, str], built: Built) -> None:
        ids = list[str]()
        while mount := MOUNT.match(operand):
            ids.append(mount[1])
            operand = operand[mount.end() :]
        if operand.startswith("--"):
            raise BuildError(f"the rehearsal does not play RUN {operand.split()[0]}")
        secrets = {id: self._secrets[id] for id in ids if id in self._secrets}
        what = Run(operand, given | built.environment, secrets)
        before, start = image_files.survey(self._root), time.monotonic()
        for line in self._run(what, built.base):
            self._say(f"{time.monotonic() - start:.3f} {line}")
        self._say(f"DONE {time.monotonic() - start:.1f}s")
        after = image_files.survey(self._root)
        if gone := before.keys() - after.keys():
            raise BuildError(f"the rehearsal cannot take {min(gone)} out of an earlier layer")
        changed = [name for name, signature in after.items() if before.get(name) != signature]
        built.layers.append(image_files.pack(self._root, changed))
        told = "".join(f" {name}={value}" for name, value in given.items())
        built.history.append(f"RUN |{len(given)}{told} /bin/sh -c {operand} # buildkit")

    def _say(self, text: str, *, new: bool = False) -> None:
        if new:
            self._number += 1
        print(f"#{self._number} {text}", file=sys.stderr, flush=True)


def image(built: Built, life: float) -> tuple[dict[str, Any], list[bytes]]:
    """The manifest of what was built, and its blobs. Pulling the layers takes `life` seconds."""
    base: dict[str, Any] = built.base["Manifest"]
    annotations: dict[str, str] = base["annotations"]
    if image_files.BASE in annotations:
        raise BuildError("the rehearsal plays builds on top of Docker Hub's images only")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [f"{name}={value}" for name, value in built.environment.items()]},
        "rootfs": {
            "type": "layers",
            "diff_ids": [image_files.digest(gzip.decompress(it)) for it in built.layers],
        },
        "history": [{"created_by": line} for line in built.history],
    }
    described = json.dumps(config).encode()
    layers = [image_files.descriptor(image_files.LAYER, it) for it in built.layers]
    seconds = float(annotations[image_files.SECONDS]) + life
    manifest = {
        "schemaVersion": 2,
        "mediaType": image_files.IMAGE,
        "config": image_files.descriptor(image_files.CONFIG, described),
        "layers": [*base["layers"], *layers],
        "annotations": {
            image_files.BASE: built.base["Repository"],
            image_files.BASE_IMAGE: built.base["Reference"],
            image_files.SECONDS: str(seconds),
        },
    }
    return manifest, [described, *built.layers]


def expand(text: str, values: Mapping[str, str]) -> str:
    """Variables of a Dockerfile; those that are not set are empty."""
    return VARIABLE.sub(lambda match: values.get(match[1] or match[2], ""), text)


# Running a command


def prepare(root: Path, ours: list[str]) -> None:
    """An empty root with places for what is mounted into it."""
    for path in Path("/").iterdir():
        if path.is_symlink():
            (root / path.name).symlink_to(path.readlink())
        elif path.is_dir():
            (root / path.name).mkdir(parents=True)
    for path in ours:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)


def run_in(
    root: Path, ours: list[str], what: Run, furnish: Callable[[Path], None]
) -> Iterator[str]:
    """Run a command; yields its output by lines. BuildError when it fails.

    `ours` are folders of this machine that the stand-ins need. `furnish` fills the root's /run,
    which is in no layer.
    """
    output, theirs = os.pipe()
    child = os.fork()
    if not child:
        code = 125
        try:
            for stream in (1, 2):
                os.dup2(theirs, stream)
            code = isolate(root, ours, what, furnish)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    os.close(theirs)
    with open(output, errors="replace") as lines:
        for line in lines:
            yield line.rstrip("\n")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        problem = f"did not complete successfully: exit code: {code}"
        raise BuildError(f'process "/bin/sh -c {what.command}" {problem}')


def isolate(root: Path, ours: list[str], what: Run, furnish: Callable[[Path], None]) -> int:
    """Run the command as the first process of namespaces that end with it; its exit code."""
    keeper.call("unshare", keeper.CLONE_NEWNS | keeper.CLONE_NEWPID)
    first = os.fork()
    if not first:
        enter(root, ours, what, furnish)
    return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])


def enter(root: Path, ours: list[str], what: Run, furnish: Callable[[Path], None]) -> NoReturn:
    """Become the command, in its root."""
    for name in keeper.IMAGE:
        if (root / name).is_dir() and not (root / name).is_symlink():
            keeper.bind(Path("/", name), root / name, readonly=True)
    for path in ours:
        keeper.bind(Path(path), root / path.lstrip("/"), readonly=True)
    for name in ("dev", "sys"):
        keeper.bind(Path("/", name), root / name)
    keeper.mount("proc", root / "proc", "proc")
    keeper.tmpfs(root / "run")
    furnish(root / "run")
    for id, value in what.secrets.items():
        path = root / SECRETS / id
        path.parent.mkdir(exist_ok=True)
        path.write_text(value)
        path.chmod(0o400)
    os.chroot(root)
    os.chdir("/")
    os.execve("/bin/sh", ["/bin/sh", "-c", what.command], {**what.environment})  # noqa: S606 -- sh is what a Dockerfile means
