"""A registry of Ollama's protocol with models of a few bytes, for tests of what pulls from it."""

import asyncio
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import trustme
from aiohttp import web

from rehearsal.containers.ollama_store import Name, Store

CONFIG = "application/vnd.docker.container.image.v1+json"
IMAGE = "application/vnd.ollama.image."


def digest(content: bytes) -> str:
    """How a blob is named."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry:
    """`https://localhost:PORT/v2/...`, with its blobs at 127.0.0.1, another host as in life."""

    def __init__(self, port: int) -> None:
        self.host = f"localhost:{port}"
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.cuts = 0
        """So many answers more break off after a quarter."""
        self.ranges: list[str] = []
        """What was asked for, of blobs that break off."""
        self.requests: list[str] = []

    def publish(
        self, name: str, *, size: str = "8.2B", family: str = "qwen3", weights: bytes = b"w" * 5000
    ) -> str:
        """Put a model there; returns the name by which Ollama knows it."""
        about = {
            "model_format": "gguf",
            "model_family": family,
            "model_families": [family],
            "model_type": size,
            "file_type": "Q4_K_M",
        }
        parts = {"model": weights + name.encode(), "template": b"{{ .Prompt }}"}
        layers = [self._layer(IMAGE + kind, content) for kind, content in parts.items()]
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": self._layer(CONFIG, json.dumps(about).encode()),
            "layers": layers,
        }
        repository, _, tag = name.partition(":")
        self.manifests[f"/v2/library/{repository}/manifests/{tag}"] = json.dumps(manifest).encode()
        return f"{self.host}/library/{name}"

    def stage(self, name: str, store: Store) -> None:
        """Put a published model into a store, as if it had been pulled, under its short name."""
        repository, _, tag = name.partition(":")
        parsed = Name.parse(name)
        assert parsed
        store.write(parsed, self.manifests[f"/v2/library/{repository}/manifests/{tag}"])
        for each, content in self.blobs.items():
            store.blob(each).write_bytes(content)

    def _layer(self, kind: str, content: bytes) -> dict[str, object]:
        self.blobs[digest(content)] = content
        return {"mediaType": kind, "digest": digest(content), "size": len(content)}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        self.requests.append(f"{request.method} {request.path}")
        if manifest := self.manifests.get(request.path):
            return web.Response(body=manifest)
        blob = re.fullmatch(r"/v2/[^/]+/[^/]+/blobs/(sha256:[0-9a-f]{64})", request.path)
        if blob and blob[1] in self.blobs:
            if request.method == "HEAD":
                return web.Response(headers={"Content-Length": str(len(self.blobs[blob[1]]))})
            port = self.host.partition(":")[2]
            elsewhere = f"https://127.0.0.1:{port}/storage/{blob[1]}"
            return web.Response(status=307, headers={"Location": elsewhere})
        if request.path.startswith("/storage/"):
            return await self._storage(request, request.path.removeprefix("/storage/"))
        return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)

    async def _storage(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        content = self.blobs[name]
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        first, last = (int(span[1]), int(span[2])) if span else (0, len(content) - 1)
        part = content[first : last + 1]
        response = web.StreamResponse(status=206 if span else 200)
        response.content_length = len(part)
        await response.prepare(request)
        if self.cuts and len(content) > 1000:
            self.cuts -= 1
            self.ranges.append(f"{first}-")
            await response.write(part[: len(part) // 4])
            assert request.transport
            request.transport.close()
        else:
            await response.write(part)
        return response


@contextmanager
def serving(folder: Path) -> Generator[Registry]:
    """A registry that runs; `folder` gets `ca.pem`, the authority of its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(tls)  # pyright: ignore[reportUnknownMemberType] -- trustme names a type of OpenSSL that is not installed
    loop = asyncio.new_event_loop()

    async def start() -> tuple[web.ServerRunner, Registry]:
        registry = Registry(0)
        runner = web.ServerRunner(web.Server(registry.handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        registry.host = f"localhost:{runner.addresses[0][1]}"
        return runner, registry

    runner, registry = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield registry
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
