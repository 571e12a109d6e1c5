"""The ways to serve a model: on which machine of Google's, with how much context, at what price."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Literal

from components import catalogue
from components.catalogue import Price
from components.fit import Fit, fit
from components.memory_flags import DEFAULT, Engine
from components.models import Model

NATIVE = {"bf16": (8, 0), "fp8": (8, 9), "nvfp4": (10, 0), "mxfp4": (10, 0)}
"""Compute capability from which a GPU computes with numbers as they are stored; below it, and with
int4 always, they are widened to 16 bits layer by layer. All compute fp16 and int8."""


@dataclass(frozen=True)
class Way:
    """A model on so many GPUs of a kind."""

    model: Model
    platform: Literal["vm", "cloud-run"]
    gpu: str
    count: int
    machine_type: str
    """Of a vm; empty for Cloud Run."""
    fit: Fit
    standard: Price | None
    """None where it is not sold so, or the price is not known."""
    spot: Price | None
    regions: tuple[str, ...]

    @property
    def native(self) -> bool:
        """The GPU computes with the weights' numbers as they are."""
        capability = catalogue.gpu(self.gpu).compute_capability
        precision = self.model.precision
        return precision != "int4" and capability >= NATIVE.get(precision, (0, 0))

    @property
    def cheapest(self) -> Price | None:
        """On whatever terms; None where no price is known."""
        known = [price for price in (self.spot, self.standard) if price]
        return min(known, key=lambda price: price.usd, default=None)


def ways(
    model: Model,
    max_model_len: int,
    *,
    utilization: float,
    region: str | None = None,
    engine: Engine = DEFAULT,
) -> list[Way]:
    """Every way that the catalogue has, whether it fits or not, the cheapest first.

    With a region, those that are to be had there, at its prices where they are known.
    """
    found = [
        *_machines(model, max_model_len, region, utilization, engine),
        *_cloud_run(model, max_model_len, utilization, engine),
    ]
    there = [way for way in found if region is None or region in way.regions]
    return sorted(there, key=_usd)


def _usd(way: Way) -> tuple[float, float]:
    """What sorts ways: the price, or where none is known the size."""
    price = way.cheapest
    return price.usd if price else inf, way.count * catalogue.gpu(way.gpu).usable_gib


def _machines(
    model: Model, length: int, region: str | None, utilization: float, engine: Engine
) -> Iterator[Way]:
    for name in catalogue.gpus():
        usual = {machine.count: machine for machine in reversed(catalogue.machines(name))}
        for count, machine in usual.items():
            standard, spot = (
                catalogue.price(machine.machine_type, count, terms, region)
                if terms in machine.offers
                else None
                for terms in ("standard", "spot")
            )
            yield Way(
                model=model,
                platform="vm",
                gpu=name,
                count=count,
                machine_type=machine.machine_type,
                fit=fit(
                    model,
                    catalogue.gpu(name),
                    count,
                    length,
                    utilization=utilization,
                    engine=engine,
                ),
                standard=standard,
                spot=spot,
                regions=catalogue.regions(name),
            )


def _cloud_run(model: Model, length: int, utilization: float, engine: Engine) -> Iterator[Way]:
    for name in catalogue.gpus():
        gpu = catalogue.gpu(name)
        places = catalogue.cloud_run_regions(name)
        if gpu.cloud_run:
            yield Way(
                model=model,
                platform="cloud-run",
                gpu=name,
                count=1,
                machine_type="",
                fit=fit(model, gpu, 1, length, utilization=utilization, engine=engine),
                standard=catalogue.cloud_run_price(name),
                spot=None,
                regions=tuple(region for region, anybody in places.items() if anybody),
            )
