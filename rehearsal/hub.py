"""The Hugging Face hub's site: which models exist, who may read them, how big they are.

Answers what a download of a model begins with: `GET /MODEL/resolve/REVISION/config.json` and
`GET /api/models/MODEL`. It knows the models of models.csv, and any other whose name tells its
size (`org/name-8B`); what it says of the latter is an estimate. The weights are left out.
"""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp import web

from rehearsal.world import World

HOST = "huggingface.co"
PATH = re.compile(r"/(?:api/models/)?([\w.-]+/[\w.-]+?)(?:/resolve/([^/]+)/config\.json)?")
SIZE = re.compile(r"(?:^|[-_/])[eE]?(\d+(?:\.\d+)?)[bB](?:[-_]|$)")

BYTES_PER_WEIGHT = {
    r"fp8|int8|w8a8": 1.0,
    r"awq|gptq|int4|w4a16|nvfp4|mxfp4|4bit": 0.6,
    r"": 2.0,
}
"""By what the name says of the weights' precision; the first match counts."""

SHAPES = ((2, 28, 16), (10, 32, 32), (20, 40, 40), (40, 64, 64), (1e9, 80, 64))
"""Up to how many billions of weights: layers, attention heads (as of Qwen3 and Llama 3)."""


@dataclass(frozen=True)
class Model:
    """What decides whether a model fits a GPU."""

    billions: float
    bytes_per_weight: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    gated: bool


@cache
def _known() -> dict[str, Model]:
    with Path(__file__).with_name("models.csv").open() as file:
        return {
            row["model"]: Model(
                float(row["billions"]),
                float(row["bytes_per_weight"]),
                *(int(row[key]) for key in ("layers", "heads", "kv_heads", "head_dim", "context")),
                gated=row["gated"] == "yes",
            )
            for row in csv.DictReader(file)
        }


def model(name: str) -> Model | None:
    """The model of that name (`org/name`), or None where the hub has no such model."""
    size = SIZE.search(name)
    if name in _known() or size is None:
        return _known().get(name)
    billions = float(size[1])
    precision = next(v for k, v in BYTES_PER_WEIGHT.items() if re.search(k, name.lower()))
    layers, heads = next(shape[1:] for shape in SHAPES if billions <= shape[0])
    gated = name.startswith(("meta-llama/", "google/gemma"))
    return Model(billions, precision, layers, heads, 8, 128, 131072, gated)


class Hub:
    """The site; accepts the tokens of the world's account holder, who may read gated models."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """One request. Status, body and X-Error-Code as the hub's own."""
        path = PATH.fullmatch(request.path)
        if path is None:
            return _error(404, "EntryNotFound", "Entry not found")
        name, found = path[1], model(path[1])
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
                f"Access to model {name} is restricted. You must have access to it and be"
                " authenticated to access it. Please log in.",
            )
        return web.json_response(_config(found) if path[2] else _information(name, found))


def _config(found: Model) -> dict[str, Any]:
    return {
        "num_hidden_layers": found.layers,
        "num_attention_heads": found.heads,
        "num_key_value_heads": found.kv_heads,
        "head_dim": found.head_dim,
        "max_position_embeddings": found.context,
        "torch_dtype": "bfloat16",
    }


def _information(name: str, found: Model) -> dict[str, Any]:
    return {
        "id": name,
        "gated": "manual" if found.gated else False,
        "usedStorage": int(found.billions * found.bytes_per_weight * 1e9),
    }


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": message}, status=status, headers=headers)
