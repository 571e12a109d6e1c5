"""Cloudflare's REST API, as far as scripts use it: tunnels' connections, and what there is.

Creating goes through the providers. Changing something that does not exist answers as in life, so
that a token's permission to change can be asked after.
"""

import re
from collections.abc import Callable
from typing import Any, cast

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
    permissions,
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

PAGE = 50
"""Items on a page where nobody asks for fewer, or more."""

CHANGES = {
    "access/apps": "PUT",
    "access/policies": "PUT",
    "access/service_tokens": "PUT",
    "cfd_tunnel": "PATCH",
    "dns_records": "PUT|PATCH",
}
"""The methods that change one of a collection (developers.cloudflare.com/api)."""

FILTERS = {
    "access/apps": {"name": "name", "domain": "domain"},
    "access/service_tokens": {"name": "name"},
    "cfd_tunnel": {"name": "name"},
    "dns_records": {"name": "name", "name.exact": "name", "type": "type"},
}
"""Query -> the property that must be like it."""

WRITE_ONLY = {"clientSecret", "tunnelSecret"}
"""What Cloudflare never shows again."""

REFUSED = 403, "10000", "Authentication error"

NOT_FOUND = {
    "cfd_tunnel": ("1003", "Tunnel not found"),
    "dns_records": ("81044", "Record not found"),
}


