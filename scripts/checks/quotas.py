"""How much of Google a stack takes, against how much the project may have."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

import requests

from components import catalogue
from components.hardware import CONNECTOR
from components.settings import Settings
from scripts import google_api
from scripts.checks.check import Check, FailsError, Finding, Increase, UnknownError
from scripts.checks.google import Google

COMPUTE, RUN = "compute.googleapis.com", "run.googleapis.com"
FAMILY = "GPUS-PER-GPU-FAMILY-per-project-region"
"""Google counts its newest GPUs by family, which regions.get leaves out; the Cloud Quotas API has
them."""
CPU_METRICS = {"a2": "A2_CPUS", "e2": "CPUS", "n1": "CPUS"}
"""Machine family -> the metric of its CPUs. Those of the newer ones (g2, g4, a3, a4) have none that
an API shows; their machines are limited by GPUs."""
SSD_DISKS = frozenset({"pd-balanced", "pd-ssd"})
CONNECTOR_CPUS = 2
"""An e2-micro counts two (cloud.google.com/compute/docs/general-purpose-machines)."""
CLOUD_RUN = {
    "nvidia-l4": ("NvidiaL4GpuAlloc", 1),
    "nvidia-rtx-pro-6000": ("NvidiaRtxPro6000GpuAlloc", 1000),
}
"""GPU -> middle of its quotas' names on Cloud Run, and what one GPU counts in them."""
ROLLOUT = 1
"""Instances that a new revision has beside the old one's."""


class Need(NamedTuple):
    """What a stack takes of a quota."""

    name: str
    """Compute Engine's metric; elsewhere the quota's id."""
    amount: int
    everywhere: bool = False
    """All regions count together."""
    service: str = COMPUTE
    family: str = ""
    """GPU family, for the quota by family."""
    unit: str = ""
    """What it is shown in, and how many of the quota's own are one of that."""
    one: int = 1

    @property
    def id(self) -> str:
        """What the Cloud Quotas API calls it."""
        if self.family:
            return FAMILY
        if self.service == RUN:
            return self.name
        place = "" if self.everywhere else "-region"
        return f"{self.name.replace('_', '-')}-per-project{place}"


def needs(settings: Settings) -> list[Need]:
    """All that is limited, of what the stack has at the same time.

    External addresses are not among it: Cloud NAT's own do not count
    (cloud.google.com/nat/docs/ports-and-addresses), and nothing else has one.
    """
    return [
        *(_of_machines(settings) if settings.platform == "vm" else _of_service(settings)),
        Need("NETWORKS", 1, everywhere=True),
        Need("ROUTERS", 1, everywhere=True),
    ]


def _of_machines(settings: Settings) -> Iterator[Need]:
    machine, gpu = settings.machine, catalogue.gpu(settings.gpu)
    gpus, cpus = machine.count * settings.replicas, machine.vcpus * settings.replicas
    if settings.provisioning == "spot":
        yield Need(gpu.spot_quota, gpus)
    elif gpu.quota:
        yield Need(gpu.quota, gpus)
    else:
        yield Need(gpu.quota_family, gpus, family=gpu.quota_family)
    yield Need("GPUS_ALL_REGIONS", gpus, everywhere=True)
    yield Need("CPUS_ALL_REGIONS", cpus, everywhere=True)
    if metric := CPU_METRICS.get(machine.machine_type.partition("-")[0]):
        yield Need(metric, cpus)
    if machine.boot_disk in SSD_DISKS:
        yield Need("SSD_TOTAL_GB", settings.boot_disk_gb * settings.replicas)


