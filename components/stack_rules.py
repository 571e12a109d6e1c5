"""What must hold between a stack's settings. A rule's parameters name the settings it compares."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping

from components import catalogue
from components.catalogue import Machine, Provisioning
from components.engine import engine as engine_named
from components.model_source import LARGEST_IMAGE_GB
from components.models import models
from components.problem import Problem, command, key, shown
from components.serving import Prepared

Problems = Iterator[Problem]

REPLICAS_PER_TUNNEL = 25
"""Connectors that one Cloudflare tunnel takes (Cloudflare One account limits)."""

SHORTEST_CONTEXT = 1024
"""Tokens; with fewer, hardly a prompt and its answer go together."""

PREPARED: Mapping[str, Prepared] = {"prepared": "images", "prepared-with-weights": "weights"}
"""What else `bootImage` may say than an image's name."""
SYSTEM_GB = 55
"""Of a boot disk: the base image with its driver some 20, vLLM's image, unpacked, some 30 (U)."""

ENGINE_GIB = 8
"""Memory that an engine takes besides the weights (U)."""

FREE_MAIL = re.compile(
    r"(126|163|aol|fastmail|gmail|googlemail|icloud|me|msn|protonmail|qq)\.com"
    r"|(gmx|hotmail|live|outlook|yahoo|yandex)\..+|mail\.ru|proton\.me|t-online\.de|web\.de"
)
"""Mail domains where anybody gets an address: allowing one publishes the endpoint.
There are more; these are the likely slips."""


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
            f"a number of {gpu} that a machine type has: {either(counts)}",
            command("gpu_count", nearest),
        )
    elif not machines(gpu, gpu_count, machine_type):
        types = [row.machine_type for row in machines(gpu, gpu_count, None)]
        yield Problem(
            key("machine_type"),
            repr(machine_type),
            f"a machine type with {gpu_count} {gpu}: {either(types)}",
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
            f"terms on which Google has {chosen.machine_type}: {either(sorted(chosen.offers))}",
            f"{command('provisioning', 'spot')}, or another GPU or count",
        )


