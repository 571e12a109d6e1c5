"""secretmanager.googleapis.com: the payload of a secret's version, and lists."""

import base64

from rehearsal.errors import CloudError
from rehearsal.google.identity import Caller, Identity
from rehearsal.google.project import id_of
from rehearsal.google.rest import Api, Call, Route
from rehearsal.store import Body
from rehearsal.world import World

HOST = "secretmanager.googleapis.com"
SECRET = "gcp:secretmanager/secret:Secret"  # noqa: S105 a type token
VERSION = "gcp:secretmanager/secretVersion:SecretVersion"
DESTROYED = "google:destroyed_secret_version"
"""What the providers keep of a destroyed version: its secret and its number."""
DENIED = "Permission '{permission}' denied for resource '{name}' (or it may not exist)."


class SecretManager:
    """The site; `handle` answers one request."""

    def __init__(self, world: World, identity: Identity) -> None:
        self._world = world
        self._identity = identity
        secrets = "/v1/projects/{project}/secrets"
        versions = f"{secrets}/{{secret}}/versions"
        read = f"{versions}/{{version}}:access"
        routes = (
            Route("GET", read, "secretmanager.versions.access", self._read),
            Route("GET", secrets, "secretmanager.secrets.list", self._secrets, "secrets"),
            Route("GET", versions, "secretmanager.versions.list", self._versions, "versions"),
        )
        self.handle = Api(world, identity, HOST, routes, denied=DENIED).handle

    def payload(self, caller: Caller, project: str, secret: str, version: str) -> bytes:
        """A secret's bytes. CloudError 403, 404 or 400 when they are not this caller's to read."""
        project = id_of(self._world, project)
        name = f"projects/{project}/secrets/{secret}"
        permission = "secretmanager.versions.access"
        if not self._identity.allowed(caller, permission, name):
            where = f"{name}/versions/{version}"
            message = DENIED.format(permission=permission, name=where)
            raise CloudError(403, message, "PERMISSION_DENIED")
        return base64.b64decode(self._payload(project, secret, version)["payload"]["data"])

    def _read(self, call: Call) -> Body:
        """versions.access"""
        return self._payload(call.parts["project"], call.parts["secret"], call.parts["version"])

    def _secrets(self, call: Call) -> list[Body]:
        """secrets.list"""
        rows = self._world.store.all(SECRET).values()
        return [
            {key: row[key] for key in ("name", "createTime", "etag") if key in row}
            | {"labels": row.get("effectiveLabels") or {}}
            for row in rows
            if row["project"] == call.parts["project"]
        ]

    def _versions(self, call: Call) -> list[Body]:
        """versions.list"""
        secret = call.name.removesuffix("/versions")
        rows = self._world.store.all(VERSION).values()
        return [
            {"name": row["name"], "state": "ENABLED" if row.get("enabled", True) else "DISABLED"}
            for row in rows
            if row["secret"] == secret
        ]

    def _payload(self, project: str, name: str, version: str) -> Body:
        """What :access answers. CloudError 404 or 400 when there is nothing to read."""
        store = self._world.store
        secret = f"projects/{project}/secrets/{name}"
        numbered = f"projects/{self._world.accounts.projects[project]}/secrets/{name}"
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
