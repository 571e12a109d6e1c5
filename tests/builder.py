"""A project in which images are built, over real HTTP, with builds that really run."""

import asyncio
import gzip
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import requests

from rehearsal import hub
from rehearsal.faults import parse
from rehearsal.google import cloud_build, cloud_logging, oauth2
from rehearsal.google.cloud_build import BUILD, CloudBuild
from rehearsal.google.cloud_logging import CloudLogging
from rehearsal.google.guest import INTERNET, Server, Surroundings
from rehearsal.google.identity import ACCOUNT, CLOUD_PLATFORM, Caller, Identity
from rehearsal.google.oauth2 import OAuth2
from rehearsal.google.project import SERVICE
from rehearsal.google.registry import REPOSITORY, Registry
from rehearsal.google.secret_manager import VERSION, SecretManager
from rehearsal.internet import Internet
from rehearsal.machines import image_files, machine
from rehearsal.machines.machine import Machine, MachineSpec, Share
from rehearsal.store import Body
from rehearsal.world import CREDENTIALS, Accounts, World, client_environment
from tests.clouds import HUB_TOKEN, NUMBER, PROJECT, REFRESH_TOKEN, REGION

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
STAGER = f"llm-dev-stager@{PROJECT}.iam.gserviceaccount.com"
PLACE = f"projects/{PROJECT}/locations/{REGION}"
HUB, MODELS = f"{PLACE}/repositories/docker-hub", f"{PLACE}/repositories/models"
HOST = f"{REGION}-docker.pkg.dev"
SECRET = f"projects/{PROJECT}/secrets/hugging-face-token"
IMAGE = f"{HOST}/{PROJECT}/models/llm-dev"

ROLES: dict[str, tuple[str, str, dict[str, str]]] = {
    "pull": (
        "artifactregistry/repositoryIamMember:RepositoryIamMember",
        "roles/artifactregistry.reader",
        {"repository": HUB},
    ),
    "push": (
        "artifactregistry/repositoryIamMember:RepositoryIamMember",
        "roles/artifactregistry.writer",
        {"repository": MODELS},
    ),
    "secret": (
        "secretmanager/secretIamMember:SecretIamMember",
        "roles/secretmanager.secretAccessor",
        {"secretId": SECRET},
    ),
    "log": ("projects/iAMMember:IAMMember", "roles/logging.logWriter", {"project": PROJECT}),
}
"""What the account of the builds may do: type of the binding, role, and on what."""


