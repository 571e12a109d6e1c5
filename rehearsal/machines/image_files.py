"""Images that were built here: their layers are real tar files, on top of an image of Docker Hub's.

Docker Hub's own images are names without bytes. A built image says in its manifest which of them it
began with; the layers and the environment that were added to that one are all that it has.
On the standard library alone, as machines use it, too.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]
Signature = tuple[int, int, int, int]

BASE_IMAGE = "llm-endpoint.rehearsal/base-image"
"""Annotation: the whole reference of the image that was built upon."""
BASE = "llm-endpoint.rehearsal/base"
"""Annotation of a built image's manifest: the name of what it began with, without a tag."""
SECONDS = "llm-endpoint.rehearsal/seconds"
"""Annotation of a manifest: how many seconds of life a pull takes."""
IMAGE = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest(content: bytes) -> str:
    """The name of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def descriptor(type: str, content: bytes) -> dict[str, Any]:
    """How a manifest names a blob."""
    return {"mediaType": type, "digest": digest(content), "size": len(content)}


def survey(root: Path) -> dict[str, Signature]:
    """Everything below a folder, and what tells whether it has been changed since."""
    found: dict[str, Signature] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            info = path.lstat()
            signature = (info.st_ino, info.st_mtime_ns, info.st_size, info.st_mode)
            found[str(path.relative_to(root))] = signature
    return found


def pack(root: Path, names: Iterable[str]) -> bytes:
    """A layer of what is named, as it lies below `root`."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name in sorted(names):
            tar.add(root / name, name, recursive=False)
    return gzip.compress(content.getvalue(), mtime=0)


def unpack(manifest: Manifest, blob: Callable[[str], bytes], folder: Path) -> None:
    """Write a built image's files below `folder`/files, and its description beside them."""
    config = json.loads(blob(manifest["config"]["digest"]))
    files = folder / "files"
    files.mkdir(parents=True)
    for layer in added(manifest):
        with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as tar:
            tar.extractall(files, filter="tar")
    description = {
        "Base": manifest["annotations"][BASE],
        "BaseImage": manifest["annotations"][BASE_IMAGE],
        "Env": config["config"]["Env"],
    }
    (folder / "image.json").write_text(json.dumps(description))


def added(manifest: Manifest) -> list[dict[str, Any]]:
    """The layers that a build added: Docker Hub's images have one here."""
    return manifest["layers"][1:]
