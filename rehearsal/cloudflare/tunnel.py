"""The edge's end of tunnels: registration, configuration, and streams for requests.

A cloudflared dials region1.v2.argotunnel.com:7844 and opens its connection with one line of JSON:

    {"register": {"a": account, "t": tunnel, "s": secret}, "connector": uuid, "index": 0..3}

It is answered with `{"registered": uuid, "location": ...}` or `{"error": ...}`. The connection
then carries `{"version": n, "config": ...}` from the edge whenever the tunnel's configuration
changes, and `{"unregister": true}` from a cloudflared that shuts down in good order.

For requests it dials spare connections, `{"stream": uuid}`, and serves HTTP/1.1 on them, one
request each (the real one multiplexes streams over HTTP/2 or QUIC on connections that it dialled).
Where the real thing speaks TLS with Cloudflare's own roots, this is plain TCP: both ends are
inside the rehearsal.
"""

import asyncio
import hmac
import json
import socket
import uuid
from collections import defaultdict
from datetime import UTC, datetime

from aiohttp.client_proto import ResponseHandler

from rehearsal.cloudflare import CONNECTION, TUNNEL, TUNNEL_CONFIG, TUNNEL_SECRET, respell
from rehearsal.store import Body, Change
from rehearsal.world import World

HOSTS = ("region1.v2.argotunnel.com", "region2.v2.argotunnel.com")
"""Names that cloudflared dials."""
PORT = 7844
LINGER_SECONDS = 30.0
"""Life seconds for which a connection that broke without goodbye stays listed (U: about this)."""
LATE_S = 120.0
"""Life seconds until a late configuration arrives (U)."""
STREAM_WAIT_SECONDS = 10.0
"""Real seconds for which a request waits for a connected cloudflared to offer a stream."""

RENAMED = {"ingresses": "ingress", "audTags": "audTag", "noTlsVerify": "noTLSVerify"}
"""Where the provider's spelling is not cloudflared's."""


class NotConnectedError(Exception):
    """No cloudflared serves the tunnel."""


class _Connection(asyncio.Protocol):
    """A connection that a cloudflared dialled, until its first line says what it is for."""

    def __init__(self, tunnels: "Tunnels") -> None:
        self.id, self.tunnel = str(uuid.uuid4()), ""
        self.spares: set[ResponseHandler] = set()
        self.goodbye = False
        self._tunnels, self._buffer = tunnels, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # TCP gives no other
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        try:
            for line in lines:
                self._hear(json.loads(line))
        except (ValueError, KeyError, TypeError):
            self.close()  # not a cloudflared

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()
        self._tunnels.lost(self)

    def send(self, message: Body) -> None:
        """Send one line."""
        self._transport.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """Cut the connection and the streams that it offers; those in use go on."""
        self._transport.close()
        for spare in self.spares:
            spare.close()

    def _hear(self, message: Body) -> None:
        if "stream" in message:
            stream = ResponseHandler(asyncio.get_running_loop())
            self._transport.set_protocol(stream)
            stream.connection_made(self._transport)
            self._tunnels.offer(message["stream"], stream)
        elif "unregister" in message:
            self.goodbye = True
            self.close()
        else:
            self._tunnels.register(self, message)