class Project:
    """The project, and the script that builds in it."""

    def __init__(self, directory: Path, *faults: str) -> None:
        self.world = World(directory, 1e6)
        for fault in faults:
            self.world.faults.set(*parse(fault))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._guests: list[Machine] = []
        self._servers: list[Server] = []
        self._processes: list[Process] = []
        self.told: dict[str, str] = {}
        """What the script said about each image that it has built."""
        self.environment = self.do(self._start())

    def do(self, work: Coroutine[Any, Any, T], limit_s: float = 60) -> T:
        """The result of a coroutine in the clouds' loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(limit_s)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the clouds' thread."""

        async def act() -> T:
            return function()

        return self.do(act())

    async def _start(self) -> dict[str, str]:
        world = self.world
        accounts = Accounts(
            projects={PROJECT: NUMBER},
            google_refresh_tokens=[REFRESH_TOKEN],
            google_apis=[cloud_logging.HOST],
            cloudflare_accounts={},
            cloudflare_zones={},
            hugging_face_tokens=[HUB_TOKEN],
        )
        (world.directory / "accounts.json").write_text(accounts.model_dump_json())
        credentials = {"type": "authorized_user", "client_id": "an-id", "client_secret": "public"}
        (world.directory / CREDENTIALS).write_text(
            json.dumps(credentials | {"refresh_token": REFRESH_TOKEN})
        )
        put = world.store.put
        put(SERVICE, f"{PROJECT}/{cloud_build.HOST}", {"service": cloud_build.HOST})
        put(ACCOUNT, STAGER, {"email": STAGER})
        remote = {"dockerRepository": {"publicRepository": "DOCKER_HUB"}}
        put(REPOSITORY, HUB, {"remoteRepositoryConfig": remote})
        put(REPOSITORY, MODELS, {})
        version = {"secret": SECRET, "version": "1", "enabled": True, "secretData": HUB_TOKEN}
        put(VERSION, f"{SECRET}/versions/1", version | {"name": f"{SECRET}/versions/1"})
        for role in ROLES:
            self._bind(role)
        self.identity = Identity(world.store)
        self._internet = internet = Internet(world)
        self.registry = Registry(world, self.identity)
        vault, logs = SecretManager(world, self.identity), CloudLogging(world, self.identity)
        self.around = Surroundings(
            world=world,
            identity=self.identity,
            boot=machine.boot,
            names=internet.names,
            serve_https=internet.serve,
            accept_tunnels=self._no_tunnels,
            ca=world.directory / "ca.pem",
        )
        self.cloud_build = CloudBuild(self.around, vault, logs)
        internet.site(oauth2.HOST, OAuth2(world, self.identity).handle)
        internet.site("*.pkg.dev", self.registry.handle, names=self.registry.names)
        internet.site(cloud_build.HOST, self.cloud_build.handle)
        internet.site(cloud_logging.HOST, logs.handle)
        for host, handler in hub.sites(world).items():
            internet.site(host, handler)
        port = await internet.start_proxy()
        return {"PATH": os.environ["PATH"], **client_environment(world.directory, port)}

    async def _no_tunnels(self, sock: socket.socket) -> asyncio.Server:
        return await self._loop.create_server(asyncio.Protocol, sock=sock)

    def close(self) -> None:
        """End everything."""
        self.do(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        for guest in self._guests:
            await guest.delete()
        for process in self._processes:
            await process.communicate()
        for server in self._servers:
            server.close()
        await self.cloud_build.close()
        await self._internet.close()
        self.world.store.close()

    # Roles

    def _bind(self, role: str) -> None:
        kind, name, place = ROLES[role]
        body = {"role": name, "member": f"serviceAccount:{STAGER}", **place}
        self.world.store.put(f"gcp:{kind}", role, body)

    def grant(self, role: str) -> None:
        """Give the builds' account one of its roles back."""
        self.call(lambda: self._bind(role))

    def revoke(self, role: str) -> None:
        """Take one of its roles from the builds' account."""
        kind = ROLES[role][0]
        self.call(lambda: self.world.store.delete(f"gcp:{kind}", role))

    # The script

    def order(self, **changes: str) -> dict[str, str]:
        """The script's environment."""
        return {
            **self.environment,
            "PROJECT": PROJECT,
            "REGION": REGION,
            "REPOSITORY": IMAGE.rpartition("/")[0],
            "NAME": IMAGE.rpartition("/")[2],
            "ENGINE": "vllm",
            "SOURCE": "hub",
            "BASE_IMAGE": f"{HOST}/{PROJECT}/docker-hub/vllm/vllm-openai:v0.33.0",
            "MODEL": "Qwen/Qwen3-0.6B",
            "REVISION": "",
            "HF_ENDPOINT": "https://huggingface.co",
            "SERVICE_ACCOUNT": f"projects/{PROJECT}/serviceAccounts/{STAGER}",
            "TOKEN_SECRET": "",
            "HF_TOKEN": "",
        } | changes

    def start(self, **changes: str) -> subprocess.Popen[str]:
        """Start the script, which polls oftener than in life, and waits for roles PATIENCE_S."""
        faster = "b.POLL_S, b.SILENCE_S, b.PAUSE_S, b.SETTLING_S = .1, 0, .1, 2"
        faster += f"; b.PATIENCE_S = {changes.pop('PATIENCE_S', '0')}"
        program = f"import sys, scripts.build_image as b; {faster}; sys.exit(b.main())"
        return subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=self.order(**changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **changes: str) -> subprocess.CompletedProcess[str]:
        """The script's whole run."""
        process = self.start(**changes)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def image(self, **changes: str) -> str:
        """The image that the script prints; AssertionError when it fails."""
        done = self.run(**changes)
        assert done.returncode == 0, done.stderr
        image = done.stdout.strip()
        self.told[image] = done.stderr
        return image

    # The services

    def api(self, method: str, url: str, email: str = "", **options: Any) -> requests.Response:
        """Ask a service as an account, or as the person who owns the project."""
        caller = Caller(email, frozenset({CLOUD_PLATFORM}), None if email else frozenset({PROJECT}))
        token, _ = self.call(lambda: self.identity.mint_for(caller))
        return requests.request(
            method,
            url,
            headers={"Authorization": f"Bearer {token}"} | options.pop("headers", {}),
            proxies={"https": self.environment["HTTPS_PROXY"]},
            verify=str(self.around.ca),
            timeout=30,
            **options,
        )

    # What is seen

    def builds(self) -> list[Body]:
        """Every build there was, in the order of their beginning."""
        rows = self.call(lambda: [*self.world.store.all(BUILD).values()])
        return sorted(rows, key=lambda row: row["createTime"])

    def until(self, condition: Callable[[], object], limit_s: float = 30) -> None:
        """Wait until it holds; AssertionError when it never does."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, [it["status"] for it in self.builds()]
            time.sleep(0.05)

    def serves(self, guest: Machine, run: str, url: str) -> str:
        """What a container answers once it does; AssertionError with its log when it never does."""
        run = f"{run} >/var/log/engine 2>&1"
        self._processes.append(self.do(guest.start_command("/bin/bash", "-c", run)))
        deadline = time.monotonic() + 60
        while True:
            code, said = self.do(guest.run("curl", "-sf", url))
            if code == 0:
                return said
            assert time.monotonic() < deadline, self.must(guest, "cat /var/log/engine")
            time.sleep(0.1)

    def guest(self, *pulled: str, hosts: Mapping[str, str] | None = None) -> Machine:
        """A machine with a GPU and without any network, which has images on its disk, as an
        instance of Cloud Run has."""
        shares: list[Share] = []
        for image in pulled:
            files = self.call(lambda image=image: self.registry.files(image))
            assert files
            shares.append(Share(files, machine.unpacked(image), readonly=True))
        spec = MachineSpec(
            name=f"guest-{len(self._guests)}",
            zone=f"{REGION}-a",
            internal_ip="10.10.0.7",
            gpu_type="nvidia-l4",
            gpu_count=1,
            gpu_memory_gib=24,
            hosts=hosts or {},
            ca=self.around.ca,
            pulled=pulled,
            shares=tuple(shares),
        )
        guest = self.do(machine.boot(self.world, spec))
        self._guests.append(guest)
        return guest

    def pulling_guest(self) -> Machine:
        """A machine that is logged in to the registry, as the builds' account."""
        guest = self.guest(hosts={HOST: INTERNET[0]})

        async def furnish() -> None:
            sock = await guest.listen(*INTERNET)
            self._servers.append(await self.around.serve_https(sock, "guest"))

        self.do(furnish())
        token, _ = self.call(lambda: self.identity.mint(STAGER, [CLOUD_PLATFORM]))
        login = f"docker login --username oauth2accesstoken --password-stdin {HOST}"
        self.must(guest, login, stdin=token.encode())
        return guest

    def must(self, guest: Machine, script: str, stdin: bytes = b"") -> str:
        """What a shell command in a machine says; AssertionError when it fails."""
        code, said = self.do(guest.run("/bin/sh", "-c", script, stdin=stdin))
        assert code == 0, said
        return said

    def digest(self, tag: str) -> str:
        """Of the image with this tag, as it lies in the repository."""
        folder = self.world.directory / "images" / MODELS / "manifests" / "llm-dev"
        return image_files.digest((folder / tag).read_bytes())

    def layers(self, image: str) -> Iterator[tuple[str, bytes]]:
        """What an image consists of: its manifest, its configuration and every file of a layer."""
        name, _, digest = image.partition("@")
        folder = self.world.directory / "images" / MODELS
        raw = (folder / "manifests" / name.rpartition("/")[2] / digest).read_bytes()
        manifest = json.loads(raw)
        yield "manifest", raw
        yield "config", (folder / "blobs" / manifest["config"]["digest"]).read_bytes()
        for layer in manifest["layers"][1:]:
            content = gzip.decompress((folder / "blobs" / layer["digest"]).read_bytes())
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.isfile() else None
                    yield member.name, file.read() if file else member.linkname.encode()
