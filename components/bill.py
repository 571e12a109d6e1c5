"""What a stack costs: everything that Google bills for it, not the GPU alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from components import catalogue
from components.catalogue import Price
from components.engine import engine as engine_named
from components.gpu_service import CONNECTOR
from components.models import models

if TYPE_CHECKING:
    from components.settings import Settings

HOURS_A_MONTH = 730
"""As Google's own calculator has it: 365 days of 24 hours, by twelve."""

EGRESS_GIB = 1.0
"""Answers in a month, in GiB: some 200,000 of a thousand tokens."""

TERMS = {"spot": "Spot", "standard": "standard terms", "flex-start": "flex-start"}

BESIDES = (
    "logs beyond Google's free 50 GiB a month; minutes of Cloud Build and of the job that stages"
    " weights (cents, once a model); Cloudflare, whose free plans suffice; tax",
)
"""What no figure here holds."""


@dataclass(frozen=True)
class Line:
    """One thing that is billed."""

    what: str
    quantity: float
    price: Price | None
    """Of one, an hour, or a month where its `per` says so; None where it is not known."""
    billed: Literal["always", "serving"]
    """`serving`: only while a machine or instance runs."""

    @property
    def usd_per_hour(self) -> float:
        """While it is billed; 0 where the price is not known."""
        if self.price is None:
            return 0.0
        hours = 1 if self.price.per == "hour" else HOURS_A_MONTH
        return self.quantity * self.price.usd / hours


@dataclass(frozen=True)
class Bill:
    """All of a stack's lines, and how long a day its GPU is meant to run."""

    region: str
    hours_per_day: float
    lines: tuple[Line, ...]
    besides: tuple[str, ...]
    """What is not in the sum, in words."""

    @property
    def usd_per_hour(self) -> float:
        """While it serves."""
        return sum(line.usd_per_hour for line in self.lines)

    @property
    def usd_per_month_idle(self) -> float:
        """While nothing serves: the group at size 0, or the service asleep."""
        return HOURS_A_MONTH * sum(
            line.usd_per_hour for line in self.lines if line.billed == "always"
        )

    @property
    def usd_per_month_planned(self) -> float:
        """Serving for `hours_per_day`, idle otherwise."""
        idle = self.usd_per_month_idle
        serving = self.usd_per_hour - idle / HOURS_A_MONTH
        return idle + serving * HOURS_A_MONTH * self.hours_per_day / 24

    @property
    def elsewhere(self) -> tuple[Line, ...]:
        """Lines with another region's price, as this region's own is not known.

        What costs the same everywhere is not among them.
        """
        return tuple(
            line
            for line in self.lines
            if line.price and line.price.region not in (self.region, catalogue.EVERYWHERE)
        )

    @property
    def unknown(self) -> tuple[Line, ...]:
        """Lines whose price is not in the table; the sum is that much too low."""
        return tuple(line for line in self.lines if line.price is None)

    @property
    def prices_as_of(self) -> str:
        """The oldest price's date, ISO 8601."""
        return min(line.price.date for line in self.lines if line.price)

    @property
    def card(self) -> dict[str, Any]:
        """The bill in figures, in US dollars: what the stack hands on to others."""
        return {
            "usdPerHour": round(self.usd_per_hour, 4),
            "usdPerMonthIdle": round(self.usd_per_month_idle, 2),
            "usdPerMonthPlanned": round(self.usd_per_month_planned, 2),
            "hoursPerDay": self.hours_per_day,
            "pricesAsOf": self.prices_as_of,
            "notCounted": [line.what for line in self.unknown],
        }

    @property
    def sentence(self) -> str:
        """The bill in one line."""
        more = "more than " if self.unknown else ""
        return (
            f"Cost: {more}{self.usd_per_hour:.2f} $/h while it serves,"
            f" {more}{self.usd_per_month_idle:.0f} $ a month while it does not,"
            f" {more}{self.usd_per_month_planned:.0f} $ a month at {self.hours_per_day:g} h a day."
        )


def bill(settings: "Settings", secrets: int) -> Bill:
    """The bill of a stack with so many secrets."""
    parts = {"vm": _machines, "cloud-run": _service}[settings.platform]
    return Bill(
        region=settings.region,
        hours_per_day=settings.hours_per_day,
        lines=(*parts(settings), *_storage(settings, secrets), *_traffic(settings)),
        besides=(*_besides(settings), *BESIDES),
    )


