"""The Hugging Face hub's site: which models exist, who may read them, how big they are.

Answers what a download of a model begins with: `GET /MODEL/resolve/REVISION/FILE` for config.json
and, where there are several files of weights, their index; and `GET /api/models/MODEL`. It has the
models of components/models.csv, and any other whose name tells its size (`org/name-8B`); what it
says of the latter is an estimate. The weights are left out.
"""

import re
from typing import Any

from aiohttp import web

from components.models import Attention, Model, models
from rehearsal.world import World

HOST = "huggingface.co"
PATH = re.compile(
    r"/(?:api/models/)?([\w.-]+/[\w.-]+?)"
    r"(?:/resolve/[^/]+/(config\.json|model\.safetensors\.index\.json))?"
)
SIZE = re.compile(r"(?:^|[-_/])[eE]?(\d+(?:\.\d+)?)[bB](?:[-_]|$)")
ONE_FILE = 5 * 10**9
"""Bytes up to which weights lie in one file, without an index."""

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


class Hub:
    """The site; accepts the tokens of the world's account holder, who may read gated models."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """One request. Status, body and X-Error-Code as the hub's own."""
        path = PATH.fullmatch(request.path)
        if path is None:
            return _error(404, "EntryNotFound", "Entry not found")
        found = model(path[1])
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        known = token in self._world.accounts.hugging_face_tokens
        if scheme and not known:
            return _error(401, "", "Invalid credentials in Authorization header")
        if found is None:
            # Strangers are not told whether a repository is private or missing.
            status, words = (
                (404, "Repository not found") if known else (401, "Invalid username or password.")
            )
            return _error(status, "RepoNotFound", words)
        if found.gated and not known:
            return _error(
                401,
                "GatedRepo",
                f"Access to model {found.name} is restricted. You must have access to it and be"
                " authenticated to access it. Please log in.",
            )
        match path[2]:
            case None:
                return web.json_response(_information(found))
            case "config.json":
                return web.json_response(_config(found))
            case _ if found.weights > ONE_FILE:
                return web.json_response({"metadata": {"total_size": found.weights}})
            case _:
                return _error(404, "EntryNotFound", "Entry not found")


def _config(found: Model) -> dict[str, Any]:
    kinds = {
        "full_attention": found.full,
        "sliding_attention": found.sliding,
        "linear_attention": found.state,
    }
    kept = found.sliding or found.full
    config: dict[str, Any] = {
        "layer_types": [name for name, kind in kinds.items() if kind for _ in range(kind.layers)],
        "num_hidden_layers": sum(kind.layers for kind in kinds.values() if kind),
        "hidden_size": found.hidden,
        "vocab_size": found.vocabulary,
        "num_attention_heads": found.heads,
        "max_position_embeddings": found.context,
        "torch_dtype": "bfloat16",
    }
    if kept:
        config |= {"num_key_value_heads": kept.heads, "head_dim": kept.values // 2}
    if found.sliding and found.full:
        config |= {
            "sliding_window": found.sliding.window,
            "num_global_key_value_heads": found.full.heads,
            "global_head_dim": found.full.values // 2,
        }
    if found.state:
        config |= LINEAR | {
            "linear_num_value_heads": (found.state.size - LINEAR_KEYS) // LINEAR_HEAD
        }
    if found.images:
        config["vision_config"] = {}
    if found.method:
        config["quantization_config"] = _quantisation(found)
    if found.blocks:
        config["intermediate_size"] = found.blocks * 128
    return config


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


def _information(found: Model) -> dict[str, Any]:
    return {
        "id": found.name,
        "gated": "manual" if found.gated else False,
        "usedStorage": found.weights,
        "siblings": [
            {"rfilename": "config.json", "size": 1000},
            {"rfilename": "model.safetensors", "size": found.weights},
        ],
    }


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": message}, status=status, headers=headers)
