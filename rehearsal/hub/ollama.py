"""registry.ollama.ai and hf.co: models in Ollama's form, by its registry's protocol."""

import hashlib
import json
import re
from functools import cache
from typing import Any, NamedTuple

from aiohttp import web

from rehearsal.hub.cdn import HUB_CDN, OLLAMA_CDN, Blob, Cdn
from rehearsal.hub.models import SIZE, model

HOSTS = ("registry.ollama.ai", "hf.co")
LATEST = {
    "deepseek-r1": "8b",
    "gemma3": "4b",
    "gpt-oss": "20b",
    "llama3.1": "8b",
    "llama3.2": "3b",
    "mistral": "7b",
    "phi4": "14b",
    "qwen3": "8b",
}
"""U: what `latest` stands for. Any other model has the tags that tell its size (`name:8b`)."""
BITS = {"Q8_0": 8.5, "Q4_K_M": 4.85, "F16": 16.0, "MXFP4": 4.25}
"""Of a weight, by the name of the format; models are in Q4_K_M unless they say otherwise."""
WEIGHTS = 320 * 1024
"""Bytes of a model's weights here."""
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.ollama.image."

_PATH = re.compile(r"/v2/([\w-]+)/([\w.-]+)/(manifests|blobs)/([\w.:-]+)")
_TAG = re.compile(r"(\d+(?:\.\d+)?)([bm])(?:-.*)?", re.IGNORECASE)


class Model(NamedTuple):
    """A model as the registry has it."""

    manifest: bytes
    blobs: dict[str, Blob]
    """By digest (`sha256:...`)."""


class OllamaRegistry:
    """The site of both hosts. They have open models only: Ollama knows no accounts of the hub's."""

    def __init__(self, cdn: Cdn) -> None:
        self._cdn = cdn
        self._blobs: dict[str, Blob] = {}

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """A manifest, or where a blob is."""
        path = _PATH.fullmatch(request.path)
        host = request.host.partition(":")[0]
        if path and path[3] == "manifests" and (found := find(host, path[1], path[2], path[4])):
            self._blobs |= found.blobs
            return web.Response(body=found.manifest, content_type=MANIFEST)
        if path and path[3] == "blobs" and path[4] in self._blobs:
            cdn = OLLAMA_CDN if host == HOSTS[0] else HUB_CDN
            location = self._cdn.link(cdn, self._blobs[path[4]])
            return web.Response(status=307, headers={"Location": location})
        errors = [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]
        return web.json_response({"errors": errors}, status=404)


@cache
def find(host: str, namespace: str, name: str, tag: str) -> Model | None:
    """The model of that name, or None where a registry has none."""
    kind = "Q4_K_M"
    if host == HOSTS[0]:
        size = _TAG.fullmatch(LATEST.get(name, tag) if tag == "latest" else tag)
        if size is None or namespace != "library":
            return None
        billions = float(size[1]) / (1000 if size[2].lower() == "m" else 1)
        suffix = tag.rpartition("-")[2].upper()
        kind = "MXFP4" if name == "gpt-oss" else suffix if suffix in BITS else kind
    else:
        size, found = SIZE.search(name), model(f"{namespace}/{name.removesuffix('-GGUF')}")
        if size is None or found is None or found.gated or tag not in ("latest", *BITS):
            return None
        billions, kind = float(size[1]), kind if tag == "latest" else tag
    return _model(f"{namespace}/{name}:{tag}", name, billions, kind)


def _model(full: str, family: str, billions: float, kind: str) -> Model:
    family = re.split(r"[.:-]", family)[0].lower()
    about = {
        "model_format": "gguf",
        "model_family": family,
        "model_families": [family],
        "model_type": f"{billions:g}B",
        "file_type": kind,
        "architecture": "amd64",
        "os": "linux",
    }
    weights = b"GGUF" + hashlib.shake_128(full.encode()).digest(WEIGHTS)
    contents: list[tuple[str, bytes, int]] = [
        (f"{LAYER}model", weights, int(billions * BITS[kind] / 8 * 1e9)),
        (f"{LAYER}template", b"{{ .Prompt }}", 0),
        (f"{LAYER}license", b"A licence.\n", 0),
        (f"{LAYER}params", json.dumps({"temperature": 0.6}).encode(), 0),
        (CONFIG, json.dumps(about).encode(), 0),
    ]
    blobs = {f"sha256:{it.sha256}": it for it in (Blob(raw, size) for _, raw, size in contents)}
    layers: list[dict[str, Any]] = [
        {"mediaType": media, "digest": digest, "size": len(blob.content)}
        for (media, _, _), (digest, blob) in zip(contents, blobs.items(), strict=True)
    ]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": layers.pop(), "layers": layers}
    return Model(json.dumps(manifest).encode(), blobs)
