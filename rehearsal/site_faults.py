"""What can befall any site of the internet, or a machine's metadata server, as faults of a world.

A fault is `HOW-SITE`: SITE is a host name (`pkg.dev` for all of `*.pkg.dev`), `edge` for the hosts
behind Cloudflare, or `metadata`; HOW is a key of STATUSES, `slow` or `silent`.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from rehearsal.faults import Faults

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

STATUSES = {"denied": 403, "throttled": 429, "broken": 503}
SAID = {403: "PERMISSION_DENIED", 429: "TOOMANYREQUESTS", 503: "UNAVAILABLE"}
SLOW_S = 2.0
"""Seconds that a slow site takes more, of this machine's: callers' patience is not compressed."""


def befallen(faults: Faults, site: str, handler: Handler) -> Handler:
    """The handler, and what befalls it."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if faults.strikes(f"silent-{site}"):
            if request.transport:
                request.transport.abort()
            raise ConnectionResetError
        if faults.strikes(f"slow-{site}"):
            await asyncio.sleep(SLOW_S)
        for how, status in STATUSES.items():
            if faults.strikes(f"{how}-{site}"):
                message = f"{SAID[status]}: a fault of the rehearsal"
                error = {"code": status, "message": message, "status": SAID[status]}
                # Google's form, and that of registries.
                body = {"error": error, "errors": [{"code": SAID[status], "message": message}]}
                return web.json_response(body, status=status)
        return await handler(request)

    return handle


def name_of(pattern: str) -> str:
    """What a site is called in a fault's name."""
    return "edge" if pattern == "*" else pattern.removeprefix("*.")