def _machines(settings: "Settings") -> Iterator[Line]:
    """The platform `vm`: nothing of it is left while no machine runs."""
    machine, replicas, region = settings.machine, settings.replicas, settings.region
    disk = settings.boot_disk_gb
    terms = settings.provisioning
    yield Line(
        f"{machine.machine_type} with {machine.count} {machine.gpu}, {TERMS[terms]}",
        replicas,
        catalogue.price(machine.machine_type, machine.count, terms, region),
        "serving",
    )
    yield Line(
        f"GiB of boot disk ({machine.boot_disk})",
        replicas * disk,
        catalogue.unit_price(machine.boot_disk, region),
        "serving",
    )
    if machine.local_ssd_gb:  # machines are priced without it (skypilot-org/skypilot#3281)
        yield Line(
            "GiB of local SSD that comes with the machine",
            replicas * machine.local_ssd_gb,
            catalogue.unit_price("local-ssd", region),
            "serving",
        )
    yield from _nat(replicas, region, "serving")


def _service(settings: "Settings") -> Iterator[Line]:
    """The platform `cloud-run`: one instance while it serves, the connector always."""
    service, region = settings.service, settings.region
    redundancy = ":redundant" if service["zonal_redundancy"] else ""
    parts = (
        (f"{service['gpu']} of Cloud Run", f"{service['gpu']}{redundancy}", 1),
        ("vCPU beside it", "vcpu", service["cpus"]),
        ("GiB of memory beside it", "gib", service["memory_gib"]),
    )
    instances = max(service["min_instances"], 1)
    for what, item, number in parts:
        price = catalogue.price(f"cloud-run:{item}", 1, "standard", region)
        billed = "always" if service["min_instances"] else "serving"
        yield Line(what, instances * number, price, billed)
    machine_type, disk = CONNECTOR.machine_type, CONNECTOR.boot_disk_type
    yield Line(
        f"{machine_type}, the connector", 1, catalogue.unit_price(machine_type, region), "always"
    )
    yield Line(
        f"GiB of its boot disk ({disk})",
        CONNECTOR.boot_disk_gb,
        catalogue.unit_price(disk, region),
        "always",
    )
    yield from _nat(1, region, "always")


def _nat(machines: int, region: str, billed: Literal["always", "serving"]) -> Iterator[Line]:
    """Google gives an address for each 31 machines, at 2048 ports a machine."""
    yield Line("machine behind Cloud NAT", machines, catalogue.unit_price("nat:vm", region), billed)
    yield Line(
        "address of Cloud NAT",
        1 if machines else 0,
        catalogue.unit_price("nat:address", region),
        billed,
    )


def _storage(settings: "Settings", secrets: int) -> Iterator[Line]:
    """What lies there whether anything runs or not."""
    region, weights = settings.region, _weights_gib(settings)
    image = engine_named(settings.engine).IMAGE_GIB
    if settings.weights == "image":
        image += weights or 0
    yield Line(
        "GiB of images in Artifact Registry",
        image,
        catalogue.unit_price("artifact-registry", region),
        "always",
    )
    if settings.weights == "bucket" and weights:
        yield Line(
            "GiB of weights in the bucket",
            weights,
            catalogue.unit_price("storage", region),
            "always",
        )
    yield Line(
        "secret in Secret Manager",
        secrets,
        catalogue.unit_price("secret-version", region),
        "always",
    )


def _traffic(settings: "Settings") -> Iterator[Line]:
    """A request's way out: to Cloudflare, through NAT."""
    for what, item in (
        ("GiB of answers to Cloudflare", "egress"),
        ("GiB through Cloud NAT", "nat:gib"),
    ):
        yield Line(what, EGRESS_GIB, catalogue.unit_price(item, settings.region), "serving")


def _weights_gib(settings: "Settings") -> float | None:
    known = models().get(settings.model)
    return known.weights / 2**30 if known else None


def _besides(settings: "Settings") -> Iterator[str]:
    """What is known of the stack and stands in no line."""
    weights = _weights_gib(settings)
    if weights is None and settings.weights != "hub":
        yield f"the weights of {settings.model}, whose size is not in components/models.csv"
    price = catalogue.unit_price("nat:gib", settings.region)
    if settings.weights == "hub" and settings.platform == "vm" and weights and price:
        yield (
            f"{weights * price.usd:.2f} $ a start, as each machine fetches {weights:.1f} GiB of"
            " weights through Cloud NAT"
        )
    if settings.platform == "vm" and settings.prepared != "nothing":
        yield (
            "the prepared boot image, billed by its compressed size, and minutes of the machine"
            " that makes it (cents)"
        )
    if settings.platform == "vm" and settings.compile_cache == "bucket":
        yield "what vLLM compiled, in its bucket (cents)"
    if settings.platform == "cloud-run" and settings.max_instances > 1:
        yield f"further instances, up to {settings.max_instances}, when many ask at once"
