"""secretmanager.googleapis.com: reading the payload of a secret's version, and nothing else."""

import base64
import json
import re

from aiohttp import web

from rehearsal.errors import CloudError
from rehearsal.google.identity import CLOUD_PLATFORM, Caller, Identity
from rehearsal.store import Body
from rehearsal.world import World

HOST = "secretmanager.googleapis.com"
VERSION = "gcp:secretmanager/secretVersion:SecretVersion"
DESTROYED = "google:destroyed_secret_version"
"""What the providers keep of a destroyed version: its secret and its number."""

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
            caller = self._identity.caller(request.headers.get("Authorization"))
            if CLOUD_PLATFORM not in caller.scopes:
                message = "Request had insufficient authentication scopes."
                raise CloudError(403, message, "PERMISSION_DENIED")
            answer = self._access(caller, **match.groupdict())
        except CloudError as error:
            reply = {"code": error.code, "message": error.message, "status": error.reason}
            return _json({"error": reply}, error.code)
        return _json(answer, 200)

    def payload(self, caller: Caller, project: str, secret: str, version: str) -> bytes:
        """A secret's bytes. CloudError 403, 404 or 400 when they are not this caller's to read."""
        return base64.b64decode(self._access(caller, project, secret, version)["payload"]["data"])

    def _access(self, caller: Caller, project: str, secret: str, version: str) -> Body:
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
        return self._payload(name, f"projects/{numbers[project]}/secrets/{secret}", version)

    def _payload(self, secret: str, numbered: str, version: str) -> Body:
        """What :access answers. CloudError 404 or 400 when there is nothing to read."""
        store = self._world.store
        live = {it["version"]: it for it in store.all(VERSION).values() if it["secret"] == secret}
        gone = {it["version"] for it in store.all(DESTROYED).values() if it["secret"] == secret}
        if version == "latest":
            version = max({*live, *gone}, key=int, default=version)
        name = f"{numbered}/versions/{version}"
        if version == "latest":
            message = f"Secret [{numbered}] not found or has no versions."
            raise CloudError(404, message, "NOT_FOUND")
        if version not in {*live, *gone}:
            raise CloudError(404, f"Secret Version [{name}] not found.", "NOT_FOUND")
        if version in gone or not live[version].get("enabled", True):
            state = "DESTROYED" if version in gone else "DISABLED"
            message = f"Secret Version [{name}] is in {state} state."
            raise CloudError(400, message, "FAILED_PRECONDITION")
        data: str = live[version].get("secretData") or live[version].get("secretDataWo") or ""
        encoded = live[version].get("isSecretDataBase64")
        raw = base64.b64decode(data) if encoded else data.encode()
        payload = {"data": base64.b64encode(raw).decode(), "dataCrc32c": str(crc32c(raw))}
        return {"name": name, "payload": payload}


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
