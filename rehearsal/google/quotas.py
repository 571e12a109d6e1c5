"""How much of everything a project may have in a region, and how much it has."""

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from components import catalogue
from rehearsal.google.cloud_run import gpus
from rehearsal.google.metadata import INSTANCE
from rehearsal.store import Body
from rehearsal.world import World

GLOBAL = "global"
GPUS = 16
"""GPUs of a kind that a project has here. In life a new one has none, and most have one."""
COUNTED_BY_CPUS = frozenset({"e2", "n1"})
"""Machine families whose CPUs count. The others need quota for GPUs only, says Google
(cloud.google.com/compute/resource-usage#cpu_quota)."""
PASSING = frozenset({"SPOT", "FLEX_START"})
"""Terms of machines that may be taken away, or end by themselves: they have quotas of their own,
and count as others do where a project has none of those."""
FAMILY = "GPUS-PER-GPU-FAMILY-per-project-region"
"""The quota of GPUs that have no metric of their own; counted by region and gpu_family."""

Used = Callable[[World, str, str], float]
"""Of a project in a location."""


class Quota(NamedTuple):
    """One limit."""

    name: str
    """Compute Engine's metric, the quota's id elsewhere, or a GPU family."""
    everywhere: bool
    """Whether it counts all regions together."""
    limit: int
    """Where the accounts do not say otherwise."""
    used: Used
    service: str = "compute.googleapis.com"
    dimension: str = ""
    """Value of `gpu_family`, for one that has it."""
    fault: str = ""
    """The fault `FAULT-N` makes N of the limit."""
    unit: int = 1
    """What one counts."""

    @property
    def id(self) -> str:
        """What the Cloud Quotas API calls it."""
        if self.dimension:
            return FAMILY
        if self.service != "compute.googleapis.com":
            return self.name
        place = "" if self.everywhere else "-region"
        return f"{self.name.replace('_', '-')}-per-project{place}"


def _instances(world: World, project: str, region: str) -> list[Body]:
    rows = world.store.all(INSTANCE).values()
    here = (region, GLOBAL)
    return [
        row
        for row in rows
        if row["project"] == project
        and (region == GLOBAL or row["zone"].rpartition("-")[0] in here)
    ]


def _gpus(name: str) -> Used:
    """GPUs that count in a quota."""

    def used(world: World, project: str, region: str) -> int:
        rows = _instances(world, project, region)
        return sum(
            row["gpu"]["count"] for row in rows if row["gpu"] and name in metrics(world, row)
        )

    return used


def _machines(world: World, project: str, region: str) -> int:
    return len(_instances(world, project, region))


def _disks(world: World, project: str, region: str) -> int:
    return sum(row["bootDiskGb"] for row in _instances(world, project, region))


def _cpus(metric: str) -> Used:
    def used(world: World, project: str, region: str) -> int:
        rows = _instances(world, project, region)
        return sum(vcpus(row["machineType"]) for row in rows if metric in metrics(world, row))

    return used


def _number(*types: str) -> Used:
    """Resources of these types that a project has in a region, or anywhere."""

    def used(world: World, project: str, region: str) -> int:
        rows = [row for type in types for row in world.store.all(type).values()]
        return sum(
            1
            for row in rows
            if row["project"] == project and region in (GLOBAL, row.get("region", ""))
        )

    return used


def _none(world: World, project: str, region: str) -> int:
    return 0


