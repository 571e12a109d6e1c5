"""What the platforms are told: both the same engine, weights and surroundings; each its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

import pulumi

from components.engine import Containers, EngineContainer
from components.hardware import Hardware
from components.place import Place

if TYPE_CHECKING:  # scripts that read the settings shall not load the providers' SDKs
    from components.image_registry import ImageRegistry
    from components.machine_identity import MachineIdentity
    from components.model_weights import ModelWeights
    from components.network import PrivateNetwork
    from components.tunnel import Tunnel

Rollout = Literal["replace", "surge", "manual"]
CompileCache = Literal["disk", "bucket"]
Prepared = Literal["nothing", "images", "weights"]
"""What is on a disk before a machine boots from it; weights are there besides the images."""


class SurroundingsArgs(TypedDict):
    """What is there before anything serves: of the stack, the same on both platforms."""

    place: Place
    network: "PrivateNetwork"
    identity: "MachineIdentity"
    images: "ImageRegistry"
    tunnel: "Tunnel"
    weights: "ModelWeights"


class EngineArgs(TypedDict):
    """What serves, and its end of the tunnel."""

    engine: Containers
    port: int
    health_path: str
    """Where the engine says whether it can answer."""
    load_time_s: int
    """Seconds that it gets to load the model before it counts as broken."""
    cloudflared: str
    """The image of what opens the tunnel, pinned, as Docker Hub names it."""


class ServingArgs(SurroundingsArgs, EngineArgs):
    """Of both platforms."""


def container(args: ServingArgs, revision: pulumi.Input[str]) -> pulumi.Output[EngineContainer]:
    """The engine's container in a machine or instance of that revision."""
    known = pulumi.Output.all(args["images"].url, args["weights"].location, revision)
    return known.apply(lambda it: args["engine"](*it))


class MachinesArgs(TypedDict):
    """Of the platform `vm` alone."""

    hardware: Hardware
    prepared: Prepared
    compile_cache: CompileCache
    zones: Sequence[str]
    """Where the group may look for a GPU."""
    replicas: int
    rollout: Rollout
    downtime: str
    """How long it takes until new machines answer where old ones go first, in words."""


class ServiceArgs(TypedDict):
    """Of the platform `cloud-run` alone."""

    gpu: str
    """`nvidia-l4` or `nvidia-rtx-pro-6000`; an instance has one."""
    cpus: int
    memory_gib: int
    min_instances: int
    max_instances: int
    zonal_redundancy: bool
    start_limit_s: int
    """Seconds from an instance's start until its engine must answer, or it counts as broken."""
    protect: bool
