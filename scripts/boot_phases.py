"""What a machine reports of its boot, as scripts/startup.sh writes it into guest attributes."""

from collections.abc import Iterable
from typing import NamedTuple

NAMESPACE, KEY = "llm-endpoint", "phases"

DOING = {
    "boot": "boots",
    "prepare": "reads what it is to be",
    "gpu": "waits for the NVIDIA driver",
    "compile-cache": "fetches what an earlier machine compiled",
    "engine-image": "pulls the engine's image",
    "hugging-face-token": "reads the Hugging Face token",
    "weights": "copies the weights",
    "tunnel-token": "reads the tunnel's token",
    "tunnel-image": "pulls cloudflared's image",
    "tunnel-start": "starts the tunnel",
    "engine-start": "starts the engine",
    "engine-init": "starts the engine's process",
    "engine-pull": "pulls the model",
    "engine-load": "loads the weights",
    "engine-compile": "compiles the model",
    "engine-profile": "measures the GPU's memory",
    "engine-capture": "captures CUDA graphs",
    "engine-ready": "waits for the engine's first answer",
    "prune": "removes old images",
    "disk-prepared": "seals the disk",
}
"""A phase in words, with the machine as its subject."""

ANSWERS = "serves: the engine answers, and the tunnel connects"


class Phase(NamedTuple):
    """Times in seconds, `start` since the epoch."""

    name: str
    start: float
    seconds: float | None
    """None while it goes on."""
    status: str
    """ok, failed or running."""


def parse(text: str) -> list[Phase]:
    """The phases that a report tells of, by start; lines of another form are left out."""
    found: list[Phase] = []
    for line in text.splitlines():
        try:
            name, start, seconds, status = line.split(" ")
            took = None if seconds == "-" else float(seconds)
            found.append(Phase(name, float(start), took, status))
        except ValueError:
            continue
    return sorted(found, key=lambda phase: phase.start)


def doing(phases: Iterable[Phase]) -> str:
    """What a machine is at, in words; empty where it has not reported yet."""
    known = [phase for phase in phases if phase.name != "prune"]  # for which nothing waits
    failed = (phase for phase in known if phase.status == "failed")
    broken = [_words(phase, "cannot go on: it failed at: ") for phase in failed]
    running = [_words(phase) for phase in known if phase.seconds is None]
    if broken or running:
        return ", ".join([*broken, *running])
    if any(phase.name == "engine-ready" for phase in known):
        return ANSWERS
    return _words(known[-1]) if known else ""


def _words(phase: Phase, before: str = "") -> str:
    return before + DOING.get(phase.name, phase.name)
