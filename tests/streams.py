"""Long streamed answers that somebody always waits for, and how each of them ended."""

import json
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from rehearsal import checks
from rehearsal.containers.tiny_model import ANSWER

EVERY_S = 0.5
AT_ONCE = 40
"""Clients. Under the fault `slow-tokens` an answer takes six seconds: a dozen are on their way."""


class Stream(NamedTuple):
    """One streamed answer. Times are those of time.monotonic."""

    begun: float
    ended: float
    status: int
    """0 where the connection broke before the answer was whole."""
    text: str
    """What it said, or why it broke."""
    fingerprint: str
    """Whose machine's revision it was."""
    done: bool
    """Whether it ended as streams end."""

    @property
    def whole(self) -> bool:
        """Whether the client has all of its answer."""
        return self.status == 200 and self.done and self.text.strip() == ANSWER


@contextmanager
def streams(endpoint: checks.Endpoint) -> Generator[list[Stream]]:
    """Meanwhile one begins every half second, whatever the model is. The list: those that ended."""
    question = {key: it for key, it in endpoint.question.items() if key != "model"}
    found: list[Stream] = []
    enough = threading.Event()

    def ask() -> None:
        begun = time.monotonic()
        try:
            answer = endpoint.request(
                "POST", checks.CHAT, endpoint.headers, question | {"stream": True}
            )
        except Exception as error:  # whatever it is, a client has lost its answer
            found.append(Stream(begun, time.monotonic(), 0, repr(error), "", done=False))
            return
        found.append(_stream(begun, answer))

    def keep_asking(clients: ThreadPoolExecutor) -> None:
        while not enough.wait(EVERY_S):
            clients.submit(ask)

    endpoint.fault("PUT", "slow-tokens")
    with ThreadPoolExecutor(AT_ONCE) as clients:
        somebody = threading.Thread(target=keep_asking, args=[clients])
        somebody.start()
        try:
            yield found
        finally:
            enough.set()
            somebody.join()
    endpoint.fault("DELETE", "slow-tokens")


def _stream(begun: float, answer: checks.Answer) -> Stream:
    """What a client makes of the events."""
    lines = [
        it.removeprefix("data: ") for it in answer.text.splitlines() if it.startswith("data: ")
    ]
    chunks = [json.loads(it) for it in lines if it.startswith("{")]
    said = "".join(
        choice["delta"].get("content") or "" for it in chunks for choice in it.get("choices", [])
    )
    prints = [it["system_fingerprint"] for it in chunks if it.get("system_fingerprint")]
    return Stream(
        begun,
        time.monotonic(),
        answer.status,
        said if chunks else answer.text[:200],
        prints[-1] if prints else "",
        done=lines[-1:] == ["[DONE]"],
    )


@contextmanager
def told_to_stop(endpoint: checks.Endpoint, machines: set[str]) -> Generator[dict[str, float]]:
    """Meanwhile the machines are watched: when each was first seen to be told to stop."""
    consoles = checks.Consoles(endpoint.session, endpoint.stack)
    seen: dict[str, float] = {}
    enough = threading.Event()

    def watch() -> None:
        while not enough.wait(0.3):
            rows = {row["id"]: row["body"] for row in consoles.console("GET")}
            for machine in machines - seen.keys():
                if rows.get(machine, {}).get("status", "STOPPING") == "STOPPING":
                    seen[machine] = time.monotonic()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        enough.set()
        watching.join()
