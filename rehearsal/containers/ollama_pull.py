"""How a model gets from a registry into Ollama's store.

Bytes are really fetched, verified, and fetched on from where they broke off, in the words of Ollama
0.32 (server/images.go, server/download.go). They are few; it is the registry that takes the time of
as many as there would be in life.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from rehearsal import figures
from rehearsal.containers.host import Machine
from rehearsal.containers.ollama_store import Model, Name, Store, gigabytes

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ATTEMPTS = 6
STEPS = 50
"""Pieces in which a blob arrives."""
TIMEOUT_S = 30

Progress = dict[str, Any]


class PullError(Exception):
    """Why a model could not be pulled, as Ollama says it."""


def pull(
    store: Store, name: Name, machine: Machine, log: Callable[[str], None]
) -> Iterator[Progress]:
    """Fetch a model; yields what /api/pull streams. Raises PullError."""
    yield {"status": "pulling manifest"}
    try:
        raw = _manifest(f"{_url(name)}/manifests/{name.tag}")
    except PullError as error:
        raise PullError(f"pull model manifest: {error}") from error
    model = Model(name, raw, 0)
    fetched: list[str] = []
    start = time.time()
    for layer in model.layers:
        digest, blob = layer["digest"], store.blob(layer["digest"])
        if blob.exists():
            size = blob.stat().st_size
            yield _progress(digest, {"Size": size, "Completed": size})
            continue
        yield from _blob(f"{_url(name)}/blobs/{digest}", blob, machine.speed, log)
        fetched.append(digest)
    life = gigabytes(store.config(model)) * figures.seconds("weights download, 1 GB")
    machine.record("weights download", start, life)
    yield {"status": "verifying sha256 digest"}
    for digest in fetched:
        _verify(digest, store.blob(digest))
    yield {"status": "writing manifest"}
    store.write(name, raw)
    yield {"status": "success"}


def _url(name: Name) -> str:
    return f"https://{name.host}/v2/{name.namespace}/{name.model}"


def _progress(digest: str, part: Progress) -> Progress:
    short, total, completed = digest[7:19], part["Size"], part["Completed"]
    return {"status": f"pulling {short}", "digest": digest, "total": total, "completed": completed}


def _manifest(url: str) -> bytes:
    try:
        answer = requests.get(url, headers={"Accept": MANIFEST}, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise PullError(f'Get "{url}": {error}') from error
    if answer.status_code == 401:
        # It signs a challenge with a key of its own, and only for the host that it has asked.
        raise PullError(f'realm host "" does not match original host "{urlsplit(url).netloc}"')
    if answer.status_code == 404:
        raise PullError("file does not exist")
    if answer.status_code >= 400:
        raise PullError(f"{answer.status_code}: {answer.text}")
    return answer.content


def _blob(url: str, blob: Path, speed: float, log: Callable[[str], None]) -> Iterator[Progress]:
    """Fetch one blob, from where an earlier attempt has stopped."""
    digest = blob.name.replace("-", ":")
    partial, state = Path(f"{blob}-partial"), Path(f"{blob}-partial-0")
    try:
        # In life in parts of 100 MB and more: here the first one is all.
        part: Progress = json.loads(state.read_text()) if state.exists() else _part(url)
        direct = _direct(url)
    except requests.RequestException as error:
        raise PullError(f'Get "{url}": {error}') from error
    for attempt in range(ATTEMPTS):
        try:
            for _ in _rest(direct, partial, part):
                yield _progress(digest, part)
            break
        except requests.RequestException as error:
            cut = isinstance(error, requests.exceptions.ChunkedEncodingError)
            problem = "unexpected EOF" if cut else str(error)
            log(f"{digest[7:19]} part 0 attempt {attempt} failed: {problem}")
            if attempt == ATTEMPTS - 1:
                raise PullError(f"max retries exceeded: {problem}") from error
            time.sleep(2**attempt / speed)
        finally:
            state.write_text(json.dumps(part))
    state.unlink()
    partial.rename(blob)


def _part(url: str) -> Progress:
    answer = requests.head(url, allow_redirects=True, timeout=TIMEOUT_S)
    if answer.status_code == 404:
        raise PullError("file does not exist")
    size = int(answer.headers.get("Content-Length", 0))
    return {"N": 0, "Offset": 0, "Size": size, "Completed": 0}


def _direct(url: str) -> str:
    """Where the registry sends whoever wants a blob: to a storage of another name."""
    answer = requests.get(url, allow_redirects=False, stream=True, timeout=TIMEOUT_S)
    with answer:
        if answer.status_code not in (200, 307):
            raise PullError(f"unexpected status code {answer.status_code}")
        if "Location" not in answer.headers:
            raise PullError("http: no Location header in response")
        return urljoin(url, answer.headers["Location"])


def _rest(url: str, partial: Path, part: Progress) -> Iterator[None]:
    """Append the rest of a blob, and note it in `part`. RequestException when it is cut off."""
    size, done = part["Size"], part["Completed"]
    headers = {"Range": f"bytes={done}-{size - 1}"}
    with (
        partial.open("r+b" if partial.exists() else "w+b") as file,
        requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer,
    ):
        file.seek(done)
        for data in answer.iter_content(max(1, size // STEPS)):
            file.write(data)
            part["Completed"] += len(data)
            yield
    if part["Completed"] < size:
        raise requests.exceptions.ChunkedEncodingError


def _verify(digest: str, blob: Path) -> None:
    found = f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}"
    if found != digest:
        blob.unlink()
        problem = "digest mismatch, file must be downloaded again"
        raise PullError(f"{problem}: want {digest}, got {found}")
