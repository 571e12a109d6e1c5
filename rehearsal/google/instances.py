"""One VM: from PROVISIONING until it is gone, with the guest that really boots inside it."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from rehearsal import figures, timeline
from rehearsal.google.guest import Machine, Server, Surroundings
from rehearsal.google.health import FLOOR_S, HealthCheck, Verdict
from rehearsal.google.metadata import INSTANCE, MetadataServer
from rehearsal.google.network import SUBNETWORK, reaches_internet, resolve
from rehearsal.machines.machine import MachineSpec
from rehearsal.store import Body

GROUP = "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager"

SHUTDOWN_S = {"SPOT": 30.0}
SHUTDOWN_OTHERWISE_S = 90.0
"""Seconds between the power button and the end, by provisioning model, as Google documents them."""
SHUTDOWN_FLOOR_S = 15.0
BOOT_FLOOR_S = 60.0
"""Added in this machine's time to the initial delay: its own slowness is not compressed."""


class Instance:
    """Lives one `google:instance` row: keeps its `status` and `health` true."""

    def __init__(self, around: Surroundings, id: str) -> None:
        self._around = around
        self._world = around.world
        self._id = id
        self._machine: Machine | None = None
        self._servers: list[Server] = []

    async def run(self) -> str:
        """Create, boot and watch the VM; returns why its group must repair it."""
        world = self._world
        self._set(status="PROVISIONING", health="UNKNOWN")
        await world.take("VM create", figures.seconds("VM create"))
        self._set(status="STAGING")
        await world.take("VM boot", figures.seconds("VM boot"))
        self._machine = await self._around.boot(world, self._spec())
        metadata = MetadataServer(world, self._around.identity, self._id)
        self._servers = await self._around.furnish(self._machine, self._id, metadata.handle)
        self._set(status="RUNNING")
        return await self._watch(self._machine)

    async def close(self, grace_s: float | None = None) -> None:
        """Shut the guest down within the grace (Google's by default) and let go of everything."""
        if self._machine:
            await self._machine.stop(self._grace_s() if grace_s is None else grace_s)
            await self._machine.delete()
            self._machine = None
        while self._servers:
            self._servers.pop().close()

    def _grace_s(self) -> float:
        model: str = self._row["scheduling"].get("provisioningModel", "STANDARD")
        life = SHUTDOWN_S.get(model, SHUTDOWN_OTHERWISE_S)
        return max(life / self._world.speed, SHUTDOWN_FLOOR_S)

    @property
    def _row(self) -> Body:
        row = self._world.store.get(INSTANCE, self._id)
        if row is None:
            raise LookupError(f"{self._id} is gone")
        return row

    def _set(self, **changes: Any) -> None:
        row = self._row
        if row | changes != row:
            self._world.store.put(INSTANCE, self._id, row | changes)

    def _spec(self) -> MachineSpec:
        row = self._row
        gpu: Body = row["gpu"] or {}
        online, google = self._reach()
        return MachineSpec(
            name=row["name"],
            zone=row["zone"],
            internal_ip=row["networkIp"],
            gpu_type=gpu.get("type"),
            gpu_count=gpu.get("count", 0),
            gpu_memory_gib=gpu.get("memoryGib", 0),
            hosts=self._around.hosts(online=online, google=google),
            ca=self._around.ca,
            boot_image=row["image"],
        )

    def _reach(self) -> tuple[bool, bool]:
        """Whether the VM gets out to the internet, and to Google's own hosts."""
        row = self._row
        subnetwork = resolve(self._world.store, row["subnetwork"], SUBNETWORK) or {}
        online = row["externalIp"] or reaches_internet(
            self._world.store, row["network"], subnetwork
        )
        return online, online or bool(subnetwork.get("privateIpGoogleAccess"))

    async def _watch(self, machine: Machine) -> str:
        start = time.time()
        verdict = Verdict()
        while machine.running:
            check, delay_s = self._healing()
            if check:
                await self._judge(machine, check, verdict, start)
                patient = time.time() - start < delay_s / self._world.speed + BOOT_FLOOR_S
                if verdict.state == "UNHEALTHY" and (verdict.was_healthy or not patient):
                    return "its health check fails"
            interval_s = check.interval_s if check else 0.0
            with suppress(TimeoutError):
                pause_s = max(interval_s / self._world.speed, FLOOR_S)
                await asyncio.wait_for(machine.wait(), pause_s)
        return "its guest is down"

    def _healing(self) -> tuple[HealthCheck | None, float]:
        group = self._world.store.get(GROUP, self._row["group"]) or {}
        policy: Body = group.get("autoHealingPolicies") or {}
        if not policy:
            return None, 0.0
        check = HealthCheck.find(self._world.store, policy["healthCheck"])
        return check, float(policy["initialDelaySec"])

    async def _judge(
        self, machine: Machine, check: HealthCheck, verdict: Verdict, start: float
    ) -> None:
        world, row = self._world, self._row
        passed = await check.passes(world.store, row, machine.connect, world.speed)
        first = not verdict.was_healthy
        self._set(health=verdict.add(passed, check))
        if first and verdict.was_healthy:
            event = timeline.Event(f"{row['name']} becomes healthy", start, time.time())
            timeline.record(world.timeline, event)
