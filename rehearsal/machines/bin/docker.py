#!/run/rehearsal/python -IS
"""docker, without a daemon: images are names, and a container is a Python module in namespaces.

A container sees its own environment, its volumes, an empty /run, and the machine's other files; its
process is the first of its own process namespace, as in life. Only `--network=host` is simulated.
"""

import base64
import fcntl
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

MACHINE: dict[str, Any] = json.loads(Path("/run/rehearsal/machine.json").read_text())
sys.path.insert(0, MACHINE["pythonpath"])

from rehearsal.faults import Faults  # noqa: E402 -- found by the path above
from rehearsal.machines import image_files, keeper  # noqa: E402

FAULTS = Faults(Path(MACHINE["faults"]))
IMAGES = Path("/var/lib/docker/images.json")
CONTAINERS = Path("/run/docker/containers")
"""Absent on purpose: containers that outlive a reboot. Ours are all `--rm`."""
BUILT = Path("/var/lib/docker")
"""What belongs to images that were built here: `blobs`, and `unpacked` files to run them with."""
NO_DEVICE = {"type": None, "count": 0, "memory_gib": 0, "driver": ""}
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
PROGRAMS = Path("/run/rehearsal/bin")
"""First on a container's PATH: commands that its image has."""
WRITABLE = ("", "usr", "etc", "var", "opt", "root", "home", "tmp", "run")
"""The mounts of a guest that a container might write to."""

SWITCH, VALUE = False, True
FLAGS: dict[str, dict[str, bool]] = {
    "run": {
        **dict.fromkeys(("--rm", "--read-only", "--init"), SWITCH),
        **dict.fromkeys(
            [
                "--name",
                "--entrypoint",
                "--pull",
                "--gpus",
                "--ipc",
                "--network",
                "--user",
                "--cap-drop",
                "--security-opt",
                "--log-driver",
                "--env",
                "--env-file",
                "--volume",
                "--shm-size",
                "--ulimit",
                "--label",
                "--hostname",
                "--tmpfs",
            ],
            VALUE,
        ),
    },
    "build": {"--build-arg": VALUE, "--progress": VALUE, "--secret": VALUE, "--tag": VALUE},
    "pull": {"--quiet": SWITCH},
    "push": {"--quiet": SWITCH},
    "login": {"--username": VALUE, "--password-stdin": SWITCH},
    "stop": {"--timeout": VALUE, "--signal": VALUE},
    "kill": {"--signal": VALUE},
    "rm": {"--force": SWITCH},
    "ps": {"--all": SWITCH, "--quiet": SWITCH, "--no-trunc": SWITCH, "--format": VALUE},
    "inspect": {"--format": VALUE},
    "image inspect": {"--format": VALUE},
    "image ls": {"--all": SWITCH, "--quiet": SWITCH, "--no-trunc": SWITCH, "--format": VALUE},
    "image rm": {"--force": SWITCH},
    "logs": {"--follow": SWITCH},
    "info": {"--format": VALUE},
    "version": {"--format": VALUE},
}
"""Command -> its flags, and whether each takes a value."""
SHORT = {
    "-a": "--all",
    "-e": "--env",
    "-f": "--force",
    "-h": "--hostname",
    "-q": "--quiet",
    "-s": "--signal",
    "-t": "--timeout",
    "-u": "--user",
    "-v": "--volume",
}
Options = dict[str, list[str]]
Record = dict[str, Any]


def fail(message: str, code: int = 1) -> NoReturn:
    """End with docker's words on standard error."""
    print(message, file=sys.stderr)
    sys.exit(code)


def refuse(message: str, code: int = 1) -> NoReturn:
    """End as when the daemon says no."""
    fail(f"Error response from daemon: {message}", code)


# The command line


def parse(command: str, arguments: list[str]) -> tuple[Options, list[str]]:
    """Flags and operands. `run` takes no flag after the image, as the rest is the container's."""
    options: Options = {}
    operands: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            operands.append(word)
            if command == "run":
                return options, operands + rest
            continue
        flag, equals, value = word.partition("=")
        if flag in SHORT:
            flag = SHORT[flag]
        if flag not in FLAGS[command]:
            unknown(command, word, flag)
        if FLAGS[command][flag] is VALUE and not equals:
            if not rest:
                fail(f"flag needs an argument: {flag}\n\nRun 'docker {command} --help'", 125)
            value = rest.pop(0)
        if FLAGS[command][flag] is VALUE or value != "false":
            options.setdefault(flag, []).append(value)
    return options, operands


