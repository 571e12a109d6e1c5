"""Whether a model fits a GPU, and how much context it leaves room for, as vLLM 0.33 reckons it.

Weights, what requests keep (kv_cache.py) and what the engine needs to compute with, against the
share of the GPU that vLLM takes. The first two follow from the model's shape. The third vLLM
measures when it starts: here it is a figure on the safe side (`reserve`), and one below which it
has not been seen (`least`). docs/fit.md holds both against vLLM's own words.
"""

from dataclasses import dataclass
from math import gcd

from components.catalogue import Gpu
from components.kv_cache import KvCache
from components.memory_flags import CACHE_BYTES, DEFAULT, Engine
from components.models import Model

GIB = 2**30
UTILIZATION = 0.92

LOGITS_BYTES, LEAST_LOGITS_BYTES = 38.4, 16.0
"""A sequence and a word of the vocabulary, while the sampler works: 9.6 copies in 32 bits with vLLM
0.11 and 0.31; 4.4 at the least, with 0.14 and 0.19."""
FORWARD_COPIES = 8
"""Vectors of a token that a layer computes with at a time, measured with a mixture of experts."""
GRAPHS_GIB, LEAST_GRAPHS_GIB = 0.5, 0.2
"""CUDA graphs, unless the engine is eager: 0.23 to 0.8 GiB in vLLM's logs."""
CONTEXT_GIB, LEAST_CONTEXT_GIB = 0.3, 0.1
"""CUDA's own, besides what PyTorch knows of: 0.13 to 0.33 GiB in vLLM's logs."""
PARALLEL_GIB, LEAST_PARALLEL_GIB = 1.4, 0.3
"""More, where GPUs talk to one another (NCCL): 0.4 to 1.6 GiB."""

LOADED = {"mxfp4": 1.065, "fp32": 0.5}
"""Weights in memory for those stored, by precision: MXFP4 is padded (gpt-oss-120b: 64.4 GiB for
60.8), 32 bits are halved."""
LEAST_WEIGHTS = 0.98
"""Of that, what they take at the least: gpt-oss-20b has been seen at 13.47 GiB instead of 13.65."""

COMPUTE = {
    ("mxfp4", "mxfp4"): (8, 0),
    ("modelopt", "fp8"): (8, 0),
    ("fbgemm_fp8", "fp8"): (8, 0),
}
"""Compute capability that vLLM 0.33 asks of weights, by method and precision; others run on all."""

BFLOAT16_ONLY = ("gemma-2", "gemma-3", "gemma-4")
"""Families that float16 makes unstable; without bfloat16 vLLM wants 32 bits of them."""


@dataclass(frozen=True)
class Fit:
    """How a model sits in each GPU of a machine. Sizes are of one GPU, in GiB."""

    fits: bool
    """The length that was asked for fits, with the reserve on the safe side."""
    hopeless: bool
    """It does not even with the least reserve: vLLM would refuse, after loading it."""
    reasons: tuple[str, ...]
    """Why it does not fit; empty where it does."""
    budget_gib: float
    """What vLLM may take."""
    weights_gib: float
    reserve_gib: float
    cache_gib: float
    """What is left for requests; below 0 where not even the weights fit."""
    bytes_per_token: float
    """What another token of one request takes."""
    request_gib: float
    """What a request of the asked length keeps."""
    context: int
    """Tokens of the longest request that fits, at most what the model was made for."""
    requests: float
    """Requests of the asked length that fit at the same time, as vLLM's `Maximum concurrency`."""


def fit(
    model: Model,
    gpu: Gpu,
    count: int,
    max_model_len: int,
    *,
    utilization: float = UTILIZATION,
    engine: Engine = DEFAULT,
) -> Fit:
    """Reckon a model on `count` GPUs of a kind, its weights split over them.

    `utilization` is --gpu-memory-utilization, by default vLLM's own.
    """
    batch, sequences = _batch(gpu, engine)
    budget = gpu.usable_gib * utilization
    weights = model.weights / GIB / count * LOADED.get(model.precision, 1.0)
    logits = sequences * model.vocabulary
    token = model.hidden * 2
    reserve = (
        CONTEXT_GIB
        + (PARALLEL_GIB if count > 1 else 0)
        + (0 if engine.eager else GRAPHS_GIB)
        + max(LOGITS_BYTES * logits + batch * token, FORWARD_COPIES * batch * token) / GIB
    )
    cache = budget - weights - reserve
    dtype = model.cache_precision if engine.cache_dtype == "auto" else engine.cache_dtype
    kept = KvCache(model, count, CACHE_BYTES[dtype], batch)
    unsuited = [*_unsuited(model, gpu), *_indivisible(model, count)]
    context = 0 if unsuited else kept.longest(cache * GIB, model.context)
    if max_model_len > model.context:
        unsuited.append(f"the model was made for {model.context} tokens")

    least = (
        LEAST_CONTEXT_GIB
        + (LEAST_PARALLEL_GIB if count > 1 else 0)
        + (0 if engine.eager else LEAST_GRAPHS_GIB)
        + LEAST_LOGITS_BYTES * logits / GIB
    )
    most = budget - weights * LEAST_WEIGHTS - least

    request = kept.request(max_model_len) / GIB
    short = (
        f"of {budget:.1f} GiB a GPU the weights take {weights:.1f} and computing {reserve:.1f};"
        f" a request of {max_model_len} tokens needs {request:.1f}"
    )
    reasons = unsuited or ([short] if max_model_len > context else [])
    return Fit(
        fits=not reasons,
        hopeless=bool(unsuited) or kept.request(max_model_len, prefix_caching=False) > most * GIB,
        reasons=tuple(reasons),
        budget_gib=budget,
        weights_gib=weights,
        reserve_gib=reserve,
        cache_gib=cache,
        bytes_per_token=kept.bytes_per_token,
        request_gib=request,
        context=context,
        requests=0.0 if unsuited else kept.concurrency(cache * GIB, max_model_len),
    )


def _batch(gpu: Gpu, engine: Engine) -> tuple[int, int]:
    """Tokens of a batch and sequences at a time: vLLM's defaults for the GPU, or as it is told."""
    if gpu.usable_gib >= 160:
        batch, sequences = 16384, 1024
    elif gpu.usable_gib >= 70 and "A100" not in gpu.product:
        batch, sequences = 8192, 1024
    else:
        batch, sequences = 2048, 256
    return engine.max_num_batched_tokens or batch, engine.max_num_seqs or sequences


def _unsuited(model: Model, gpu: Gpu) -> list[str]:
    reasons: list[str] = []
    if gpu.compute_capability < COMPUTE.get((model.method, model.precision), (0, 0)):
        reasons.append(f"{gpu.name} does not compute {model.precision} weights of {model.method}'s")
    family = model.name.lower().rpartition("/")[2]
    if gpu.compute_capability < (8, 0) and family.startswith(BFLOAT16_ONLY):
        reasons.append(f"{gpu.name} has no bfloat16, and float16 makes the model unstable")
    return reasons


def _indivisible(model: Model, count: int) -> list[str]:
    """What cannot be split over so many GPUs."""
    whole = {"attention heads": model.heads}
    if model.blocks:
        whole["blocks of quantised weights"] = model.blocks
    reasons = [f"its {n} {what} cannot be split" for what, n in whole.items() if n % count]
    for kind in (model.full, model.sliding):
        # Several GPUs may share a KV head, as long as every head has as many.
        if kind and gcd(kind.heads, count) < min(kind.heads, count):
            reasons.append(f"its {kind.heads} KV heads cannot be split")
    return [f"{reason} over {count} GPUs" for reason in dict.fromkeys(reasons)]
