"""Regional managed instance groups: the controller that keeps machines as the groups say."""

import asyncio
import logging
import math
import re
import secrets
import string
import time
from typing import NamedTuple

from components import catalogue
from rehearsal import figures
from rehearsal.google import instances, quotas
from rehearsal.google.guest import Surroundings
from rehearsal.google.identity import ACCOUNT
from rehearsal.google.instances import GROUP, Instance, timestamp
from rehearsal.google.metadata import INSTANCE
from rehearsal.google.network import SUBNETWORK, bare, resolve
from rehearsal.store import Body, Change
from rehearsal.world import World

ERROR = "google:instance_error"
"""Why a group could not create a VM in a zone: the last such error, until the group is deleted."""
TEMPLATES = (
    "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate",
    "gcp:compute/instanceTemplate:InstanceTemplate",
)
PLAIN_MACHINES = re.compile(
    r"(?:e2-(?:micro|small|medium)|(?:c3|c4|e2|n1|n2|n2d|n4|t2d)-(?:standard|highmem|highcpu)-\d+)"
)
"""Machine types without GPUs."""

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What a group does next: how many VMs to create, and which to delete."""

    create: int
    delete: list[str]


class Obstacle(NamedTuple):
    """Why a VM cannot be created, in Compute Engine's words."""

    code: str
    message: str


def plan(group: Body | None, rows: dict[str, Body]) -> Plan:
    """The next step towards the group's size and template; `rows` are its VMs, leaving ones too.

    A VM that is being deleted still counts against the surge, so that a surge of 0 never asks
    for more than the group's size.
    """
    staying = {id: row for id, row in rows.items() if row["status"] != "STOPPING"}
    if group is None:
        return Plan(0, [*staying])
    size: int = group["targetSize"]
    policy: Body = group.get("updatePolicy") or {}
    ready = {id for id, row in staying.items() if row["status"] == "RUNNING" and row["available"]}
    wanted = template_of(group)
    worst_first = sorted(staying, key=ready.__contains__)
    new = [id for id in worst_first if staying[id]["template"] == wanted]
    old = [id for id in worst_first if id not in new]
    if policy.get("type") != "PROACTIVE":
        surplus = max(0, len(staying) - size)
        return Plan(max(0, size - len(rows)), (old + new)[:surplus])
    surge, unavailable = (_fixed(policy, it, size) for it in ("maxSurge", "maxUnavailable"))
    expendable = len(ready) - max(0, size - unavailable)
    replaced = [id for id in old if id not in ready]
    replaced += [id for id in old if id in ready][: max(0, expendable)]
    surplus = new[: max(0, len(new) - size)]
    return Plan(max(0, min(size - len(new), size + surge - len(rows))), replaced + surplus)


def template_of(group: Body) -> str:
    """The template that new VMs of the group get, as `projects/...`."""
    return bare(group["versions"][-1]["instanceTemplate"])


def _fixed(policy: Body, name: str, size: int) -> int:
    percent: int = policy.get(f"{name}Percent") or 0
    return policy.get(f"{name}Fixed") or math.ceil(size * percent / 100)