@cache
def quotas() -> tuple[Quota, ...]:
    """All of them. Limits are those of projects of some age; a new one has less."""
    accelerators = [catalogue.gpu(name) for name in catalogue.gpus()]
    metrics = [name for gpu in accelerators for name in (gpu.quota, gpu.spot_quota) if name]
    run = "run.googleapis.com"
    return (
        Quota("GPUS_ALL_REGIONS", True, GPUS, _gpus("GPUS_ALL_REGIONS")),
        *(Quota(name, False, GPUS, _gpus(name), fault="quota") for name in metrics),
        *(
            Quota(family, False, GPUS, _gpus(family), dimension=family, fault="quota")
            for family in (gpu.quota_family for gpu in accelerators)
            if family
        ),
        Quota("CPUS_ALL_REGIONS", True, 2000, _cpus("CPUS_ALL_REGIONS")),
        Quota("CPUS", False, 200, _cpus("CPUS")),
        Quota("PREEMPTIBLE_CPUS", False, 0, _cpus("PREEMPTIBLE_CPUS")),
        Quota("SSD_TOTAL_GB", False, 40960, _disks),
        Quota("INSTANCES", False, 1000, _machines),
        Quota("NETWORKS", True, 50, _number("gcp:compute/network:Network")),
        Quota("SUBNETWORKS", True, 275, _number("gcp:compute/subnetwork:Subnetwork")),
        Quota("ROUTERS", True, 20, _number("gcp:compute/router:Router")),
        Quota("FIREWALLS", True, 500, _number("gcp:compute/firewall:Firewall")),
        # Cloud Run's count what a service may grow to, not what there is.
        Quota("CpuAllocPerProjectRegion", False, 200_000, _none, run),
        Quota("MemAllocPerProjectRegion", False, 400 * 2**30, _none, run),
        *(
            Quota(
                gpus.quota_name(gpu, redundancy),
                False,
                3 * gpu.units * (not redundancy),  # so Google grants them
                _none,
                run,
                fault=f"cloud-run-{'redundancy-' if redundancy else ''}quota",
                unit=gpu.units,
            )
            for gpu in gpus.GPUS.values()
            for redundancy in (False, True)
        ),
    )


def quota(name: str) -> Quota:
    """The quota of that name. KeyError when there is none."""
    return next(it for it in quotas() if it.name == name)


def limit(world: World, name: str) -> int:
    """What a project may have."""
    found = quota(name)
    usual = world.accounts.quotas.get(name, found.limit)
    if not found.fault:
        return usual
    return world.faults.number(found.fault, usual // found.unit) * found.unit


def used(world: World, name: str, project: str, region: str) -> float:
    """What it has, and what others in it have."""
    found = quota(name)
    place = GLOBAL if found.everywhere else region
    return found.used(world, project, place) + world.accounts.quota_used.get(name, 0)


def refusal(world: World, name: str, project: str, region: str, wanted: float) -> str:
    """How Compute Engine says no to more of something; empty where it does not."""
    most = limit(world, name)
    if used(world, name, project, region) + wanted <= most:
        return ""
    where = "globally" if quota(name).everywhere else f"in region {region}"
    metric = "GPUS_PER_GPU_FAMILY" if quota(name).dimension else name
    return f"Quota '{metric}' exceeded.  Limit: {most}.0 {where}."


def wants(world: World, row: Body) -> dict[str, float]:
    """What a VM counts, by quota."""
    gpus: int = row["gpu"]["count"] if row["gpu"] else 0
    sizes = {"GPUS": gpus, "CPUS": vcpus(row["machineType"])}
    counted: dict[str, float] = {
        name: sizes["CPUS" if name.endswith("CPUS") or "CPUS_" in name else "GPUS"]
        for name in metrics(world, row)
    }
    return counted | {"SSD_TOTAL_GB": row["bootDiskGb"], "INSTANCES": 1}


def metrics(world: World, row: Body) -> list[str]:
    """The quotas in which a VM's GPUs and CPUs count."""
    found: list[str] = []
    passing = row["scheduling"].get("provisioningModel") in PASSING
    if row["machineType"].partition("-")[0] in COUNTED_BY_CPUS:
        apart = passing and limit(world, "PREEMPTIBLE_CPUS") > 0
        found += ["CPUS_ALL_REGIONS", "PREEMPTIBLE_CPUS" if apart else "CPUS"]
    if row["gpu"]:
        gpu = catalogue.gpu(row["gpu"]["type"])
        apart = passing and limit(world, gpu.spot_quota) > 0
        found += ["GPUS_ALL_REGIONS", gpu.spot_quota if apart else gpu.quota or gpu.quota_family]
    return found


def vcpus(machine_type: str) -> int:
    """CPUs of a machine type; the small shared ones of E2 count as two."""
    for gpu in catalogue.gpus():
        for machine in catalogue.machines(gpu):
            if machine.machine_type == machine_type:
                return machine.vcpus
    size = re.search(r"-(\d+)$", machine_type)
    return int(size[1]) if size else 2
