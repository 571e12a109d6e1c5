"""What a cold start goes through, way by way: phases, what each waits for, how long each takes.

The seconds are those of rehearsal/figures.py, which the rehearsal lets pass; what Pulumi makes, and
in which order, is read off the program itself.
"""

import asyncio
from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

from components.models import Model, models
from rehearsal import figures
from rehearsal.google.registry import DOCKER_HUB
from scripts.critical_path import critical_path
from tests import creation
from tests.conftest import deploy

Platform = Literal["vm", "cloud-run"]
ANSWER = "first token"
CAPTURE, PULLED = "CUDA graphs are captured", "cloudflared's image"


class Size(NamedTuple):
    """A model, and what it runs on."""

    title: str
    model: str
    gpu: str

    @property
    def about(self) -> Model:
        """Its row of the catalogue."""
        return models()[self.model]

    @property
    def gb(self) -> float:
        """Weights in GB, of 10^9 bytes."""
        return self.about.weights / 1e9


SIZES = (
    Size("small", "Qwen/Qwen3-0.6B", "one L4"),
    Size("8B", "Qwen/Qwen3-8B", "one L4"),
    Size("70B", "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "one RTX PRO 6000"),
)


class Way(NamedTuple):
    """How an endpoint comes up."""

    title: str
    platform: Platform
    source: Literal["hub", "bucket", "image", "disk"]
    """Where the weights are when the engine starts; `disk` is that of a prepared image."""
    prepared: bool = False
    """The machine's disk has the images already."""
    cached: bool = False
    """It has what torch.compile made, too."""
    tutorial: bool = False
    """As the tutorials do it, one thing after the other."""
    driver: bool = False
    """The image has no driver: it is installed at boot."""
    config: tuple[tuple[str, str], ...] = ()
    """Keys of the stack that it needs beside `weights`, and their values."""
    declared: bool = True
    """`pulumi up` makes all that it needs; of others there is no figure for the first time."""

    @property
    def weights(self) -> str:
        """What `weights` is in its stack."""
        return "bucket" if self.source == "disk" else self.source


TUTORIAL = Way(
    "by hand, as the tutorials go", "vm", "hub", tutorial=True, driver=True, declared=False
)
HUB = Way("vm, `weights: hub`", "vm", "hub")
BUCKET = Way("vm, `weights: bucket`", "vm", "bucket")
IMAGE = Way("vm, `weights: image`", "vm", "image")
PREPARED = Way(
    "vm, `bootImage: prepared`",
    "vm",
    "bucket",
    prepared=True,
    config=(("bootImage", "prepared"),),
)
CACHED = PREPARED._replace(title="the same, `compileCache: bucket`", cached=True, declared=False)
DISK = Way(
    "vm, `bootImage: prepared-with-weights`",
    "vm",
    "disk",
    prepared=True,
    config=(("bootImage", "prepared-with-weights"),),
)
RUN_HUB = Way("Cloud Run, `weights: hub`", "cloud-run", "hub")
RUN_BUCKET = Way("Cloud Run, `weights: bucket`", "cloud-run", "bucket")
RUN_IMAGE = Way("Cloud Run, `weights: image`", "cloud-run", "image")
WAYS = (TUTORIAL, HUB, BUCKET, IMAGE, PREPARED, CACHED, DISK, RUN_HUB, RUN_BUCKET, RUN_IMAGE)


class Phase(NamedTuple):
    """A step of a cold start."""

    name: str
    figure: str
    """A row of rehearsal/figures.py."""
    after: tuple[str, ...]
    times: float = 1
    """The gigabytes that it moves, where its figure is for one."""

    @property
    def seconds(self) -> float:
        """Its length in life."""
        return self.times * figures.seconds(self.figure)


def again(way: Way, size: Size) -> list[Phase]:
    """From the machine's creation, or the request that wakes the service, to the first token."""
    phases = [*(_in_a_row if way.tutorial else _at_once)(way, size)]
    last = {CAPTURE, PULLED} & {it.name for it in phases}
    return [*phases, Phase(ANSWER, "first answer", tuple(sorted(last)))]


def first(way: Way, size: Size) -> tuple[dict[str, float], dict[str, set[str]]]:
    """From `pulumi up` to the first token: seconds and needs, by name, as critical_path wants."""
    made = _made(way.platform, way.weights, way.config)
    seconds, needs = dict(made[0]), dict(made[1])
    if "boot-disk" in seconds:
        # Here a command prints nothing, so that what takes it up seems to need nothing.
        needs["boot-image"] = needs["boot-image"] | {"boot-disk"}
        for figure in ("VM create", "VM boot", "pull vllm/vllm-openai"):
            seconds["boot-disk"] += figures.seconds(figure)
        if way.source == "disk":  # from the bucket, onto the disk
            seconds["boot-disk"] += size.gb * figures.seconds("weights read, 1 GB")
    if "staged" in seconds:
        seconds["staged"] += size.gb * figures.seconds("weights download, 1 GB")
    if "image" in seconds:
        base = figures.seconds("build start") + figures.seconds("pull vllm/vllm-openai")
        seconds["image"] += base + size.gb * figures.seconds("weights download, 1 GB")
    before = {"group"}
    if way.platform == "cloud-run":
        image_gb = DOCKER_HUB["vllm/vllm-openai"][0] / 1e9
        image_gb += size.gb if way.source == "image" else 0
        seconds |= {
            "import": image_gb * figures.seconds("import image, 1 GB"),
            "connector created": figures.seconds("VM create"),
            "connector boots": figures.seconds("VM boot"),
            "connector's image": figures.seconds("pull cloudflare/cloudflared"),
        }
        needs |= {
            "import": {"service"},
            "connector created": {"connector-group"},
            "connector boots": {"connector created"},
            "connector's image": {"connector boots"},
        }
        before = {"import"}
    for phase in again(way, size):
        seconds[phase.name] = phase.seconds
        needs[phase.name] = {*phase.after} or before
    if way.platform == "cloud-run":
        needs[ANSWER] |= {"connector's image"}
    return seconds, needs


def again_s(way: Way, size: Size) -> float:
    """Seconds of the longest chain of `again`."""
    return sum(phase.seconds for phase in chain(again(way, size)))


def first_s(way: Way, size: Size) -> float | None:
    """Seconds of the longest chain of `first`; None where `up` does not make it all."""
    if not way.declared:
        return None
    seconds, needs = first(way, size)
    return sum(seconds.get(name, 0.0) for name in critical_path(seconds, needs, ANSWER))


def chain(phases: list[Phase]) -> list[Phase]:
    """Those that the first token waits for longest, in order."""
    found = {it.name: it for it in phases}
    seconds = {it.name: it.seconds for it in phases}
    needs = {it.name: it.after for it in phases}
    return [found[name] for name in critical_path(seconds, needs, ANSWER)]


@cache
def _made(
    platform: Platform, weights: str, config: tuple[tuple[str, str], ...]
) -> tuple[dict[str, float], dict[str, set[str]]]:
    stack = "dev" if platform == "vm" else "cloud-run"
    asyncio.set_event_loop(asyncio.new_event_loop())  # Pulumi's SDK wants one
    keys = {"weights": weights, **dict(config)}
    deployment = deploy(stack, {f"llm-endpoint:{key}": value for key, value in keys.items()})
    return creation.seconds(deployment), creation.needs(deployment)


def _at_once(way: Way, size: Size) -> Iterator[Phase]:
    if way.platform == "vm":
        yield Phase("machine is created", "VM create", ())
        yield Phase("machine boots", "VM boot", ("machine is created",))
        ready = ("machine boots",)
        if not way.prepared:
            yield Phase(PULLED, "pull cloudflare/cloudflared", ready)
            yield Phase("engine's image", "pull vllm/vllm-openai", ready)
            ready = ("engine's image",)
            if way.source == "image":
                yield Phase("weights in the image", "pull, 1 GB", ready, size.gb)
                ready = ("weights in the image",)
    else:
        yield Phase("instance starts", "instance with GPU", ())
        ready = ("instance starts",)
    yield Phase("vLLM starts", "vLLM start", ready)
    yield from _engine(way, size)


def _engine(way: Way, size: Size) -> Iterator[Phase]:
    before = "vLLM starts"
    if way.source == "hub":
        yield Phase("weights are downloaded", "weights download, 1 GB", (before,), size.gb)
        before = "weights are downloaded"
    figure = {"bucket": "weights stream, 1 GB", "disk": "weights read, 1 GB"}.get(
        way.source, "weights load, 1 GB"
    )
    yield Phase("weights to the GPU", figure, (before,), size.gb)
    layers = size.about.layers
    anew = figures.of_layers("torch.compile", layers)
    figure = "torch.compile, cached" if way.cached else anew
    yield Phase("model is compiled", figure, ("weights to the GPU",))
    yield Phase(CAPTURE, figures.of_layers("CUDA graphs", layers), ("model is compiled",))


def _in_a_row(way: Way, size: Size) -> Iterator[Phase]:
    rows = [
        ("machine is created", "VM create", 1.0),
        ("machine boots", "VM boot", 1.0),
        *([("driver is installed", "driver install", 1.0)] if way.driver else []),
        ("engine's image", "pull vllm/vllm-openai", 1.0),
        ("vLLM starts", "vLLM start", 1.0),
        *((it.name, it.figure, it.times) for it in _engine(way, size)),
        (PULLED, "pull cloudflare/cloudflared", 1.0),
    ]
    before: tuple[str, ...] = ()
    for name, figure, times in rows:
        yield Phase(name, figure, before, times)
        before = (name,)
