"""What must hold between a stack's settings. A rule's parameters name the settings it compares."""

import difflib
import re
from collections.abc import Iterable, Iterator
from math import inf

from components import catalogue, vllm_flags
from components.catalogue import Machine, Provisioning
from components.memory_flags import Engine
from components.models import models
from components.problem import HIDDEN, Problem, command, key
from components.ways import Way, ways

Problems = Iterator[Problem]

REPLICAS_PER_TUNNEL = 25
"""Connectors that one Cloudflare tunnel takes (Cloudflare One account limits)."""

SHORTEST_CONTEXT = 1024
"""Tokens; with fewer, hardly a prompt and its answer go together."""

FREE_MAIL = re.compile(
    r"(126|163|aol|fastmail|gmail|googlemail|icloud|me|msn|protonmail|qq)\.com"
    r"|(gmx|hotmail|live|outlook|yahoo|yandex)\..+|mail\.ru|proton\.me|t-online\.de|web\.de"
)
"""Mail domains where anybody gets an address: allowing one publishes the endpoint.
There are more; these are the likely slips."""

NEEDS_COMPUTE = (
    ("--dtype", "bfloat16", (8, 0), "bfloat16"),
    ("--kv-cache-dtype", "(fp8|nvfp4).*", (8, 0), "an 8- or 4-bit float cache"),
    ("--quantization", "(gpt_oss_)?mxfp4|mxfp8|modelopt|fbgemm_fp8", (8, 0), "that format"),
    ("--quantization", "fp_quant", (10, 0), "that format"),
)
"""Flag, its value, compute capability that vLLM 0.33's source asks of it, what is missing."""

MODEL_NEEDS_COMPUTE = (
    (r"gpt-oss|mxfp[48]", (8, 0), "MXFP4 or MXFP8 weights"),
    (r"^nvidia/.*-fp8", (8, 0), "ModelOpt's FP8 weights"),
    (r"gemma-[23]-|glm-4-.*-0414", (8, 0), "bfloat16, as float16 makes it unstable"),
)
"""The same for models, by their names."""


def zones_with_gpu(gpu: str, region: str) -> tuple[str, ...]:
    """The zones of a region that have a GPU."""
    return tuple(zone for zone in catalogue.zones(gpu) if zone.rpartition("-")[0] == region)


def machines(gpu: str, gpu_count: int, machine_type: str | None) -> list[Machine]:
    """The machines with these GPUs, the usual one first; at most one where the type is given."""
    rows = [row for row in catalogue.machines(gpu) if row.count == gpu_count]
    return [row for row in rows if machine_type in (None, row.machine_type)]


def machine_exists(gpu: str, gpu_count: int, machine_type: str | None) -> Problems:
    """Google sells GPUs only in certain numbers and machine types."""
    counts = sorted({row.count for row in catalogue.machines(gpu)})
    if gpu_count not in counts:
        nearest = min(counts, key=lambda count: abs(count - gpu_count))
        yield Problem(
            key("gpu_count"),
            str(gpu_count),
            f"a number of {gpu} that a machine type has: {_either(counts)}",
            command("gpu_count", nearest),
        )
    elif not machines(gpu, gpu_count, machine_type):
        types = [row.machine_type for row in machines(gpu, gpu_count, None)]
        yield Problem(
            key("machine_type"),
            repr(machine_type),
            f"a machine type with {gpu_count} {gpu}: {_either(types)}",
            f"{command('machine_type', types[0])}, or ... '' for the usual one",
        )


def machine_is_offered(
    gpu: str, gpu_count: int, machine_type: str | None, provisioning: Provisioning
) -> Problems:
    """Not every machine is sold on all terms."""
    for chosen in machines(gpu, gpu_count, machine_type)[:1]:
        if provisioning in chosen.offers:
            continue
        yield Problem(
            key("provisioning"),
            repr(provisioning),
            f"terms on which Google has {chosen.machine_type}: {_either(sorted(chosen.offers))}",
            f"{command('provisioning', 'spot')}, or another GPU or count",
        )


def region_has_gpu(gpu: str, region: str) -> Problems:
    """A region must have the GPU."""
    if not zones_with_gpu(gpu, region):
        there = catalogue.regions(gpu)
        yield Problem(
            key("region"),
            repr(region),
            f"a region with {gpu}: {_either(there)}",
            f"{command('region', there[0])}, or another GPU; {_NEW_ZONE}",
        )


def zones_have_gpu(gpu: str, region: str, zones: tuple[str, ...]) -> Problems:
    """Every zone must lie in the region and have the GPU."""
    there = zones_with_gpu(gpu, region)
    for index, zone in enumerate(zones):
        if there and zone not in there:
            yield Problem(
                f"{key('zones')}[{index}]",
                repr(zone),
                f"a zone of {region} with {gpu}: {_either(there)}",
                f"{command('zones', there[0], index)}; {_NEW_ZONE}",
            )