class InstanceGroups:
    """Follows every group in the store; one task lives each VM."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._world = around.world
        self._store = around.world.store
        self._lives: dict[str, tuple[Instance, asyncio.Task[None]]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    def start(self) -> None:
        """Follow the store from now on; boot what it says exists: machines end with daemons."""
        for id, row in self._store.all(INSTANCE).items():
            if row["status"] == "STOPPING":
                self._store.delete(INSTANCE, id)
            else:
                self._live(id)
        self._store.subscribe(self._changed)
        groups = {row["group"] for row in self._store.all(INSTANCE).values()}
        for group in {*groups, *self._store.all(GROUP)}:
            self._reconcile(group)

    async def close(self) -> None:
        """End every machine at once; their rows stay, so that the next daemon boots them again."""
        self._closed = True
        for timer in self._waiting.values():
            timer.cancel()
        for task in [*self._leaving, *(task for _, task in self._lives.values())]:
            task.cancel()
        closing = (instance.close(grace_s=0) for instance, _ in self._lives.values())
        await asyncio.gather(*closing, return_exceptions=True)

    def _changed(self, _: Change, type: str, id: str, body: Body) -> None:
        group = id if type == GROUP else body["group"] if type == INSTANCE else None
        if group and not self._closed:
            asyncio.get_running_loop().call_soon(self._reconcile, group)

    def _reconcile(self, group: str) -> None:
        if self._closed:
            return
        body = self._store.get(GROUP, group)
        rows = {id: row for id, row in self._store.all(INSTANCE).items() if row["group"] == group}
        step = plan(body, rows)
        for id in step.delete:
            self._delete(id)
        if body and group not in self._waiting:
            for _ in range(step.create):
                self._create(group, body)
        if body is None and not rows:
            self._forget(group)

    def _forget(self, group: str) -> None:
        if timer := self._waiting.pop(group, None):
            timer.cancel()
        for id, error in self._store.all(ERROR).items():
            if error["group"] == group:
                self._store.delete(ERROR, id)

    def _create(self, group: str, body: Body) -> None:
        """Create a VM in the first zone that has room; without one, try again later."""
        zones = self._zones(body)
        shape = body.get("distributionPolicyTargetShape")
        for zone in zones if shape in ("ANY", "BALANCED") else zones[:1]:
            row = self._new(group, body, zone)
            hindrance = obstacle(self._world, row)
            id = f"projects/{row['project']}/zones/{zone}/instances/{row['name']}"
            if hindrance is None:
                self._store.put(INSTANCE, id, row)
                self._live(id)
                return
            error = hindrance._asdict() | {
                "group": group,
                "zone": zone,
                "timestamp": timestamp(time.time()),
            }
            error |= {"instance": id, "template": row["template"]}
            self._store.put(ERROR, f"{group}/errors/{zone}", error)
            log.warning("%s in %s: %s", group, zone, hindrance.message)
        again_s = figures.seconds("wait for stock") / self._world.speed
        loop = asyncio.get_running_loop()
        self._waiting[group] = loop.call_later(again_s, self._retry, group)

    def _retry(self, group: str) -> None:
        self._waiting.pop(group, None)
        self._reconcile(group)

    def _zones(self, group: Body) -> list[str]:
        """The group's zones, emptiest first."""
        used = [row["zone"] for row in self._store.all(INSTANCE).values()]
        zones = [bare(it).rpartition("/")[2] for it in group["distributionPolicyZones"]]
        return sorted(zones, key=lambda zone: (used.count(zone), zone))

    def _new(self, group: str, body: Body, zone: str) -> Body:
        """The row of a VM made from the group's template. LookupError when something is missing."""
        template = self._need(template_of(body), *TEMPLATES)
        subnetwork = self._need(template["networkInterfaces"][0]["subnetwork"], SUBNETWORK)
        metadata: dict[str, str] = dict(template.get("metadata") or {})
        if script := template.get("metadataStartupScript"):
            metadata["startup-script"] = script
        suffix = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(4))
        return instances.new(self._store, template, subnetwork) | {
            "name": f"{body['baseInstanceName']}-{suffix}",
            "project": body["project"],
            "zone": zone,
            "group": group,
            "template": template_of(body),
            "image": template["disks"][0].get("sourceImage", ""),
            "bootDiskGb": int(template["disks"][0].get("diskSizeGb") or 10),
            "metadata": metadata,
            "tags": template.get("tags") or [],
            "serviceAccount": template.get("serviceAccount"),
        }

    def _need(self, reference: str, *types: str) -> Body:
        body = resolve(self._store, reference, *types)
        if body is None:  # deletion of what a group uses is refused: this is a defect of ours
            raise LookupError(f"{reference} does not exist")
        return body

    def _live(self, id: str) -> None:
        instance = Instance(self._around, id)
        self._lives[id] = instance, asyncio.create_task(self._repair_forever(instance, id))

    async def _repair_forever(self, instance: Instance, id: str) -> None:
        """Run the VM; when it fails, make it anew under its name, as auto-healing does."""
        while self._store.get(INSTANCE, id):
            try:
                reason = await instance.run()
            except Exception as error:  # a machine that cannot boot must not end its group
                log.exception("%s did not come up", id)
                reason = str(error)
            log.warning("%s is repaired: %s", id, reason)
            await instance.close()
            self._update_on_repair(id)

    def _update_on_repair(self, id: str) -> None:
        """Before a VM is made anew, give it the group's latest template if the group wants that.

        Otherwise it keeps "the same instance configuration that was originally used to create the
        VM" (docs.cloud.google.com/compute/docs/instance-groups/update-on-repair), also when that
        template is deleted: nothing tells what becomes of such a VM, and the group's new template
        comes "according to the group's update policy" only.
        """
        row = self._store.get(INSTANCE, id)
        group = self._store.get(GROUP, row["group"]) if row else None
        if not row or not group or row["status"] == "STOPPING":
            return
        policy: Body = group.get("instanceLifecyclePolicy") or {}
        latest = policy.get("forceUpdateOnRepair") == "YES"
        if latest and row["template"] != template_of(group):
            stays = {key: row[key] for key in ("name", "networkIp")}
            self._store.put(INSTANCE, id, self._new(row["group"], group, row["zone"]) | stays)

    def _delete(self, id: str) -> None:
        row = self._store.get(INSTANCE, id)
        if row:
            self._store.put(INSTANCE, id, row | {"status": "STOPPING"})
            leaving = asyncio.create_task(self._leave(id))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, id: str) -> None:
        instance, task = self._lives.pop(id)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await instance.close()
        await self._world.take("VM delete", figures.seconds("VM delete"))
        self._store.delete(INSTANCE, id)


