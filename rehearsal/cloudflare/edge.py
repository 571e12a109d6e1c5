"""Cloudflare's edge: proxied host names, Access in front, tunnels behind."""

import json
import secrets
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from rehearsal import relay
from rehearsal.cloudflare import DNS_RECORD, TUNNEL
from rehearsal.cloudflare.access import FORBIDDEN, Access, Verdict, Visitor
from rehearsal.cloudflare.api import Api
from rehearsal.cloudflare.tunnel import NotConnectedError, Tunnels
from rehearsal.internet import Internet
from rehearsal.store import Body
from rehearsal.world import World

PROXY_READ_SECONDS = 120.0
"""Life seconds of an origin's silence before 524
(developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/error-524)."""
PATIENCE_FLOOR = 15.0
"""Real seconds that are always granted: the engine here answers in real time, not compressed."""

TUNNEL_SUFFIX = ".cfargotunnel.com"
CREDENTIALS = {"cf-access-client-id", "cf-access-client-secret", "cf-access-token"}
"""What Access consumes: it never reaches an origin."""

PAGES = {
    502: "Bad gateway",
    524: "A timeout occurred",
    1016: "Origin DNS error",
    1033: "Cloudflare Tunnel error",
}


class _TunnelConnector(aiohttp.BaseConnector):
    """Gives an HTTP client a stream of the tunnel that the URL's host names."""

    def __init__(self, tunnels: Tunnels) -> None:
        super().__init__(force_close=True, limit=0)  # one request a stream
        self._tunnels = tunnels

    async def _create_connection(
        self,
        req: Any,
        traces: Any,
        timeout: Any,  # noqa: ASYNC109  # aiohttp's own signature
    ) -> Any:
        return await self._tunnels.take(str(req.url.host).removesuffix(TUNNEL_SUFFIX))


