"""Cloudflare's REST API, as far as scripts use it: tunnels' connections, and lists to look at."""

import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from rehearsal.cloudflare import (
    APPLICATION,
    CONNECTION,
    DNS_RECORD,
    POLICY,
    SERVICE_TOKEN,
    TUNNEL,
    TUNNEL_CONFIG,
    TUNNEL_SECRET,
    respell,
)
from rehearsal.cloudflare.tunnel import Tunnels
from rehearsal.errors import CloudError
from rehearsal.store import Body
from rehearsal.world import World

LISTS = {
    "access/apps": APPLICATION,
    "access/policies": POLICY,
    "access/service_tokens": SERVICE_TOKEN,
    "cfd_tunnel": TUNNEL,
    "dns_records": DNS_RECORD,
}
"""Collections by their path below an account or a zone."""

WRITE_ONLY = {"clientSecret", "tunnelSecret"}
"""What Cloudflare never shows again."""

NOT_FOUND = {
    "cfd_tunnel": ("1003", "Tunnel not found"),
    "dns_records": ("81044", "Record not found"),
}


class Api:
    """The site api.cloudflare.com/client/v4."""

    def __init__(self, world: World, tunnels: Tunnels) -> None:
        self._world, self._store, self._tunnels = world, world.store, tunnels
        collection = "|".join(LISTS)
        owner = r"/client/v4/(accounts|zones)/([^/]+)"
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = [
            ("GET", re.compile(r"/client/v4/user/tokens/verify"), self._verify),
            ("GET", re.compile(f"{owner}/({collection})"), self._list),
            ("GET", re.compile(f"{owner}/({collection})/([^/]+)"), self._get),
            ("DELETE", re.compile(f"{owner}/cfd_tunnel/([^/]+)"), self._delete_tunnel),
            ("GET", re.compile(f"{owner}/cfd_tunnel/([^/]+)/connections"), self._connections),
            ("DELETE", re.compile(f"{owner}/cfd_tunnel/([^/]+)/connections"), self._clear),
        ]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer in Cloudflare's envelope."""
        try:
            result = self._route(request)
        except CloudError as error:
            errors = [{"code": int(error.reason), "message": error.message}]
            body = {"success": False, "errors": errors, "messages": [], "result": None}
            return web.json_response(body, status=error.code)
        return web.json_response({"success": True, "errors": [], "messages": [], "result": result})

    def _route(self, request: web.BaseRequest) -> Any:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self._world.accounts.cloudflare_tokens:
            raise CloudError(403, "Authentication error", "10000")
        for method, pattern, answer in self._routes:
            match = pattern.fullmatch(request.path)
            if match and method == request.method:
                return answer(request, *match.groups())
        raise CloudError(404, f"No route for {request.method} {request.path}", "7000")

    def _verify(self, _: web.BaseRequest) -> Body:
        return {"id": "0" * 32, "status": "active"}

    def _owned(self, kind: str, owner: str, collection: str) -> dict[str, Body]:
        """A collection's resources that belong to an account or zone of the token's owner."""
        accounts = self._world.accounts
        known = accounts.cloudflare_accounts if kind == "accounts" else accounts.cloudflare_zones
        if owner not in known:
            raise CloudError(403, "Unauthorized to access requested resource", "9109")
        key = "accountId" if kind == "accounts" else "zoneId"
        found = self._store.all(LISTS[collection]).items()
        return {id: body for id, body in found if body.get(key) == owner}

    def _list(self, request: web.BaseRequest, kind: str, owner: str, collection: str) -> list[Body]:
        name = request.query.get("name")
        there = request.query.get("is_deleted") == "false"
        found = self._owned(kind, owner, collection).items()
        return [
            self._show(collection, *item)
            for item in found
            if name in (None, item[1]["name"]) and not (there and item[1].get("deletedAt"))
        ]

    def _get(self, _: web.BaseRequest, kind: str, owner: str, collection: str, id: str) -> Body:
        body = self._owned(kind, owner, collection).get(id)
        if body is None:
            code, message = NOT_FOUND.get(collection, ("12130", "Not found"))
            raise CloudError(404, message, code)
        return self._show(collection, id, body)

    def _connections(self, request: web.BaseRequest, kind: str, owner: str, id: str) -> list[Body]:
        self._get(request, kind, owner, "cfd_tunnel", id)
        connectors: dict[str, Body] = {}
        for connection in self._live(id):
            client = connection["client_id"]
            connector = connectors.setdefault(
                client, {"id": client, "run_at": connection["opened_at"], "conns": []}
            )
            connector["conns"].append(connection)
        return list(connectors.values())

    def _clear(self, request: web.BaseRequest, kind: str, owner: str, id: str) -> None:
        self._get(request, kind, owner, "cfd_tunnel", id)
        self._tunnels.clear(id, request.query.get("client_id"))

    def _delete_tunnel(self, request: web.BaseRequest, kind: str, owner: str, id: str) -> Body:
        shown = self._get(request, kind, owner, "cfd_tunnel", id)
        if self._live(id):
            message = "Cannot delete tunnel because it has active connections"
            raise CloudError(400, message, "1022")
        for type in (TUNNEL_CONFIG, TUNNEL_SECRET, TUNNEL):
            self._store.delete(type, id)
        return shown

    def _live(self, tunnel: str) -> list[Body]:
        return [
            {
                "id": id,
                "uuid": id,
                "client_id": row["connectorId"],
                "colo_name": "rehearsal",
                "is_pending_reconnect": False,
                "opened_at": row["openedAt"],
            }
            for id, row in self._store.all(CONNECTION).items()
            if row["tunnelId"] == tunnel
        ]

    def _show(self, collection: str, id: str, body: Body) -> Body:
        """A resource in the API's spelling."""
        public = {key: value for key, value in body.items() if key not in WRITE_ONLY}
        shown = respell(public, _snake) | {"id": id}
        if collection == "cfd_tunnel":
            live = self._live(id)
            shown |= {"connections": live, "status": "healthy" if live else "down"}
        return shown


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])[A-Z]", lambda match: "_" + match[0].lower(), name)