class Tunnels:
    """Every connection that a cloudflared holds to the edge.

    Each is also a row `cloudflare:connection` in the store while it stands: a tunnel with such
    rows cannot be deleted.
    """

    def __init__(self, world: World) -> None:
        self._world, self._store = world, world.store
        self._connections: dict[str, _Connection] = {}
        self._spares: defaultdict[str, asyncio.Queue[ResponseHandler]] = defaultdict(asyncio.Queue)
        self._versions: defaultdict[str, int] = defaultdict(int)
        self._tasks: set[asyncio.Task[None]] = set()
        for id in self._store.all(CONNECTION):
            self._store.delete(CONNECTION, id)  # left by a daemon that was killed
        self._store.subscribe(self._changed)

    async def serve(self, sock: socket.socket) -> asyncio.Server:
        """Accept cloudflareds on a listening socket, a guest's port 7844; the caller closes it."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Connection(self), sock=sock)

    def connected(self, tunnel: str) -> bool:
        """Whether a cloudflared serves the tunnel."""
        return any(connection.tunnel == tunnel for connection in self._connections.values())

    async def take(self, tunnel: str) -> ResponseHandler:
        """A fresh stream to any cloudflared of the tunnel.

        Raises NotConnectedError when none is connected, or none offers one in time.
        """
        if self._world.faults.strikes("edge-drops-tunnel"):
            self.cut(tunnel)
        spares = self._spares[tunnel]
        try:
            async with asyncio.timeout(STREAM_WAIT_SECONDS):
                while self.connected(tunnel):
                    stream = await spares.get()
                    for connection in self._connections.values():
                        if stream in connection.spares and stream.is_connected():
                            connection.spares.discard(stream)
                            return stream
        except TimeoutError:
            pass
        raise NotConnectedError(tunnel)

    def clear(self, tunnel: str, connector: str | None = None) -> None:
        """Forget the tunnel's connections, or those of one connector, and cut what stands.

        A cloudflared that still runs connects again.
        """
        for id, row in self._store.all(CONNECTION).items():
            if row["tunnelId"] == tunnel and connector in (None, row["connectorId"]):
                self._store.delete(CONNECTION, id)
                if id in self._connections:
                    self._connections.pop(id).close()
        if self._world.faults.strikes("tunnel-used-elsewhere"):
            self._list(str(uuid.uuid4()), tunnel, str(uuid.uuid4()), 0)

    def cut(self, tunnel: str) -> None:
        """The edge loses every connection of a tunnel; whoever still runs connects again."""
        for connection in [*self._connections.values()]:
            if connection.tunnel == tunnel:
                connection.close()

    def close(self) -> None:
        """Cut every connection."""
        for task in self._tasks:
            task.cancel()
        while self._connections:
            self._connections.popitem()[1].close()

    def register(self, connection: _Connection, hello: Body) -> None:
        """Take a connection on, or refuse it; what it may serve is told to it."""
        token = hello["register"]
        if refusal := self._refusal(token):
            connection.send({"error": refusal})
            connection.close()
            return
        connection.tunnel = token["t"]
        self._connections[connection.id] = connection
        self._list(connection.id, token["t"], hello["connector"], hello["index"])
        connection.send({"registered": connection.id, "location": "rehearsal"})
        self._push(connection)

    def _list(self, id: str, tunnel: str, connector: str, index: int) -> None:
        opened = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        row = {
            "tunnelId": tunnel,
            "connectorId": connector,
            "connIndex": index,
            "openedAt": opened,
        }
        self._store.put(CONNECTION, id, row)

    def offer(self, id: str, stream: ResponseHandler) -> None:
        """Keep a stream of connection `id` for a request to come."""
        if connection := self._connections.get(id):
            connection.spares.add(stream)
            self._spares[connection.tunnel].put_nowait(stream)
        else:
            stream.close()

    def lost(self, connection: _Connection) -> None:
        """A connection has ended: its row goes at once after a goodbye, else after a while."""
        if self._connections.pop(connection.id, None) is None:
            return
        if connection.goodbye:
            self._store.delete(CONNECTION, connection.id)
        else:
            task = asyncio.create_task(self._linger(connection.id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _linger(self, id: str) -> None:
        await self._world.take("lost tunnel connection listed", LINGER_SECONDS)
        self._store.delete(CONNECTION, id)

    def _refusal(self, token: Body) -> str:
        """Why a tunnel token is not accepted, in Cloudflare's words; empty when it is."""
        tunnel = self._store.get(TUNNEL, token["t"])
        if tunnel is None or tunnel.get("deletedAt") or tunnel["accountId"] != token["a"]:
            return "Unauthorized: Tunnel not found"
        secret = (self._store.get(TUNNEL_SECRET, token["t"]) or {}).get("secret", "")
        right = hmac.compare_digest(str(secret).encode(), str(token["s"]).encode())
        return "" if right and secret else "Unauthorized: Invalid tunnel secret"

    def _changed(self, change: Change, type: str, id: str, body: Body) -> None:
        if type == TUNNEL_CONFIG and change != "deleted":
            self._versions[body["tunnelId"]] += 1
            for connection in self._connections.values():
                if connection.tunnel == body["tunnelId"]:
                    self._push(connection)
        elif type == TUNNEL and (change == "deleted" or body.get("deletedAt")):
            self.clear(id)

    def _push(self, connection: _Connection) -> None:
        """Send the tunnel's configuration, if it has one."""
        body = self._store.get(TUNNEL_CONFIG, connection.tunnel)
        if body:
            config = respell(body["config"], lambda name: RENAMED.get(name, name))
            version = self._versions[connection.tunnel] + 1
            message: Body = {"version": version, "config": config}
            if self._world.faults.strikes("tunnel-config-late"):
                loop = asyncio.get_running_loop()
                loop.call_later(LATE_S / self._world.speed, connection.send, message)
            else:
                connection.send(message)
