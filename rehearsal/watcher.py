"""Somebody without a token who tries every door, all the time, while things go wrong."""

import asyncio
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

from rehearsal import console
from rehearsal.checks import CHAT

TICK_S = 0.075
"""Every so often a door is tried, the next one each time."""
TIMEOUT_S = 20.0
RUN_APP = "gcp:cloudrunv2/service:Service"
LOOK_S = 1.0
"""How often the watcher looks for addresses that have come since."""

CLOSED = frozenset({401, 403, 404, 421, 429, 500, 502, 503, 524, 530})
"""Statuses with which Access, cloudflared, the edge and Google's front end refuse or know nobody.
Any other, and any answer that an engine could have written, means that somebody got in."""
ENGINE = ('"object"', '"choices"', '"detail"', "NotFoundError", "BadRequestError")
"""What stands in every answer of vLLM's and Ollama's OpenAI API, refusals included."""


@dataclass
class Watch:
    """What the watcher has tried and seen so far."""

    tried: Counter[str] = field(default_factory=Counter[str])
    """How often, by door."""
    seen: Counter[str] = field(default_factory=Counter[str])
    """How often each answer came, by `door status`."""
    let_in: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    longest_gap_s: float = 0.0
    """Between two tries, at whatever doors."""

    def __add__(self, other: "Watch") -> "Watch":
        return Watch(
            self.tried + other.tried,
            self.seen + other.seen,
            self.let_in + other.let_in,
            self.seconds + other.seconds,
            max(self.longest_gap_s, other.longest_gap_s),
        )


class Watcher:
    """Tries the public name, every machine's ports and every Cloud Run address until closed."""

    def __init__(self, hostname: str, environment: dict[str, str]) -> None:
        self._hostname = hostname
        self._proxy = environment["HTTPS_PROXY"]
        self._trust = ssl.create_default_context(cafile=environment["SSL_CERT_FILE"])
        self._stop = threading.Event()
        self._watch = Watch()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> Watch:
        """Stop, and say what was seen."""
        self._stop.set()
        if self._thread.ident:
            self._thread.join()
        return self._watch

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0, ssl=self._trust)
        tasks: set[asyncio.Task[None]] = set()
        last = time.monotonic()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
            services: list[str] = []
            looked = 0.0
            while not self._stop.is_set():
                now = time.monotonic()
                self._watch.longest_gap_s = max(self._watch.longest_gap_s, now - last)
                self._watch.seconds += now - last
                last = now
                if now - looked > LOOK_S:
                    looked = now
                    tasks.add(asyncio.create_task(self._look(client, services)))
                doors = self._doors(client, services)
                door, ask = doors[self._watch.tried.total() % len(doors)]
                self._watch.tried[door] += 1
                tasks.add(asyncio.create_task(ask()))
                tasks = {task for task in tasks if not task.done()}
                await asyncio.sleep(max(0.0, TICK_S - (time.monotonic() - now)))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _doors(
        self, client: aiohttp.ClientSession, services: list[str]
    ) -> list[tuple[str, Callable[[], Any]]]:
        """One try at each, in turn at what an engine would answer and what costs it most."""
        turn = self._watch.tried["public name"] % 2
        method, path = (("GET", "/v1/models"), ("POST", CHAT))[turn]
        public = f"https://{self._hostname}{path}"
        doors: list[tuple[str, Callable[[], Any]]] = [
            ("public name", lambda: self._try(client, "public name", method, public)),
            ("machines' ports", lambda: self._knock(client)),
        ]
        for url in services:
            doors.append(
                ("run.app", lambda url=url: self._try(client, "run.app", method, url + path))
            )
        return doors

    async def _try(self, client: aiohttp.ClientSession, door: str, method: str, url: str) -> None:
        try:
            async with client.request(
                method, url, proxy=self._proxy, json={"model": "m"}, allow_redirects=False
            ) as answer:
                text = (await answer.text(errors="replace"))[:2000]
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._watch.seen[f"{door} {type(error).__name__}"] += 1
            return
        self._watch.seen[f"{door} {status}"] += 1
        if status not in CLOSED or any(mark in text for mark in ENGINE):
            self._watch.let_in.append(f"{method} {url}: {status} {text[:80]}")

    async def _knock(self, client: aiohttp.ClientSession) -> None:
        for door in await self._ask(client, "/doors"):
            self._watch.let_in.append(str(door))
        self._watch.seen["machines' ports closed"] += 1

    async def _look(self, client: aiohttp.ClientSession, services: list[str]) -> None:
        rows = await self._ask(client, "/resources")
        services[:] = [row["body"]["uri"] for row in rows if row["type"] == RUN_APP]

    async def _ask(self, client: aiohttp.ClientSession, path: str) -> list[Any]:
        """What the consoles say; nothing where they are not there."""
        try:
            async with client.get(f"https://{console.HOST}{path}", proxy=self._proxy) as answer:
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return []
