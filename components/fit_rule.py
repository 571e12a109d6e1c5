"""Whether a stack's model fits its GPU, said before anything is paid."""

from collections.abc import Iterator
from math import inf

from components import catalogue
from components.catalogue import Provisioning
from components.memory_flags import Engine
from components.models import models
from components.problem import Problem, command, key
from components.stack_rules import SHORTEST_CONTEXT, machines
from components.ways import Way, ways


def model_fits(
    platform: str,
    model: str,
    gpu: str,
    gpu_count: int,
    machine_type: str | None,
    region: str,
    provisioning: Provisioning,
    max_model_len: int,
    gpu_memory_utilization: float,
    engine_args: tuple[str, ...],
) -> Iterator[Problem]:
    """A model of the catalogue must fit; vLLM would find out after minutes of loading.

    Only what is certain not to fit is refused: what components/fit.py cannot follow passes.
    """
    engine, known = Engine.read(engine_args), models().get(model)
    if known is None or engine is None:
        return
    found = ways(known, max_model_len, utilization=gpu_memory_utilization, engine=engine)
    own = {(way.gpu, way.count): way for way in found if way.platform == platform}
    chosen = own.get((gpu, gpu_count))
    if chosen is None or not chosen.fit.hopeless:
        return
    why = "; ".join(chosen.fit.reasons)
    larger = _larger(found, chosen, machine_type, provisioning, region)
    if (context := chosen.fit.context) >= SHORTEST_CONTEXT:
        yield Problem(
            key("max_model_len"),
            str(max_model_len),
            f"at most {context}, with {model} on {gpu_count} {gpu}: {why}",
            f"{command('max_model_len', context)}, or {larger}",
        )
    else:
        yield Problem(
            key("model"),
            repr(model),
            f"a model that fits {gpu_count} {gpu}; this one does not, at any length: {why}",
            larger,
        )


def _larger(
    found: list[Way], chosen: Way, machine_type: str | None, provisioning: Provisioning, region: str
) -> str:
    """The cheapest way that takes it: on the platform, in the region, on these terms if it can."""

    def offers(way: Way) -> frozenset[Provisioning]:
        if way.platform == "cloud-run":
            return frozenset({provisioning})  # Cloud Run does not ask.
        return machines(way.gpu, way.count, None)[0].offers

    def usd(way: Way) -> float:
        on_spot = way.platform == "vm" and provisioning != "standard"
        price = way.spot if on_spot else way.standard
        return price.usd if price else inf

    def preference(way: Way) -> tuple[bool, bool, bool, float]:
        elsewhere = region not in way.regions, provisioning not in offers(way)
        return way.platform != chosen.platform, *elsewhere, usd(way)

    takes_it = (way for way in found if way.fit.fits and way.regions)
    way = min(takes_it, key=preference, default=None)
    if way is None:
        return f"another model: {command('model', 'ORGANISATION/NAME')}"
    changes: dict[str, object] = {"gpu": way.gpu, "gpu_count": way.count}
    for setting, value in (("gpu", chosen.gpu), ("gpu_count", chosen.count)):
        if changes[setting] == value:
            del changes[setting]
    if way.platform != chosen.platform:
        changes["platform"] = way.platform
    if region not in way.regions:
        changes["region"] = min(way.regions, key=lambda other: _far(other, region))
    if provisioning not in offers(way):
        changes["provisioning"] = max(offers(way))
    if machine_type:
        changes["machine_type"] = "''"
    cost = f", {usd(way):.2f} $/h" if usd(way) < inf else ""
    commands = " && ".join(command(*change) for change in changes.items())
    what = way.machine_type or "of Cloud Run"
    return f"the cheapest machine that takes it ({what}{cost}): {commands}"


def _far(other: str, region: str) -> tuple[bool, bool]:
    """Sorts regions: those on the same continent first, then the one that most has."""
    continents = {place.partition("-")[0] for place in (other, region)}
    return len(continents) > 1, other != catalogue.PRICE_REGION
