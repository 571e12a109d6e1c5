"""*.run.app: Google's front end, which lets a request in, and finds an instance for it.

What it answers itself comes as Google's own short pages, HTML among them.
"""

import asyncio
import secrets

import aiohttp
from aiohttp import web

from rehearsal import relay
from rehearsal.google.cloud_run.revision import Revision, UnavailableError
from rehearsal.google.cloud_run.services import Services
from rehearsal.google.identity import BINDINGS, ROLES, Identity
from rehearsal.google.metadata import INSTANCE
from rehearsal.google.network import SUBNETWORK, resolve
from rehearsal.internet import CALLER
from rehearsal.store import Body
from rehearsal.world import World

HOSTS = "*.run.app"
REQUEST_FLOOR_S = 15.0
"""A request has at least so long, in this machine's time, which is not compressed."""

MEMBERS = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"

_PAGE = (
    '<html><head>\n<meta http-equiv="content-type" content="text/html;charset=utf-8">\n'
    "<title>{title}</title>\n</head>\n<body text=#000000 bgcolor=#ffffff>\n<h1>Error: {heading}"
    "</h1>\n<h2>{text}</h2>\n<h2></h2>\n</body></html>\n"
)
_SERVER_ERROR = (
    "The server encountered an error and could not complete your request.<p>Please try again in 30"
    " seconds."
)


class FrontEnd:
    """The site; `handle` answers one request.

    Absent on purpose: callers that prove who they are by an ID token. A service is open to all who
    reach it, or to nobody.
    """

    def __init__(self, world: World, identity: Identity, services: Services) -> None:
        self._world = world
        self._store = world.store
        self._identity = identity
        self._services = services

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The container's answer, or why the request does not reach one."""
        found = self._services.find(request.host.partition(":")[0].lower())
        if found is None:
            return _page(404, "404 Page not found", "Page not found", _not_found())
        service, revision = found
        if not self._lets_in(service, request[CALLER]) or revision is None:
            return _page(404, "404 Page not found", "Page not found", _not_found())
        if not service.get("invokerIamDisabled") and not self._open_to_all(service):
            path = request.rel_url.raw_path
            text = f"Your client does not have permission to get URL <code>{path}</code> from this"
            return _page(403, "403 Forbidden", "Forbidden", f"{text} server.")
        return await self._serve(request, revision)

    def _lets_in(self, service: Body, caller: str) -> bool:
        """Whether the ingress setting admits a guest's request, or this machine's.

        Internal are VMs of the service's own project that reach Google without the internet
        (docs.cloud.google.com/run/docs/securing/ingress).
        """
        if service["ingress"] == "INGRESS_TRAFFIC_ALL":
            return True
        vm = self._store.get(INSTANCE, caller)
        if vm is None or vm["project"] != service["project"] or vm["externalIp"]:
            return False
        subnetwork = resolve(self._store, vm["subnetwork"], SUBNETWORK) or {}
        return bool(subnetwork.get("privateIpGoogleAccess"))

    def _open_to_all(self, service: Body) -> bool:
        place = BINDINGS[MEMBERS]
        return any(
            body["member"] == "allUsers"
            and "run.routes.invoke" in ROLES.get(body["role"], ())
            and place.format_map(body) == service["id"]
            for body in self._store.all(MEMBERS).values()
        )

    async def _serve(self, request: web.BaseRequest, revision: Revision) -> web.StreamResponse:
        headers = relay.headers_of(request, ("expect",))
        headers["X-Forwarded-For"] = request.remote or "0.0.0.0"  # noqa: S104 no address to listen on
        headers["X-Forwarded-Proto"] = "https"
        headers["X-Cloud-Trace-Context"] = f"{secrets.token_hex(16)}/1;o=1"
        limit_s = max(revision.limits.timeout_s / self._world.speed, REQUEST_FLOOR_S)
        answering = False
        try:
            async with asyncio.timeout(limit_s), revision.slot() as running:
                upstream = await relay.send(running.client, request, "http://instance", headers)
                async with upstream:
                    answering = True
                    back = relay.headers_of(upstream, ("server",))
                    back["Server"] = "Google Frontend"
                    return await relay.answer(request, upstream, back)
        except UnavailableError as error:
            if error.status == 429:
                return _plain(429, "Rate exceeded.", "text/html")
            return _page(500, "500 Server Error", "Server Error", _SERVER_ERROR)
        except TimeoutError:
            if answering and request.transport:
                request.transport.abort()
            return _plain(504, "upstream request timeout")
        except (aiohttp.ClientError, OSError):
            reason = "upstream connect error or disconnect/reset before headers. reset reason:"
            return _plain(503, f"{reason} connection termination")


def _not_found() -> str:
    return "The requested URL was not found on this server."


def _page(status: int, title: str, heading: str, text: str) -> web.Response:
    html = _PAGE.format(title=title, heading=heading, text=text)
    return _plain(status, html, "text/html")


def _plain(status: int, text: str, type: str = "text/plain") -> web.Response:
    headers = {"Server": "Google Frontend"}
    return web.Response(status=status, text=text, content_type=type, headers=headers)
