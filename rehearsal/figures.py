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
    "wait for stock": Figure(60, "U: pause of a managed instance group after a failed creation"),
    # Images, through a remote repository in the region
    "pull vllm/vllm-openai": Figure(214, "llm-d PR #1902 (2026-06): Llama-3.1-8B on one L4, GKE"),
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
    "vLLM start": Figure(25, "U: imports, CUDA context, until the weights begin to come"),
    "weights download, 1 GB": Figure(5, "U: 200 MB/s from the hub through Cloud NAT"),
    "weights load, 1 GB": Figure(1, "U: 1 GB/s from a balanced disk's page cache to the GPU"),
    "weights stream, 1 GB": Figure(
        1,
        "U: 1 GB/s from a bucket in the region; Google's post on the Run:ai streamer has no figure",
    ),
    "torch.compile": Figure(45, "U: with an empty compile cache, which a new machine has"),
    "CUDA graphs": Figure(20, "U: capture, and the warm-up before it"),
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


def seconds(name: str) -> float:
    """Seconds in life of a named figure. KeyError when there is no such row."""
    return FIGURES[name].seconds
