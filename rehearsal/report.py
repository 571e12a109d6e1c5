"""What a rehearsal found: for machines as JSON, for people in ten seconds."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rehearsal.timeline import Event

WIDTH = 40
"""Columns of the drawn timeline."""

CANNOT_KNOW = (
    "A rehearsal cannot know real capacity (stockouts), your real quota, real latency and speed of "
    "the model, or what the services changed since their behaviour was recorded."
)


@dataclass(frozen=True)
class Check:
    """One promise that was tried: its name, whether it held, what was seen."""

    name: str
    ok: bool
    detail: str


@dataclass
class Report:
    """The result of one rehearsal. Times in seconds of this machine's clock."""

    stack: str
    platform: str
    speed: float
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    resources: int = 0
    second_up_changes: int | None = None
    leftovers: list[str] | None = None
    checks: list[Check] = field(default_factory=list[Check])
    timeline: list[Event] = field(default_factory=list[Event])
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Nothing failed and every check held."""
        return self.error is None and bool(self.checks) and all(check.ok for check in self.checks)

    def check(self, name: str, ok: bool, detail: str = "") -> bool:
        """Note a check's outcome and return it."""
        self.checks.append(Check(name, ok, detail))
        return ok

    def write(self, path: Path) -> None:
        """Write the JSON report; the timeline counts seconds from its first event."""
        began = min((event.start for event in self.timeline), default=0.0)
        document = {"ok": self.ok} | asdict(self)
        document["timeline"] = [
            {
                "name": event.name,
                "start": round(event.start - began, 3),
                "end": round(event.end - began, 3),
                "life_seconds": event.life,
            }
            for event in self.timeline
        ]
        path.write_text(json.dumps(document, indent=2) + "\n")


def in_life(events: list[Event]) -> list[tuple[Event, float, float]]:
    """When each event would start and end in life, in seconds from the first one's start.

    An event waits for everything that had ended here before it began; its own
    length is its figure. Events without a figure take no time in life.
    """
    placed: list[tuple[Event, float, float]] = []
    for event in sorted((e for e in events if e.life is not None), key=lambda e: e.start):
        after = [end for earlier, _, end in placed if earlier.end <= event.start]
        start = max(after, default=0.0)
        placed.append((event, start, start + (event.life or 0.0)))
    return placed


def draw(events: list[Event]) -> list[str]:
    """The timeline as text: a bar an event, drawn at the length it would have in life."""
    placed = in_life(events)
    total = max((end for _, _, end in placed), default=0.0)
    if not total:
        return []
    lines = [f"  {'what':<46} {'here':>8} {'in life':>9}"]
    for event, start, end in placed:
        left = round(start / total * WIDTH)
        bar = "█" * max(1, round((end - start) / total * WIDTH))
        lines.append(
            f"  {event.name[:46]:<46} {event.end - event.start:>6.1f} s {_minutes(end - start):>9}"
            f"  {' ' * left}{bar}"[: 68 + WIDTH + 2]
        )
    lines.append(f"  {'from the first call to the last':<46} {'':>8} {_minutes(total):>9}")
    return lines


def summary(report: Report) -> list[str]:
    """The result as a person reads it."""
    failed = [check for check in report.checks if not check.ok]
    lines = [f"  FAILED  {check.name}: {check.detail}" for check in failed]
    if report.error:
        lines += ["  FAILED  " + line for line in report.error.splitlines()]
    seconds = "  ".join(f"{name} {value:.0f} s" for name, value in report.seconds.items())
    verdict = "passed" if report.ok else "FAILED"
    left = "not looked" if report.leftovers is None else f"{len(report.leftovers)} left over"
    lines += [
        f"Rehearsal of stack {report.stack} ({report.platform}) {verdict}: "
        f"{len(report.checks) - len(failed)} of {len(report.checks)} checks held, "
        f"{report.resources} resources, {left}.",
        f"  {seconds}  (clouds at {report.speed:g} times real speed)",
        f"  {CANNOT_KNOW}",
    ]
    return lines


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
