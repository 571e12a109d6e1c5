"""Google's health checks: what they ask a machine, and when they call it healthy."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from rehearsal.google.network import PROBE_RANGES, admits, resolve
from rehearsal.store import Body, Store

TYPES = (
    "gcp:compute/healthCheck:HealthCheck",
    "gcp:compute/regionHealthCheck:RegionHealthCheck",
)
FLOOR_S = 0.5
"""Shortest interval and, four times as long, timeout: this machine's slowness is not compressed."""

State = Literal["UNKNOWN", "HEALTHY", "UNHEALTHY"]
Connect = Callable[[str, int], Awaitable[socket.socket]]


@dataclass(frozen=True)
class HealthCheck:
    """An HTTP check, or a TCP one when `path` is None. Times are seconds of life."""

    port: int
    path: str | None
    interval_s: float
    timeout_s: float
    healthy_threshold: int
    unhealthy_threshold: int

    @classmethod
    def find(cls, store: Store, reference: str) -> Self | None:
        """The check that a group's auto-healing names; None when it is of another kind or gone.

        HTTP and TCP are all there is: nothing here uses HTTPS, SSL or gRPC checks.
        """
        body = resolve(store, reference, *TYPES)
        if body is None:
            return None
        http: Body | None = body.get("httpHealthCheck")
        probe: Body | None = http or body.get("tcpHealthCheck")
        if not probe:
            return None
        return cls(
            port=int(probe.get("port") or 80),
            path=(http.get("requestPath") or "/") if http else None,
            interval_s=body.get("checkIntervalSec", 5),
            timeout_s=body.get("timeoutSec", 5),
            healthy_threshold=body.get("healthyThreshold", 2),
            unhealthy_threshold=body.get("unhealthyThreshold", 2),
        )

    async def passes(self, store: Store, instance: Body, connect: Connect, speed: float) -> bool:
        """Whether one probe gets through the firewall and is answered with 200 in time."""
        if not all(admits(store, instance, source, self.port) for source in PROBE_RANGES):
            return False
        try:
            async with asyncio.timeout(max(self.timeout_s / speed, 4 * FLOOR_S)):
                return await self._ask(await connect(instance["networkIp"], self.port))
        except (OSError, TimeoutError):
            return False

    async def _ask(self, sock: socket.socket) -> bool:
        if self.path is None:
            sock.close()
            return True
        return await http_status(sock, self.path, {"User-Agent": "GoogleHC/1.0"}) == 200


async def http_status(sock: socket.socket, path: str, headers: Mapping[str, str]) -> int:
    """Status of the answer to one GET on a connected socket; 0 when it makes no sense."""
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        host = ":".join(str(it) for it in sock.getpeername()[:2])
        lines = {"Host": host, **headers, "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        status = (await reader.readline()).split()
        return int(status[1]) if len(status) > 1 and status[1].isdigit() else 0
    finally:
        writer.close()


@dataclass
class Verdict:
    """Counts probes in a row and turns them into a state."""

    state: State = "UNKNOWN"
    was_healthy: bool = False
    _run: int = 0
    _last: bool | None = None

    def add(self, passed: bool, check: HealthCheck) -> State:
        """The state after one more probe."""
        self._run = self._run + 1 if passed is self._last else 1
        self._last = passed
        if self._run >= (check.healthy_threshold if passed else check.unhealthy_threshold):
            self.state = "HEALTHY" if passed else "UNHEALTHY"
        self.was_healthy = self.was_healthy or self.state == "HEALTHY"
        return self.state