def _of_service(settings: Settings) -> Iterator[Need]:
    least_cpus, least_gib = catalogue.gpu(settings.gpu).cloud_run or (0, 0)
    instances = settings.max_instances + ROLLOUT
    name, one = CLOUD_RUN[settings.gpu]
    redundancy = "" if settings.zonal_redundancy else "NoZonalRedundancy"
    yield Need(f"{name}{redundancy}PerProjectRegion", instances * one, service=RUN)
    cpus = instances * (settings.cpus or least_cpus) * 1000
    yield Need("CpuAllocPerProjectRegion", cpus, service=RUN, unit=" vCPU", one=1000)
    memory = instances * (settings.memory_gib or least_gib) * 2**30
    yield Need("MemAllocPerProjectRegion", memory, service=RUN, unit=" GiB", one=2**30)
    yield Need("CPUS_ALL_REGIONS", CONNECTOR_CPUS, everywhere=True)
    yield Need("CPUS", CONNECTOR_CPUS)
    if CONNECTOR.boot_disk_type in SSD_DISKS:
        yield Need("SSD_TOTAL_GB", CONNECTOR.boot_disk_gb)


def checks(google: Google, settings: Settings) -> Iterator[Check]:
    """One for each quota."""
    for need in needs(settings):
        where = "everywhere" if need.everywhere else settings.region
        name = f"GPUs of family {need.family}" if need.family else need.name
        yield Check(f"Google: quota {name}, {where}", lambda it=need: granted(google, settings, it))


def granted(google: Google, settings: Settings, need: Need) -> str:
    """The project may have what the stack takes, beside what others in it have."""
    limit, used, ours = _state(google, settings, need)
    others = max(0, used - ours)
    if others + need.amount > limit:
        dimensions = {} if need.everywhere else {"region": settings.region}
        dimensions |= {"gpu_family": need.family} if need.family else {}
        wanted = int(others) + need.amount
        taken = f", {others / need.one:g} of it taken" if others else ""
        most = f"{limit / need.one:g}{taken}"
        raise FailsError(
            f"{need.amount / need.one:g}{need.unit} needed, the limit is {most}",
            f"ask for {wanted} of {need.id}: ./scripts/preflight --stack {settings.stack} --fix"
            " --email YOU@EXAMPLE.COM, or"
            f" https://console.cloud.google.com/iam-admin/quotas?project={google.project}",
            Increase(need.service, need.id, dimensions, wanted),
        )
    taken = f", {others / need.one:g} taken" if others else ""
    return f"{need.amount / need.one:g} of {limit / need.one:g}{need.unit}{taken}"


def _state(google: Google, settings: Settings, need: Need) -> tuple[float, float, float]:
    """The limit, what is used of it, and how much of that is this stack's."""
    if need.family or need.service == RUN:
        # The Cloud Quotas API tells limits; what is used, Google keeps to itself there.
        return _limit_by_id(google, settings, need), 0, 0
    path = f"compute/v1/projects/{google.project}"
    if not need.everywhere:
        path += f"/regions/{settings.region}"
    for quota in google.get("compute", path)["quotas"]:
        if quota["metric"] == need.name:
            limit, used = float(quota["limit"]), float(quota["usage"])
            # Nobody else's business is looked at unless something of it matters.
            short = used + need.amount > limit
            return limit, used, _ours(google, settings, need) if short else 0
    raise UnknownError(
        f"Google lists no quota {need.name}",
        f"look: https://console.cloud.google.com/iam-admin/quotas?project={google.project}",
    )


def _limit_by_id(google: Google, settings: Settings, need: Need) -> float:
    """A limit that depends on the region, and perhaps on the GPU family."""
    place = f"v1/projects/{google.project}/locations/global/services/{need.service}/quotaInfos"
    info = google.get("cloudquotas", f"{place}/{need.id}")
    if info["quotaId"] != need.id:
        raise ValueError(f"quotaId is {info['quotaId']}")
    values: list[dict[str, Any]] = info.get("dimensionsInfos") or []
    limits: list[tuple[int, float]] = []
    for value in values:
        dimensions: dict[str, str] = value.get("dimensions") or {}
        details: dict[str, str] = value.get("details") or {}
        places: list[str] = value.get("applicableLocations") or [settings.region]
        fits = dimensions.get("region") in (None, settings.region)
        if fits and dimensions.get("gpu_family") in (None, need.family or None):
            here = settings.region in places
            limits += [(len(dimensions), float(details.get("value", 0)))] if here else []
    _, limit = max(limits, default=(0, 0.0))  # the most specific holds; a 0 is left out
    return limit if limit >= 0 else inf


