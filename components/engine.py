"""What an inference engine is to the rest of the program: a container, and what surrounds it."""

import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast

from components import engines
from components.problem import Problem

if TYPE_CHECKING:
    from components.settings import Settings


@dataclass(frozen=True)
class EngineContainer:
    """A container that serves the OpenAI API. Nothing in it is secret."""

    image: str
    """Full reference, pinned: `REGISTRY/vllm/vllm-openai:v0.33.0` or `...@sha256:...`."""
    args: tuple[str, ...]
    """What follows the image's entry point, or the script."""
    env: dict[str, str]
    port: int
    health_path: str
    shutdown_timeout_s: int
    """Seconds that requests in flight get after SIGTERM; the container needs some more."""
    concurrency: int
    """Requests that it answers at the same time; more wait."""
    script: str = ""
    """A script for bash, to run in the image in place of its entry point."""
    weights_bucket: str = ""
    """The bucket whose content it wants as files at WEIGHTS, to read; empty if none."""
    compile_cache: str = ""
    """The folder, below /root/.cache, of what it compiles for itself at its first start; empty if
    it compiles nothing. It may refuse to start over one that is damaged."""
    phases: tuple[tuple[str, str], ...] = ()
    """What it goes through before it can answer, in order: a phase's name, and a regular expression
    (bash's and Python's) of the line in its log with which it begins. Before the first one it is
    `engine-init`, and the last one may be `engine-ready`: all is done but the answer."""


WEIGHTS = "/weights"
"""Where a container finds staged weights, if it wants them as files."""
TOKEN_FILE = "/run/secrets/hugging-face-token"  # noqa: S105 (a path; what lies there is the secret)
"""Where a container finds the Hugging Face token, when there is one."""


class Probe(NamedTuple):
    """How to ask whether the machines of a revision answer."""

    model: str
    """The model to name in the request."""
    fingerprint: str
    """The answer's `system_fingerprint`; empty where any will do."""
    any_machine: bool = False
    """Whether the answer of a machine that still has another configuration will do."""


class Engine(Protocol):
    """One module of components/engines. To add an engine is to add a module."""

    OLDEST: tuple[int, int, int]
    """The oldest version that has all that is used here."""
    SOURCE: Literal["hub", "ollama"]
    """Whose names its models have, and whose layout of files it wants."""
    IMAGE_GIB: float
    """What its image takes in a registry, compressed."""
    START_S: float
    """Seconds from its container's start until it answers, but for the weights."""
    PORT: int
    HEALTH_PATH: str
    """200 when a machine, of whatever revision, can answer."""
    PUBLIC_PATHS: Sequence[str]
    """Regular expressions (Go's) of the paths that clients may reach; all others are closed."""
    MODEL: str
    """Regular expression of a model's name."""
    MODEL_FORM: str
    """The same in words."""
    MODEL_EXAMPLE: str
    RULES: Sequence[Callable[..., Iterator[Problem]]]
    """What must hold between a stack's settings, as in components/stack_rules.py."""

    def version(self, platform: str, gpu: str) -> str:
        """What a stack gets that leaves `engineVersion` open."""
        ...

    def base_image(self, settings: "Settings") -> str:
        """The engine's own image, pinned, as Docker Hub names it."""
        ...

    def container(
        self, settings: "Settings", image: str, bucket: str, revision: str, *, token: bool
    ) -> EngineContainer:
        """The container of a stack.

        `image` is its own, or the one with the weights in it. `bucket` is the name of the one
        where they are; empty if they are in none. `revision` names the configuration of what
        runs the container. `token` says whether a Hugging Face token lies in TOKEN_FILE.
        """
        ...

    def probe(self, settings: "Settings", revision: str) -> Probe:
        """What tells this revision from others; without a revision, any answer will do."""
        ...


Containers = Callable[[str, str, str], EngineContainer]
"""An engine's container of registry, weights and revision: all that is known late.

The registry is what to write before an image of Docker Hub's. The weights are where they are: a
bucket (`gs://NAME`), an image that has them in it, or nothing for the hub."""


@cache
def names() -> tuple[str, ...]:
    """Every engine there is."""
    return tuple(module.name for module in pkgutil.iter_modules(engines.__path__))


def engine(name: str) -> Engine:
    """The engine of that name, one of `names()`."""
    return cast("Engine", import_module(f"components.engines.{name}"))


def containers(settings: "Settings", *, token: bool) -> Containers:
    """The containers of a stack; `token` says whether they get the Hugging Face token."""
    chosen = engine(settings.engine)

    def container(registry: str, weights: str, revision: str) -> EngineContainer:
        own = f"{registry}/{chosen.base_image(settings)}"
        image = weights if settings.weights == "image" else own
        bucket = weights.removeprefix("gs://") if settings.weights == "bucket" else ""
        return chosen.container(settings, image, bucket, revision, token=token)

    return container


def pinned_image(name: str, version: str, prefix: str = "") -> str:
    """An image at a version (`0.33.0`, which may have a prefix in its tag) or digest."""
    return f"{name}@{version}" if version.startswith("sha256:") else f"{name}:{prefix}{version}"
