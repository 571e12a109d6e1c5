"""How long things take in life, in seconds, each figure with its source.

`await world.take("VM create", seconds("VM create"))` lets that much cloud time pass.
"U" marks a figure that nobody published: an estimate, to be corrected at the first real run.
"""

from typing import NamedTuple


class Figure(NamedTuple):
    """Seconds in life, and who measured them."""

    seconds: float
    source: str


FIGURES: dict[str, Figure] = {
    # Google Compute Engine (the instance group)
    "VM create": Figure(20, "U: PROVISIONING and STAGING of a GPU VM when there is stock"),
    "VM boot": Figure(
        60, "U: image with the driver in place; vLLM RFC #41893 says 2-5 min with its installation"
    ),
    "VM delete": Figure(30, "U: from shutdown's end until the instance is gone"),
    "driver install": Figure(
        120, "iterative/cml#1084 (2022-07): a GPU VM whose image lacks the driver; not done here"
    ),
    "wait for stock": Figure(60, "U: pause of a managed instance group after a failed creation"),
    "image create": Figure(
        90, "U: of a disk with some 35 GB written; Google publishes no figure, minutes are usual"
    ),
    # Images, through a remote repository in the region; no figure tells registries apart
    "pull vllm/vllm-openai": Figure(
        214,
        "llm-d PR #1902 (2026-06): one L4 on GKE. 12 GB at the pace of kaito#2325 (2026-09),"
        " 5.6 GB in 101 s, would be 216",
    ),
    "pull, 1 GB": Figure(18, "kaito#2325 (2026-09): 5.6 GB in 101 s, unpacking included"),
    "pull cloudflare/cloudflared": Figure(3, "U: 25 MB"),
    "pull library/python": Figure(5, "U: 45 MB"),
    # Cloud Build
    "build start": Figure(15, "U: from builds.create until the step runs on a default machine"),
    # Cloud Run
    "Cloud Run call": Figure(2, "U: until the Admin API has taken a service or job on"),
    "import image, 1 GB": Figure(
        4, "U: once a deployment; instances then read the image as they need it, by streaming"
    ),
    "instance": Figure(2, "U: until the container's process starts, image streaming included"),
    "instance with GPU": Figure(
        5, "docs.cloud.google.com/run/docs/configuring/services/gpu: with drivers, approximately"
    ),
    "instance idle": Figure(
        900, "docs.cloud.google.com/run/docs/about-instance-autoscaling: up to 15 minutes"
    ),
    "instance with GPU idle": Figure(600, "the same page: or 10 minutes for GPUs"),
    "request waits": Figure(
        10, "the same page: up to 3.5 times the average startup time, or 10 seconds if that is more"
    ),
    "job starts": Figure(
        30, "U: from jobs:run until a task has an instance; up to 2m49s were seen (2026-09)"
    ),
    "pull ollama/ollama": Figure(45, "U: 2 GB, at the pace of vLLM's image"),
    # vLLM; together they come near the 195 s that llm-d PR #1902 has for Llama-3.1-8B on one L4
    "vLLM start": Figure(
        25,
        "U: imports, CUDA context, until the weights begin to come; kaito#2325 (2026-09) had 95 on"
        " Azure, of which a container's first reads are an unknown part",
    ),
    "weights download, 1 GB": Figure(
        5, "U: 200 MB/s from the hub through Cloud NAT; a 100 GB disk takes 176 MB/s at most"
    ),
    "weights load, 1 GB": Figure(
        1, "anyscale/ai-infra-cookbook#57 (2026-04): 1.5 GB/s at best; U: from the page cache"
    ),
    "weights read, 1 GB": Figure(
        5.7,
        "DataBiosphere/leonardo#4925 (2026-08), after Google's table: 168 MiB/s from a balanced"
        " disk of 100 GB, whose pages no one has read yet",
    ),
    "weights stream, 1 GB": Figure(
        1,
        "U: 1 GB/s from a bucket in the region; Google's post on the Run:ai streamer has no"
        " figure, marin#7136 (2026-07) had 9 with eight GPUs at another provider",
    ),
    "torch.compile": Figure(
        45, "U, for 32 to 40 layers; vLLM#44881 (2026-06) had 43 for 35B-A3B on an RTX 5090"
    ),
    "torch.compile, 80 layers": Figure(
        85, "vLLM#19824 (2025-06): a 70B model in FP8 on eight GPUs, 15 of tracing and 70"
    ),
    "torch.compile, cached": Figure(
        9.2, "vLLM PR #16848 (2025-04): an 8B model, 5.0 of tracing and 4.2 of loading"
    ),
    "CUDA graphs": Figure(
        20, "U, for 32 to 40 layers, the warm-up included; vLLM#20264 (2025-06) had 17"
    ),
    "CUDA graphs, 80 layers": Figure(60, "vLLM#19824 (2025-06): a 70B model on eight GPUs"),
    "first answer": Figure(
        1, "U: the tunnel connects; the first request may take longer (vLLM#19824 has 30 and more)"
    ),
    # Ollama, whose weights are downloaded and loaded at the same pace
    "Ollama start": Figure(5, "U: until it has found its GPUs and listens"),
    "token on the CPU": Figure(
        0.25, "U: an 8B model in 4 bits on 8 vCPUs gives 3 to 5 tokens a second"
    ),
    # What the provider plugins wait for
    "enable API": Figure(8.5, "measured: pulumi-gcp 10, even when the API answers at once"),
    "service account": Figure(11, "measured: pulumi-gcp 10, even when the API answers at once"),
    "IAM member": Figure(4.5, "measured: pulumi-gcp 10, even when the API answers at once"),
    "compute operation": Figure(
        11, "terraform-provider-google polls an operation at once, then every 10 s"
    ),
    "Google call": Figure(1, "U: one request that is done when it is answered"),
    "Cloudflare call": Figure(1, "U: one request that is done when it is answered"),
}


DEEP_LAYERS = 60
"""Layers from which on a model takes as long as one of 80, where a figure goes by them."""


def of_layers(name: str, layers: int) -> str:
    """The row of a figure that depends on how many layers a model has."""
    return f"{name}, 80 layers" if layers >= DEEP_LAYERS else name


def seconds(name: str) -> float:
    """Seconds in life of a named figure. KeyError when there is no such row."""
    return FIGURES[name].seconds