_NEW_ZONE = "if Google has it there by now, add the line to components/zones.csv"


def run_is_limited(provisioning: Provisioning, max_run_hours: int) -> Problems:
    """Flex-start machines run for a limited time, the others do not."""
    if provisioning == "flex-start" and max_run_hours == 0:
        yield Problem(
            key("max_run_hours"),
            "0",
            "1 to 168 with flex-start: Google takes the machine back after at most seven days",
            command("max_run_hours", 24),
        )
    if provisioning != "flex-start" and max_run_hours > 0:
        yield Problem(
            key("max_run_hours"),
            str(max_run_hours),
            f"0 with {provisioning}: the group would replace a machine whose time is up",
            command("max_run_hours", 0),
        )


def replicas_fit_tunnel(
    gpu: str, region: str, zones: tuple[str, ...], replicas: int, rollout: str
) -> Problems:
    """Every machine is a connector of the tunnel, also the extra ones of a surge."""
    extra = len(zones or zones_with_gpu(gpu, region)) if rollout == "surge" else 0
    if replicas + extra > REPLICAS_PER_TUNNEL:
        yield Problem(
            key("replicas"),
            str(replicas),
            f"at most {REPLICAS_PER_TUNNEL - extra}: a tunnel takes {REPLICAS_PER_TUNNEL} machines,"
            f" and rollout {rollout} adds up to {extra} (one a zone)",
            command("replicas", REPLICAS_PER_TUNNEL - extra),
        )


def somebody_may_call(
    consumers: tuple[str, ...],
    allowed_emails: tuple[str, ...],
    allowed_email_domains: tuple[str, ...],
) -> Problems:
    """An endpoint that lets nobody in is a mistake."""
    if not (consumers or allowed_emails or allowed_email_domains):
        yield Problem(
            f"{key('consumers')}, allowedEmails and allowedEmailDomains",
            "[]",
            "at least one application or person that may call the endpoint",
            command("consumers", "app", 0),
        )


def mail_domains_are_closed(allowed_email_domains: tuple[str, ...]) -> Problems:
    """A domain where anybody gets an address lets everybody in."""
    for index, domain in enumerate(allowed_email_domains):
        if FREE_MAIL.fullmatch(domain):
            yield Problem(
                f"{key('allowed_email_domains')}[{index}]",
                repr(domain),
                "a domain of your own: anybody can have an address there",
                f"name the people: {command('allowed_emails', f'someone@{domain}', 0)}",
            )


def hostname_is_in_zone(hostname: str, cloudflare_zone_name: str) -> Problems:
    """The host name must lie in the zone, where Cloudflare's certificate covers it."""
    inside = hostname.removesuffix(f".{cloudflare_zone_name}")
    fitting = f"{hostname.split('.')[0]}.{cloudflare_zone_name}"
    if hostname != cloudflare_zone_name and inside == hostname:
        yield Problem(
            key("hostname"),
            repr(hostname),
            f"a name inside the zone {cloudflare_zone_name}",
            f"{command('hostname', fitting)}, or correct {key('cloudflare_zone_name')}",
        )
    elif hostname != cloudflare_zone_name and "." in inside:
        yield Problem(
            key("hostname"),
            repr(hostname),
            f"one label before {cloudflare_zone_name}: its certificate covers no deeper name",
            command("hostname", fitting),
        )


def engine_args_are_vllms(engine_args: tuple[str, ...]) -> Problems:
    """vLLM must have the flags, and the program must not have set them. Values are not shown."""
    try:
        values, unknown = vllm_flags.parse(engine_args)
    except ValueError as error:
        yield Problem(
            key("engine_args"),
            HIDDEN,
            f"arguments that `vllm serve` takes; it would say: {_brief(str(error))}",
            "correct the list; vLLM's documentation of `vllm serve` has every flag",
        )
        return
    for flag in sorted(values.keys() & vllm_flags.NOT_YOURS.keys()):
        yield Problem(
            key("engine_args"),
            flag,
            "flags that the program does not set itself",
            vllm_flags.NOT_YOURS[flag],
        )
    for arg in unknown:
        flag = arg.partition("=")[0] if arg.startswith("-") else HIDDEN
        near = difflib.get_close_matches(flag, vllm_flags.FLAGS, n=1)
        yield Problem(
            key("engine_args"),
            flag,
            "flags of vLLM 0.33.0, each value after its own flag",
            f"did you mean {near[0]}?" if near else "remove it",
        )


