"""Cloud Run and what it needs of a cloud, over real HTTP, with containers that really run."""

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import requests

from rehearsal.errors import CloudError
from rehearsal.faults import parse
from rehearsal.google.cloud_run import INSTANCE
from rehearsal.google.cloud_run.cloud_run import CloudRun
from rehearsal.google.cloud_run.platform import Platform
from rehearsal.google.guest import Surroundings
from rehearsal.google.identity import ACCOUNT, CLOUD_PLATFORM, Identity
from rehearsal.google.project import TITLES
from rehearsal.google.registry import REPOSITORY, Registry
from rehearsal.google.secret_manager import VERSION, SecretManager
from rehearsal.internet import Internet
from rehearsal.machines import machine
from rehearsal.providers import google, schema
from rehearsal.providers.google import Google
from rehearsal.providers.resource import Operation
from rehearsal.store import Body
from rehearsal.timeline import Event, read
from rehearsal.world import Accounts, World, client_environment

T = TypeVar("T")

PROJECT, NUMBER, REGION = "team-llm", "104042781755", "us-central1"
RUNTIME = f"runtime@{PROJECT}.iam.gserviceaccount.com"
OPERATOR = f"operator@{PROJECT}.iam.gserviceaccount.com"
STRANGER = f"stranger@{PROJECT}.iam.gserviceaccount.com"
SECRET = f"projects/{PROJECT}/secrets/token"
HUB = f"{REGION}-docker.pkg.dev/{PROJECT}/hub"
PYTHON = f"{HUB}/library/python:3.13-slim"
PAYLOAD = "a planted secret"

