"""What lies in Cloud Storage's buckets: a row in the store and a file on disk for each object."""

import base64
import hashlib
import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from rehearsal.errors import CloudError
from rehearsal.store import Body
from rehearsal.world import World

BUCKET = "gcp:storage/bucket:Bucket"
OBJECT = "google:storage_object"
"""An object, whoever made it: `bucket` `name` `size` (text) and what else the JSON API answers."""

CLEAN = re.compile(r"(?!/)(?:(?!\.{1,2}(?:/|$))[^/\0]+(?:/(?!$)|$))+")
"""A name that is also a relative path."""


def folder(world: World, bucket: str) -> Path:
    """Where the objects of a bucket lie as files, under their names."""
    return world.directory / "buckets" / bucket


def file(world: World, about: Body) -> Path:
    """The bytes of an object."""
    return folder(world, about["bucket"]) / about["name"]


def get(world: World, bucket: str, name: str) -> Body | None:
    """The object's row, or None."""
    return world.store.get(OBJECT, _id(bucket, name))


def contents(world: World, bucket: str) -> list[Body]:
    """The rows of a bucket's objects, by name."""
    rows = world.store.all(OBJECT).values()
    return sorted((it for it in rows if it["bucket"] == bucket), key=lambda it: it["name"])


def put(world: World, bucket: str, name: str, source: Path, about: Body) -> Body:
    """Make or replace an object of the file `source`, which it takes away; its row.

    CloudError 400 for a name that cannot be a file's beside the others. Absent: checksums other
    than MD5, generations before the last.
    """
    target = folder(world, bucket) / name
    if not CLEAN.fullmatch(name):
        message = f"The rehearsal keeps objects as files, and {name!r} cannot be a file's name."
        raise CloudError(400, message, "invalid")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        source.replace(target)
    except OSError as error:
        message = f"The rehearsal keeps objects as files: {name!r} is no file beside the others."
        raise CloudError(400, message, "invalid") from error
    digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    generation = str(time.time_ns() // 1000)
    time_of = now()
    row: Body = {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{generation}",
        "name": name,
        "bucket": bucket,
        "generation": generation,
        "metageneration": "1",
        "contentType": about.get("contentType") or "application/octet-stream",
        "storageClass": "STANDARD",
        "size": str(len(content)),
        "md5Hash": digest,
        "etag": base64.b64encode(generation.encode()).decode(),
        "timeCreated": time_of,
        "updated": time_of,
    }
    if about.get("metadata"):
        row["metadata"] = about["metadata"]
    world.store.put(OBJECT, _id(bucket, name), row)
    return row


def remove(world: World, about: Body) -> None:
    """Delete an object; folders that become empty go with it, as there are none in a bucket."""
    world.store.delete(OBJECT, _id(about["bucket"], about["name"]))
    path, top = file(world, about), folder(world, about["bucket"])
    path.unlink(missing_ok=True)
    for parent in path.relative_to(top).parents:
        if parent.parts and not any((top / parent).iterdir()):
            (top / parent).rmdir()


def remove_all(world: World, bucket: str) -> None:
    """Delete every object of a bucket, and its folder."""
    for about in contents(world, bucket):
        world.store.delete(OBJECT, _id(bucket, about["name"]))
    shutil.rmtree(folder(world, bucket), ignore_errors=True)


def now() -> str:
    """The time as Google writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _id(bucket: str, name: str) -> str:
    return f"b/{bucket}/o/{name}"