def region_has_gpu(gpu: str, region: str) -> Problems:
    """A region must have the GPU."""
    if not zones_with_gpu(gpu, region):
        there = catalogue.regions(gpu)
        yield Problem(
            key("region"),
            repr(region),
            f"a region with {gpu}: {either(there)}",
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
                f"a zone of {region} with {gpu}: {either(there)}",
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


def model_has_the_engines_form(engine: str, model: str) -> Problems:
    """Every engine has names of its own for models."""
    chosen = engine_named(engine)
    if not re.fullmatch(chosen.MODEL, model):
        yield Problem(
            key("model"), repr(model), chosen.MODEL_FORM, command("model", chosen.MODEL_EXAMPLE)
        )


def engine_is_recent(engine: str, engine_version: str | None, platform: str, gpu: str) -> Problems:
    """What the program relies on must be in that version."""
    chosen = engine_named(engine)
    version = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", engine_version or "")
    if version and tuple(map(int, version.groups())) < chosen.OLDEST:
        oldest = ".".join(map(str, chosen.OLDEST))
        yield Problem(
            key("engine_version"),
            repr(engine_version),
            f"{engine} {oldest} or newer, or its image's digest sha256:...",
            command("engine_version", chosen.version(platform, gpu)),
        )


def instance_is_big_enough(gpu: str, cpus: int, memory_gib: int) -> Problems:
    """Cloud Run gives no GPU to a small instance."""
    least_cpus, least_gib = catalogue.gpu(gpu).cloud_run or (0, 0)
    for setting, value, least in (
        ("cpus", cpus, least_cpus),
        ("memory_gib", memory_gib, least_gib),
    ):
        if 0 < value < least:
            yield Problem(
                key(setting),
                str(value),
                f"{least} or more with {gpu} on Cloud Run, or 0 for the least",
                command(setting, least),
            )


def gpu_is_on_cloud_run(gpu: str, gpu_count: int, region: str) -> Problems:
    """Cloud Run has few GPUs, one an instance, in some regions."""
    offered = [name for name in catalogue.gpus() if catalogue.gpu(name).cloud_run]
    there = catalogue.cloud_run_regions(gpu)
    if gpu not in offered:
        yield Problem(
            key("gpu"),
            repr(gpu),
            f"a GPU that Cloud Run has: {either(offered)}",
            f"{command('gpu', offered[0])}, or {command('platform', 'vm')}",
        )
    elif region not in there:
        yield Problem(
            key("region"),
            repr(region),
            f"a region where Cloud Run has {gpu}: {either(there)}",
            command("region", next(place for place, anybody in there.items() if anybody)),
        )
    if gpu_count != 1:
        yield Problem(
            key("gpu_count"),
            str(gpu_count),
            "1 on Cloud Run, which gives an instance one GPU",
            f"{command('gpu_count', 1)}, or {command('platform', 'vm')}",
        )


GOOGLES_VARIABLES = re.compile("PORT|K_SERVICE|K_REVISION|K_CONFIGURATION|X_GOOGLE_.*")
"""What Cloud Run sets itself, and refuses to take (its container contract, and
docs.cloud.google.com/run/docs/configuring/services/overview-environment-variables)."""


def variables_are_not_googles(engine_env: tuple[str, ...]) -> Problems:
    """Cloud Run has variables of its own. Values are not shown."""
    for name in (line.partition("=")[0] for line in engine_env):
        if GOOGLES_VARIABLES.fullmatch(name):
            yield Problem(
                key("engine_env"),
                shown(name),
                "variables that Cloud Run does not set itself",
                "leave it out: a container on Cloud Run gets it from Google",
            )


def image_is_small_enough(weights: str, model: str) -> Problems:
    """A large model takes long to build into an image, and to pull. Of others the build tells."""
    known = models().get(model)
    if weights == "image" and known and known.weights > LARGEST_IMAGE_GB * 1e9:
        yield Problem(
            key("weights"),
            "'image'",
            f"bucket, or hub: an image is for models up to {LARGEST_IMAGE_GB} GB, and {model} has"
            f" {known.weights / 1e9:.1f}",
            command("weights", "bucket"),
        )


def weights_fit_instance(weights: str, model: str, gpu: str, memory_gib: int) -> Problems:
    """The files of an instance on Cloud Run lie in its memory, also those that it downloads."""
    known = models().get(model)
    if weights != "hub" or known is None:
        return
    given = memory_gib or (catalogue.gpu(gpu).cloud_run or (0, 0))[1]
    needed = math.ceil(known.weights / 2**30) + ENGINE_GIB
    if given < needed:
        yield Problem(
            key("memory_gib"),
            str(memory_gib),
            f"{needed} or more with weights 'hub': {model} is downloaded into the memory of an"
            " instance, which has no disk",
            f"{command('weights', 'bucket')}, or {command('memory_gib', needed)}",
        )


def instances_are_ordered(min_instances: int, max_instances: int) -> Problems:
    """Cloud Run keeps between the two."""
    if min_instances > max_instances:
        yield Problem(
            key("min_instances"),
            str(min_instances),
            f"at most {key('max_instances')}, which is {max_instances}",
            command("max_instances", min_instances),
        )


def either(values: Iterable[object]) -> str:
    """What a value may be, in words."""
    return ", ".join(map(str, values))


def weights_can_be_prepared(boot_image: str | None, weights: str) -> Problems:
    """They come onto the disk from the bucket, which also has them when the disk is wrong."""
    if PREPARED.get(boot_image or "") == "weights" and weights != "bucket":
        yield Problem(
            key("boot_image"),
            repr(boot_image),
            f"prepared, with weights {weights!r}: only from the bucket do they come onto the disk",
            f"{command('boot_image', 'prepared')}, or {command('weights', 'bucket')}",
        )


def prepared_weights_fit_disk(boot_image: str | None, model: str, boot_disk_gb: int) -> Problems:
    """The disk has them besides the system and the containers."""
    known = models().get(model)
    if PREPARED.get(boot_image or "") != "weights" or known is None:
        return
    needed = SYSTEM_GB + math.ceil(known.weights / 1e9)
    if boot_disk_gb < needed:
        yield Problem(
            key("boot_disk_gb"),
            str(boot_disk_gb),
            f"{needed} or more with bootImage 'prepared-with-weights': {model} has"
            f" {known.weights / 1e9:.0f} GB, system and containers some {SYSTEM_GB}",
            f"{command('boot_disk_gb', needed)}, or {command('boot_image', 'prepared')}",
        )


def engine_compiles(engine: str, compile_cache: str) -> Problems:
    """There must be something to keep."""
    if compile_cache == "bucket" and engine == "ollama":
        yield Problem(
            key("compile_cache"),
            repr(compile_cache),
            "disk with ollama, which compiles nothing",
            command("compile_cache", "disk"),
        )


def base_is_used(boot_image: str | None, prepared_from: str | None) -> Problems:
    """Nothing is made from it where no image is prepared."""
    if prepared_from and boot_image not in PREPARED:
        yield Problem(
            key("prepared_from"),
            repr(prepared_from),
            "empty, unless bootImage is prepared or prepared-with-weights",
            f"{command('boot_image', 'prepared')}, or {command('boot_image', prepared_from)} and"
            f" pulumi config rm {key('prepared_from')}",
        )


RULES = (
    model_has_the_engines_form,
    engine_is_recent,
    somebody_may_call,
    mail_domains_are_closed,
    hostname_is_in_zone,
    image_is_small_enough,
)
PLATFORM_RULES = {
    "vm": (
        machine_exists,
        machine_is_offered,
        region_has_gpu,
        zones_have_gpu,
        run_is_limited,
        replicas_fit_tunnel,
        weights_can_be_prepared,
        prepared_weights_fit_disk,
        base_is_used,
        engine_compiles,
    ),
    "cloud-run": (
        gpu_is_on_cloud_run,
        instance_is_big_enough,
        weights_fit_instance,
        instances_are_ordered,
        variables_are_not_googles,
    ),
}
"""What holds on one platform only; the keys of the other are left alone there."""
