"""Docker Hub, to ask whether an image exists: registry-1.docker.io and its tokens.

Nobody pulls from here: machines have their images from Artifact Registry.
"""

import re
import secrets

from aiohttp import web

from rehearsal.errors import CloudError
from rehearsal.google.registry import upstream_manifest
from rehearsal.internet import Handler
from rehearsal.machines import image_files

REGISTRY, AUTH = "registry-1.docker.io", "auth.docker.io"
PROTOCOL = {"Docker-Distribution-Api-Version": "registry/2.0"}
_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")


class DockerHub:
    """Both sites. Everybody gets a token, and must show one."""

    def __init__(self) -> None:
        self._tokens: set[str] = set()

    def sites(self) -> dict[str, Handler]:
        """Host name -> its site."""
        return {REGISTRY: self._registry, AUTH: self._auth}

    async def _auth(self, request: web.BaseRequest) -> web.Response:
        if request.path != "/token":
            return web.Response(status=404)
        token = secrets.token_urlsafe(32)
        self._tokens.add(token)
        return web.json_response({"token": token, "expires_in": 300})

    async def _registry(self, request: web.BaseRequest) -> web.Response:
        match = _MANIFEST.fullmatch(request.path)
        if not match or request.method not in ("GET", "HEAD"):
            return web.Response(status=404)
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self._tokens:
            realm = f'Bearer realm="https://{AUTH}/token",service="registry.docker.io"'
            return _refusal(401, "UNAUTHORIZED", headers={"WWW-Authenticate": realm})
        try:
            raw = upstream_manifest(match[1], match[2])
        except CloudError as error:
            return _refusal(404, error.reason)
        headers = {"Docker-Content-Digest": image_files.digest(raw), **PROTOCOL}
        return web.Response(body=raw, content_type=image_files.IMAGE, headers=headers)


def _refusal(status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"errors": [{"code": code, "message": code.replace("_", " ").lower()}]}
    return web.json_response(body, status=status, headers={**PROTOCOL, **(headers or {})})
