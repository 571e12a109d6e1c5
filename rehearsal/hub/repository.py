"""The files of a model's repository: what an engine needs, and what else lies beside it.

All are real, and few bytes: weights of any size are a third of a megabyte a file.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rehearsal.hub.cdn import Blob

SHARD = 5 * 10**9
"""Real bytes of weights in one file, as the hub's libraries cut them."""
WEIGHTS = 320 * 1024
"""Bytes of such a file here."""
LARGE = (".safetensors", ".bin", ".pth", ".gguf", "tokenizer.json")
"""Files that are kept outside of git (LFS), by the end of their name."""


@dataclass(frozen=True)
class File:
    """A file in a repository."""

    path: str
    blob: Blob

    @property
    def large(self) -> bool:
        """Whether git has a pointer in its place."""
        return self.path.endswith(LARGE)

    @cached_property
    def oid(self) -> str:
        """Git's name of it, or of its pointer."""
        content = self.pointer if self.large else self.blob.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 as git

    @property
    def pointer(self) -> bytes:
        """What git has instead of a large file."""
        size = len(self.blob.content)
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.blob.sha256}\n"
        return f"{text}size {size}\n".encode()

    def entry(self) -> dict[str, Any]:
        """How /tree lists it."""
        size = len(self.blob.content)
        entry: dict[str, Any] = {"type": "file", "oid": self.oid, "size": size, "path": self.path}
        if self.large:
            pointer = {"oid": self.blob.sha256, "size": size, "pointerSize": len(self.pointer)}
            entry["lfs"] = pointer
        return entry


class Repository:
    """A model's files at one commit. `weights` is their size in life, in bytes."""

    def __init__(self, name: str, config: dict[str, Any], weights: int, commit: str) -> None:
        self.commit = commit
        texts = {
            ".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
            "LICENSE": "A licence.\n",
            "README.md": f"# {name}\n",
            "config.json": json.dumps(config),
            "generation_config.json": json.dumps({"temperature": 0.6, "top_p": 0.95}),
            "tokenizer.json": json.dumps({"version": "1.0", "model": {"type": "BPE"}}),
            "tokenizer_config.json": json.dumps({"model_max_length": 131072, "made": commit}),
            "merges.txt": "#version: 0.2\n",
            "vocab.json": json.dumps({"a": 0}),
            "chat_template.jinja": "{% for message in messages %}{{ message.content }}{% endfor %}",
            "original/params.json": "{}",
        }
        files = [File(path, Blob(text.encode(), len(text))) for path, text in texts.items()]
        files += _weights(name, weights)
        # The same once more for other programs: what nobody wants to download twice.
        for path in ("pytorch_model.bin", "original/consolidated.00.pth", "model-Q4_K_M.gguf"):
            files.append(File(path, Blob(_noise(path, WEIGHTS), weights)))
        self.files = {it.path: it for it in sorted(files, key=lambda it: it.path)}

    def tree(self) -> list[dict[str, Any]]:
        """Every folder and file, as /tree?recursive=true lists them."""
        folders = sorted({path.rpartition("/")[0] for path in self.files if "/" in path})
        ours = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": it} for it in folders]
        return ours + [it.entry() for it in self.files.values()]


def _weights(name: str, size: int) -> Iterator[File]:
    """Files of weights; where there are several, also the index that says what is in which."""
    count = max(1, math.ceil(size / SHARD))
    if count == 1:
        yield File("model.safetensors", Blob(_safetensors(name, 1), size))
        return
    names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for i, path in enumerate(names, 1):
        real_size = size * i // count - size * (i - 1) // count  # in all exactly the size
        yield File(path, Blob(_safetensors(name, i), real_size))
    parts = {f"model.layers.{i}.weight": path for i, path in enumerate(names, 1)}
    index = json.dumps({"metadata": {"total_size": size}, "weight_map": parts})
    yield File("model.safetensors.index.json", Blob(index.encode(), len(index)))


def _safetensors(name: str, number: int) -> bytes:
    """A whole file of that format, with one tensor."""
    tensor = {"dtype": "BF16", "shape": [WEIGHTS // 2], "data_offsets": [0, WEIGHTS]}
    header = json.dumps({f"model.layers.{number}.weight": tensor}).encode()
    content = _noise(f"{name}/{number}", WEIGHTS)
    return len(header).to_bytes(8, "little") + header + content


def _noise(seed: str, size: int) -> bytes:
    return hashlib.shake_128(seed.encode()).digest(size)
