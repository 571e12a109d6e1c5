"""How long an endpoint is away while its machines are replaced, as far as that can be reckoned."""

import math

MACHINE_S = 110
"""From an empty machine's end to the boot of the next: deletion 30, creation 20, boot 60 (U)."""
IMAGE_S_A_GIB = 18
"""To pull an image through the region's registry and unpack it: 214 s for vLLM's 12 GiB (llm-d PR
#1902)."""
WEIGHTS_S_A_GB = {"bucket": 2, "image": IMAGE_S_A_GIB, "hub": 6}
"""To get weights onto the machine and into the GPU, by where they come from (U)."""


def downtime(
    drain_s: int, image_gib: float, start_s: float, weights: str, weights_bytes: int | None
) -> str:
    """In words, from the moment that the old machine is told to stop until the new one answers.

    `drain_s` is what requests in flight get, `start_s` what the engine takes besides the weights.
    Where nobody knows how large the model is, it is the least; and a GPU is to be had at once.
    """
    known_s = drain_s + MACHINE_S + IMAGE_S_A_GIB * image_gib + start_s
    if weights_bytes is None:
        return f"{math.ceil(known_s / 60)} minutes or more"
    return (
        f"about {math.ceil((known_s + WEIGHTS_S_A_GB[weights] * weights_bytes / 1e9) / 60)} minutes"
    )
