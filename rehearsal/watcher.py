"""Somebody without a token who tries every door, all the time, while things go wrong."""

import asyncio
import itertools
import json
import os
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self, cast

import aiohttp

from rehearsal import console
from rehearsal.checks import CHAT
from rehearsal.errors import RehearsalError

ROOT = Path(__file__).parents[1]

TICK_S = 0.05
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

    def written(self) -> str:
        """As a line of JSON."""
        return json.dumps(asdict(self) | {"tried": self.tried, "seen": self.seen})

    @classmethod
    def read(cls, line: str) -> Self:
        """What was `written`. ValueError for anything else."""
        found = json.loads(line)
        return cls(**found | {"tried": Counter(found["tried"]), "seen": Counter(found["seen"])})

    def __add__(self, other: "Watch") -> "Watch":
        return Watch(
            self.tried + other.tried,
            self.seen + other.seen,
            self.let_in + other.let_in,
            self.seconds + other.seconds,
            max(self.longest_gap_s, other.longest_gap_s),
        )


class Watcher:
    """Tries the public name, every machine's ports and every Cloud Run address until closed.

    It does so in a process of its own, so that whatever else is done here does not hold it up.
    """

    def __init__(self, hostname: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rehearsal.watcher", hostname],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def seen(self) -> Watch:
        """What was tried and seen since this was asked last. RehearsalError when it has died."""
        question = cast("IO[str]", self._process.stdin)
        answer = cast("IO[str]", self._process.stdout)
        try:
            question.write("\n")
            question.flush()
            return Watch.read(answer.readline())
        except (OSError, ValueError) as error:
            raise RehearsalError(f"nobody tries the doors any more: {error}") from error

    def close(self) -> None:
        """Stop."""
        self._process.communicate()


class Stranger:
    """The one who tries."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._proxy = os.environ["HTTPS_PROXY"]
        self._trust = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
        self._turn = itertools.count()
        self._watch = Watch()

    async def run(self) -> None:
        """Try until the end of the input; a line of it asks for what was seen since the last."""
        trying = asyncio.create_task(self._try_all())
        while await asyncio.to_thread(sys.stdin.readline):
            seen, self._watch = self._watch, Watch()
            print(seen.written(), flush=True)
            if trying.done():
                trying.result()
        trying.cancel()

    async def _try_all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0, ssl=self._trust)
        tasks: set[asyncio.Task[None]] = set()
        last = time.monotonic()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
            services: list[str] = []
            looked = 0.0
            for turn in self._turn:
                now = time.monotonic()
                self._watch.longest_gap_s = max(self._watch.longest_gap_s, now - last)
                self._watch.seconds += now - last
                last = now
                if now - looked > LOOK_S:
                    looked = now
                    tasks.add(asyncio.create_task(self._look(client, services)))
                doors = self._doors(client, services)
                door, ask = doors[turn % len(doors)]
                self._watch.tried[door] += 1
                tasks.add(asyncio.create_task(ask()))
                tasks = {task for task in tasks if not task.done()}
                await asyncio.sleep(max(0.0, TICK_S - (time.monotonic() - now)))

    def _doors(
        self, client: aiohttp.ClientSession, services: list[str]
    ) -> list[tuple[str, Callable[[], Any]]]:
        """One try at each, in turn at what an engine would answer and what costs it most."""
        method, path = (("GET", "/v1/models"), ("POST", CHAT))[self._watch.tried["public name"] % 2]
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


if __name__ == "__main__":
    asyncio.run(Stranger(sys.argv[1]).run())
