"""The internet, as far as it exists: host names, TLS, and the proxy that leads into it."""

import asyncio
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from aiohttp import web

from rehearsal import relay
from rehearsal.authority import Authority
from rehearsal.site_faults import befallen, name_of
from rehearsal.world import World

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Names = Callable[[], Iterable[str]]

MAX_HEAD = 65536
"""Bytes of a proxy request's head; more is refused."""
CALLER = web.RequestKey("caller", str)
"""What a handler reads off a request: id of the guest that sent it; empty for this machine."""


class Site(NamedTuple):
    """What answers for a host name."""

    pattern: str
    handler: Handler
    names: Names | None
    any_host: bool


class Internet:
    """Sites by host name, served with certificates of the world's authority.

    From this machine they are reached through `start_proxy`, from a guest
    through a socket that listens on the guest's own port 443 (`serve`).
    """

    def __init__(self, world: World) -> None:
        self._faults = world.faults
        self._authority = Authority(world.directory)
        self._sites: list[Site] = []
        self._servers = weakref.WeakSet[web.Server]()
        self._asked = weakref.WeakKeyDictionary[ssl.SSLObject, str]()
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.sni_callback = self._present_certificate
        self._closers: list[Callable[[], object]] = []
        self._server = self._serve_requests("")

    def site(
        self,
        pattern: str,
        handler: Handler,
        names: Names | None = None,
        *,
        any_host: bool = False,
    ) -> None:
        """Serve `pattern` (a host name, or one with `*`) with `handler`.

        `names` lists the concrete hosts behind a pattern with `*`; where it is given,
        no other host exists. Sites registered earlier win. With `any_host` the handler gets every
        request on a connection to its hosts, whatever Host it names, and answers for that itself.
        """
        handler = befallen(self._faults, name_of(pattern), handler)
        self._sites.append(Site(pattern, handler, names, any_host))

    def names(self) -> list[str]:
        """Every concrete host name that resolves now, for a guest's /etc/hosts."""
        found: list[str] = []
        for pattern, _, names, _ in self._sites:
            found += names() if names else [pattern] if "*" not in pattern else []
        return sorted(set(found))

    async def start_proxy(self, port: int = 0) -> int:
        """Start the CONNECT proxy on 127.0.0.1 and return its port (0 picks a free one).

        Raises OSError when the port is taken.
        """
        listener = socket.create_server(("127.0.0.1", port))
        listener.setblocking(False)
        accepting = asyncio.create_task(self._accept(listener))
        self._closers += [accepting.cancel, listener.close]
        return listener.getsockname()[1]

    async def serve(self, sock: socket.socket, caller: str) -> asyncio.Server:
        """Serve HTTPS on a listening socket, port 443 of the guest `caller`.

        Whoever calls this closes the server.
        """
        loop = asyncio.get_running_loop()
        server = self._serve_requests(caller)
        return await loop.create_server(server, sock=sock, ssl=self._context)

    async def close(self) -> None:
        """Stop the proxy and every open connection."""
        for close in self._closers:
            close()
        await asyncio.gather(*(server.shutdown(timeout=1) for server in [*self._servers]))

    def _serve_requests(self, caller: str) -> web.Server:
        server = web.Server(partial(self._handle, caller), **relay.SERVER)
        self._servers.add(server)
        return server

    def _find(self, host: str) -> Site | None:
        for site in self._sites:
            if fnmatchcase(host, site.pattern) and (site.names is None or host in site.names()):
                return site
        return None

    def _present_certificate(
        self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext
    ) -> int | None:
        if name is None or self._find(name) is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = self._authority.server_context(name)
        self._asked[connection] = name
        return None

    async def _handle(self, caller: str, request: web.BaseRequest) -> web.StreamResponse:
        connection: ssl.SSLObject = request.get_extra_info("ssl_object")
        site = self._find(self._asked[connection])
        if site is None or not site.any_host:
            site = self._find(request.host.partition(":")[0].lower())
        if site is None:
            return web.Response(status=421, text=self._unknown(request.host))
        request[CALLER] = caller
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await site.handler(request)

    def _unknown(self, host: str) -> str:
        known = "\n".join(f"  {name}" for name in self.names())
        return f"No host {host!r} in this rehearsal. It knows:\n{known}\n"

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        while True:
            connection, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(self._proxy(connection))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _proxy(self, client: socket.socket) -> None:
        """Answer one proxy request; a CONNECT's socket goes on to the TLS server."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(30):
                status, body = self._answer(await _head(client))
                await loop.sock_sendall(client, _proxy_reply(status, body))
            if status == "200 Connection established":
                await loop.connect_accepted_socket(self._server, client, ssl=self._context)
            else:
                client.close()
        except (OSError, TimeoutError, ssl.SSLError):
            client.close()

    def _answer(self, head: str) -> tuple[str, str]:
        method, _, rest = head.partition(" ")
        target = rest.partition(" ")[0]
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            if port != "443":
                return "403 Forbidden", f"The rehearsal's internet has HTTPS only, not {target}.\n"
            known = self._find(host.lower()) is not None
            return ("200 Connection established", "") if known else self._unresolved(host)
        url = urlsplit(target)
        if url.scheme != "http" or url.hostname is None:
            return "400 Bad Request", "This is a proxy: set HTTPS_PROXY to its address.\n"
        if self._find(url.hostname) is None:
            return self._unresolved(url.hostname)
        return f"301 Moved Permanently\r\nLocation: {url._replace(scheme='https').geturl()}", ""

    def _unresolved(self, host: str) -> tuple[str, str]:
        return "502 Bad Gateway", self._unknown(host)


async def _head(client: socket.socket) -> str:
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    head = b""
    while b"\r\n\r\n" not in head and len(head) < MAX_HEAD:
        chunk = await loop.sock_recv(client, 4096)
        if not chunk:
            raise ConnectionError("the client went away")
        head += chunk
    return head.decode("latin-1")


def _proxy_reply(status: str, body: str) -> bytes:
    if status.startswith("200"):
        return f"HTTP/1.1 {status}\r\n\r\n".encode()
    headers = f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n{body}".encode()
