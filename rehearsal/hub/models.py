"""Which models the hub has, and their shapes.

Those of components/models.csv, and any other whose name tells its size (`org/name-8B`); what is
said of the latter is an estimate.
"""

import re
from typing import Any

from components.models import Attention, Model, models

SIZE = re.compile(r"(?:^|[-_/])[eE]?(\d+(?:\.\d+)?)[bB](?:[-_]|$)")
PRECISIONS = {
    r"fp8": ("fp8", 1.0),
    r"awq|int4|4bit": ("awq", 0.6),
    r"": ("", 2.0),
}
"""By what the name says: quantisation method, bytes a weight; the first match counts."""

SHAPES = ((2, 28, 16), (10, 32, 32), (20, 40, 40), (40, 64, 64), (1e9, 80, 64))
"""Up to how many billions of weights: layers, attention heads (as of Qwen3 and Llama 3)."""


def model(name: str) -> Model | None:
    """The model of that name (`org/name`), or None where the hub has no such model."""
    size = SIZE.search(name)
    if name in models() or size is None:
        return models().get(name)
    billions = float(size[1])
    method, weight = next(v for k, v in PRECISIONS.items() if re.search(k, name.lower()))
    layers, heads = next(shape[1:] for shape in SHAPES if billions <= shape[0])
    return Model(
        name=name,
        weights=int(billions * weight * 1e9),
        precision={"": "bf16", "awq": "int4"}.get(method, method),
        method=method,
        cache_precision="auto",
        context=131072,
        hidden=heads * 128,
        vocabulary=151936,
        heads=heads,
        blocks=0,
        full=Attention(layers, 8, 256),
        sliding=None,
        state=None,
        images=False,
        gated=name.startswith(("meta-llama/", "google/gemma")),
    )


def config(found: Model) -> dict[str, Any]:
    """The model's config.json, as far as its shape goes."""
    kinds = {
        "full_attention": found.full,
        "sliding_attention": found.sliding,
        "linear_attention": found.state,
    }
    kept = found.sliding or found.full
    told: dict[str, Any] = {
        "layer_types": [name for name, kind in kinds.items() if kind for _ in range(kind.layers)],
        "num_hidden_layers": sum(kind.layers for kind in kinds.values() if kind),
        "hidden_size": found.hidden,
        "vocab_size": found.vocabulary,
        "num_attention_heads": found.heads,
        "max_position_embeddings": found.context,
        "torch_dtype": "bfloat16",
    }
    if kept:
        told |= {"num_key_value_heads": kept.heads, "head_dim": kept.values // 2}
    if found.sliding and found.full:
        told |= {
            "sliding_window": found.sliding.window,
            "num_global_key_value_heads": found.full.heads,
            "global_head_dim": found.full.values // 2,
        }
    if found.state:
        told |= LINEAR | {"linear_num_value_heads": (found.state.size - LINEAR_KEYS) // LINEAR_HEAD}
    if found.images:
        told["vision_config"] = {}
    if found.method:
        told["quantization_config"] = _quantisation(found)
    if found.blocks:
        told["intermediate_size"] = found.blocks * 128
    return told


def _quantisation(found: Model) -> dict[str, Any]:
    own: dict[str, dict[str, Any]] = {
        "awq": {"bits": 4, "group_size": 128},
        "fp8": {"weight_block_size": [128, 128]},
        "compressed-tensors": {
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}
        },
    }
    return {"quant_method": found.method} | own.get(found.method, {})


LINEAR = {
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "mamba_ssm_dtype": "float32",
}
"""A layer of Qwen3.5's that keeps a state: LINEAR_KEYS bytes, and LINEAR_HEAD for a value head."""
LINEAR_KEYS = 3 * 2 * 16 * 128 * 2
LINEAR_HEAD = 3 * 128 * 2 + 128 * 128 * 4
