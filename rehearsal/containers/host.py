"""The machine that a container runs on, as far as an engine's stand-in asks."""

import json
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import catalogue
from components.catalogue import Gpu
from rehearsal import timeline
from rehearsal.faults import Faults

GIB = 2**30


FREE_SHARE = 0.991
"""Share of a GPU's memory that is free before anything runs: 21.84 of 22.03 GiB on an L4."""


@dataclass(frozen=True)
class Machine:
    """The simulated machine, as `machine.json` tells its stand-ins."""

    speed: float
    gpu: Gpu | None
    count: int
    timeline: Path | None
    gguf: Path | None
    """A model of the user's instead of the one that the project makes."""
    driver: int
    """Branch of the NVIDIA driver."""
    tag: str
    """Of the container's image; empty where it is named otherwise."""
    faults: Faults

    @classmethod
    def read(cls) -> "Machine":
        """This machine."""
        path = Path(os.environ.get("REHEARSAL_MACHINE", "/run/rehearsal/machine.json"))
        told: dict[str, Any] = json.loads(path.read_text())
        gpu: dict[str, Any] = told.get("gpu") or {}
        gguf = os.environ.get("REHEARSAL_GGUF") or told.get("gguf")
        image = str(told.get("image", ""))
        return cls(
            speed=float(told.get("speed", 1)),
            gpu=catalogue.gpu(gpu["type"]) if gpu.get("count") else None,
            count=int(gpu.get("count", 0)),
            timeline=Path(told["timeline"]) if told.get("timeline") else None,
            gguf=Path(gguf) if gguf else None,
            driver=int((gpu.get("driver") or "580").partition(".")[0]),
            tag="" if "@" in image else image.rpartition("/")[2].partition(":")[2],
            faults=Faults(Path(told.get("faults", "/run/rehearsal/faults"))),
        )

    def span(self, name: str, life: float) -> AbstractContextManager[None]:
        """Put the time that the block takes on the machine's timeline."""
        return timeline.span(self.timeline, name, life) if self.timeline else nullcontext()

    def record(self, name: str, start: float, life: float) -> None:
        """Put what has taken until now on the machine's timeline."""
        if self.timeline:
            timeline.record(self.timeline, timeline.Event(name, start, time.time(), life))
