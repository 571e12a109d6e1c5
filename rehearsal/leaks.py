"""Look for secrets where none belongs: state, output, logs, metadata, a guest's insides."""

import json
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from rehearsal.checks import Consoles, Outcome
from rehearsal.google.identity import TOKEN_PREFIX
from rehearsal.session import Session
from rehearsal.world import CREDENTIALS, Accounts

Place = tuple[str, bytes]
"""Where something was read, and what it says."""

KEEPERS = (
    "gcp:secretmanager/secretVersion:SecretVersion",
    "cloudflare:index/zeroTrustAccessServiceToken:ZeroTrustAccessServiceToken",
    "cloudflare:tunnel_secret",
)
"""The only resources of the two clouds whose job is to hold a secret."""

OWN_FILES = (
    "accounts.json",
    CREDENTIALS,
    *("clouds.db", "clouds.db-wal", "clouds.db-shm", "authority.pem"),
)
"""Files that play the clouds' own vaults, and the person's."""

SHAPES = {
    "an access token of Google's": re.compile(re.escape(TOKEN_PREFIX).encode() + rb"[\w-]{99}")
}
"""Secrets that are made by the hundred, of persons and of machines: known by their form."""

GZIP = b"\x1f\x8b"

GUEST_FOLDERS = ("etc", "home", "opt", "root", "run", "srv", "tmp", "var")
"""Where programs write on a Linux machine; the rest of a guest is this machine's, untouched."""


def check(session: Session, stack: str, consoles: Consoles) -> Iterator[Outcome]:
    """One outcome for each kind of place."""
    secrets = planted(session, consoles)
    exported = session.pulumi("stack", "export", stack=stack).stdout.encode()
    clouds = [
        (f"{row['type']} {row['id']}", json.dumps(row["body"]).encode())
        for row in consoles.console("GET")
        if row["type"] not in KEEPERS
    ]
    processes = list(guest_processes((session.daemon or {"pid": 0})["pid"]))
    for kind, places in (
        ("pulumi stack export", [("stack export", exported)]),
        ("state, stack files, CLI output and the rehearsal's logs", _files(session.home)),
        ("metadata and every other plain place of the clouds", clouds),
        ("the guests' process list", _proc(processes, "cmdline")),
        ("the guests' environment listings", _proc(processes, "environ")),
        ("files that others can read in the guests", _guest_files(guest_roots(session))),
    ):
        looked, found = search(places, secrets)
        detail = "; ".join(found) or f"{len(secrets)} secrets not found in {looked} places"
        yield f"no secret in {kind}", looked > 0 and not found, detail


def planted(session: Session, consoles: Consoles) -> dict[str, str]:
    """Every secret of this rehearsal by name: given by the user, or made by a cloud."""
    accounts = Accounts.model_validate_json((session.world / "accounts.json").read_text())
    secrets = {
        "the Cloudflare API token": accounts.cloudflare_tokens[0],
        "the Hugging Face token": accounts.hugging_face_tokens[0],
        "the refresh token of the person's Google credentials": accounts.google_refresh_tokens[0],
    }
    for row in consoles.console("GET"):
        body = row["body"]
        if row["type"] == KEEPERS[0] and body["secretData"].startswith("eyJ"):
            secrets[f"the tunnel token {row['id']}"] = body["secretData"]
        elif row["type"] == KEEPERS[1]:
            secrets[f"the client secret of {body['name']}"] = body["clientSecret"]
        elif row["type"] == KEEPERS[2]:
            secrets[f"the secret of tunnel {row['id']}"] = body["secret"]
    return secrets


def search(places: Iterable[Place], secrets: dict[str, str]) -> tuple[int, list[str]]:
    """How many places were looked at, and `secret in place` for each secret found.

    Looks for `secrets` and for everything that has one of the SHAPES.
    """
    looked, found = 0, list[str]()
    patterns = {name: re.compile(re.escape(value.encode())) for name, value in secrets.items()}
    patterns |= SHAPES
    for where, content in places:
        looked += 1
        found += [f"{name} in {where}" for name, it in patterns.items() if it.search(content)]
    return looked, found


def _files(home: Path) -> Iterator[Place]:
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name not in OWN_FILES:
            content = path.read_bytes()
            if content.startswith(GZIP):  # the CLI's own logs; one in use has no proper end
                content = zlib.decompressobj(wbits=31).decompress(content)
            yield str(path.relative_to(home)), content


def guest_processes(daemon: int) -> Iterator[int]:
    """Processes below the daemon that live in a process namespace of their own."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            )
        except (OSError, IndexError):
            continue
    here = os.readlink("/proc/self/ns/pid")
    for pid in parents:
        ancestor = pid
        while ancestor not in (0, 1, daemon):
            ancestor = parents.get(ancestor, 0)
        try:
            if ancestor == daemon and os.readlink(f"/proc/{pid}/ns/pid") != here:
                yield pid
        except OSError:
            continue


def _proc(processes: list[int], file: str) -> Iterator[Place]:
    for pid in processes:
        try:
            yield f"process {pid}", Path(f"/proc/{pid}/{file}").read_bytes()
        except OSError:
            continue


def guest_roots(session: Session) -> list[Path]:
    """The file systems of the running guests and of their containers, as seen from here."""
    roots: dict[str, Path] = {}
    for pid in guest_processes((session.daemon or {"pid": 0})["pid"]):
        try:
            roots.setdefault(os.readlink(f"/proc/{pid}/ns/mnt"), Path(f"/proc/{pid}/root"))
        except OSError:
            continue
    return [*roots.values()]


def _guest_files(roots: list[Path]) -> Iterator[Place]:
    """Files written in a guest that a user other than root could read there."""
    for root in roots:
        try:
            since = root.parent.stat().st_ctime - 60  # a little before that process began
            closed = _read_only(root)
        except OSError:  # it has ended meanwhile, as instances of a service do
            continue
        for folder in GUEST_FOLDERS:
            yield from _readable(root / folder, since, closed)


def _read_only(root: Path) -> set[str]:
    """What is mounted in a guest for reading alone, as this repository is: nothing of its own."""
    mounts = [line.split() for line in (root.parent / "mountinfo").read_text().splitlines()]
    return {f"{root}{it[4]}" for it in mounts if "ro" in it[5].split(",")}


def _readable(folder: Path, since: float, closed: set[str]) -> Iterator[Place]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            info = entry.stat(follow_symlinks=False)
            if not info.st_mode & (stat.S_IXOTH if stat.S_ISDIR(info.st_mode) else stat.S_IROTH):
                continue
            if stat.S_ISDIR(info.st_mode):
                if entry.path not in closed:
                    yield from _readable(Path(entry.path), since, closed)
            elif stat.S_ISREG(info.st_mode) and info.st_mtime >= since:
                yield entry.path, Path(entry.path).read_bytes()
        except OSError:
            continue
