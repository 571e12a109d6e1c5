"""The metadata server of one instance, at 169.254.169.254:80 inside its machine."""

import asyncio
import hashlib
import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from aiohttp import web

from rehearsal.errors import CloudError
from rehearsal.google.identity import Identity
from rehearsal.store import Body
from rehearsal.world import World

INSTANCE = "google:instance"
ROOT = "/computeMetadata/v1/"


@dataclass(frozen=True)
class Minted:
    """A value that is made when asked for (a token), and left out of recursive listings."""

    make: Callable[[], str]


Directory: TypeAlias = dict[str, "Node"]
Node: TypeAlias = str | list[str] | Minted | Directory

_HEADERS = {
    "Metadata-Flavor": "Google",
    "Server": "Metadata Server for VM",
    "X-XSS-Protection": "0",
    "X-Frame-Options": "SAMEORIGIN",
}
_TITLES = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
}
GUEST_ATTRIBUTE_CALLS = 10
"""Requests for guest attributes in a second, of one VM
(docs.cloud.google.com/compute/docs/metadata/manage-guest-attributes, "Limits")."""


class MetadataServer:
    """Answers one instance from its row in the store, afresh at every request.

    Absent on purpose: other rate limits, `identity` tokens, project-wide attributes.
    """

    _guest_can_write = True

    def __init__(self, world: World, identity: Identity, instance: str) -> None:
        self._world = world
        self._identity = identity
        self._instance = instance
        self._calls = deque[float](maxlen=GUEST_ATTRIBUTE_CALLS)
        """When guest attributes were asked for last."""

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """The answer to one request, refusals included."""
        refusal = _refusal(request)
        if refusal:
            return refusal
        if request.path in ("/", "/computeMetadata/"):
            return _reply({"/": "computeMetadata/\n"}.get(request.path, "v1/\n"))
        if not request.path.startswith(ROOT):
            return _error(404, request.path)
        path = request.path.removeprefix(ROOT)
        try:
            if self._guest_can_write and path.startswith("instance/guest-attributes/"):
                return await self._guest_attributes(request, path)
            if request.method != "GET":
                return _error(405, request.path)
            return await self._read(request, path)
        except CloudError as error:
            return _error(error.code, request.path, error.message)

    async def _read(self, request: web.BaseRequest, path: str) -> web.Response:
        node = _find(self._tree(), path)
        if isinstance(node, dict) and path and not path.endswith("/"):
            return web.Response(status=301, headers=_HEADERS | {"Location": f"{ROOT}{path}/"})
        query = request.query
        if query.get("wait_for_change", "").lower() == "true":
            node = await self._changed(path, query)
        if node is None:
            return _error(404, request.path)
        return _render(node, query)

    async def _changed(self, path: str, query: Mapping[str, str]) -> Node | None:
        """The node once its ETag has changed, or as it is after `timeout_sec`."""
        node = _find(self._tree(), path)
        last = query.get("last_etag") or _etag(node)
        deadline = time.monotonic() + float(query.get("timeout_sec", "inf"))
        while _etag(node) == last and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            node = _find(self._tree(), path)
        return node

    async def _guest_attributes(self, request: web.BaseRequest, path: str) -> web.Response:
        body = self._body()
        if body["metadata"].get("enable-guest-attributes", "").upper() != "TRUE":
            return _error(403, request.path, "Guest attributes endpoint access is disabled.")
        now = time.monotonic()
        if len(self._calls) == GUEST_ATTRIBUTE_CALLS and now - self._calls[0] < 1:
            return _error(429, request.path)
        self._calls.append(now)
        key = path.removeprefix("instance/guest-attributes/")
        attributes: dict[str, str] = body.setdefault("guestAttributes", {})
        if request.method == "GET":
            found = attributes.get(key)
            return _reply(found) if found is not None else _error(404, request.path)
        if request.method != "PUT" or not re.fullmatch(r"[\w-]+/[\w.-]+", key):
            return _error(405 if request.method != "PUT" else 400, request.path)
        text = await request.text()
        body = self._body()
        body.setdefault("guestAttributes", {})[key] = text
        self._world.store.put(INSTANCE, self._instance, body)
        return _reply("")

    def _body(self) -> Body:
        body = self._world.store.get(INSTANCE, self._instance)
        if body is None:
            raise CloudError(404, "The instance is gone.", "notFound")
        return body

    def _tree(self) -> Directory:
        body = self._body()
        project: str = body["project"]
        number = self._world.accounts.projects[project]
        scheduling: Body = body["scheduling"]
        return {
            "instance": {
                "attributes": body["metadata"],
                "hostname": f"{body['name']}.{body['zone']}.c.{project}.internal",
                "id": body["instanceId"],
                "image": body["image"],
                "machine-type": f"projects/{number}/machineTypes/{body['machineType']}",
                "maintenance-event": "NONE",
                "name": body["name"],
                "network-interfaces": {"0": _interface(body, number)},
                "preempted": _boolean(body.get("preempted", False)),
                "scheduling": {
                    "automatic-restart": _boolean(scheduling.get("automaticRestart", True)),
                    "on-host-maintenance": scheduling.get("onHostMaintenance", "MIGRATE"),
                    "preemptible": _boolean(scheduling.get("preemptible", False)),
                },
                "service-accounts": self._service_accounts(body.get("serviceAccount")),
                "tags": body["tags"],
                "zone": f"projects/{number}/zones/{body['zone']}",
            },
            "project": {
                "attributes": {},
                "numeric-project-id": number,
                "project-id": project,
            },
        }

    def _service_accounts(self, account: Body | None) -> Directory:
        if not account:
            return {}
        email: str = account["email"]
        scopes: list[str] = account["scopes"]

        def token() -> str:
            token, lifetime = self._identity.mint(email, scopes)
            return json.dumps(
                {"access_token": token, "expires_in": lifetime, "token_type": "Bearer"}
            )

        node: Directory = {
            "aliases": ["default"],
            "email": email,
            "scopes": scopes,
            "token": Minted(token),
        }
        return {"default": node, email: node}


