"""One instance: a guest that runs the container, from its allocation until it is gone."""

import asyncio
import secrets
import shlex
import socket
import time
from asyncio.subprocess import Process
from contextlib import suppress
from datetime import UTC, datetime

from rehearsal import figures, timeline
from rehearsal.errors import CloudError
from rehearsal.google.cloud_run import INSTANCE
from rehearsal.google.cloud_run.metadata import CloudRunMetadata
from rehearsal.google.cloud_run.platform import Platform
from rehearsal.google.cloud_run.workload import Workload
from rehearsal.google.guest import Server
from rehearsal.machines import machine
from rehearsal.machines.machine import Machine, MachineSpec, Share

ADDRESS = "169.254.8.1"
"""Of the guest in its own network, where nobody but the daemon sees it."""
CONTAINER = "user"
SECRETS = "/run/volumes"
BUCKETS = "/mnt/buckets"
"""Where volumes lie in the guest, before they are mounted into the container."""
GRACE_S = 10
"""Seconds between SIGTERM and SIGKILL (docs.cloud.google.com/run/docs/container-contract)."""


class Instance:
    """Runs a workload's container once. `start`, then `wait`, and `stop` in any case."""

    def __init__(self, platform: Platform, workload: Workload, **environment: str) -> None:
        self._platform = platform
        self._world = platform.world
        self._workload = workload
        self._environment = environment
        self._began = 0.0
        self._machine: Machine | None = None
        self._servers: list[Server] = []
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.name = f"{workload.name[:54]}-{secrets.token_hex(4)}"

    async def start(self) -> None:
        """Start the container. CloudError or OSError when that is impossible."""
        workload, gpu = self._workload, self._workload.gpu
        self._began = time.time()
        self._world.store.put(
            INSTANCE,
            self.name,
            {
                "owner": workload.owner,
                "name": workload.name,
                "region": workload.region,
                "gpu": workload.gpu_row,
                "startTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
            },
        )
        self.log("Starting new instance.")
        figure = "instance with GPU" if gpu else "instance"
        await self._world.take(f"start {self.name}", figures.seconds(figure))
        self._machine = await machine.boot(self._world, self._spec())
        around = self._platform.around
        metadata = CloudRunMetadata(self._world, around.identity, workload, self.name)
        self._servers = await around.furnish(self._machine, self.name, metadata.handle)
        await self._mount_secrets(self._machine)
        await self._run(self._machine)

    async def wait(self) -> int:
        """The container's exit code, once it has ended."""
        if self._reading is None or self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        await asyncio.shield(self._reading)
        return await self._process.wait()

    async def connect(self, port: int) -> socket.socket:
        """A connection to a port of the container. OSError when nobody listens."""
        if self._machine is None:
            raise ConnectionRefusedError(port)
        return await self._machine.connect(ADDRESS, port)

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """End the container, SIGTERM first, and let go of everything."""
        if self._machine:
            with suppress(OSError):
                await self._machine.run("docker", "stop", f"--timeout={grace_s:.0f}", CONTAINER)
            await self._machine.delete()
            self._machine = None
        while self._servers:
            self._servers.pop().close()
        if self._reading:
            await self._reading
        if self._world.store.get(INSTANCE, self.name):
            self._world.store.delete(INSTANCE, self.name)
            if gpu := self._workload.gpu_row:
                event = timeline.Event(
                    f"GPU of {self._workload.name}", self._began, time.time(), holds=gpu["type"]
                )
                timeline.record(self._world.timeline, event)

    def log(self, line: str) -> None:
        """Write a line to the log of the revision or execution."""
        self._platform.log(self._workload.name, self.name.rpartition("-")[2], line)

    def _spec(self) -> MachineSpec:
        workload, gpu = self._workload, self._workload.gpu
        row = workload.gpu_row or {}
        return MachineSpec(
            name=self.name,
            zone=workload.region,
            internal_ip=ADDRESS,
            gpu_type=row.get("type"),
            gpu_count=1 if gpu else 0,
            gpu_memory_gib=gpu.memory_gib if gpu else 0,
            gpu_driver=gpu.driver if gpu else "",
            hosts=self._platform.around.hosts(online=True, google=True),
            ca=self._platform.around.ca,
            pulled=(workload.container["image"],),
            shares=tuple(self._shares()),
        )

    def _shares(self) -> list[Share]:
        """Buckets that the container mounts, and the files of an image that was built here.

        CloudError where Cloud Storage FUSE is refused.
        """
        image: str = self._workload.container["image"]
        files = self._platform.registry.files(image)
        shares = [Share(files, machine.unpacked(image), readonly=True)] if files else []
        for name, bucket, readonly in self._workload.buckets():
            project = f"projects/{self._workload.project}"
            folder = self._world.buckets / bucket
            permission = "storage.objects.list"
            allowed = self._platform.around.identity.allowed(
                self._workload.caller, permission, f"b/{bucket}", project
            )
            if not allowed or not folder.is_dir():
                account = self._workload.caller.email
                why = "bucket does not exist"
                if not allowed:
                    why = f"{account} does not have {permission} access to the bucket"
                raise CloudError(9, f"Cloud Storage FUSE could not mount gs://{bucket}: {why}.")
            shares.append(Share(folder, f"{BUCKETS}/{name}", readonly))
        return shares

    async def _mount_secrets(self, guest: Machine) -> None:
        await guest.run("install", "--directory", "--mode=700", SECRETS)
        for _, volume, files in self._workload.secret_volumes():
            for file in files:
                target = f"{SECRETS}/{volume}/{file.path}"
                # By standard input, so that no process shows it and no disk keeps it.
                payload = self._platform.read(self._workload, file)
                install = f"install -D -m {file.mode:o} /dev/stdin {shlex.quote(target)}"
                code, said = await guest.run("/bin/sh", "-c", install, stdin=payload)
                if code:
                    raise OSError(said)

    async def _run(self, guest: Machine) -> None:
        container = self._workload.container
        commands: list[str] = container.get("commands") or []
        arguments: list[str] = container.get("args") or []
        options = [f"--name={CONTAINER}", "--rm", "--network=host", "--pull=never"]
        options += ["--gpus=all"] if self._workload.gpu else []
        options += [f"--entrypoint={commands[0]}"] if commands else []
        plain = self._workload.values() | self._workload.environment | self._environment
        options += [f"--env={name}={value}" for name, value in plain.items()]
        secret = {
            name: self._platform.read(self._workload, file).decode()
            for _, name, file in self._workload.secret_values()
        }
        options += [f"--env={name}" for name in secret]
        buckets = {name: readonly for name, _, readonly in self._workload.buckets()}
        for name, target in self._workload.mounts():
            source, mode = f"{BUCKETS}/{name}", "ro" if buckets.get(name) else "rw"
            if name not in buckets:
                source, mode = f"{SECRETS}/{name}", "ro"
            options.append(f"--volume={source}:{target}:{mode}")
        words = [container["image"], *commands[1:], *arguments]
        self._process = await guest.start_command(
            "docker", "run", *options, *words, environment=secret
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: Process) -> None:
        assert process.stdout  # noqa: S101 it was asked for
        async for line in process.stdout:
            self.log(line.decode(errors="replace").rstrip("\n"))
