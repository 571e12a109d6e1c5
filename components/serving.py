"""What the platforms are told: both the same engine, weights and surroundings; each its own."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import pulumi

from components.engine import Containers
from components.hardware import Hardware
from components.ordering import Ready
from components.place import Place

Rollout = Literal["replace", "surge", "manual"]
CompileCache = Literal["disk", "bucket"]
Prepared = Literal["nothing", "images", "weights"]
"""What is on a disk before a machine boots from it; weights are there besides the images."""


class ServingArgs(TypedDict):
    place: Place
    network: pulumi.Input[str]
    subnetwork: pulumi.Input[str]
    way_out: Ready
    """Machines there reach the internet."""
    service_account: pulumi.Input[str]
    machine: pulumi.Input[str]
    """The same as an IAM member."""
    registry: pulumi.Input[str]
    """What to write before the name of an image of Docker Hub's."""
    cloudflared_image: pulumi.Input[str]
    """In full, pinned."""
    engine: Containers
    port: int
    health_path: str
    """Where the engine says whether it can answer."""
    weights_location: pulumi.Input[str]
    """Where they are, or will be; see components/engine.py."""
    staged: Ready
    """They are there."""
    tunnel_token: pulumi.Input[str]
    """Full name of the secret's version."""
    hugging_face_token: pulumi.Input[str] | None
    """The same, where there is one."""
    load_time_s: int
    """Seconds that an engine gets to load the model before it counts as broken."""


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