def _ours(google: Google, settings: Settings, need: Need) -> float:
    """What this stack has already."""
    stack = settings.stack
    place = f"compute/v1/projects/{google.project}"
    nouns = {"NETWORKS": ("networks", "vpc"), "ROUTERS": ("routers", "router")}
    if need.name in nouns:
        noun, role = nouns[need.name]
        scope = "global" if noun == "networks" else f"regions/{settings.region}"
        found = google.items("compute", f"{place}/{scope}/{noun}", "items")
        ours = re.compile(rf"llm-{re.escape(stack)}-{role}-[0-9a-f]{{7}}")
        return sum(bool(ours.fullmatch(it["name"])) for it in found)
    label = f"labels.llm-endpoint-stack={stack}"
    answer = google.get("compute", f"{place}/aggregated/instances", filter=label)
    scopes = {
        zone.rpartition("/")[2]: scope.get("instances") or ()
        for zone, scope in answer["items"].items()
        if need.everywhere or zone.rpartition("/")[2].rpartition("-")[0] == settings.region
    }
    return sum(_takes(it, need) for instances in scopes.values() for it in instances)


def _takes(instance: dict[str, Any], need: Need) -> int:
    """What a machine of this stack takes of a quota."""
    type = instance["machineType"].rpartition("/")[2]
    known = [it for gpu in catalogue.gpus() for it in catalogue.machines(gpu)]
    attached = instance.get("guestAccelerators") or ()
    count = sum(int(it["acceleratorCount"]) for it in attached)
    machine = next((it for it in known if it.machine_type == type), None)
    if need.name.endswith("_GB"):
        return sum(int(disk["diskSizeGb"]) for disk in instance.get("disks") or ())
    if "CPUS" in need.name:
        return machine.vcpus if machine else CONNECTOR_CPUS
    return count or (machine.count if machine else 0)


# Asking for more


@dataclass
class Requests:
    """Requests for more, as they would be sent; see `send`."""

    project: str
    email: str
    """Whom Google may ask back; a request for more must have one."""
    increases: list[Increase] = field(default_factory=list[Increase])

    @classmethod
    def of(cls, project: str, email: str, findings: list[Finding]) -> "Requests":
        """What would help where quota fails."""
        wanted = (finding.increase for finding in findings)
        return cls(project, email, [it for it in wanted if it])

    def lines(self) -> Iterator[str]:
        """What will be asked, in words."""
        for it in self.increases:
            where = ", ".join(it.dimensions.values()) or "all regions"
            yield f"{it.service} {it.quota} ({where}): {it.value}"

    def send(self) -> Iterator[str]:
        """Ask for all of it; what came of each."""
        place = f"v1/projects/{self.project}/locations/global/quotaPreferences"
        with google_api.session() as http:
            http.headers["X-Goog-User-Project"] = self.project
            for increase, line in zip(self.increases, self.lines(), strict=True):
                yield f"{line}: {self._ask(http, place, increase)}"

    def _ask(self, http: requests.Session, place: str, wanted: Increase) -> str:
        name = "-".join(["preflight", wanted.quota, *wanted.dimensions.values(), str(wanted.value)])
        name = re.sub("[^a-z0-9-]", "-", name.lower())[:63].strip("-")
        body = {
            "service": wanted.service,
            "quotaId": wanted.quota,
            "dimensions": wanted.dimensions,
            "quotaConfig": {"preferredValue": str(wanted.value)},
            "contactEmail": self.email,
            "justification": "Serving a language model for a team.",
        }
        url = f"{google_api.base('cloudquotas')}/{place}"
        try:
            made = google_api.call(
                http, "POST", url, body=body, parameters={"quotaPreferenceId": name}
            )
        except google_api.GoogleError as error:
            if error.status == 409:
                return "asked already; Google has not answered yet"
            return f"not asked: {error}"
        config: dict[str, str] = made.get("quotaConfig") or {}
        granted = int(config.get("grantedValue", 0)) >= wanted.value
        return "granted" if granted else "asked; Google answers by mail"
