"""*.pkg.dev: Artifact Registry's remote repositories of Docker Hub, as `docker pull` sees them."""

import hashlib
import json
import re

from aiohttp import web

from components import catalogue
from rehearsal import figures
from rehearsal.errors import CloudError
from rehearsal.google.identity import CLOUD_PLATFORM, Caller, Identity
from rehearsal.store import Body
from rehearsal.world import World

HOSTS = "*.pkg.dev"
REPOSITORY = "gcp:artifactregistry/repository:Repository"
SECONDS = "llm-endpoint.rehearsal/seconds"
"""Annotation of a manifest: how many seconds of life a pull takes (figures.py)."""

_VLLM = (
    "0.20.0 0.20.1 0.20.2 0.21.0 0.22.0 0.22.1 0.23.0 0.24.0 0.25.0 0.25.1 0.26.0 0.27.0 0.27.1"
    " 0.28.0 0.29.0 0.30.0 0.31.0 0.32.0 0.33.0"
)
_CLOUDFLARED = "2026.7.2 2026.8.0 2026.8.2 latest"
_PYTHON = ("3.13", *(f"3.13.{patch}" for patch in range(12)))
DOCKER_HUB: dict[str, tuple[int, frozenset[str]]] = {
    # vLLM: releases on PyPI of 2026-11-22; size U. cloudflared: tags in its release notes.
    # Python: the patch releases that are sure to exist; size of the slim variant.
    "vllm/vllm-openai": (10_000_000_000, frozenset(f"v{it}" for it in _VLLM.split()) | {"latest"}),
    "cloudflare/cloudflared": (25_000_000, frozenset(_CLOUDFLARED.split())),
    "library/python": (45_000_000, frozenset({*_PYTHON, *(f"{it}-slim" for it in _PYTHON)})),
}
"""Image -> its compressed size in bytes and its tags upstream. Others do not exist."""

_PERMISSION = "artifactregistry.repositories.downloadArtifacts"
_MANIFEST = re.compile(r"/v2/([^/]+)/([^/]+)/(.+)/manifests/([^/]+)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"([a-z0-9-]+)-docker\.pkg\.dev")
_REFERENCE = re.compile(r"(?:([^/]+\.[^/]+)/)?(.+?)(?:@(.+)|:([^/@]+))?")


class Registry:
    """The site; `handle` answers one request. Blobs are absent: the manifest says all that a
    simulated pull needs."""

    def __init__(self, world: World, identity: Identity) -> None:
        self._world = world
        self._identity = identity

    def names(self) -> list[str]:
        """The host of every region, as it exists in life with or without a repository."""
        return [f"{region}-docker.pkg.dev" for region in catalogue.regions()]

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """The answer in the Docker Registry HTTP API v2, refusals included."""
        host = request.host.partition(":")[0]
        try:
            return self._answer(request, host)
        except CloudError as error:
            headers: dict[str, str] = {}
            if error.code == 401:
                realm = f'Bearer realm="https://{host}/v2/token",service="{host}"'
                headers["WWW-Authenticate"] = realm
            reply = {"errors": [{"code": error.reason, "message": error.message}]}
            return web.json_response(reply, status=error.code, headers=headers)

    def _answer(self, request: web.BaseRequest, host: str) -> web.Response:
        location = _HOST.fullmatch(host)
        match = _MANIFEST.fullmatch(request.path)
        if not location or request.method not in ("GET", "HEAD"):
            raise CloudError(404, "The requested URL was not found on this server.", "UNSUPPORTED")
        caller = self._caller(request.headers.get("Authorization"))
        if request.path == "/v2/":
            return web.json_response({})
        if request.path == "/v2/token":
            token, lifetime = self._identity.mint_for(caller)
            return web.json_response({"token": token, "expires_in": lifetime})
        if not match:
            raise CloudError(404, "The requested URL was not found on this server.", "UNSUPPORTED")
        project, repository, image, reference = match.groups()
        name = f"projects/{project}/locations/{location[1]}/repositories/{repository}"
        self._authorize(caller, name)
        return _manifest(self._upstream(name), request.path, image, reference)

    def find(self, caller: Caller, reference: str) -> None:
        """Make sure that the caller can pull an image, from Artifact Registry or Docker Hub.

        CloudError 403 where the caller may not, 404 where there is no such image.
        """
        parts = _REFERENCE.fullmatch(reference)
        if not parts:
            raise CloudError(404, f'"{reference}" is no image.', "NAME_UNKNOWN")
        host, path, digest, tag = parts.groups()
        location = _HOST.fullmatch(host or "")
        docker_hub = host in (None, "docker.io", "index.docker.io")
        image = path if docker_hub and "/" in path else f"library/{path}"
        if location and path.count("/") > 1:
            project, repository, image = path.split("/", 2)
            name = f"projects/{project}/locations/{location[1]}/repositories/{repository}"
            self._authorize(caller, name)
            docker_hub = self._upstream(name)
        _manifest(docker_hub, path, image, digest or tag or "latest")

    def _caller(self, authorization: str | None) -> Caller:
        try:
            return self._identity.caller(authorization)
        except CloudError as error:
            raise CloudError(401, "Unauthenticated request.", "UNAUTHORIZED") from error

    def _authorize(self, caller: Caller, name: str) -> None:
        permitted = self._identity.allowed(caller, _PERMISSION, name)
        if not permitted or CLOUD_PLATFORM not in caller.scopes:
            message = (
                f'Permission "{_PERMISSION}" denied on resource "{name}" (or it may not exist)'
            )
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


def _manifest(docker_hub: bool, path: str, image: str, reference: str) -> web.Response:
    size, tags = DOCKER_HUB.get(image, (0, frozenset[str]()))
    # Which digests exist cannot be known here, so any well-formed one does.
    known = size and (reference in tags or _DIGEST.fullmatch(reference))
    if not docker_hub or not known:
        message = f'Failed to fetch "{reference}" from request "{path}".'
        raise CloudError(404, message, "MANIFEST_UNKNOWN")
    media = "application/vnd.oci.image.manifest.v1+json"
    layer = hashlib.sha256(f"{image}:{reference}".encode()).hexdigest()
    body = {
        "schemaVersion": 2,
        "mediaType": media,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": f"sha256:{hashlib.sha256(layer.encode()).hexdigest()}",
            "size": 2000,
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": f"sha256:{layer}",
                "size": size,
            }
        ],
        "annotations": {SECONDS: str(figures.seconds(f"pull {image}"))},
    }
    raw = json.dumps(body).encode()
    digest = reference if ":" in reference else f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return web.Response(body=raw, content_type=media, headers={"Docker-Content-Digest": digest})
