"""What a rehearsal found: for machines as JSON, for people in ten seconds."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rehearsal.timeline import Event

COLUMNS = 100
"""The drawn timeline is never wider."""
NAME_COLUMNS = 36
WORTH_A_LINE_S = 20.0
"""Events that take less than this in life share a line with their kind."""

CANNOT_KNOW = (
    "A rehearsal cannot know real capacity (stockouts), your quota, real latency\n"
    "  and speed of the model, or what the services changed since it was written."
)
FIGURES = "in life: figures and sources in rehearsal/figures.py; U there marks estimates"

STAGES = ("setup", "up", "noop_up", "destroy", "total")


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
    seconds: dict[str, float | None] = field(
        default_factory=lambda: dict[str, float | None].fromkeys(STAGES)
    )
    """By stage; None where the rehearsal did not come that far."""
    resources: int = 0
    second_up_changes: int | None = None
    leftovers: list[str] | None = None
    checks: list[Check] = field(default_factory=list[Check])
    timeline: list[Event] = field(default_factory=list[Event])

    @property
    def ok(self) -> bool:
        """Something was checked, and every check held."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    def check(self, name: str, ok: bool, detail: str = "") -> bool:
        """Note a check's outcome and return it."""
        self.checks.append(Check(name, ok, detail))
        return ok

    def write(self, path: Path) -> None:
        """Write the JSON report; the timeline counts seconds from its first event."""
        began = min((event.start for event in self.timeline), default=0.0)
        document = asdict(self) | {"ok": self.ok}
        document["timeline"] = [
            {
                "name": event.name,
                "start": round(event.start - began, 3),
                "end": round(event.end - began, 3),
                "life": event.life,
            }
            | ({"holds": event.holds} if event.holds else {})
            for event in self.timeline
        ]
        path.write_text(json.dumps(document, indent=2) + "\n")


@dataclass(frozen=True)
class Span:
    """An event as it happened here, and when it would start and end in life (seconds)."""

    event: Event
    start: float
    end: float


def in_life(events: list[Event]) -> list[Span]:
    """When each event would start and end in life, in seconds from the first one's start.

    An event waits for everything that had ended here before it began; its own
    length is its figure. Events without a figure take no time in life.
    """
    placed: list[Span] = []
    for event in sorted((e for e in events if e.life is not None), key=lambda e: e.start):
        start = max((span.end for span in placed if span.event.end <= event.start), default=0.0)
        placed.append(Span(event, start, start + (event.life or 0.0)))
    return placed


def draw(events: list[Event], columns: int = COLUMNS) -> list[str]:
    """The timeline as text, a heading a stage: what takes long in life, and the rest together."""
    spans = in_life(events)
    width = min(columns, COLUMNS) - NAME_COLUMNS - 24
    total = max((span.end for span in spans), default=0.0)
    stages = [event for event in events if event.life is None and not event.holds]
    taken = [event for event in events if event.holds]
    moments = spans
    lines: list[str] = []
    for stage in stages:
        # Machines record on their own what begins and ends within a stage.
        inside = [it for it in spans if stage.start <= it.event.start < stage.end]
        if sum(it.event.life or 0 for it in inside) < WORTH_A_LINE_S:
            continue
        spans = [it for it in spans if it not in inside]
        lines.append(_line(stage.name, inside, total, width, bar=" "))
        lines += [_line(f"  {name}", group, total, width) for name, group in _groups(inside)]
        ends = max(it.event.end for it in inside)
        for event in (it for it in taken if stage.start <= it.start < ends):
            start, end = (_moment(moments, at) for at in (event.start, min(event.end, ends)))
            lines.append(_line(f"  {event.name}", [Span(event, start, end)], total, width, bar="░"))
    if not lines:
        return []
    heading = f"  {'what':<{NAME_COLUMNS}} {'here':>7} {'in life':>9}"
    return [heading, *lines, f"  {FIGURES}"]


def _moment(spans: list[Span], at: float) -> float:
    """When in life that is which happened here at a time: after all that was done by then."""
    done = (
        it.start + (it.end - it.start) * min(1.0, (at - it.event.start) / it.event.duration)
        for it in spans
        if it.event.start <= at
    )
    return max(done, default=0.0)


def _groups(spans: list[Span]) -> list[tuple[str, list[Span]]]:
    """What is worth a line of its own, and the rest by its verb, by start."""
    groups: dict[str, list[Span]] = {}
    for span in spans:
        long = (span.event.life or 0) >= WORTH_A_LINE_S
        verb = span.event.name.split()[0]
        groups.setdefault(span.event.name if long else verb, []).append(span)
    named: list[tuple[str, list[Span]]] = []
    for name, group in groups.items():
        slowest = max(group, key=lambda span: span.event.life or 0).event
        label = f"{name}: {len(group)} calls, {_length(slowest.life or 0)} at most"
        named.append((slowest.name if len(group) == 1 else label, group))
    return named


def _line(name: str, spans: list[Span], total: float, width: int, bar: str = "█") -> str:
    """One line: the name, its time here and in life, and where that lies in the whole."""
    here = max(it.event.end for it in spans) - min(it.event.start for it in spans)
    start, end = min(it.start for it in spans), max(it.end for it in spans)
    left = min(round(start / total * width), width - 1)
    length = max(1, min(round((end - start) / total * width), width - left))
    columns = f"  {name[:NAME_COLUMNS]:<{NAME_COLUMNS}} {here:>5.1f} s {_length(end - start):>9}"
    return f"{columns}  {' ' * left}{bar * length}".rstrip()


def summary(report: Report, speed: float) -> list[str]:
    """The result as a person reads it."""
    failed = [check for check in report.checks if not check.ok]
    lines = [
        "  " + line
        for check in failed
        for line in f"FAILED  {check.name}: {check.detail}".splitlines()
    ]
    seconds = "  ".join(
        f"{name} {value:.0f} s" for name, value in report.seconds.items() if value is not None
    )
    verdict = "passed" if report.ok else "FAILED"
    left = "" if report.leftovers is None else f", {len(report.leftovers)} left over"
    lines += [
        f"Rehearsal of stack {report.stack} ({report.platform}) {verdict}.",
        f"  {len(report.checks) - len(failed)} of {len(report.checks)} checks held, "
        f"{report.resources} resources{left}.",
        f"  {seconds}  (speed {speed:g})",
        f"  {CANNOT_KNOW}",
    ]
    return lines


def _length(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