class Api:
    """The site api.cloudflare.com/client/v4."""

    def __init__(self, world: World, tunnels: Tunnels) -> None:
        self._world, self._store, self._tunnels = world, world.store, tunnels
        collection = "|".join(LISTS)
        v4 = "/client/v4"
        owner = rf"{v4}/(accounts|zones)/([^/]+)"
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = [
            ("GET", re.compile(f"{v4}/user/tokens/verify"), self._verify),
            ("GET", re.compile(f"{v4}/accounts/([^/]+)/tokens/verify"), self._verify),
            ("GET", re.compile(f"{v4}/accounts/([^/]+)"), self._account),
            ("GET", re.compile(f"{v4}/zones/([^/]+)"), self._zone),
            ("GET", re.compile(f"{v4}/accounts/([^/]+)/access/organizations"), self._organisation),
            ("GET", re.compile(f"{owner}/({collection})"), self._list),
            ("GET", re.compile(f"{owner}/({collection})/([^/]+)"), self._get),
            ("PUT|PATCH", re.compile(f"{owner}/({collection})/([^/]+)"), self._change),
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
        answer: Body = {"success": True, "errors": [], "messages": [], "result": result}
        if isinstance(result, list):
            answer |= _page(cast("list[Body]", result), request)
        return web.json_response(answer)

    def _route(self, request: web.BaseRequest) -> Any:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        accounts = self._world.accounts
        expired = token in accounts.cloudflare_expired_tokens
        verifying = request.path.endswith("/tokens/verify")
        if scheme != "Bearer" or not (token in accounts.cloudflare_tokens or expired):
            code, number, words = (401, "1000", "Invalid API Token") if verifying else REFUSED
            raise CloudError(code, words, number)
        if expired and not verifying:
            raise CloudError(REFUSED[0], REFUSED[2], REFUSED[1])
        for methods, pattern, answer in self._routes:
            match = pattern.fullmatch(request.path)
            if match and request.method in methods.split("|"):
                return answer(request, *match.groups())
        raise CloudError(404, f"No route for {request.method} {request.path}", "7000")

    def _verify(self, request: web.BaseRequest, account: str = "") -> Body:
        token = request.headers["Authorization"].partition(" ")[2]
        expired = token in self._world.accounts.cloudflare_expired_tokens
        return {"id": "0" * 32, "status": "expired" if expired else "active"}

    def _account(self, _: web.BaseRequest, account: str) -> Body:
        if account not in self._world.accounts.cloudflare_accounts:
            raise CloudError(403, "Unauthorized to access requested resource", "9109")
        return {"id": account, "name": "Rehearsal", "type": "standard"}

    def _zone(self, _: web.BaseRequest, zone: str) -> Body:
        accounts = self._world.accounts
        if zone not in accounts.cloudflare_zones or not self._permitted(permissions.ZONE, "Read"):
            raise CloudError(403, "Unauthorized to access requested resource", "9109")
        return {
            "id": zone,
            "name": accounts.cloudflare_zones[zone],
            "status": accounts.cloudflare_zone_status.get(zone, "active"),
            "account": {"id": next(iter(accounts.cloudflare_accounts), ""), "name": "Rehearsal"},
            "plan": {"name": "Free Website", "legacy_id": "free"},
        }

    def _organisation(self, _: web.BaseRequest, account: str) -> Body:
        team = self._world.accounts.cloudflare_accounts.get(account)
        if team is None or not self._permitted(permissions.ORGANISATION, "Read"):
            raise CloudError(REFUSED[0], REFUSED[2], REFUSED[1])
        if not team:
            message = (
                "access.api.error.not_enabled: Access is not enabled. Visit the Access dashboard at"
                " https://dash.cloudflare.com/ and click the 'Enable Access' button."
            )
            raise CloudError(403, message, "9999")
        return {
            "name": team,
            "auth_domain": f"{team}.cloudflareaccess.com",
            "is_ui_read_only": False,
        }

    def _permitted(self, name: str, verb: str) -> bool:
        return permissions.permitted(self._world, name, verb)

    def _change(
        self, request: web.BaseRequest, kind: str, owner: str, collection: str, id: str
    ) -> None:
        if request.method not in CHANGES[collection].split("|"):
            message = f"{request.method} method not allowed for the api_token authentication scheme"
            raise CloudError(405, message, "10000")
        if self._owned(kind, owner, collection, "Edit").get(id) is not None:
            message = "The rehearsal changes resources through its providers only"
            raise CloudError(405, message, "7001")
        code, message = NOT_FOUND.get(collection, ("12130", "Not found"))
        raise CloudError(404, message, code)

    def _owned(self, kind: str, owner: str, collection: str, verb: str = "Read") -> dict[str, Body]:
        """A collection's resources that belong to an account or zone of the token's owner."""
        if not self._permitted(permissions.OF_TYPE[LISTS[collection]], verb):
            raise CloudError(REFUSED[0], REFUSED[2], REFUSED[1])
        accounts = self._world.accounts
        known = accounts.cloudflare_accounts if kind == "accounts" else accounts.cloudflare_zones
        if owner not in known:
            raise CloudError(403, "Unauthorized to access requested resource", "9109")
        key = "accountId" if kind == "accounts" else "zoneId"
        found = self._store.all(LISTS[collection]).items()
        return {id: body for id, body in found if body.get(key) == owner}

    def _list(self, request: web.BaseRequest, kind: str, owner: str, collection: str) -> list[Body]:
        asked = {
            key: request.query[query]
            for query, key in FILTERS.get(collection, {}).items()
            if query in request.query
        }
        there = request.query.get("is_deleted") == "false"
        found = self._owned(kind, owner, collection).items()
        return [
            self._show(collection, id, body)
            for id, body in found
            if all(body.get(key) == value for key, value in asked.items())
            and not (there and body.get("deletedAt"))
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
        self._owned(kind, owner, "cfd_tunnel", "Edit")
        self._get(request, kind, owner, "cfd_tunnel", id)
        self._tunnels.clear(id, request.query.get("client_id"))

    def _delete_tunnel(self, request: web.BaseRequest, kind: str, owner: str, id: str) -> Body:
        self._owned(kind, owner, "cfd_tunnel", "Edit")
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


def _page(found: list[Body], request: web.BaseRequest) -> Body:
    """A part of a list, and where in it that is."""
    page, size = int(request.query.get("page", "1")), int(request.query.get("per_page", PAGE))
    shown = found[(page - 1) * size : page * size]
    told = {"page": page, "per_page": size, "count": len(shown), "total_count": len(found)}
    return {"result": shown, "result_info": told | {"total_pages": -(-len(found) // size)}}
