"""What Google puts around a guest, be it a VM or an instance of Cloud Run."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiohttp import web

from rehearsal.google.identity import Identity
from rehearsal.google.network import GOOGLE_HOSTS
from rehearsal.machines.machine import MachineSpec
from rehearsal.site_faults import befallen
from rehearsal.world import World

METADATA = ("169.254.169.254", 80)
INTERNET = ("127.1.0.1", 443)
EDGE = ("127.1.0.2", 7844)
"""Where, inside a guest, every site and Cloudflare's tunnel entry answer."""
EDGE_HOSTS = ("region1.v2.argotunnel.com", "region2.v2.argotunnel.com")


class Machine(Protocol):
    """What a VM needs of a simulated machine."""

    @property
    def running(self) -> bool: ...
    async def listen(self, address: str, port: int) -> socket.socket: ...
    async def connect(self, address: str, port: int) -> socket.socket: ...
    async def wait(self) -> None: ...
    async def come_back(self) -> bool: ...
    async def stop(self, grace_s: float) -> None: ...
    async def save(self, folder: Path) -> None: ...
    async def delete(self) -> None: ...


class Server(Protocol):
    """What serves a listening socket until it is closed."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Surroundings:
    """What the rehearsal gives every guest."""

    world: World
    identity: Identity
    boot: Callable[[World, MachineSpec], Awaitable[Machine]]
    names: Callable[[], Iterable[str]]
    """Hosts of the internet."""
    serve_https: Callable[[socket.socket, str], Awaitable[Server]]
    """Takes a guest's port 443, and the guest's id."""
    accept_tunnels: Callable[[socket.socket], Awaitable[Server]]
    ca: Path
    """The authority that guests trust."""

    def hosts(self, *, online: bool, google: bool) -> dict[str, str]:
        """/etc/hosts of a guest that gets out to the internet, or to Google's own hosts at least.

        What cannot be reached does not resolve, for short.
        """
        names = {
            name: INTERNET[0]
            for name in self.names()
            if online or (google and name.endswith(GOOGLE_HOSTS))
        }
        return names | (dict.fromkeys(EDGE_HOSTS, EDGE[0]) if online else {})

    async def furnish(
        self,
        machine: Machine,
        id: str,
        metadata: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> list[Server]:
        """Serve a guest its metadata and the internet, until what is returned is closed."""
        loop = asyncio.get_running_loop()
        answers = web.Server(befallen(self.world.faults, "metadata", metadata), access_log=None)
        servers: list[Server] = []
        try:
            servers.append(await loop.create_server(answers, sock=await machine.listen(*METADATA)))
            servers.append(await self.serve_https(await machine.listen(*INTERNET), id))
            servers.append(await self.accept_tunnels(await machine.listen(*EDGE)))
        except BaseException:  # the guest goes already: nobody else knows of them
            for server in servers:
                server.close()
            raise
        return servers
