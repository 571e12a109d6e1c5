"""One simulated machine and the least of a cloud around it, for tests of what runs inside."""

import asyncio
import base64
import hashlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import trustme
from aiohttp import web

from rehearsal.machines import machine as machines
from rehearsal.machines.machine import Image, Machine, MachineSpec
from rehearsal.world import World

T = TypeVar("T")

ACCESS_TOKEN = "ya29.the-token-of-the-machine"
REGISTRY = "us-central1-docker.pkg.dev"
SECRETS = "secretmanager.googleapis.com"
STORAGE = "storage.googleapis.com"
PAGE = 2
"""Objects that one answer of the storage lists."""
ENGINE = f"{REGISTRY}/a-project/docker-hub/vllm/vllm-openai:v0.33.0"
CLOUDFLARED = f"{REGISTRY}/a-project/docker-hub/cloudflare/cloudflared:2026.8.2"
PYTHON = f"{REGISTRY}/a-project/docker-hub/library/python:3.13-slim"
STARTUP_SCRIPT = Path(__file__).parent.parent / "scripts" / "startup.sh"


class Cloud:
    """Metadata, secrets and a registry. What a test changes holds from the next request on."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self.images = {ENGINE, CLOUDFLARED, PYTHON}
        self.objects: dict[str, bytes] = {}
        """Of the one bucket, `weights`."""
        self.cache: dict[str, bytes] = {}
        """Objects of the bucket `cache`, which machines may write to."""
        self.listed_as: dict[str, bytes] = {}
        """Objects that arrive otherwise than the storage lists them, and what it lists."""
        self.refusals: dict[str, list[int]] = {}
        """Host -> statuses to answer the next requests with."""
        self.requests: list[str] = []
        self.guest_attributes: list[tuple[str, str]] = []
        """Those that the machine wrote, in order: path and value."""
        self.forbid_guest_attributes = False

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """One request of the machine."""
        host = request.host.partition(":")[0]
        self.requests.append(f"{host}{request.path}")
        if self.refusals.get(host):
            status = self.refusals[host].pop(0)
            error = {"error": {"message": "Permission denied"}, "errors": [{"code": "DENIED"}]}
            return web.Response(status=status, text=json.dumps(error, indent=2))
        if request.path == "/upload/storage/v1/b/cache/o":
            assert request.query["ifGenerationMatch"] == "0"
            self.cache.setdefault(request.query["name"], await request.read())
            return web.Response(text="{}")
        if request.method == "PUT":
            if self.forbid_guest_attributes:
                return web.Response(status=403)
            _, _, key = request.path.partition("/guest-attributes/")
            self.guest_attributes.append((key, await request.text()))
            return web.Response()
        if host == "metadata.google.internal":
            return self._metadata(request)
        answers = {SECRETS: self._secret, STORAGE: self._storage}
        return answers.get(host, self._registry)(request)

    def _storage(self, request: web.BaseRequest) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {ACCESS_TOKEN}":
            return web.Response(status=401)
        if request.method == "DELETE":
            self.cache.pop(request.path.rpartition("/")[2], None)
            return web.Response(status=204)
        if request.path.startswith("/cache/"):
            kept = self.cache.get(request.path.removeprefix("/cache/"))
            return web.Response(status=404) if kept is None else web.Response(body=kept)
        if request.path == "/storage/v1/b/weights/o":
            start = int(request.query.get("pageToken") or 0)
            names = sorted(self.objects)[start : start + PAGE]
            more = {"nextPageToken": str(start + PAGE)} if len(self.objects) > start + PAGE else {}
            listed = more | {"items": [self._object(name) for name in names]}
            return web.Response(text=json.dumps(listed, indent=2))
        content = self.objects.get(request.path.removeprefix("/weights/"))
        return web.Response(status=404) if content is None else web.Response(body=content)

    def _object(self, name: str) -> dict[str, str]:
        """As the storage lists it, where a client asks for name, size and hash."""
        content = self.objects[name]
        said = self.listed_as.get(name, content)
        md5 = base64.b64encode(hashlib.md5(said, usedforsecurity=False).digest()).decode()
        return {"name": name, "size": str(len(said)), "md5Hash": md5}

    def _metadata(self, request: web.BaseRequest) -> web.Response:
        if request.headers.get("Metadata-Flavor") != "Google":
            return web.Response(status=403)
        key = request.path.removeprefix("/computeMetadata/v1/instance/")
        if key == "service-accounts/default/token":
            return web.json_response({"access_token": ACCESS_TOKEN, "expires_in": 3599})
        value = self.metadata.get(key.removeprefix("attributes/"))
        return web.Response(status=404) if value is None else web.Response(text=value)

    def _secret(self, request: web.BaseRequest) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {ACCESS_TOKEN}":
            return web.Response(status=401)
        name = request.path.removeprefix("/v1/").removesuffix(":access")
        if name not in self.secrets:
            error = {"error": {"code": 404, "message": f"Secret Version [{name}] not found."}}
            return web.Response(status=404, text=json.dumps(error, indent=2))
        data = base64.b64encode(self.secrets[name].encode()).decode()
        body = {"name": name, "payload": {"data": data, "dataCrc32c": "0"}}
        return web.Response(text=json.dumps(body, indent=2))

    def _registry(self, request: web.BaseRequest) -> web.Response:
        expected = base64.b64encode(f"oauth2accesstoken:{ACCESS_TOKEN}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            error = {"code": "UNAUTHORIZED", "message": "Unauthenticated request."}
            return web.json_response({"errors": [error]}, status=401)
        name, _, tag = request.path.removeprefix("/v2/").partition("/manifests/")
        if tag and f"{REGISTRY}/{name}:{tag}" not in self.images:
            error = {"code": "MANIFEST_UNKNOWN", "message": f"Failed to fetch {tag}"}
            return web.json_response({"errors": [error]}, status=404)
        layers = [{"size": 1000, "digest": name}]
        seconds = {"llm-endpoint.rehearsal/seconds": "2"}
        return web.json_response({"layers": layers, "config": name + tag, "annotations": seconds})


class Guest:
    """A machine that boots scripts/startup.sh, driven from ordinary code."""

    def __init__(self, directory: Path, speed: float = 600) -> None:
        self.cloud = Cloud()
        self.world = World(directory, speed)
        self.spec = self._spec()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._machine: Machine | None = None

    def _spec(self) -> MachineSpec:
        authority = trustme.CA()
        ca = self.world.directory / "ca.pem"
        authority.cert_pem.write_to_path(ca)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(REGISTRY, SECRETS, STORAGE).configure_cert(self._tls)  # pyright: ignore[reportUnknownMemberType] -- trustme names a type of OpenSSL that is not installed
        fake = "tests.fake_container"
        return MachineSpec(
            name="llm-dev-vm-k3x9",
            zone="us-central1-a",
            internal_ip="10.10.0.7",
            gpu_type="nvidia-l4",
            gpu_count=1,
            gpu_memory_gib=24,
            hosts=dict.fromkeys((REGISTRY, SECRETS, STORAGE), "127.1.0.1"),
            ca=ca,
            boot_s=42.0,
            images={
                **machines.IMAGES,
                "vllm/vllm-openai": Image(fake),
                "cloudflare/cloudflared": Image(fake, ("--no-autoupdate",), "65532:65532"),
            },
        )

    def run(self, work: Coroutine[Any, Any, T], limit_s: float = 60) -> T:
        """The result of a coroutine in the loop that serves the machine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(limit_s)

    @property
    def machine(self) -> Machine:
        """The machine, once booted."""
        assert self._machine
        return self._machine

    def boot(self) -> Self:
        """Boot and serve what is around the machine."""
        self.run(self._boot())
        return self

    async def _boot(self) -> None:
        self._machine = await machines.boot(self.world, self.spec)
        runner = web.ServerRunner(web.Server(self.cloud.handle))
        await runner.setup()
        for address, port, tls in (
            ("169.254.169.254", 80, None),
            ("127.1.0.1", 443, self._tls),
        ):
            listening = await self._machine.listen(address, port)
            await web.SockSite(runner, listening, ssl_context=tls).start()
        self._runner = runner

    def remove_gpu(self) -> None:
        """Before boot: a machine type without GPUs."""
        self.spec = replace(self.spec, gpu_type=None, gpu_count=0, gpu_memory_gib=0)

    def close(self) -> None:
        """End the machine and what is around it."""
        if self._machine:
            self.run(self._machine.delete())
            self.run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def console(self) -> str:
        """What the serial console shows."""
        path = self.world.directory / "machines" / self.spec.name / "console.log"
        return path.read_text() if path.exists() else ""

    def until(self, text: str, times: int = 1, limit_s: float = 30) -> str:
        """The console, once it shows a text so many times."""
        self.wait_for(lambda: self.console.count(text) >= times, f"{text!r} x{times}", limit_s)
        return self.console

    def wait_for(self, condition: Callable[[], bool], what: str, limit_s: float = 30) -> None:
        """Poll until a condition holds; AssertionError with the console when it never does."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"no {what} in:\n{self.console}"
            time.sleep(0.02)

    def sh(self, script: str) -> str:
        """The output of a shell command typed by an operator in the machine."""
        return self.run(self.machine.run("/bin/bash", "-c", script))[1]

    def result(self, script: str) -> tuple[int, str]:
        """Exit code and output of a shell command in the machine."""
        return self.run(self.machine.run("/bin/bash", "-c", script))

    def containers(self) -> list[dict[str, Any]]:
        """How each container that was ever started found its surroundings."""
        lines = self.console.rpartition("\n")[0].splitlines()  # the last may be half written
        reports = [it.partition("]: container ")[2] for it in lines if "]: container {" in it]
        return [json.loads(report) for report in reports]
