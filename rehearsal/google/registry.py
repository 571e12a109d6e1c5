"""*.pkg.dev: Artifact Registry, as docker sees it: Docker Hub's images, and those pushed to it."""

import hashlib
import json
import re
import secrets
from pathlib import Path

from aiohttp import web

from components import catalogue
from rehearsal import figures
from rehearsal.errors import CloudError
from rehearsal.google.identity import CLOUD_PLATFORM, Caller, Identity
from rehearsal.google.image_store import REPOSITORY, ImageStore
from rehearsal.machines import image_files
from rehearsal.machines.image_files import SECONDS
from rehearsal.store import Body
from rehearsal.world import World

HOSTS = "*.pkg.dev"

_VLLM = (
    "0.20.0 0.20.1 0.20.2 0.21.0 0.22.0 0.22.1 0.23.0 0.24.0 0.25.0 0.25.1 0.26.0 0.27.0 0.27.1"
    " 0.28.0 0.29.0 0.30.0 0.31.0 0.32.0 0.33.0"
)
_OLLAMA = (
    "0.20.0 0.20.1 0.20.2 0.20.3 0.20.4 0.20.5 0.20.6 0.20.7 0.21.0 0.21.1 0.21.2 0.22.0 0.22.1"
    " 0.23.0 0.23.1 0.23.2 0.23.3 0.23.4 0.24.0 0.30.0 0.30.1 0.30.2 0.30.3 0.30.4 0.30.5 0.30.6"
    " 0.30.7 0.30.8 0.30.9 0.30.10 0.30.11 0.31.0 0.31.1 0.31.2 0.32.0 0.32.1 0.32.2 0.32.3 0.32.4"
    " 0.32.5 0.32.6 0.32.7 0.32.8 0.32.9 0.32.10 0.32.11 0.32.12 0.32.13 0.32.14 0.32.15"
)
_CLOUDFLARED = "2026.7.2 2026.8.0 2026.8.2 latest"
_PYTHON = ("3.13", *(f"3.13.{patch}" for patch in range(12)))
DOCKER_HUB: dict[str, tuple[int, frozenset[str]]] = {
    # vLLM: releases on PyPI of 2026-11-22; size U. cloudflared: tags in its release notes.
    # Python: the patch releases that are sure to exist; size of the slim variant.
    "vllm/vllm-openai": (10_000_000_000, frozenset(f"v{it}" for it in _VLLM.split()) | {"latest"}),
    # Ollama: tags of its repository of 2026-08-21; size U.
    "ollama/ollama": (2_000_000_000, frozenset(_OLLAMA.split()) | {"latest"}),
    "cloudflare/cloudflared": (25_000_000, frozenset(_CLOUDFLARED.split())),
    "library/python": (45_000_000, frozenset({*_PYTHON, *(f"{it}-slim" for it in _PYTHON)})),
}
"""Image -> its compressed size in bytes and its tags upstream. Others do not exist."""

