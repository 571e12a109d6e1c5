"""Startup and liveness probes: docs.cloud.google.com/run/docs/configuring/healthchecks."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from rehearsal.google.health import FLOOR_S, http_status
from rehearsal.store import Body

POLL_S = 0.1
"""How often a TCP probe tries within its timeout, in this machine's time."""

Connect = Callable[[int], Awaitable[socket.socket]]
"""Opens a connection to a port of the container."""


@dataclass(frozen=True)
class Probe:
    """An HTTP probe, or a TCP one when `path` is None. Times are seconds of life."""

    port: int
    path: str | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    initial_delay_s: float = 0
    period_s: float = 10
    timeout_s: float = 1
    failure_threshold: int = 3

    @classmethod
    def read(cls, body: Body, port: int) -> Self:
        """The probe of a template; `port` is where the container listens."""
        http: Body | None = body.get("httpGet")
        tcp: Body = body.get("tcpSocket") or {}
        headers: list[Body] = (http or {}).get("httpHeaders") or []
        return cls(
            port=int((http or tcp).get("port") or port),
            path=None if http is None else http.get("path") or "/",
            headers={it["name"]: it.get("value") or "" for it in headers},
            initial_delay_s=body.get("initialDelaySeconds") or 0,
            period_s=body.get("periodSeconds") or 10,
            timeout_s=body.get("timeoutSeconds") or 1,
            failure_threshold=body.get("failureThreshold") or 3,
        )

    async def passes(self, connect: Connect, speed: float) -> bool:
        """Whether one probe is answered in time: by 2xx or 3xx, or by an open port."""
        try:
            async with asyncio.timeout(max(self.timeout_s / speed, 4 * FLOOR_S)):
                if self.path is not None:
                    sock = await connect(self.port)
                    agent = {"User-Agent": "GoogleHC/1.0"}
                    return 200 <= await http_status(sock, self.path, agent | self.headers) < 400
                return await self._opens(connect)
        except (OSError, TimeoutError):
            return False

    async def _opens(self, connect: Connect) -> bool:
        while True:
            try:
                (await connect(self.port)).close()
            except OSError:
                await asyncio.sleep(POLL_S)
            else:
                return True

    async def succeeds(self, connect: Connect, speed: float, patience_s: float) -> bool:
        """Whether it passes before it has failed too often.

        However fast the cloud's time runs, it is tried for at least `patience_s` of this machine's.
        """
        began = time.monotonic()
        await asyncio.sleep(self.initial_delay_s / speed)
        failures = 0
        while failures < self.failure_threshold or time.monotonic() < began + patience_s:
            started = time.monotonic()
            if await self.passes(connect, speed):
                return True
            failures += 1
            spent = time.monotonic() - started
            await asyncio.sleep(max(self.period_s / speed - spent, POLL_S))
        return False

    async def fails(self, connect: Connect, speed: float) -> None:
        """Return when it has failed too often in a row."""
        await asyncio.sleep(self.initial_delay_s / speed)
        failures = 0
        while failures < self.failure_threshold:
            passed = await self.passes(connect, speed)
            failures = 0 if passed else failures + 1
            await asyncio.sleep(max(self.period_s / speed, FLOOR_S))


def default_startup_probe(port: int) -> Probe:
    """What Cloud Run does without one: it waits four minutes for the port."""
    return Probe(port, period_s=240, timeout_s=240, failure_threshold=1)
