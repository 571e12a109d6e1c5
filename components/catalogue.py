"""Which GPUs Google rents out that vLLM runs on: in what machine, in which zone, on what terms."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Provisioning = Literal["spot", "standard", "flex-start"]


@dataclass(frozen=True)
class Machine:
    """A machine type with GPUs. Of a GPU and count, the first row is the usual one."""

    gpu: str
    """Google's accelerator type, such as `nvidia-l4`."""
    machine_type: str
    count: int
    """GPUs in (or, where `attached`, attached to) the machine."""
    memory_gib: int
    """Memory of one GPU."""
    compute_capability: tuple[int, int]
    """NVIDIA's, (major, minor): what number formats the GPU computes in."""
    offers: frozenset[Provisioning]
    """The terms on which Google rents it out."""
    attached: bool
    """The GPU is no part of the machine type: the instance must ask for it."""
    boot_disk: str
    """A disk type that the machine can boot from."""


def _rows(name: str) -> Iterator[dict[str, str]]:
    with Path(__file__).with_name(name).open(newline="") as file:
        yield from csv.DictReader(file)


def _machine(row: dict[str, str]) -> Machine:
    major, minor = row["compute_capability"].split(".")
    terms: dict[str, Provisioning] = {
        "spot": "spot",
        "standard": "standard",
        "flex_start": "flex-start",
    }
    return Machine(
        gpu=row["gpu"],
        machine_type=row["machine_type"],
        count=int(row["count"]),
        memory_gib=int(row["memory_gib"]),
        compute_capability=(int(major), int(minor)),
        offers=frozenset(term for column, term in terms.items() if row[column] == "yes"),
        attached=row["attached"] == "yes",
        boot_disk=row["boot_disk"],
    )


@cache
def machines(gpu: str) -> tuple[Machine, ...]:
    """The machine types with this GPU, smallest count first; none for a GPU that is not offered."""
    return tuple(_machine(row) for row in _rows("gpus.csv") if row["gpu"] == gpu)


@cache
def gpus() -> tuple[str, ...]:
    """Every accelerator type in the catalogue."""
    return tuple(dict.fromkeys(row["gpu"] for row in _rows("gpus.csv")))


@cache
def zones(gpu: str) -> tuple[str, ...]:
    """Every zone where Google has this GPU."""
    return tuple(row["zone"] for row in _rows("zones.csv") if row["gpu"] == gpu)


@cache
def regions(gpu: str | None = None) -> tuple[str, ...]:
    """Every region where Google has this GPU, or any."""
    rows = (row for row in _rows("zones.csv") if gpu in (None, row["gpu"]))
    return tuple(dict.fromkeys(row["zone"].rpartition("-")[0] for row in rows))


@dataclass(frozen=True)
class CloudRunGpu:
    """What Cloud Run asks of an instance with such a GPU, at least."""

    cpus: int
    memory_gib: int


@cache
def cloud_run_gpus() -> dict[str, CloudRunGpu]:
    """The GPUs that Cloud Run has."""
    return {
        "nvidia-l4": CloudRunGpu(cpus=4, memory_gib=16),
        "nvidia-rtx-pro-6000": CloudRunGpu(cpus=20, memory_gib=80),
    }


@cache
def cloud_run_regions(gpu: str) -> tuple[str, ...]:
    """The regions where Cloud Run has this GPU."""
    return tuple(row["region"] for row in _rows("cloud_run_gpus.csv") if row["gpu"] == gpu)
