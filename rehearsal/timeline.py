"""What took how long, here and in life: an append-only file that every part may write to."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """One span of work, in seconds since the epoch; `life` is how many seconds it takes in life."""

    name: str
    start: float
    end: float
    life: float | None = None
    holds: str = ""
    """What was taken up for so long, such as a GPU: not work, but what it costs."""

    @property
    def duration(self) -> float:
        """Seconds here; never quite nothing."""
        return max(self.end - self.start, 1e-6)


def record(path: Path, event: Event) -> None:
    """Append one event to a timeline file."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(event)) + "\n")


def read(*paths: Path) -> list[Event]:
    """Every event of the given timeline files (missing ones are empty), by start."""
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return sorted((Event(**json.loads(line)) for line in lines), key=lambda event: event.start)


@contextmanager
def span(path: Path, name: str, life: float | None = None, holds: str = "") -> Generator[None]:
    """Record the time that the block takes, also when it raises."""
    start = time.time()
    try:
        yield
    finally:
        record(path, Event(name, start, time.time(), life, holds))
