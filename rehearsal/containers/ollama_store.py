"""Ollama's models on a disk, laid out as Ollama does it.

manifests/HOST/NAMESPACE/MODEL/TAG    which blobs a name stands for (JSON)
blobs/sha256-HEX                      weights, template, parameters, licence, configuration
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

REGISTRY, LIBRARY, LATEST = "registry.ollama.ai", "library", "latest"
WEIGHTS = "application/vnd.ollama.image.model"

BITS_PER_WEIGHT = {"F32": 32, "F16": 16, "BF16": 16, "Q8": 8.5, "Q6": 6.6, "Q5": 5.7, "Q4": 4.85}
"""Of llama.cpp's formats, by their beginning; others are taken for 4-bit ones."""


class Name(NamedTuple):
    """A model's full name (types/model/name.go)."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The name with what it leaves open filled in; None when it is no name."""
        rest, colon, tag = text.rpartition(":")
        if not colon or "/" in tag:
            rest, tag = text, LATEST
        parts = rest.rsplit("/", 2)
        host, namespace, model = [*(REGISTRY, LIBRARY)[: 3 - len(parts)], *parts]
        name = cls(host, namespace, model, tag)
        forms = (r"\w[\w.:-]{0,349}", r"\w[\w-]{0,79}", r"\w[\w.-]{0,79}", r"\w[\w.-]{0,79}")
        valid = (re.fullmatch(form, part, re.ASCII) for form, part in zip(forms, name, strict=True))
        return name if all(valid) else None

    @property
    def short(self) -> str:
        """As Ollama shows it: without the parts that go without saying."""
        here = self.model + ":" + self.tag
        if self.host != REGISTRY:
            return f"{self.host}/{self.namespace}/{here}"
        return here if self.namespace == LIBRARY else f"{self.namespace}/{here}"

    @property
    def url(self) -> str:
        """Where its registry has it."""
        return f"https://{self.host}/v2/{self.namespace}/{self.model}"


@dataclass(frozen=True)
class Model:
    """A model in the store."""

    name: Name
    raw: bytes
    """Its manifest."""
    modified: float

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        """Its blobs, the configuration last."""
        manifest = json.loads(self.raw)
        return [*manifest["layers"], manifest["config"]]

    @property
    def digest(self) -> str:
        """Of the manifest; Ollama shows it as the model's id."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def weights(self) -> str:
        """Digest of the weights: names with the same ones are the same model in memory."""
        return next(it["digest"] for it in self.layers if it["mediaType"] == WEIGHTS)


class Store:
    """A folder of models."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("manifests", "blobs"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def models(self) -> Iterator[Model]:
        """All of them."""
        for path in sorted((self.root / "manifests").glob("*/*/*/*")):
            host, namespace, model, tag = path.relative_to(self.root / "manifests").parts
            yield Model(Name(host, namespace, model, tag), path.read_bytes(), path.stat().st_mtime)

    def find(self, text: str) -> Model | None:
        """The model of that name, upper or lower case, if it is there."""
        name = Name.parse(text)
        wanted = [part.lower() for part in name or ()]
        return next((it for it in self.models() if [p.lower() for p in it.name] == wanted), None)

    def write(self, name: Name, raw: bytes) -> None:
        """Let a name stand for a manifest."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)

    def delete(self, model: Model) -> None:
        """Forget a name, and the blobs that no other name needs."""
        self._path(model.name).unlink()
        needed = {layer["digest"] for other in self.models() for layer in other.layers}
        for layer in model.layers:
            if layer["digest"] not in needed:
                self.blob(layer["digest"]).unlink(missing_ok=True)

    def blob(self, digest: str) -> Path:
        """Where a blob is, or would be."""
        return self.root / "blobs" / digest.replace(":", "-")

    def config(self, model: Model) -> dict[str, Any]:
        """What the model says of itself: `model_family`, `model_type` ("8.2B"), `file_type`."""
        return json.loads(self.blob(model.layers[-1]["digest"]).read_text())

    def _path(self, name: Name) -> Path:
        return self.root.joinpath("manifests", *name)


def gigabytes(config: dict[str, Any]) -> float:
    """What a model's weights take in life, by its configuration."""
    count, unit = float(config["model_type"][:-1]), config["model_type"][-1]
    billions = count * {"B": 1, "M": 1e-3, "K": 1e-6, "T": 1e3}[unit]
    bits = next((v for k, v in BITS_PER_WEIGHT.items() if config["file_type"].startswith(k)), 4.85)
    return billions * bits / 8