class Edge:
    """Everything of Cloudflare that is reached by HTTP, registered as sites of an Internet.

    `tunnels.serve` takes a guest's port 7844.
    """

    def __init__(self, world: World, internet: Internet) -> None:
        self._world, self._store = world, world.store
        self._access = Access(world)
        self.tunnels = Tunnels(world)
        patience = max(PROXY_READ_SECONDS / world.speed, PATIENCE_FLOOR)
        self._client = relay.client(_TunnelConnector(self.tunnels), sock_read=patience)
        internet.site("api.cloudflare.com", Api(world, self.tunnels).handle)
        internet.site("*.cloudflareaccess.com", self.team_site, names=self._teams)
        internet.site("*", self.handle, names=self.hostnames)

    async def close(self) -> None:
        """Cut every tunnel."""
        self.tunnels.close()
        await self._client.close()

    def hostnames(self) -> set[str]:
        """Every host name with a proxied DNS record in a zone of the account holder."""
        return {name for name, _ in self._proxied()}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request to a proxied host name."""
        host = request.host.partition(":")[0].lower()
        path = unquote(request.raw_path.partition("?")[0])
        if path == "/cdn-cgi/access/authorized":
            return _authorized(request)
        application = self._access.application(host, path)
        headers = _forwarded(request)
        if application:
            verdict = self._access.judge(application, request.headers, request.cookies)
            if verdict.outcome != "pass":
                return self._refuse(request, application, verdict)
            headers.popall("Cf-Access-Jwt-Assertion", None)
            if verdict.assertion:
                headers["Cf-Access-Jwt-Assertion"] = verdict.assertion
        record = next(record for name, record in self._proxied() if name == host)
        tunnel = str(record.get("content", "")).removesuffix(TUNNEL_SUFFIX)
        if (self._store.get(TUNNEL, tunnel) or {"deletedAt": True}).get("deletedAt"):
            return _page(request, 530, 1016)
        return await self._forward(request, tunnel, headers)

    async def team_site(self, request: web.BaseRequest) -> web.StreamResponse:
        """A team's own host: its public keys, and the login.

        The real login proves an e-mail address, by a code or an identity provider; here the
        address is taken at its word.
        """
        if request.path == "/cdn-cgi/access/certs":
            return web.json_response(self._access.certs())
        prefix = "/cdn-cgi/access/login/"
        host = request.path.removeprefix(prefix)
        application = self._access.application(host, "/") if request.path != host else None
        if application is None or self._access.team(application) != request.host.split(".")[0]:
            return web.Response(status=404, text="Unable to find your Access application!")
        if request.method != "POST":
            form = '<form method="post"><input name="email" type="email"><button>Log in</button>'
            return web.Response(
                text=f"<title>Sign in</title>{form}</form>", content_type="text/html"
            )
        email = parse_qs(await request.text()).get("email", [""])[0]
        verdict = self._access.admit(application, Visitor(email=email))
        if verdict.outcome != "pass":
            return web.Response(status=403, text="That account does not have access.")
        back = {"token": verdict.assertion, "redirect_url": request.query.get("redirect_url", "/")}
        raise web.HTTPFound(f"https://{host}/cdn-cgi/access/authorized?{urlencode(back)}")

    def _teams(self) -> list[str]:
        teams = self._world.accounts.cloudflare_accounts.values()
        return [f"{team}.cloudflareaccess.com" for team in teams]

    def _proxied(self) -> Iterator[tuple[str, Body]]:
        """Every proxied DNS record of a known zone, by its full name."""
        zones = self._world.accounts.cloudflare_zones
        for record in self._store.all(DNS_RECORD).values():
            zone = zones.get(record["zoneId"])
            if zone and record.get("proxied"):
                name = str(record["name"]).lower()
                inside = name == zone or name.endswith("." + zone)
                yield (name if inside else zone if name == "@" else f"{name}.{zone}"), record

    def _refuse(
        self, request: web.BaseRequest, application: Body, verdict: Verdict
    ) -> web.Response:
        """Access's own answer: the way to the login, or a refusal as JSON (HTML for a browser)."""
        host, path = request.host, request.raw_path
        resource = f"https://{host}/.well-known/cloudflare-access-protected-resource{path}"
        headers = {
            "Cf-Access-Aud": application["aud"],
            "Cf-Access-Domain": host,
            "WWW-Authenticate": f'Cloudflare-Access resource_metadata="{resource}"',
        }
        if verdict.outcome == "login":
            location = self._access.login_url(application, host, path)
            return _response(request, 302, headers | {"Location": location})
        if _browser(request):
            html = f"<title>Error ・ Cloudflare Access</title><h1>{FORBIDDEN}</h1>"
            return _response(request, verdict.status, headers, html, "text/html")
        body = {
            "message": FORBIDDEN,
            "status_code": verdict.status,
            "aud": application["aud"],
            "ray_id": secrets.token_hex(8),
        }
        return _response(request, verdict.status, headers, json.dumps(body), "application/json")

    async def _forward(
        self, request: web.BaseRequest, tunnel: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        origin = f"http://{tunnel}{TUNNEL_SUFFIX}"
        try:
            upstream = await relay.send(self._client, request, origin, headers)
        except NotConnectedError:
            return _page(request, 530, 1033)
        except aiohttp.ServerTimeoutError:
            return _page(request, 524, 524)
        except aiohttp.ClientError:
            return _page(request, 502, 502)
        async with upstream:
            if '"cloudflared"' in upstream.headers.get("Cf-Cloudflared-Response-Meta", ""):
                return _page(request, 502, 502)
            back = relay.headers_of(upstream, ("cf-cloudflared-response-meta", "server"))
            back.update(_own_headers())
            return await relay.answer(request, upstream, back)


def _forwarded(request: web.BaseRequest) -> CIMultiDict[str]:
    """A request's headers as an origin sees them."""
    headers = relay.headers_of(request, CREDENTIALS | {"expect"})
    client = request.remote or "127.0.0.1"
    headers["CF-Connecting-IP"] = client
    headers["CF-Ray"] = _ray()
    headers["CF-Visitor"] = '{"scheme":"https"}'
    headers["CDN-Loop"] = "cloudflare; loops=1"
    headers["X-Forwarded-For"] = client
    headers["X-Forwarded-Proto"] = "https"
    return headers


def _authorized(request: web.BaseRequest) -> web.Response:
    """The way back from the login: keep the session in a cookie of the host."""
    path = request.query.get("redirect_url", "/")
    here = path if path.startswith("/") and not path.startswith("//") else "/"
    response = _response(request, 302, {"Location": here})
    token = request.query.get("token", "")
    response.set_cookie("CF_Authorization", token, secure=True, httponly=True, path="/")
    return response


def _page(request: web.BaseRequest, status: int, code: int) -> web.Response:
    """An error of the edge itself; clients that are not browsers get its number only."""
    if not _browser(request):
        return _response(request, status, {}, f"error code: {code}", "text/plain")
    title = f"{PAGES[code]} | {escape(request.host)} | Cloudflare"
    html = f"<title>{title}</title><h1>Error {code}</h1><p>{PAGES[code]}"
    return _response(request, status, {}, html, "text/html")


def _response(
    request: web.BaseRequest,
    status: int,
    headers: Mapping[str, str],
    text: str = "",
    content_type: str = "text/plain",
) -> web.Response:
    """An answer of the edge's own. Its connection closes where a body was left unread."""
    own = _own_headers() | dict(headers)
    return web.Response(status=status, text=text, content_type=content_type, headers=own)


def _own_headers() -> dict[str, str]:
    return {"Server": "cloudflare", "CF-RAY": _ray()}


def _ray() -> str:
    return f"{secrets.token_hex(8)}-FRA"


def _browser(request: web.BaseRequest) -> bool:
    return "text/html" in request.headers.get("Accept", "")