SERVER = """
import http.server, json, os, signal, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            print("slow begins", flush=True)
            time.sleep(float(os.environ.get("SLOW", 1)))
        if self.path == "/die":
            os._exit(3)
        status = 500 if self.path == "/health" and os.path.exists("/tmp/sick") else 200
        if self.path == "/fall-sick":
            open("/tmp/sick", "w").close()
        facts = {
            "host": self.headers["Host"],
            "instance": os.environ["HOSTNAME"],
            "variables": dict(os.environ),
            "arguments": sys.argv[1:],
        }
        body = json.dumps(facts).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
print("listening", flush=True)
address = ("0.0.0.0", int(os.environ["PORT"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


class Cloud:
    """A project with a registry, a secret and identities, and Cloud Run at work in it."""

    def __init__(self, directory: Path, speed: float, *faults: str) -> None:
        self.world = World(directory, speed)
        for fault in faults:
            self.world.faults.set(*parse(fault))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.do(self._start())

    def do(self, work: Coroutine[Any, Any, T], limit_s: float = 60) -> T:
        """The result of a coroutine in the clouds' loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(limit_s)

    async def _start(self) -> None:
        world = self.world
        accounts = Accounts(projects={PROJECT: NUMBER}, cloudflare_accounts={}, cloudflare_zones={})
        (world.directory / "accounts.json").write_text(accounts.model_dump_json())
        put = world.store.put
        for api in TITLES:
            put(google.SERVICE, f"{PROJECT}/{api}", {"service": api})
        for email in (RUNTIME, OPERATOR, STRANGER):
            put(ACCOUNT, email, {"email": email, "member": f"serviceAccount:{email}"})
        remote = {"dockerRepository": {"publicRepository": "DOCKER_HUB"}}
        name = f"projects/{PROJECT}/locations/{REGION}/repositories/hub"
        put(REPOSITORY, name, {"remoteRepositoryConfig": remote})
        number = f"projects/{NUMBER}/secrets/token/versions/1"
        version = {"secret": SECRET, "version": "1", "enabled": True, "secretData": PAYLOAD}
        put(VERSION, number, version | {"name": number})
        self.bind("roles/secretmanager.secretAccessor", RUNTIME, secretId=SECRET)
        self.bind("roles/run.developer", OPERATOR, project=PROJECT)
        self._google = Google(schema.load("gcp", [row.token for row in google.ROWS]))
        await self._begin()

    async def _begin(self) -> None:
        """What a daemon does when it starts."""
        world = self.world
        self.identity = Identity(world.store)
        self.internet = Internet(world)
        registry, secrets = Registry(world, self.identity), SecretManager(world, self.identity)
        self.around = Surroundings(
            world=world,
            identity=self.identity,
            boot=machine.boot,
            names=self.internet.names,
            serve_https=self.internet.serve,
            accept_tunnels=self._no_tunnels,
            ca=world.directory / "ca.pem",
        )
        self._cloud_run = CloudRun(Platform(self.around, registry, secrets), self.internet)
        self._cloud_run.start()
        self.environment = client_environment(world.directory, await self.internet.start_proxy())

    async def _no_tunnels(self, sock: socket.socket) -> asyncio.Server:
        return await self._loop.create_server(asyncio.Protocol, sock=sock)

    def close(self) -> None:
        """End everything."""
        self.do(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def restart(self) -> None:
        """Stop the clouds' daemon, and start another one."""

        async def act() -> None:
            await self._finish()
            self.world = World(self.world.directory, self.world.speed)
            await self._begin()

        self.do(act())

    async def _finish(self) -> None:
        await self._cloud_run.close()
        await self.internet.close()
        self.world.store.close()

    # What exists

    def put(self, type: str, id: str, body: Body) -> None:
        """Make something exist."""

        async def act() -> None:
            self.world.store.put(type, id, body)

        self.do(act())

    def bind(self, role: str, email: str, **place: str) -> None:
        """Bind a role to an account; only while the cloud starts, or through `call`."""
        kind = "secretmanager/secretIamMember:SecretIamMember"
        if "project" in place:
            kind = "projects/iAMMember:IAMMember"
        body = {"role": role, "member": f"serviceAccount:{email}", **place}
        self.world.store.put(f"gcp:{kind}", f"{role} {email}", body)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the clouds' thread."""

        async def act() -> T:
            return function()

        return self.do(act())

    def all(self, type: str) -> list[Body]:
        """Every resource of a type."""
        return self.call(lambda: [*self.world.store.all(type).values()])

    def get(self, type: str, id: str) -> Body:
        """One resource."""
        return self.call(lambda: self.world.store.get(type, id) or {})

    # The provider

    def operation(self, token: str, name: str) -> Operation:
        """As the engine calls."""

        async def log(severity: str, message: str) -> None:
            pass

        config = {"project": PROJECT, "region": REGION}
        return Operation(self.world, config, f"urn:pulumi:dev::p::{token}::{name}", log)

    def check(self, token: str, name: str, inputs: Body) -> Body:
        """Inputs with defaults. ValueError when the plugin refuses them."""
        checked, failures = self._google.check(self.operation(token, name), {}, inputs, b"")
        if failures:
            raise ValueError("; ".join(f"{path}: {reason}" for path, reason in failures))
        return checked

    def create(self, token: str, name: str, inputs: Body) -> Body:
        """Check and create; the outputs."""
        checked = self.check(token, name, inputs)
        return self.do(self._google.create(self.operation(token, name), checked, False))[1]

    def update(self, before: Body, token: str, inputs: Body) -> Body:
        """Check and update; the outputs."""
        operation = self.operation(token, before["name"])
        checked = self.check(token, before["name"], inputs)
        return self.do(self._google.update(operation, before["id"], before, checked, False))

    def delete(self, token: str, body: Body) -> None:
        """Delete what `create` returned."""
        operation = self.operation(token, body["name"])
        self.do(self._google.delete(operation, body["id"], body))

    def words(self, error: CloudError, token: str, verb: str = "create") -> str:
        """A refusal as the user reads it."""
        return self._google.words(error, self.operation(token, "it"), verb, {})

    # Callers

    def ask(self, url: str, path: str = "/", **options: Any) -> requests.Response:
        """Ask as anybody on the internet."""
        proxies = {"https": self.environment["HTTPS_PROXY"]}
        verify = str(self.world.directory / "ca.pem")
        method: str = options.pop("method", "GET")
        headers = {"Connection": "close", **options.pop("headers", {})}
        way: dict[str, Any] = {"proxies": proxies, "verify": verify, "timeout": 30}
        return requests.request(method, url + path, headers=headers, **(way | options))  # noqa: S113 it is there

    def api(self, method: str, path: str, email: str = OPERATOR, body: Any = None) -> Any:
        """Ask run.googleapis.com as a service account: the status and the JSON."""
        token, _ = self.call(lambda: self.identity.mint(email, [CLOUD_PLATFORM]))
        headers = {"Authorization": f"Bearer {token}"}
        answer = self.ask(
            "https://run.googleapis.com", f"/v2/{path}", method=method, headers=headers, json=body
        )
        return answer.status_code, answer.json()

    def ask_as_guest(self, id: str, url: str, *options: str) -> tuple[int, str]:
        """Ask as a guest, on its own way into the internet: status and body."""

        async def serve() -> asyncio.Server:
            return await self.internet.serve(socket.create_server(("127.0.0.1", 0)), id)

        server = self.do(serve())
        port = server.sockets[0].getsockname()[1]
        host = url.removeprefix("https://").partition("/")[0]
        curl = ["curl", "-sS", "--max-time", "30", "-w", "\n%{http_code}", *options]
        curl += ["--cacert", str(self.world.directory / "ca.pem")]
        curl += ["--connect-to", f"{host}:443:127.0.0.1:{port}", url]
        said = subprocess.run(curl, capture_output=True, text=True, check=True).stdout
        self.call(server.close)
        body, _, status = said.rpartition("\n")
        return int(status), body

    # What is seen

    def instances(self) -> list[Body]:
        """Running instances."""
        return self.all(INSTANCE)

    def until(self, condition: Callable[[], object], limit_s: float = 30) -> None:
        """Wait until it holds; AssertionError when it never does."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def logs(self) -> str:
        """What every revision and execution wrote."""
        files = sorted(self.world.logs.glob("*.log"))
        return "\n".join(f"{it.name}:\n{it.read_text()}" for it in files)

    def gpu_spans(self) -> list[Event]:
        """When a GPU was taken up."""
        return [it for it in read(self.world.timeline) if it.holds.startswith("nvidia")]


def service(*arguments: str, code: str = SERVER, **more: Any) -> Body:
    """Inputs of a service of a small Python server."""
    container: Body = {
        "image": PYTHON,
        "commands": ["python3", "-c", code],
        "args": [*arguments],
    }
    template: Body = {
        "containers": [container | more.pop("container", {})],
        "serviceAccount": RUNTIME,
        "scaling": {"maxInstanceCount": 1},
    }
    template |= more.pop("template", {})
    whole = {"name": "llm", "location": REGION, "template": template, "deletionProtection": False}
    return whole | {"invokerIamDisabled": True} | more


def job(code: str, **more: Any) -> Body:
    """Inputs of a job that runs some Python."""
    container: Body = {"image": PYTHON, "commands": ["python3"], "args": ["-c", code]}
    task: Body = {
        "containers": [container | more.pop("container", {})],
        "serviceAccount": RUNTIME,
        "maxRetries": 0,
    }
    task |= more.pop("task", {})
    template = {"template": task} | more.pop("template", {})
    whole = {"name": "staging", "location": REGION, "template": template}
    return whole | {"deletionProtection": False} | more


GPU: Body = {
    "container": {
        "resources": {
            "limits": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"},
            "cpuIdle": False,
        }
    },
    "template": {
        "serviceAccount": RUNTIME,
        "gpuZonalRedundancyDisabled": True,
        "nodeSelector": {"accelerator": "nvidia-l4"},
        "scaling": {"maxInstanceCount": 1},
    },
}
"""More of a service: an L4."""