def _interface(body: Body, number: str) -> Directory:
    network = body["network"].rpartition("/")[2]
    return {
        "ip": body["networkIp"],
        "mtu": "1460",
        "network": f"projects/{number}/networks/{network}",
        "access-configs": {},
    }


def _boolean(value: bool) -> str:
    return "TRUE" if value else "FALSE"


def _refusal(request: web.BaseRequest) -> web.Response | None:
    """What is refused before it is looked at, so that a forwarded request gets nothing."""
    if "X-Forwarded-For" in request.headers:
        return _error(403, request.path, "Requests with X-Forwarded-For are refused.")
    if request.path == "/" or request.headers.get("Metadata-Flavor") == "Google":
        return None
    return _error(403, request.path, "Missing Metadata-Flavor:Google header.")


def _find(tree: Directory, path: str) -> Node | None:
    """The node at `path`, or None."""
    node: Node = tree
    for part in path.split("/"):
        if part == "" and isinstance(node, dict):
            continue  # a trailing slash is for directories only
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return node


def _render(node: Node, query: Mapping[str, str]) -> web.Response:
    if isinstance(node, Minted):
        return _reply(node.make(), "application/json")
    recursive = query.get("recursive", "").lower() == "true"
    form = query.get("alt", "json" if recursive else "text")
    if form == "json":
        return _reply(json.dumps(_json(node)), "application/json", _etag(node))
    if recursive:
        return _reply("".join(_lines(node, "")), etag=_etag(node))
    if isinstance(node, dict):
        names = (f"{name}/" if isinstance(it, dict) else name for name, it in node.items())
        return _reply("".join(f"{name}\n" for name in names), etag=_etag(node))
    return _reply(_text(node), etag=_etag(node))


def _json(node: Node | None, free: bool = False) -> object:
    """A directory as JSON: names in camelCase, except those that users chose."""
    if not isinstance(node, dict):
        return node
    listed: Directory = {name: it for name, it in node.items() if not isinstance(it, Minted)}
    if listed and all(name.isdecimal() for name in listed):
        return [_json(it) for it in listed.values()]
    return {
        name if free else _camel(name): _json(it, free=name == "attributes")
        for name, it in listed.items()
    }


def _camel(name: str) -> str:
    return re.sub("-(.)", lambda match: match[1].upper(), name)


def _lines(node: Node, prefix: str) -> list[str]:
    if isinstance(node, Minted):
        return []
    if not isinstance(node, dict):
        return [f"{prefix} {_text(node)}\n"]
    slash = f"{prefix}/" if prefix else ""
    return [line for name, it in node.items() for line in _lines(it, slash + name)]


def _text(node: Node) -> str:
    return "".join(f"{it}\n" for it in node) if isinstance(node, list) else str(node)


def _etag(node: Node | None) -> str:
    return hashlib.sha256(json.dumps(_json(node, free=True)).encode()).hexdigest()[:16]


def _reply(text: str, type: str = "application/text", etag: str = "") -> web.Response:
    headers = _HEADERS | ({"ETag": etag} if etag else {})
    return web.Response(text=text, content_type=type, headers=headers)


def _error(status: int, path: str, reason: str = "") -> web.Response:
    title = f"Error {status} ({_TITLES[status]})!!1"
    page = (
        f"<!DOCTYPE html>\n<html lang=en>\n<title>{title}</title>\n"
        f"<p><b>{status}.</b> {reason} <code>{path}</code>\n"
    )
    return web.Response(status=status, text=page, content_type="text/html", headers=_HEADERS)