def obstacle(world: World, row: Body) -> Obstacle | None:
    """Why this VM cannot be created in its zone now, or None."""
    zone: str = row["zone"]
    project: str = row["project"]
    gpu: Body | None = row["gpu"]
    account: Body = row["serviceAccount"] or {}
    spot = row["scheduling"].get("provisioningModel") == "SPOT"
    none_left = spot and world.accounts.obtainability.get(zone) == 0
    if none_left or any(map(world.faults.strikes, ("stockout", f"stockout-{zone}"))):
        return Obstacle(
            "ZONE_RESOURCE_POOL_EXHAUSTED",
            f"The zone 'projects/{project}/zones/{zone}' does not have enough resources"
            " available to fulfill the request.  Try a different zone, or try again later.",
        )
    withdrawn = world.faults.strikes("machine-type-withdrawn")
    if withdrawn or (not gpu and not PLAIN_MACHINES.fullmatch(row["machineType"])):
        what = f"projects/{project}/zones/{zone}/machineTypes/{row['machineType']}"
        return Obstacle("RESOURCE_NOT_FOUND", f"The resource '{what}' was not found")
    withheld = zone in world.accounts.zones_without_gpus
    if gpu and (withheld or zone not in catalogue.zones(gpu["type"])):
        what = f"projects/{project}/zones/{zone}/acceleratorTypes/{gpu['type']}"
        return Obstacle("RESOURCE_NOT_FOUND", f"The resource '{what}' was not found")
    region = zone.rpartition("-")[0]
    for quota, wanted in quotas.wants(world, row).items():
        if message := quotas.refusal(world, quota, project, region, wanted):
            return Obstacle("QUOTA_EXCEEDED", message)
    accounts = {it["email"] for it in world.store.all(ACCOUNT).values()}
    if account and account["email"] not in accounts:
        what = f"The resource '{account['email']}' of type 'serviceAccount'"
        return Obstacle("RESOURCE_NOT_FOUND", f"{what} was not found.")
    return None
