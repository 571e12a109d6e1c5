"""How much of Google a stack takes, against how much the project may have."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, NamedTuple

import requests

from components import catalogue
from components.hardware import CONNECTOR
from components.settings import Settings
from scripts import google_api
from scripts.checks.check import Check, FailsError, Finding, Increase, UnknownError
from scripts.checks.google import Google
from scripts.google_api import GoogleError

COMPUTE, RUN = "compute.googleapis.com", "run.googleapis.com"
FAMILY = "GPUS-PER-GPU-FAMILY-per-project-region"
"""Google counts its newest GPUs by family, which regions.get leaves out; the Cloud Quotas API has
them."""
GPU_QUOTA_ONLY = frozenset({"a2", "a3", "a4", "g2", "g4"})
"""Machine families that need quota for their GPUs only, says Google, and none for CPUs
(cloud.google.com/compute/resource-usage#cpu_quota). Whether they count in CPUS_ALL_REGIONS all the
same, nobody has written down."""
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
    instead: "Need | None" = None
    """What counts in its place where the project has none of it."""
    doubtful: str = ""
    """Why it may not count at all: a limit that is too low is no failure then."""
    why: str = ""
    """Why it is more than somebody may expect."""
    at_first: int = 0
    """What a project without any is given by itself, when it takes some for the first time."""

    @property
    def title(self) -> str:
        """What people are told it is."""
        return f"GPUs of family {self.family}" if self.family else self.name

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

    External addresses are not among it: those that Cloud NAT takes by itself are listed as static
    ones and yet do not count (cloud.google.com/nat/docs/ports-and-addresses, as others quote it),
    and nothing else has one.
    """
    return [
        *(_of_machines(settings) if settings.platform == "vm" else _of_service(settings)),
        Need("NETWORKS", 1, everywhere=True),
        Need("ROUTERS", 1, everywhere=True),
    ]


def _of_machines(settings: Settings) -> Iterator[Need]:
    machine, gpu = settings.machine, catalogue.gpu(settings.gpu)
    machines, why = settings.replicas, ""
    if settings.rollout == "surge":  # up to one a zone
        machines += min(settings.replicas, len(settings.zones))
        why = "with a new machine beside an old one (rollout: surge)"
    of_machines = partial(Need, why=why)
    gpus, cpus = machine.count * machines, machine.vcpus * machines
    family = machine.machine_type.partition("-")[0]
    standard = of_machines(
        gpu.quota or gpu.quota_family, gpus, family="" if gpu.quota else gpu.quota_family
    )
    # Where nothing is set aside for machines that may be taken away, or that end by themselves,
    # they count as others do (docs.cloud.google.com/compute/docs/instances/spot, "Quotas";
    # Compute Engine's release notes of 2024-06-18).
    passing = settings.provisioning != "standard"
    yield of_machines(gpu.spot_quota, gpus, instead=standard) if passing else standard
    yield of_machines("GPUS_ALL_REGIONS", gpus, everywhere=True)
    doubtful = (
        f"Google says that {family} machines need no quota for CPUs, but not whether this counts"
    )
    doubtful = doubtful if family in GPU_QUOTA_ONLY else ""
    yield of_machines("CPUS_ALL_REGIONS", cpus, everywhere=True, doubtful=doubtful)
    if family not in GPU_QUOTA_ONLY:
        ordinary = of_machines("CPUS", cpus)
        yield of_machines("PREEMPTIBLE_CPUS", cpus, instead=ordinary) if passing else ordinary
    if machine.boot_disk in SSD_DISKS:
        yield of_machines("SSD_TOTAL_GB", settings.boot_disk_gb * machines)


def _of_service(settings: Settings) -> Iterator[Need]:
    least_cpus, least_gib = catalogue.gpu(settings.gpu).cloud_run or (0, 0)
    instances = settings.max_instances + ROLLOUT
    name, one = CLOUD_RUN[settings.gpu]
    redundancy = "" if settings.zonal_redundancy else "NoZonalRedundancy"
    # As it is reported of L4s. Nothing of the kind is known of the others.
    at_first = 3 * one if settings.gpu == "nvidia-l4" and not settings.zonal_redundancy else 0
    yield Need(
        f"{name}{redundancy}PerProjectRegion", instances * one, service=RUN, at_first=at_first
    )
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
        name = f"Google: quota {need.title}, {where}"
        yield Check(name, lambda it=need: granted(google, settings, it))


def granted(google: Google, settings: Settings, need: Need) -> str:
    """The project may have what the stack takes, beside what others in it have."""
    limit, used, ours = _state(google, settings, need)
    others = max(0, used - ours)
    if need.instead and not limit:
        return _granted_instead(google, settings, need, need.instead)
    if others + need.amount > limit:
        taken = f", {others / need.one:g} of it in use" if others else ""
        most = f"{limit / need.one:g}{taken}"
        short = f"{need.amount / need.one:g}{need.unit} needed, the limit is {most}"
        if not limit and need.amount <= need.at_first:
            given = (
                f"{short}; but Google gives a project {need.at_first / need.one:g} of it by itself"
                " when it is the first time in a region"
            )
            step = f"try it; if it is not given: {_ask_for(google, settings, need, others)}"
            raise UnknownError(given, step)
        if need.doubtful:
            step = f"try it; where it does count: {_ask_for(google, settings, need, others)}"
            raise UnknownError(f"{short}; {need.doubtful}", step)
        short += f", {need.why}" if need.why else ""
        raise _too_little(google, settings, need, short, others)
    taken = f", {others / need.one:g} in use" if others else ""
    return f"{need.amount / need.one:g} of {limit / need.one:g}{need.unit}{taken}"


def _granted_instead(google: Google, settings: Settings, need: Need, instead: Need) -> str:
    """The same, where another quota counts in the place of one that the project has nothing of."""
    try:
        return f"{granted(google, settings, instead)}, of {instead.title}: there is no other"
    except FailsError as error:
        short = f"the limit is 0, and of {instead.title}, which counts then: {error}"
        raise _too_little(google, settings, need, short, 0) from None


def _too_little(
    google: Google, settings: Settings, need: Need, short: str, others: float
) -> FailsError:
    dimensions = {} if need.everywhere else {"region": settings.region}
    dimensions |= {"gpu_family": need.family} if need.family else {}
    increase = Increase(need.service, need.id, dimensions, int(others) + need.amount)
    return FailsError(short, _ask_for(google, settings, need, others), increase)


def _ask_for(google: Google, settings: Settings, need: Need, others: float) -> str:
    return (
        f"ask for {int(others) + need.amount} of {need.id}: ./scripts/preflight --stack"
        f" {settings.stack} --fix --email YOU@EXAMPLE.COM, or {_page(google)}"
    )


def _page(google: Google) -> str:
    return f"https://console.cloud.google.com/iam-admin/quotas?project={google.project}"


def _state(google: Google, settings: Settings, need: Need) -> tuple[float, float, float]:
    """The limit, what is used of it, and how much of that is this stack's."""
    if not need.family and need.service == COMPUTE:
        path = f"compute/v1/projects/{google.project}"
        if not need.everywhere:
            path += f"/regions/{settings.region}"
        for quota in google.get("compute", path)["quotas"]:
            if quota["metric"] == need.name:
                limit, used = float(quota["limit"]), float(quota["usage"])
                # Nobody else's business is looked at unless something of it matters.
                short = used + need.amount > limit
                return limit, used, _ours(google, settings, need) if short else 0
    # The Cloud Quotas API tells limits; what is used, Google keeps to itself there.
    limit = _limit_by_id(google, settings, need)
    if limit is None and need.instead:  # What nobody was granted is not always listed.
        return 0, 0, 0
    if limit is None:
        raise UnknownError(f"Google lists no quota {need.name}", f"look: {_page(google)}")
    return limit, 0, 0


def _limit_by_id(google: Google, settings: Settings, need: Need) -> float | None:
    """A limit that depends on the region, and perhaps on the GPU family. None where it has none of
    that name."""
    place = f"v1/projects/{google.project}/locations/global/services/{need.service}/quotaInfos"
    try:
        info = google.ask("cloudquotas", f"{place}/{need.id}")
    except GoogleError as error:
        if error.status == 404 and error.reasons:  # else it is not Google that says so
            return None
        raise UnknownError(error.message, error.next_step) from None
    if info["quotaId"] != need.id:
        raise ValueError(f"quotaId is {info['quotaId']}")
    values: list[dict[str, Any]] = info.get("dimensionsInfos") or []
    limits: list[tuple[int, float]] = []
    for value in values:
        dimensions: dict[str, str] = value.get("dimensions") or {}
        details: dict[str, str] = value.get("details") or {}
        here = settings.region if not need.everywhere else "global"
        places: list[str] = value.get("applicableLocations") or [here]
        fits = dimensions.get("region") in (None, settings.region)
        if fits and dimensions.get("gpu_family") in (None, need.family or None) and here in places:
            limits.append((len(dimensions), float(details.get("value", 0))))
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
                return "asked already; how that stands is in IAM & Admin > Quotas"
            return f"not asked: {error}"
        config: dict[str, str] = made.get("quotaConfig") or {}
        granted = int(config.get("grantedValue", 0)) >= wanted.value
        return "granted" if granted else "asked; Google answers by mail"
