"""Boot images that were made of a disk: what is on them, for the machines that boot from them."""

import shutil
from pathlib import Path

from rehearsal.google.network import resolve
from rehearsal.store import Body
from rehearsal.world import World

IMAGE = "gcp:compute/image:Image"


def folder(world: World, id: str) -> Path:
    """Where what is on an image or a disk lies, by its id."""
    return world.directory / "disks" / id.replace("/", "+")


def take(world: World, image: str, disk: str) -> None:
    """Make an image of a disk; both by their ids."""
    shutil.copytree(folder(world, disk), folder(world, image), symlinks=True)


def drop(world: World, id: str) -> None:
    """Forget what is on an image or a disk."""
    shutil.rmtree(folder(world, id), ignore_errors=True)


def content(world: World, reference: str) -> Path | None:
    """What lies on the image that a machine boots from; None for one of Google's own."""
    body: Body | None = resolve(world.store, reference, IMAGE)
    return folder(world, body["id"]) if body else None
