"""One VM: from PROVISIONING until it is gone, with the guest that really boots inside it."""

import asyncio
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components import catalogue
from rehearsal import figures, timeline
from rehearsal.google import boot_images, dns
from rehearsal.google.guest import Machine, Server, Surroundings
from rehearsal.google.health import FLOOR_S, HealthCheck, Verdict
from rehearsal.google.metadata import INSTANCE, MetadataServer
from rehearsal.google.network import SUBNETWORK, free_address, reaches_internet, resolve
from rehearsal.machines.machine import MachineSpec
from rehearsal.store import Body, Store

GROUP = "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager"

SHUTDOWN_S = {"SPOT": 30.0}
SHUTDOWN_OTHERWISE_S = 90.0
"""Seconds between the power button and the end, by provisioning model, as Google documents them."""
SHUTDOWN_FLOOR_S = 15.0
BOOT_FLOOR_S = 60.0
READY_FLOOR_S = 10.0
"""Added in this machine's time to the initial delay, and to the time for which a VM must be ready
to count as available: its own slowness is not compressed."""


def timestamp(at: float) -> str:
    """Seconds since the epoch as Compute Engine writes them."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def gpu_of(machine_type: str, attached: list[Body]) -> Body | None:
    """The GPUs of a machine type, or those attached to it: type, count, memory of one in GiB."""
    machines = [machine for gpu in catalogue.gpus() for machine in catalogue.machines(gpu)]
    for wish in attached:
        type: str = wish["type"].rpartition("/")[2]
        memory = next((it.memory_gib for it in machines if it.gpu == type), 0)
        return {"type": type, "count": int(wish["count"]), "memoryGib": memory}
    for machine in machines:
        if machine.machine_type == machine_type and not machine.attached:
            return {"type": machine.gpu, "count": machine.count, "memoryGib": machine.memory_gib}
    return None


def new(store: Store, shape: Body, subnetwork: Body) -> Body:
    """A VM's row in the moment it is asked for, as far as it follows from its shape.

    The shape is an instance template or the request for a single VM. ValueError when the subnet is
    full.
    """
    interface: Body = shape["networkInterfaces"][0]
    machine_type: str = shape["machineType"].rpartition("/")[2]
    taken = {it["networkIp"] for it in store.all(INSTANCE).values()}
    return {
        "status": "PROVISIONING",
        "health": "UNKNOWN",
        "available": False,
        "instanceId": str(secrets.randbelow(9 * 10**18) + 10**18),
        "creationTimestamp": timestamp(time.time()),
        "machineType": machine_type,
        "gpu": gpu_of(machine_type, shape.get("guestAccelerators") or []),
        "labels": shape.get("labels") or {},
        "scheduling": shape.get("scheduling") or {},
        "network": subnetwork["network"],
        "subnetwork": interface["subnetwork"],
        "networkIp": free_address(subnetwork["ipCidrRange"], taken),
        "externalIp": bool(interface.get("accessConfigs")),
    }


class Instance:
    """Lives one `google:instance` row: keeps its `status`, `health` and `available` true."""

    def __init__(self, around: Surroundings, id: str) -> None:
        self._around = around
        self._world = around.world
        self._id = id
        self._machine: Machine | None = None
        self._servers: list[Server] = []
        self._began = 0.0

    async def run(self) -> str:
        """Create, boot and watch the VM; returns why its group must repair it."""
        world = self._world
        self._began = time.time()
        self._set(
            status="PROVISIONING",
            health="UNKNOWN",
            available=False,
            creationTimestamp=timestamp(self._began),
            guestAttributes={},
        )
        await world.take("VM create", figures.seconds("VM create"))
        self._set(status="RUNNING")
        await world.take("VM boot", figures.seconds("VM boot"))
        self._machine = await self._around.boot(world, self._spec())
        metadata = MetadataServer(world, self._around.identity, self._id)
        self._servers = [
            *await self._around.furnish(self._machine, self._id, metadata.handle),
            await dns.serve(await self._machine.listen(*dns.ADDRESS), self._find),
        ]
        return await self._watch(self._machine)

    async def close(self, grace_s: float | None = None, save: Path | None = None) -> None:
        """Shut the guest down within the grace (Google's by default) and let go of everything.

        What is on its disk is kept in `save`.
        """
        if self._machine:
            await self._machine.stop(self._grace_s() if grace_s is None else grace_s)
            if save:
                await self._machine.save(save)
            await self._machine.delete()
            self._machine = None
        while self._servers:
            self._servers.pop().close()
        if self._began and (gpu := self._row["gpu"]):
            span = timeline.Event(
                f"GPU of {self._row['name']}", self._began, time.time(), holds=gpu["type"]
            )
            timeline.record(self._world.timeline, span)
        self._began = 0.0

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
            disk=boot_images.content(self._world, row["image"]),
            boot_s=figures.seconds("VM boot") / self._world.speed,
        )

    def _find(self, name: str) -> str | None:
        """The address that a host name has for the VM just now."""
        online, google = self._reach()
        return self._around.hosts(online=online, google=google).get(name)

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
        ready_since: float | None = None
        while machine.running or await machine.come_back():
            if self._world.faults.strikes("preemption"):
                await machine.stop(self._grace_s())
                return "Compute Engine has preempted it"
            check, delay_s = self._healing()
            if check:
                await self._judge(machine, check, verdict, start)
                patient = time.time() - start < delay_s / self._world.speed + BOOT_FLOOR_S
                if verdict.state == "UNHEALTHY" and (verdict.was_healthy or not patient):
                    return "its health check fails"
            ready = not check or verdict.state == "HEALTHY"
            ready_since = (ready_since or time.time()) if ready else None
            self._set(available=ready and time.time() - (ready_since or 0) >= self._min_ready_s())
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

    def _min_ready_s(self) -> float:
        """How long the VM must be ready before its group counts on it, in this machine's time."""
        group = self._world.store.get(GROUP, self._row["group"]) or {}
        policy: Body = group.get("updatePolicy") or {}
        life_s: int = policy.get("minReadySec") or 0
        return life_s / self._world.speed + READY_FLOOR_S if life_s else 0.0

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