_PULL = "artifactregistry.repositories.downloadArtifacts"
_PUSH = "artifactregistry.repositories.uploadArtifacts"
_PATH = re.compile(r"/v2/([^/]+)/([^/]+)/(.+)/(manifests|blobs|blobs/uploads)/([^/]*)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"([a-z0-9-]+)-docker\.pkg\.dev")
_REFERENCE = re.compile(r"(?:([^/]+\.[^/]+)/)?(.+?)(?:@(.+)|:([^/@]+))?")


class Registry:
    """The site; `handle` answers one request. Docker Hub's images have no blobs: the manifest says
    all that a simulated pull needs."""

    def __init__(self, world: World, identity: Identity) -> None:
        self._world = world
        self._identity = identity
        self._images = ImageStore(world)

    def names(self) -> list[str]:
        """The host of every region, as it exists in life with or without a repository."""
        return [f"{region}-docker.pkg.dev" for region in catalogue.regions()]

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """The answer in the Docker Registry HTTP API v2, refusals included."""
        host = request.host.partition(":")[0]
        try:
            return await self._answer(request, host)
        except CloudError as error:
            headers: dict[str, str] = {}
            if error.code == 401:
                realm = f'Bearer realm="https://{host}/v2/token",service="{host}"'
                headers["WWW-Authenticate"] = realm
            reply = {"errors": [{"code": error.reason, "message": error.message}]}
            return web.json_response(reply, status=error.code, headers=headers)

    async def _answer(self, request: web.BaseRequest, host: str) -> web.Response:
        location = _HOST.fullmatch(host)
        match = _PATH.fullmatch(request.path)
        if not location:
            raise CloudError(404, "The requested URL was not found on this server.", "UNSUPPORTED")
        caller = self._caller(request.headers.get("Authorization"))
        if request.path == "/v2/":
            return web.json_response({})
        if request.path == "/v2/token":
            token, lifetime = self._identity.mint_for(caller)
            return web.json_response({"token": token, "expires_in": lifetime})
        if not match:
            raise CloudError(404, "The requested URL was not found on this server.", "UNSUPPORTED")
        project, repository, image, noun, reference = match.groups()
        name = f"projects/{project}/locations/{location[1]}/repositories/{repository}"
        pulls = request.method in ("GET", "HEAD")
        self._authorize(caller, _PULL if pulls else _PUSH, name)
        docker_hub = self._upstream(name)
        if pulls and noun == "manifests":
            return self._manifest(docker_hub, name, image, reference)
        if pulls and noun == "blobs" and not docker_hub:
            content = self._images.blob(name, reference)
            if content is None:
                raise CloudError(404, f"Failed to fetch {reference}.", "BLOB_UNKNOWN")
            return web.Response(body=content, content_type="application/octet-stream")
        if pulls or docker_hub:
            raise CloudError(405, "The operation is unsupported.", "UNSUPPORTED")
        if noun == "manifests" and request.method == "PUT":
            raw = await request.content.read()
            digest = self._images.put_manifest(name, image, reference, raw)
            return web.Response(status=201, headers={"Docker-Content-Digest": digest})
        return await self._upload(request, caller, name)

    async def _upload(self, request: web.BaseRequest, caller: Caller, name: str) -> web.Response:
        """The two requests that bring a blob; or the one that takes it from another repository."""
        query = request.query
        if request.method == "PUT" and "digest" in query:
            self._images.put_blob(name, query["digest"], await request.content.read())
            return web.Response(status=201, headers={"Docker-Content-Digest": query["digest"]})
        if request.method != "POST":
            raise CloudError(405, "The operation is unsupported.", "UNSUPPORTED")
        project, repository, image = (query.get("from", "") + "//").split("/", 2)
        source = f"{name.partition('/')[0]}/{project}/{'/'.join(name.split('/')[2:5])}/{repository}"
        image = image.rstrip("/")
        if "mount" in query and image in DOCKER_HUB:
            self._authorize(caller, _PULL, source)
            if self._upstream(source):
                self._images.put_blob(name, query["mount"], b"")
                return web.Response(status=201, headers={"Docker-Content-Digest": query["mount"]})
        location = f"{request.path}{secrets.token_hex(16)}"
        return web.Response(status=202, headers={"Location": location})

    def _manifest(self, docker_hub: bool, name: str, image: str, reference: str) -> web.Response:
        raw = (
            upstream_manifest(image, reference)
            if docker_hub
            else self._images.manifest(name, image, reference)
        )
        # Which digests exist upstream cannot be known here, so any well-formed one does.
        digest = reference if ":" in reference else image_files.digest(raw)
        headers = {"Docker-Content-Digest": digest}
        return web.Response(body=raw, content_type=image_files.IMAGE, headers=headers)

    def find(self, caller: Caller, reference: str) -> int:
        """Size in bytes of an image that the caller pulls, from Artifact Registry or Docker Hub.

        CloudError 403 where the caller may not, 404 where there is no such image.
        """
        name, image, reference = _parts(reference)
        if name:
            self._authorize(caller, _PULL, name)
        if name and not self._upstream(name):
            manifest = json.loads(self._images.manifest(name, image, reference))
        else:
            manifest = json.loads(upstream_manifest(image, reference))
        return sum(layer["size"] for layer in manifest["layers"])

    def files(self, reference: str) -> Path | None:
        """The folder of a built image's files; None for one of Docker Hub's."""
        name, image, reference = _parts(reference)
        if not name or self._upstream(name):
            return None
        return self._images.unpacked(name, image, reference)

    def _caller(self, authorization: str | None) -> Caller:
        try:
            return self._identity.caller(authorization)
        except CloudError as error:
            raise CloudError(401, "Unauthenticated request.", "UNAUTHORIZED") from error

    def _authorize(self, caller: Caller, permission: str, name: str) -> None:
        permitted = self._identity.allowed(caller, permission, name)
        if not permitted or CLOUD_PLATFORM not in caller.scopes:
            message = f'Permission "{permission}" denied on resource "{name}" (or it may not exist)'
            raise CloudError(403, message, "DENIED")

    def _upstream(self, name: str) -> bool:
        """Whether the repository reaches Docker Hub. CloudError 404 when there is no repository."""
        repository = self._world.store.get(REPOSITORY, name)
        if repository is None:
            message = f'Repository "{name.rpartition("/")[2]}" not found'
            raise CloudError(404, message, "NAME_UNKNOWN")
        remote: Body = repository.get("remoteRepositoryConfig") or {}
        docker: Body = remote.get("dockerRepository") or {}
        return docker.get("publicRepository") == "DOCKER_HUB"


def _parts(reference: str) -> tuple[str, str, str]:
    """Repository (empty for Docker Hub itself), image, and tag or digest of an image's name."""
    parts = _REFERENCE.fullmatch(reference)
    if not parts:
        raise CloudError(404, f'"{reference}" is no image.', "NAME_UNKNOWN")
    host, path, digest, tag = parts.groups()
    version = digest or tag or "latest"
    location = _HOST.fullmatch(host or "")
    if location and path.count("/") > 1:
        project, repository, image = path.split("/", 2)
        return (
            f"projects/{project}/locations/{location[1]}/repositories/{repository}",
            image,
            version,
        )
    docker_hub = host in (None, "docker.io", "index.docker.io")
    return "", path if docker_hub and "/" in path else f"library/{path}", version


def upstream_manifest(image: str, reference: str) -> bytes:
    """What Docker Hub says of an image. CloudError 404 when it has no such image."""
    size, tags = DOCKER_HUB.get(image, (0, frozenset[str]()))
    if not size or not (reference in tags or _DIGEST.fullmatch(reference)):
        message = f'Failed to fetch "{reference}" from request "/v2/{image}/manifests/{reference}".'
        raise CloudError(404, message, "MANIFEST_UNKNOWN")
    layer = hashlib.sha256(f"{image}:{reference}".encode()).hexdigest()
    body = {
        "schemaVersion": 2,
        "mediaType": image_files.IMAGE,
        "config": {
            "mediaType": image_files.CONFIG,
            "digest": f"sha256:{hashlib.sha256(layer.encode()).hexdigest()}",
            "size": 2000,
        },
        "layers": [
            {"mediaType": image_files.LAYER, "digest": f"sha256:{layer}", "size": size},
        ],
        "annotations": {SECONDS: str(figures.seconds(f"pull {image}"))},
    }
    return json.dumps(body).encode()
