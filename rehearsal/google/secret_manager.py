"""secretmanager.googleapis.com: reading the payload of a secret's version, and nothing else."""

import base64
import json
import re

from aiohttp import web

from rehearsal.errors import CloudError
from rehearsal.google.identity import CLOUD_PLATFORM, Identity
from rehearsal.store import Body
from rehearsal.world import World

HOST = "secretmanager.googleapis.com"
VERSION = "gcp:secretmanager/secretVersion:SecretVersion"

_ACCESS = re.compile(
    r"/v1/projects/(?P<project>[^/]+)/secrets/(?P<secret>[^/]+)/versions/(?P<version>[^/:]+):access"
)


class SecretManager:
    """The site; `handle` answers one request."""

    def __init__(self, world: World, identity: Identity) -> None:
        self._world = world
        self._identity = identity

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """The answer in Google's JSON, refusals included."""
        match = _ACCESS.fullmatch(request.path)
        if request.method != "GET" or not match:
            return web.Response(status=404, text="Not Found", content_type="text/html")
        try:
            answer = self._access(request.headers.get("Authorization"), **match.groupdict())
        except CloudError as error:
            reply = {"code": error.code, "message": error.message, "status": error.reason}
            return _json({"error": reply}, error.code)
        return _json(answer, 200)

    def _access(self, authorization: str | None, project: str, secret: str, version: str) -> Body:
        caller = self._identity.caller(authorization)
        if CLOUD_PLATFORM not in caller.scopes:
            message = "Request had insufficient authentication scopes."
            raise CloudError(403, message, "PERMISSION_DENIED")
        numbers = self._world.accounts.projects
        project = next((id for id, number in numbers.items() if number == project), project)
        name = f"projects/{project}/secrets/{secret}"
        permission = "secretmanager.versions.access"
        if not self._identity.allowed(caller, permission, name):
            message = (
                f"Permission '{permission}' denied for resource"
                f" '{name}/versions/{version}' (or it may not exist)."
            )
            raise CloudError(403, message, "PERMISSION_DENIED")
        return _payload(self._find(name, f"projects/{numbers[project]}/secrets/{secret}", version))

    def _find(self, secret: str, numbered: str, version: str) -> Body:
        versions = {
            body["version"]: body
            for body in self._world.store.all(VERSION).values()
            if body["secret"] == secret
        }
        if version == "latest" and versions:
            version = max(versions, key=int)
        if version == "latest":
            message = f"Secret [{numbered}] not found or has no versions."
            raise CloudError(404, message, "NOT_FOUND")
        if version not in versions:
            message = f"Secret Version [{numbered}/versions/{version}] not found."
            raise CloudError(404, message, "NOT_FOUND")
        return versions[version]


def _payload(version: Body) -> Body:
    """The answer to :access. CloudError 400 when the version is disabled or destroyed."""
    state = "DESTROYED" if version.get("destroyTime") else "DISABLED"
    if version.get("destroyTime") or not version.get("enabled", True):
        message = f"Secret Version [{version['name']}] is in {state} state."
        raise CloudError(400, message, "FAILED_PRECONDITION")
    data: str = version.get("secretData") or version.get("secretDataWo") or ""
    raw = base64.b64decode(data) if version.get("isSecretDataBase64") else data.encode()
    payload = {"data": base64.b64encode(raw).decode(), "dataCrc32c": str(crc32c(raw))}
    return {"name": version["name"], "payload": payload}


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC of RFC 3720, in which Secret Manager gives its checksums."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _json(body: Body, status: int) -> web.Response:
    return web.json_response(body, status=status, dumps=lambda it: json.dumps(it, indent=2) + "\n")