def unknown(command: str, word: str, flag: str) -> NoReturn:
    """The refusal of a flag that docker, or this stand-in, does not have."""
    what = f"unknown flag: {flag}"
    if not word.startswith("--"):
        what = f"unknown shorthand flag: '{word[1]}' in {word}"
    fail(f"{what}\n\nRun 'docker {command} --help' for more information", 125)


def one(options: Options, flag: str, default: str = "") -> str:
    """The last value of a flag."""
    return options.get(flag, [default])[-1]


def render(template: str, record: Record) -> str:
    """Go's templates, as far as `{{.Field}}` and `{{json .}}`."""
    if template == "{{json .}}":
        return json.dumps(record)
    return re.sub(r"{{ *\.(\w+) *}}", lambda match: str(record[match[1]]), template)


# Images


@contextmanager
def images() -> Generator[dict[str, Record]]:
    """Images on the disk by reference; what is changed inside the block is kept."""
    IMAGES.parent.mkdir(parents=True, exist_ok=True)
    with open(IMAGES, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        found: dict[str, Record] = json.loads(text) if text else on_the_disk()
        before = json.dumps(found)
        yield found
        if json.dumps(found) != before:
            file.truncate(0)
            file.write(json.dumps(found))


def on_the_disk() -> dict[str, Record]:
    """Images that this machine came with."""
    return {it: image_record(it, {}) for it in MACHINE["pulled"]}


def image_record(reference: str, manifest: Record) -> Record:
    """What is kept of an image."""
    host, name, tag = split(reference)
    size = sum(layer["size"] for layer in manifest.get("layers", []))
    id = image_files.digest(json.dumps(manifest or reference).encode())
    return {
        "Id": id,
        "ID": id,
        "Repository": f"{host}/{name}",
        "Tag": tag,
        "Size": size,
        "Manifest": manifest,
    }


def unpacked(reference: str) -> Path:
    """Where the files of a built image are, if it is one."""
    return BUILT / "unpacked" / image_files.digest(reference.encode())


def split(reference: str) -> tuple[str, str, str]:
    """Registry host, repository, and tag or digest of an image's name."""
    if not re.fullmatch(r"[a-z0-9][\w./:@-]*", reference):
        refuse("invalid reference format", 125)
    first, slash, rest = reference.partition("/")
    host, path = ("registry-1.docker.io", reference)
    if slash and re.search(r"[.:]|^localhost$", first):
        host, path = first, rest
    name, at, digest = path.partition("@")
    if at:
        return host, name.partition(":")[0], digest
    name, _, tag = name.partition(":")
    return host, name, tag or "latest"


def credentials(host: str) -> dict[str, str]:
    """The Authorization header that `docker login` has left, if it has."""
    home = os.environ.get("DOCKER_CONFIG") or Path(os.environ.get("HOME", "/root"), ".docker")
    try:
        saved = json.loads(Path(home, "config.json").read_text())["auths"][host]["auth"]
    except (OSError, KeyError):
        return {}
    return {"Authorization": f"Basic {saved}"}


def ask(host: str, path: str, headers: dict[str, str]) -> tuple[int, Record]:
    """A registry's answer: its status and its JSON."""
    status, _, content = request(host, "GET", path, headers)
    try:
        return status, json.loads(content or b"{}")
    except ValueError as error:
        refuse(f'Get "https://{host}/v2/": {error}')


def request(
    host: str, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """A registry's answer: its status, headers and body."""
    import http.client  # slow to load, and most commands do not need it

    connection = http.client.HTTPSConnection(host, timeout=30, context=trusted())
    try:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    except OSError as error:
        refuse(f'Get "https://{host}/v2/": dial tcp: {error}')
    finally:
        connection.close()


@cache
def trusted() -> Any:
    """Whom HTTPS connections trust."""
    import ssl  # as slow

    context = ssl.create_default_context()
    for bundle in keeper.AUTHORITIES:
        if Path("/", bundle).exists():
            context.load_verify_locations(f"/{bundle}")
    return context


def complaint(answer: Record) -> str:
    """A registry's error in docker's words: `denied: ...`, `manifest unknown: ...`."""
    errors: list[Record] = answer.get("errors") or [{"code": "unknown", "message": ""}]
    return f"{errors[0]['code'].replace('_', ' ').lower()}: {errors[0]['message']}"


def login(options: Options, operands: list[str]) -> None:
    """docker login --username U --password-stdin HOST"""
    host = operands[0].removeprefix("https://").rstrip("/")
    password = sys.stdin.read().strip()
    auth = base64.b64encode(f"{one(options, '--username')}:{password}".encode()).decode()
    status, answer = ask(host, "/v2/", {"Authorization": f"Basic {auth}"})
    if status != 200:
        refuse(f'Get "https://{host}/v2/": {complaint(answer)}')
    config = Path(os.environ.get("DOCKER_CONFIG", "/root/.docker"), "config.json")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.touch(0o600)
    config.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    print(f"\nWARNING! Your credentials are stored unencrypted in '{config}'.", file=sys.stderr)
    print("Login Succeeded")


def pull(options: Options, operands: list[str]) -> None:
    """docker pull REFERENCE"""
    fetch(operands[0])
    print(operands[0])


def fetch(reference: str) -> None:
    """Have an image on the disk."""
    host, name, tag = split(reference)
    status, manifest = ask(host, f"/v2/{name}/manifests/{tag}", credentials(host))
    if status == 404:
        refuse(f"manifest for {reference} not found: {complaint(manifest)}")
    if status != 200:
        refuse(f'Head "https://{host}/v2/{name}/manifests/{tag}": {complaint(manifest)}')
    if FAULTS.strikes("disk-full"):
        refuse(
            "failed to register layer: write /usr/local/lib/libcublasLt.so.13: no space left on"
            " device"
        )
    annotations: Record = manifest.get("annotations", {})
    if image_files.BASE in annotations and not unpacked(reference).exists():
        image_files.unpack(manifest, partial(blob, host, name), unpacked(reference))
    life = float(annotations.get(image_files.SECONDS, 0))
    start = time.time()
    time.sleep(life / MACHINE["speed"])
    event = {"name": f"pull {name.rpartition('/')[2]}", "start": start, "end": time.time()}
    with open(MACHINE["timeline"], "a") as timeline:
        timeline.write(json.dumps({**event, "life": life}) + "\n")
    with images() as found:
        found[reference] = image_record(reference, manifest)


def blob(host: str, name: str, digest: str) -> bytes:
    """A blob from a registry."""
    status, _, content = request(host, "GET", f"/v2/{name}/blobs/{digest}", credentials(host))
    if status != 200:
        refuse(f"failed to fetch {digest}: {complaint(json.loads(content or b'{}'))}")
    return content


def build(options: Options, operands: list[str]) -> None:
    """docker build [OPTIONS] -: without a context, the Dockerfile on standard input"""
    from rehearsal.machines import image_build

    if operands != ["-"]:
        fail("the rehearsal plays builds without a context only: docker build -")
    given = (it.partition("=") for it in options.get("--build-arg", []))
    arguments = {name: value if is_ else os.environ.get(name, "") for name, is_, value in given}
    asked = (
        dict(it.split("=", 1) for it in text.split(",")) for text in options.get("--secret", [])
    )
    secrets = {it["id"]: os.environ[it["env"]] for it in asked}
    text = sys.stdin.read()
    if os.environ.get("DOCKER_BUILDKIT") != "1" and ("--mount" in text or secrets):
        fail(
            "the --mount option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/"
            " to learn how to build images with BuildKit enabled"
        )
    root = BUILT / "build" / os.urandom(6).hex()
    ours: list[str] = MACHINE["ours"]
    image_build.prepare(root, ours)

    def base(reference: str) -> Record:
        fetch(reference)
        with images() as found:
            return {**found[reference], **entry_point(reference), "Reference": reference}

    def execute(what: image_build.Run, image: Record) -> Iterator[str]:
        environment = {**image_environment(), **what.environment}

        def furnish(folder: Path) -> None:
            keeper.bind(Path(MACHINE["timeline"]), folder / "rehearsal" / "timeline.jsonl")
            facts = {**MACHINE, "gpu": NO_DEVICE, "image": image["Reference"]}
            (folder / "rehearsal" / "machine.json").write_text(json.dumps(facts))
            for program, module in image["programs"].items():
                write_program(folder / PROGRAMS.relative_to("/run") / program, module)

        return image_build.run_in(root, ours, what._replace(environment=environment), furnish)

    start = time.monotonic()
    try:
        built = image_build.Builder(arguments, secrets, base, execute, root).build(text)
        manifest, blobs = image_build.image(built, (time.monotonic() - start) * MACHINE["speed"])
    except image_build.BuildError as error:
        fail(f"ERROR: failed to build: failed to solve: {error}")
    (BUILT / "blobs").mkdir(exist_ok=True)
    for content in blobs:
        (BUILT / "blobs" / image_files.digest(content)).write_bytes(content)
    with images() as found:
        for tag in options.get("--tag", []):
            found[tag] = image_record(tag, manifest)


def push(options: Options, operands: list[str]) -> None:
    """docker push REFERENCE"""
    reference = operands[0]
    host, name, tag = split(reference)
    with images() as found:
        record = found.get(reference, {})
    manifest: Record = record.get("Manifest", {})
    base: str = manifest.get("annotations", {}).get(image_files.BASE, "")
    if not base:
        fail(f"An image does not exist locally with the tag: {reference}")
    print(f"The push refers to repository [{host}/{name}]")
    headers = credentials(host)

    def send(method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str]]:
        status, answered, content = request(host, method, path, headers, body)
        if status >= 400 and method != "HEAD":
            refuse(complaint(json.loads(content or b"{}")))
        return status, answered

    for part in (*manifest["layers"], manifest["config"]):
        digest: str = part["digest"]
        uploads, query = f"/v2/{name}/blobs/uploads/", ""
        if send("HEAD", f"/v2/{name}/blobs/{digest}")[0] == 200:
            continue
        if not (BUILT / "blobs" / digest).exists():
            query = f"?mount={digest}&from={base.removeprefix(f'{host}/')}"
        status, answered = send("POST", uploads + query)
        if status == 202:
            content = (BUILT / "blobs" / digest).read_bytes()
            send("PUT", f"{answered['Location']}?digest={digest}", content)
        print(f"{digest[7:19]}: {'Pushed' if status == 202 else 'Mounted'}")
    raw = json.dumps(manifest).encode()
    _, answered = send("PUT", f"/v2/{name}/manifests/{tag}", raw)
    print(f"{tag}: digest: {answered['Docker-Content-Digest']} size: {len(raw)}")


def image_ls(options: Options, operands: list[str]) -> None:
    """docker image ls"""
    with images() as found:
        records = list(found.values())
    width = None if "--no-trunc" in options else 19
    for record in records:
        id = record["ID"][:width] if width is None else record["ID"][7:width]
        template = "{{.ID}}" if "--quiet" in options else "{{.Repository}}\t{{.Tag}}\t{{.ID}}"
        print(render(one(options, "--format", template), {**record, "ID": id}))


def image_inspect(options: Options, operands: list[str]) -> None:
    """docker image inspect REFERENCE..."""
    with images() as found:
        for reference in operands:
            if reference not in found:
                refuse(f"No such image: {reference}")
            print(render(one(options, "--format", "{{json .}}"), found[reference]))


def image_rm(options: Options, operands: list[str]) -> None:
    """docker image rm ID|REFERENCE..."""
    with images() as found:
        for operand in operands:
            gone = [it for it, record in found.items() if operand in (it, record["ID"])]
            if not gone:
                refuse(f"No such image: {operand}")
            for reference in gone:
                del found[reference]
                print(f"Untagged: {reference}")


# Containers


def running() -> dict[str, Record]:
    """Containers whose process lives, by name."""
    found: dict[str, Record] = {}
    for path in sorted(CONTAINERS.glob("*.json")):
        with suppress(OSError, ValueError):
            record = json.loads(path.read_text())
            os.kill(record["Pid"], 0)
            found[record["Names"]] = record
    return found


def container(name: str) -> Record:
    """A container by its name or id."""
    for record in running().values():
        if name in (record["Names"], record["ID"], record["ID"][:12]):
            return record
    refuse(f"No such container: {name}")


def run(options: Options, operands: list[str]) -> None:
    """docker run [OPTIONS] IMAGE [ARG...], attached"""
    if not operands:
        fail("docker: 'docker run' requires at least 1 argument", 1)
    reference, *arguments = operands
    name = one(options, "--name", os.urandom(6).hex())
    check(reference, name, options)
    image = entry_point(reference)
    record: Record = {
        "ID": os.urandom(32).hex(),
        "Names": name,
        "Image": reference,
        "Entrypoint": one(options, "--entrypoint"),
        "Cmd": arguments,
        "Env": environment(options),
        "User": one(options, "--user", image["user"]),
        "LogDriver": one(options, "--log-driver", "json-file"),
    }
    start(record, image, options)


def check(reference: str, name: str, options: Options) -> None:
    """What the daemon refuses before anything starts."""

    def no(message: str) -> NoReturn:
        fail(f"docker: Error response from daemon: {message}", 125)

    with images() as found:
        present = reference in found
    if not present and one(options, "--pull", "missing") == "never":
        no(f"No such image: {reference}")
    if not present:
        fetch(reference)
    if (other := running().get(name)) is not None:
        no(
            f'Conflict. The container name "/{name}" is already in use by container'
            f' "{other["ID"]}". You have to remove (or rename) that container to be able to reuse'
            " that name."
        )
    if one(options, "--network") != "host":
        no("the rehearsal simulates --network=host only")
    if "--gpus" in options and not MACHINE["gpu"]["count"]:
        no('could not select device driver "" with capabilities: [[gpu]]')


def entry_point(reference: str) -> Record:
    """What an image starts, by the name that it, or what it was built on, has on Docker Hub."""
    _, name, _ = split(reference)
    built: Record = {"Base": name, "BaseImage": reference, "Env": []}
    with suppress(OSError):
        built = json.loads((unpacked(reference) / "image.json").read_text())
    for hub, image in MACHINE["images"].items():
        if built["Base"] == hub or built["Base"].endswith(f"/{hub}"):
            env = dict(it.split("=", 1) for it in built["Env"])
            return {**image, "env": env, "base_image": built["BaseImage"]}
    fail(f"docker: Error response from daemon: the rehearsal cannot run {name}", 125)


def environment(options: Options) -> dict[str, str]:
    """--env-file, then --env; a name alone is taken from docker's own environment."""
    lines: list[str] = []
    for file in options.get("--env-file", []):
        try:
            text = Path(file).read_text()
        except OSError as error:
            fail(f"docker: open {file}: {(error.strerror or '').lower()}", 125)
        lines += [line for line in text.split("\n") if line.strip() and line[0] != "#"]
    values: dict[str, str] = {}
    for line in lines + options.get("--env", []):
        key, equals, value = line.lstrip().partition("=")
        if not key or re.search(r"\s", key):
            fail(f"docker: invalid environment variable: {line}", 125)
        if equals or key in os.environ:
            values[key] = value if equals else os.environ[key]
    return values


def start(record: Record, image: Record, options: Options) -> NoReturn:
    """Start the container's process and follow it. Ends with its exit code."""
    started, ready = os.pipe()
    shim = os.fork()
    if not shim:
        # As containerd's shim does, this one outlives the client.
        os.setsid()
        os.close(started)
        hold(record, image, options, ready)
    os.close(ready)
    with open(started) as line:
        pid = int(line.readline() or 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: send(pid, number))
    _, status = os.waitpid(shim, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


def send(pid: int, number: int) -> None:
    """Signal a container's process, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def hold(record: Record, image: Record, options: Options, ready: int) -> NoReturn:
    """Be the parent of the container's first process, until it ends."""
    keeper.call("unshare", keeper.CLONE_NEWPID)
    pid = os.fork()
    if not pid:
        code = 125
        try:
            # Here and not above: what the container mounts on /run must not hide ours.
            keeper.call("unshare", keeper.CLONE_NEWNS)
            code = enter(record, image, options)
        except OSError as error:
            print(f"docker: Error response from daemon: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    path = CONTAINERS / f"{record['Names']}.json"
    CONTAINERS.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(json.dumps({**record, "Pid": pid}))
    os.write(ready, f"{pid}\n".encode())
    os.close(ready)
    _, status = os.waitpid(pid, 0)
    path.unlink(missing_ok=True)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def enter(record: Record, image: Record, options: Options) -> int:
    """Become the container's process. Returns docker's exit code only where that fails."""
    root = re.fullmatch(r"(root|0)(:.*)?", record["User"]) is not None
    volumes = [volume(it) for it in options.get("--volume", [])]
    volumes += [(Path(MACHINE[it]), Path(MACHINE[it]), False) for it in ("timeline", "faults")]
    # Held open, because the container's own /run is about to hide this machine's.
    held = [os.open(source, os.O_PATH) for source, *_ in volumes]
    closed = [not root and not readable_by_all(source) for source, *_ in volumes]
    added = add_files(unpacked(record["Image"]) / "files")
    keeper.tmpfs(Path("/run"))
    nothing = Path("/run/unreadable")
    if any(closed):
        nothing.touch(0)
    for (_, target, readonly), descriptor, unreadable in zip(volumes, held, closed, strict=True):
        source = nothing if unreadable else Path(f"/proc/self/fd/{descriptor}")
        keeper.bind(source, target, readonly)
        os.close(descriptor)
    facts = {**MACHINE, "gpu": MACHINE["gpu"] if "--gpus" in options else NO_DEVICE}
    facts["image"] = image["base_image"]
    Path("/run/rehearsal/machine.json").write_text(json.dumps(facts))
    # What stand-in commands name as their interpreter: a container's script may run `sleep`.
    Path("/run/rehearsal/python").symlink_to(MACHINE["python"])
    for program, module in image["programs"].items():
        write_program(PROGRAMS / program, module)
    keeper.mount("proc", "/proc", "proc")
    if "--read-only" in options:
        for name in (*WRITABLE, *added):
            if Path("/", name).is_mount():
                keeper.make_readonly(Path("/", name))
    drop_privileges(root, options)
    argv, environment = command(record, image)
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606 -- a shell is not wanted
    except FileNotFoundError:
        reason, code = "executable file not found in $PATH", 127
    except PermissionError:
        reason, code = "permission denied", 126
    print(
        "docker: Error response from daemon: failed to create task for container: failed to create"
        " shim task: OCI runtime create failed: runc create failed: unable to start container"
        f' process: exec: "{argv[0]}": {reason}: unknown',
        file=sys.stderr,
    )
    sys.stderr.flush()
    return code


def add_files(source: Path) -> list[str]:
    """Show the container what its image has besides its base's files; names of new folders."""
    if not source.exists():
        return []
    new = [path.name for path in source.iterdir() if not Path("/", path.name).exists()]
    for name in new:
        keeper.tmpfs(Path("/", name))
    shutil.copytree(source, "/", symlinks=True, dirs_exist_ok=True)
    return new


def write_program(path: Path, module: str) -> None:
    """A command of the image's that starts what stands for it."""
    starts = f"env PYTHONPATH={MACHINE['pythonpath']} {MACHINE['python']} -m {module}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {starts if module else MACHINE["plain_python"]} "$@"\n')
    path.chmod(0o755)


def volume(text: str) -> tuple[Path, Path, bool]:
    """SOURCE:TARGET[:ro]; a source that does not exist is made, a folder, as the daemon does."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source.startswith("/") or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise OSError(f"invalid volume specification: '{text}'")
    if not Path(source).exists():
        Path(source).mkdir(parents=True)
    return Path(source), Path(target), mode == "ro"


def readable_by_all(path: Path) -> bool:
    """Whether a user who is not root, of whom there is none in this namespace, could read it."""
    return bool(path.stat().st_mode & 0o004)


def drop_privileges(root: bool, options: Options) -> None:
    """--cap-drop=ALL, which is also what a user other than root has; no-new-privileges."""
    if not root or "ALL" in options.get("--cap-drop", []):
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        for capability in range(last + 1):
            keeper.call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
    if any(it.startswith("no-new-privileges") for it in options.get("--security-opt", [])):
        keeper.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def image_environment() -> dict[str, str]:
    """The environment of every image."""
    authorities = next(it for it in keeper.AUTHORITIES if Path("/", it).exists())
    return {
        "PATH": f"{PROGRAMS}:{keeper.PATH}",
        "HOME": "/root",
        "HOSTNAME": MACHINE["name"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "SSL_CERT_FILE": f"/{authorities}",
        "REQUESTS_CA_BUNDLE": f"/{authorities}",
    }


def command(record: Record, image: Record) -> tuple[list[str], dict[str, str]]:
    """What to execute, and the environment: the image's, then the container's."""
    environment = {**image_environment(), **image["env"], **record["Env"]}
    if record["Entrypoint"]:
        return [record["Entrypoint"], *record["Cmd"]], environment
    if not image["module"]:
        return record["Cmd"] or [*image["arguments"]], environment
    argv = [MACHINE["python"], "-m", image["module"], *image["arguments"], *record["Cmd"]]
    return argv, {"PYTHONPATH": MACHINE["pythonpath"], **environment}


def stop(options: Options, operands: list[str]) -> None:
    """docker stop [-t SECONDS] NAME..."""
    for name in operands:
        end(container(name), one(options, "--signal", "TERM"), int(one(options, "--timeout", "10")))
        print(name)


def end(record: Record, number: str, patience: int) -> None:
    """A signal; and SIGKILL after so many seconds, unless that are negative ones."""
    send(record["Pid"], signal.Signals[f"SIG{number.removeprefix('SIG')}"])
    deadline = time.monotonic() + patience
    while record["Names"] in running() and (patience < 0 or time.monotonic() < deadline):
        time.sleep(0.02)
    send(record["Pid"], signal.SIGKILL)
    while record["Names"] in running():
        time.sleep(0.01)


def kill(options: Options, operands: list[str]) -> None:
    """docker kill NAME..."""
    for name in operands:
        number = one(options, "--signal", "KILL").removeprefix("SIG")
        send(container(name)["Pid"], signal.Signals[f"SIG{number}"])
        print(name)


def rm(options: Options, operands: list[str]) -> None:
    """docker rm [--force] NAME...: only running containers are left to remove, as all are --rm."""
    for name in operands:
        if name not in running() and "--force" in options:
            print(f"Error response from daemon: No such container: {name}", file=sys.stderr)
            continue
        record = container(name)
        if "--force" not in options:
            refuse(
                f'cannot remove container "/{name}": container is running: stop the container'
                " before removing or force remove"
            )
        end(record, "KILL", 0)
        print(name)


def ps(options: Options, operands: list[str]) -> None:
    """docker ps"""
    template = "{{.ID}}\t{{.Image}}\t{{.Names}}"
    template = "{{.ID}}" if "--quiet" in options else one(options, "--format", template)
    for record in running().values():
        id = record["ID"] if "--no-trunc" in options else record["ID"][:12]
        print(render(template, {**record, "ID": id}))


def inspect(options: Options, operands: list[str]) -> None:
    """docker inspect NAME...: all that docker tells about a container, its environment included."""
    for name in operands:
        print(render(one(options, "--format", "{{json .}}"), container(name)))


def logs(options: Options, operands: list[str]) -> None:
    """docker logs NAME: nothing is kept here, so only the refusal of --log-driver=none is."""
    if container(operands[0])["LogDriver"] == "none":
        refuse("configured logging driver does not support reading")
    fail("docker logs: the rehearsal keeps no logs but the journal's; use journalctl", 1)


def info(options: Options, operands: list[str]) -> None:
    """docker info"""
    facts = {"ServerVersion": "28.2.2", "Runtimes": "nvidia runc"}
    print(render(one(options, "--format", "Server Version: {{.ServerVersion}}"), facts))


COMMANDS: dict[str, Callable[[Options, list[str]], None]] = {
    "build": build,
    "image inspect": image_inspect,
    "image ls": image_ls,
    "image rm": image_rm,
    "info": info,
    "inspect": inspect,
    "kill": kill,
    "login": login,
    "logs": logs,
    "ps": ps,
    "pull": pull,
    "push": push,
    "rm": rm,
    "run": run,
    "stop": stop,
    "version": info,
}


def main(arguments: list[str]) -> None:
    """Ends with docker's exit code."""
    words = 2 if arguments[:1] == ["image"] else 1
    command = " ".join(arguments[:words])
    if command not in COMMANDS:
        fail(
            f"docker: unknown command: docker {command}\n\nRun 'docker --help' for more information"
        )
    options, operands = parse(command, arguments[words:])
    if not operands and command not in ("image ls", "info", "ps", "run", "version"):
        fail(f"docker: 'docker {command}' requires at least 1 argument")
    COMMANDS[command](options, operands)


if __name__ == "__main__":
    main(sys.argv[1:])