def gpu_computes_it(gpu: str, model: str, engine_args: tuple[str, ...]) -> Problems:
    """Old GPUs lack the newer number formats; vLLM would find out after minutes of loading."""
    capability = catalogue.machines(gpu)[0].compute_capability
    try:
        values = vllm_flags.parse(engine_args).values
    except ValueError:
        return
    for flag, pattern, needed, what in NEEDS_COMPUTE:
        for value in values.get(flag, ()):
            if capability < needed and re.fullmatch(pattern, str(value)):
                yield _too_old("engine_args", f"{flag}={value}", what, gpu, needed)
    for pattern, needed, what in MODEL_NEEDS_COMPUTE:
        if capability < needed and re.search(pattern, model, re.IGNORECASE):
            yield _too_old("model", repr(model), what, gpu, needed)


def model_fits(
    model: str,
    gpu: str,
    gpu_count: int,
    machine_type: str | None,
    region: str,
    provisioning: Provisioning,
    max_model_len: int,
    gpu_memory_utilization: float,
    engine_args: tuple[str, ...],
) -> Problems:
    """A model of the catalogue must fit; vLLM would find out after minutes of loading.

    Only what is certain not to fit is refused: what components/fit.py cannot follow passes.
    """
    engine, known = Engine.read(engine_args), models().get(model)
    if known is None or engine is None or not machines(gpu, gpu_count, machine_type):
        return
    if any(gpu_computes_it(gpu, model, engine_args)):
        return  # Enough is said of it.
    found = ways(known, max_model_len, utilization=gpu_memory_utilization, engine=engine)
    vms = [way for way in found if way.platform == "vm"]
    (chosen,) = (way for way in vms if (way.gpu, way.count) == (gpu, gpu_count))
    if not chosen.fit.hopeless:
        return
    why = "; ".join(chosen.fit.reasons)
    larger = _larger(vms, chosen, machine_type, provisioning, region)
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
    vms: list[Way], chosen: Way, machine_type: str | None, provisioning: Provisioning, region: str
) -> str:
    """The cheapest machine that takes it: in the region and on these terms, if there is one."""

    def offers(way: Way) -> frozenset[Provisioning]:
        return machines(way.gpu, way.count, None)[0].offers

    def usd(way: Way) -> float:
        price = way.standard if provisioning == "standard" else way.spot
        return price.usd if price else inf

    def preference(way: Way) -> tuple[bool, bool, float]:
        return region not in way.regions, provisioning not in offers(way), usd(way)

    way = min((way for way in vms if way.fit.fits), key=preference, default=None)
    if way is None:
        return f"another model: {command('model', 'ORGANISATION/NAME')}"
    changes: dict[str, object] = {"gpu": way.gpu, "gpu_count": way.count}
    for setting, value in (("gpu", chosen.gpu), ("gpu_count", chosen.count)):
        if changes[setting] == value:
            del changes[setting]
    if region not in way.regions:
        changes["region"] = min(way.regions, key=lambda other: _far(other, region))
    if provisioning not in offers(way):
        changes["provisioning"] = max(offers(way))
    if machine_type:
        changes["machine_type"] = "''"
    cost = f", {usd(way):.2f} $/h" if usd(way) < inf else ""
    commands = " && ".join(command(*change) for change in changes.items())
    return f"the cheapest machine that takes it ({way.machine_type}{cost}): {commands}"


def _far(other: str, region: str) -> tuple[bool, bool]:
    """Sorts regions: those on the same continent first, then the one that most has."""
    continents = {place.partition("-")[0] for place in (other, region)}
    return len(continents) > 1, other != catalogue.PRICE_REGION


def _too_old(setting: str, value: str, what: str, gpu: str, needed: tuple[int, int]) -> Problem:
    able = [
        name
        for name in catalogue.gpus()
        if catalogue.machines(name)[0].compute_capability >= needed
    ]
    return Problem(
        key(setting),
        value,
        f"something that {gpu} computes; it lacks {what}",
        f"{command('gpu', able[0])} ({_either(able)} can), or choose another",
    )


def _either(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _brief(error: str) -> str:
    """Argparse's words without what may be secret in them, and not all of fifty candidates."""
    words = re.sub("=.* could match", " could match", error, flags=re.DOTALL)
    return words if len(words) <= 200 else f"{words[:200]}..."


RULES = (
    machine_exists,
    machine_is_offered,
    region_has_gpu,
    zones_have_gpu,
    run_is_limited,
    replicas_fit_tunnel,
    somebody_may_call,
    mail_domains_are_closed,
    hostname_is_in_zone,
    engine_args_are_vllms,
    gpu_computes_it,
    model_fits,
)
