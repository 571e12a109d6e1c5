"""A stack's way to its first answer, from what Pulumi and the machine wrote down."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from scripts.boot_phases import DOING, Phase

CREATION, MACHINE, ENGINE, ANSWER = "pulumi up", "the machine", "the engine", "the answer"
GROUP_TYPE = "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager"

TITLES = {
    "boot": "boot: kernel and system come up",
    "staged": "staged: a job fetches the weights",
    "image": "image: Cloud Build bakes the weights in",
}
"""What says more than the words for a machine under way, or than a resource's type."""

KINDS = {
    "Service": "API switched on",
    "Account": "service account",
    "Subnetwork": "subnet",
    "RouterNat": "NAT, the way out",
    "RegionInstanceTemplate": "machine template",
    "RegionInstanceGroupManager": "machine group",
    "Repository": "image registry",
    "ZeroTrustTunnelCloudflared": "tunnel",
    "ZeroTrustTunnelCloudflaredConfig": "tunnel's rules",
    "ZeroTrustAccessServiceToken": "service token",
    "ZeroTrustAccessApplication": "Access application",
    "ZeroTrustAccessPolicy": "Access policy",
    "DnsRecord": "DNS record",
}
"""The last part of a resource's type, in words; any other is split into its own."""

SLACK_S = 0.3
"""By so much may what came before end later, as machines report tenths of seconds."""
SAME_UP_S = 3600.0
"""What was made longer before the group is of another `up`, even where no history says so."""
MADE_WITH_S = 600.0
"""A machine that came later than so long after its group was told was made on its own: again, after
a preemption or a repair."""


class Span(NamedTuple):
    """Something that took time; times in seconds since the epoch."""

    name: str
    part: str
    """CREATION, MACHINE, ENGINE or ANSWER."""
    start: float
    end: float
    after: tuple[str, ...] = ()
    """What it waited for, by name; where nothing is said, whatever had ended by then."""
    type: str = ""
    """A resource's."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


def creation(
    resources: Sequence[Mapping[str, Any]],
    stack: str,
    machine_at: float,
    updates: Iterable[Mapping[str, Any]] = (),
) -> list[Span]:
    """What `pulumi up` made before a machine whose creation began at a time.

    `resources` are a deployment's, as `pulumi stack export` has them, `updates` the stack's, as
    `pulumi stack history` has them. Pulumi notes when each resource was done; it began when the
    last of those was done that it waited for. Nothing, where the machine was not made by an `up`.
    """
    told = next((_done(it) for it in resources if it["type"] == GROUP_TYPE), None)
    if told is None or machine_at - told > MADE_WITH_S:
        return []
    if any(_short(it, stack) == "answer" and told < _done(it) < machine_at for it in resources):
        return []  # it took the place of the machine that had answered that `up`
    since = max(told - SAME_UP_S, *(_since(it, told) for it in updates), 0.0)
    near = [it for it in resources if since < _done(it) <= max(told, machine_at)]
    began = min(_done(it) for it in near)
    made = {it["urn"]: it for it in near if it.get("custom") and not _internal(it)}
    spans: list[Span] = []
    for it in made.values():
        waited = [made[other] for other in it.get("dependencies") or () if other in made]
        start = max((_done(other) for other in waited), default=began)
        after = tuple(_name(other, stack) for other in waited)
        start, name = min(start, _done(it)), _name(it, stack)
        spans.append(Span(name, CREATION, start, _done(it), after, it["type"]))
    return sorted(spans, key=lambda span: span.start)


def boot(created_at: float, phases: Iterable[Phase], creation: Iterable[Span] = ()) -> list[Span]:
    """The machine's own: from the moment at which its creation began."""
    known = [it for it in phases if it.seconds is not None]
    if not known:
        return []
    group = next((it for it in creation if it.type == GROUP_TYPE), None)
    after = (group.name, *group.after) if group else ("",)
    made = Span("machine: is created", MACHINE, created_at, known[0].start, after)
    return [made, *(_phase(it) for it in known)]


def answer(resources: Iterable[Mapping[str, Any]], boot: Sequence[Span], stack: str) -> list[Span]:
    """From the engine's readiness until `up` had its answer, if it is this boot's."""
    ready = next((it.end for it in boot if it.name.startswith("engine-ready")), None)
    ended = [_done(it) for it in resources if _short(it, stack) == "answer"]
    if ready is None or not ended or not 0 <= ended[0] - ready < MADE_WITH_S:
        return []
    return [Span("answer: comes through Access", ANSWER, ready, ended[0])]


def critical(spans: Sequence[Span]) -> list[Span]:
    """The chain that ends with what ended last, and that each had to wait for, in order."""
    if not spans:
        return []
    chain = [max(spans, key=lambda span: span.end)]
    while True:
        now = chain[0]
        before = [it for it in spans if it is not now and it.end <= now.start + SLACK_S]
        before = [it for it in before if it.start < now.start]
        if now.after:
            before = [it for it in before if it.name in now.after]
        elif now.part != CREATION and now.part != ANSWER:
            before = [it for it in before if it.part != CREATION]
        if not before:
            return chain
        chain.insert(0, max(before, key=lambda span: span.end))


def _phase(phase: Phase) -> Span:
    part = ENGINE if phase.name.startswith("engine-") and phase.name not in _PULLS else MACHINE
    words = DOING.get(phase.name, "")
    name = f"{phase.name}: {words}" if words else phase.name
    name = TITLES.get(phase.name, name)
    return Span(name, part, phase.start, phase.start + (phase.seconds or 0.0))


_PULLS = ("engine-image", "engine-start")
"""Phases of the machine's that have the engine in their name."""


def _done(resource: Mapping[str, Any]) -> float:
    written = resource.get("modified") or resource.get("created")
    return datetime.fromisoformat(written).timestamp() if written else 0.0


def _since(update: Mapping[str, Any], told: float) -> float:
    """When the `up` that told the group began, as far as one of the stack's updates tells."""
    began, ended = (
        datetime.fromisoformat(update[key]).timestamp() if update.get(key) else 0.0
        for key in ("startTime", "endTime")
    )
    if ended and ended < told:  # by then it was over; the one that is under way is in no history
        return ended
    return began if began <= told else 0.0


def _internal(resource: Mapping[str, Any]) -> bool:
    return resource["type"].startswith("pulumi:") or resource["urn"].endswith("-answer")


def _short(resource: Mapping[str, Any], stack: str) -> str:
    return resource["urn"].rpartition("::")[2].removeprefix(f"llm-{stack}-")


def _name(resource: Mapping[str, Any], stack: str) -> str:
    short = _short(resource, stack)
    return TITLES.get(short, f"{short} ({_kind(resource['type'].rpartition(':')[2])})")


def _kind(type: str) -> str:
    """A resource's type in words."""
    if type.endswith(("IAMMember", "IamMember")):
        return "role granted"
    return KINDS.get(type, re.sub("(?<=[a-z])(?=[A-Z])", " ", type).lower())
