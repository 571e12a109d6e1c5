"""The machine that a container runs on, as far as an engine's stand-in asks."""

import json
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rehearsal import timeline

GIB = 2**30


class Gpu(NamedTuple):
    """What CUDA says of a GPU."""

    name: str
    gib: float
    capability: float


GPUS = {
    "nvidia-tesla-t4": Gpu("Tesla T4", 14.56, 7.5),
    "nvidia-l4": Gpu("NVIDIA L4", 22.03, 8.9),
    "nvidia-tesla-a100": Gpu("NVIDIA A100-SXM4-40GB", 39.39, 8.0),
    "nvidia-a100-80gb": Gpu("NVIDIA A100-SXM4-80GB", 79.14, 8.0),
    "nvidia-h100-80gb": Gpu("NVIDIA H100 80GB HBM3", 79.11, 9.0),
    "nvidia-h100-mega-80gb": Gpu("NVIDIA H100 80GB HBM3", 79.11, 9.0),
    "nvidia-h200-141gb": Gpu("NVIDIA H200", 139.72, 9.0),
    "nvidia-b200": Gpu("NVIDIA B200", 178.35, 10.0),
    "nvidia-rtx-pro-6000": Gpu("NVIDIA RTX PRO 6000 Blackwell Server Edition", 94.97, 12.0),
}
"""U: memory as `torch.cuda.mem_get_info` gives it, which is less than the data sheet says."""

FREE_SHARE = 0.985
"""U: share of a GPU's memory that is free before anything runs."""


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

    @classmethod
    def read(cls) -> "Machine":
        """This machine; a GPU that GPUS lacks is taken from the description."""
        path = Path(os.environ.get("REHEARSAL_MACHINE", "/run/rehearsal/machine.json"))
        told: dict[str, Any] = json.loads(path.read_text())
        gpu: dict[str, Any] = told.get("gpu") or {}
        gguf = os.environ.get("REHEARSAL_GGUF") or told.get("gguf")
        image = str(told.get("image", ""))
        return cls(
            speed=float(told.get("speed", 1)),
            gpu=GPUS.get(gpu["type"], Gpu(gpu["type"], gpu["memory_gib"] * 0.93, 9.0))
            if gpu.get("count")
            else None,
            count=int(gpu.get("count", 0)),
            timeline=Path(told["timeline"]) if told.get("timeline") else None,
            gguf=Path(gguf) if gguf else None,
            driver=int((gpu.get("driver") or "580").partition(".")[0]),
            tag="" if "@" in image else image.rpartition("/")[2].partition(":")[2],
        )

    def span(self, name: str, life: float) -> AbstractContextManager[None]:
        """Put the time that the block takes on the machine's timeline."""
        return timeline.span(self.timeline, name, life) if self.timeline else nullcontext()

    def record(self, name: str, start: float, life: float) -> None:
        """Put what has taken until now on the machine's timeline."""
        if self.timeline:
            timeline.record(self.timeline, timeline.Event(name, start, time.time(), life))
