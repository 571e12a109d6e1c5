"""The GPUs of Google's that vLLM runs on: in what machines, where, on what terms, at what price."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Provisioning = Literal["spot", "standard", "flex-start"]

PRICE_REGION = "us-central1"
"""The region that prices are known for when a region of one's own has none."""
EVERYWHERE = "everywhere"
"""What prices.csv says in place of a region for what costs the same in all of them."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, wherever it is built in."""

    name: str
    """Google's accelerator type, such as `nvidia-l4`."""
    product: str
    """NVIDIA's name of it, as the driver prints it."""
    memory_gib: int
    """As sold."""
    usable_gib: float
    """As CUDA reports it in total (`torch.cuda.mem_get_info`): what vLLM takes its share of."""
    compute_capability: tuple[int, int]
    """NVIDIA's, (major, minor): what number formats the GPU computes in."""
    quota: str
    """The regional quota's metric on standard terms; empty where Google counts by family."""
    quota_family: str
    """`gpu_family` of the quota by family (Cloud Quotas API); empty where there is a metric."""
    spot_quota: str
    """The regional quota's metric on Spot."""
    cloud_run: tuple[int, int] | None
    """vCPUs and GiB of memory that Cloud Run asks for at least; None where it has not the GPU."""


@dataclass(frozen=True)
class Machine:
    """A machine type with GPUs. Of a GPU and count, the first row is the usual one."""

    gpu: str
    """Google's accelerator type, such as `nvidia-l4`."""
    machine_type: str
    count: int
    """GPUs in (or, where `attached`, attached to) the machine."""
    vcpus: int
    ram_gb: int
    local_ssd_gb: int
    """Local SSD that comes with the machine type and is billed with it."""
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


@dataclass(frozen=True)
class Price:
    """What something costs, somewhere, on some terms."""

    usd: float
    """For one, for as long as `per` says."""
    region: str
    """Where; EVERYWHERE for what costs the same in all regions."""
    source: str
    date: str
    """When the source had it, ISO 8601."""
    per: str = "hour"
    """hour, month, GiB-month, or GiB (of traffic)."""


def _rows(name: str) -> Iterator[dict[str, str]]:
    with Path(__file__).with_name(name).open(newline="") as file:
        yield from csv.DictReader(file)


def _capability(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


@cache
def gpu(name: str) -> Gpu:
    """A GPU of the catalogue. Raises KeyError for one that is not in it."""
    return _gpus()[name]


@cache
def _gpus() -> dict[str, Gpu]:
    return {
        row["gpu"]: Gpu(
            name=row["gpu"],
            product=row["name"],
            memory_gib=int(row["memory_gib"]),
            usable_gib=float(row["usable_gib"]),
            compute_capability=_capability(row["compute_capability"]),
            quota=row["quota"],
            quota_family=row["quota_family"],
            spot_quota=row["spot_quota"],
            cloud_run=(int(row["cloud_run_vcpus"]), int(row["cloud_run_memory_gib"]))
            if row["cloud_run_vcpus"]
            else None,
        )
        for row in _rows("accelerators.csv")
    }


def _machine(row: dict[str, str]) -> Machine:
    terms: dict[str, Provisioning] = {
        "spot": "spot",
        "standard": "standard",
        "flex_start": "flex-start",
    }
    return Machine(
        gpu=row["gpu"],
        machine_type=row["machine_type"],
        count=int(row["count"]),
        vcpus=int(row["vcpus"]),
        ram_gb=int(row["ram_gb"]),
        local_ssd_gb=int(row["local_ssd_gb"]),
        memory_gib=gpu(row["gpu"]).memory_gib,
        compute_capability=gpu(row["gpu"]).compute_capability,
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


@cache
def cloud_run_regions(gpu: str) -> dict[str, bool]:
    """The regions where Cloud Run has this GPU, and whether it is open to everybody there."""
    rows = (row for row in _rows("cloud_run_gpus.csv") if row["gpu"] == gpu)
    return {row["region"]: row["access"] == "open" for row in rows}


@cache
def _prices() -> dict[tuple[str, int, str, str], Price]:
    return {
        (row["item"], int(row["gpus"]), row["region"], row["terms"]): Price(
            float(row["usd"]), row["region"], row["source"], row["date"], row["per"]
        )
        for row in _rows("prices.csv")
    }


def price(machine_type: str, count: int, terms: str, region: str | None = None) -> Price | None:
    """A machine's price with `count` GPUs; None where none is known.

    A region without a figure of its own, or no region, gets PRICE_REGION's, or else the only one.
    """
    known = {
        place: found
        for (item, gpus, place, on), found in _prices().items()
        if (item, gpus, on) == (machine_type, count, terms)
    }
    own = known.get(region or PRICE_REGION) or known.get(PRICE_REGION)
    return own or next(iter(known.values()), None)


def unit_price(item: str, region: str) -> Price | None:
    """The price of something without GPUs: a disk type, storage, traffic; None if unknown."""
    return price(item, 0, "standard", region)


def cloud_run_price(gpu_name: str) -> Price | None:
    """An instance on Cloud Run with this GPU and the least CPU and memory, while it runs."""
    least = gpu(gpu_name).cloud_run
    graphics = price(f"cloud-run:{gpu_name}", 1, "standard")
    processor, memory = (
        price("cloud-run:vcpu", 1, "standard"),
        price("cloud-run:gib", 1, "standard"),
    )
    if least is None or graphics is None or processor is None or memory is None:
        return None
    usd = graphics.usd + least[0] * processor.usd + least[1] * memory.usd
    return Price(usd, graphics.region, graphics.source, graphics.date)
