"""Images that were pushed: a standard repository of Artifact Registry, as files."""

import json
import secrets
import shutil
from pathlib import Path

from rehearsal.errors import CloudError
from rehearsal.machines import image_files
from rehearsal.store import Body, Change
from rehearsal.world import World

REPOSITORY = "gcp:artifactregistry/repository:Repository"


class ImageStore:
    """What lies in the standard repositories; who may read or write is asked elsewhere.

    A repository's folder holds `blobs/sha256:HEX` (an empty file where a blob is one of Docker
    Hub's, whose bytes exist nowhere here) and `manifests/IMAGE/DIGEST-or-TAG`. It goes with the
    repository.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        world.store.subscribe(self._changed)

    def _folder(self, repository: str) -> Path:
        return self._world.directory / "images" / repository

    def _changed(self, change: Change, type: str, id: str, body: Body) -> None:
        if type == REPOSITORY and change == "deleted":
            shutil.rmtree(self._folder(id), ignore_errors=True)

    # Blobs

    def blob(self, repository: str, digest: str) -> bytes | None:
        """A blob's bytes, none of which Docker Hub's have; None where there is no such blob."""
        path = self._folder(repository) / "blobs" / digest
        return path.read_bytes() if path.is_file() else None

    def put_blob(self, repository: str, digest: str, content: bytes) -> None:
        """Keep a blob. CloudError 400 when it is not what its digest says."""
        if content and image_files.digest(content) != digest:
            message = "provided digest did not match uploaded content"
            raise CloudError(400, message, "DIGEST_INVALID")
        path = self._folder(repository) / "blobs" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    # Manifests

    def manifest(self, repository: str, image: str, reference: str) -> bytes:
        """An image's manifest by its tag or digest. CloudError 404 when there is none."""
        path = self._folder(repository) / "manifests" / image / reference
        if not path.is_file():
            message = f'Failed to fetch "{reference}" from request "/v2/{image}/manifests".'
            raise CloudError(404, message, "MANIFEST_UNKNOWN")
        return path.read_bytes()

    def put_manifest(self, repository: str, image: str, reference: str, raw: bytes) -> str:
        """Keep an image under its tag and its digest, which is returned.

        CloudError 400 when a blob of it has not been pushed.
        """
        manifest: Body = json.loads(raw)
        for part in (manifest["config"], *manifest["layers"]):
            if self.blob(repository, part["digest"]) is None:
                message = f"manifest blob unknown: {part['digest']}"
                raise CloudError(400, message, "MANIFEST_BLOB_UNKNOWN")
        digest = image_files.digest(raw)
        folder = self._folder(repository) / "manifests" / image
        folder.mkdir(parents=True, exist_ok=True)
        for name in (digest, reference):
            (folder / name).write_bytes(raw)
        return digest

    def unpacked(self, repository: str, image: str, reference: str) -> Path:
        """A folder with the image's files, for a machine that has the image on its disk.

        CloudError 404 when there is no such image.
        """
        raw = self.manifest(repository, image, reference)
        folder = self._folder(repository) / "unpacked" / image_files.digest(raw)
        if not folder.exists():
            manifest = json.loads(raw)
            blobs = {
                part["digest"]: self.blob(repository, part["digest"]) or b""
                for part in (manifest["config"], *manifest["layers"])
            }
            draft = folder.with_name(secrets.token_hex(8))
            image_files.unpack(manifest, blobs.__getitem__, draft)
            draft.rename(folder)
        return folder
