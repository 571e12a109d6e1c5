"""The GPUs of Cloud Run: where they are, what an instance must have beside one."""

from dataclasses import dataclass

from rehearsal.store import Body


@dataclass(frozen=True)
class Gpu:
    """A GPU that an instance can have."""

    memory_gib: int
    driver: str
    least_cpu: int
    least_memory_gib: int
    quota: str
    """Middle of the quotas' names."""
    units: int
    """What one GPU counts in its quota."""
    regions: frozenset[str]


GPUS = {
    "nvidia-l4": Gpu(
        memory_gib=24,
        driver="535.216.03",
        least_cpu=4,
        least_memory_gib=16,
        quota="NvidiaL4GpuAlloc",
        units=1,
        regions=frozenset(
            [
                *("asia-south1", "asia-southeast1", "europe-west1", "europe-west4"),
                *("us-central1", "us-east4"),
            ]
        ),
    ),
    "nvidia-rtx-pro-6000": Gpu(
        memory_gib=96,
        driver="580.82.07",
        least_cpu=20,
        least_memory_gib=80,
        quota="NvidiaRtxPro6000GpuAlloc",
        units=1000,
        regions=frozenset(["asia-south2", "asia-southeast1", "europe-west4", "us-central1"]),
    ),
}
"""From docs.cloud.google.com/run/docs/configuring/services/gpu (2026-11), by accelerator. Regions
that Google opens by invitation only are among them: who is invited has quota there."""


def gpu_of(template: Body) -> str:
    """The accelerator that a revision's or a task's template asks for; empty for none."""
    selector: Body = template.get("nodeSelector") or {}
    return selector.get("accelerator") or ""


def redundant(template: Body) -> bool:
    """Whether another zone's GPU is held ready: so it is where nobody declines it."""
    return not template.get("gpuZonalRedundancyDisabled")


def quota_name(gpu: Gpu, redundancy: bool) -> str:
    """The quota that an instance counts in."""
    return f"{gpu.quota}{'' if redundancy else 'NoZonalRedundancy'}PerProjectRegion"
