"""VMs that belong to no group: each lives until it is deleted, or its time is over."""

import asyncio
import logging

from rehearsal import figures
from rehearsal.google import boot_images
from rehearsal.google.guest import Surroundings
from rehearsal.google.instances import Instance
from rehearsal.google.metadata import INSTANCE
from rehearsal.store import Body, Change

DISK = "gcp:compute/disk:Disk"
"""A disk that has outlived its VM; those of VMs are told of with theirs."""
LINK = "https://www.googleapis.com/compute/v1/"
LONGEST_FLOOR_S = 120.0
"""Added in this machine's time to the time that a VM may run: its slowness is not compressed."""

log = logging.getLogger(__name__)


class SingleInstances:
    """Follows every VM in the store that names no group; one task lives each.

    A VM whose row turns to STOPPING is deleted, and its disk with it unless `keepsDisk` is true.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._world = around.world
        self._store = around.world.store
        self._lives: dict[str, tuple[Instance, asyncio.Task[None]]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Follow the store from now on; boot what it says exists: machines end with daemons."""
        for id, row in self._store.all(INSTANCE).items():
            if not row["group"]:
                self._begin(id, row)
        self._store.subscribe(self._changed)

    async def close(self) -> None:
        """End every machine at once; their rows stay."""
        for task in [*self._leaving.values(), *(task for _, task in self._lives.values())]:
            task.cancel()
        closing = (instance.close(grace_s=0) for instance, _ in self._lives.values())
        await asyncio.gather(*closing, return_exceptions=True)

    def _changed(self, change: Change, type: str, id: str, row: Body) -> None:
        if type == INSTANCE and not row["group"] and change != "deleted":
            self._begin(id, row)

    def _begin(self, id: str, row: Body) -> None:
        """Live a VM that nobody lives, or delete it."""
        if row["status"] == "STOPPING" and id not in self._leaving:
            self._leaving[id] = asyncio.create_task(self._leave(id))
        elif row["status"] in ("PROVISIONING", "RUNNING") and id not in self._lives:
            instance = Instance(self._around, id)
            self._lives[id] = instance, asyncio.create_task(self._live(instance, id))

    async def _live(self, instance: Instance, id: str) -> None:
        scheduling: Body = (self._store.get(INSTANCE, id) or {})["scheduling"]
        most: Body = scheduling.get("maxRunDuration") or {"seconds": 0}
        seconds = float(most["seconds"])
        limit = seconds / self._world.speed + LONGEST_FLOOR_S if seconds else None
        ends = "TERMINATED"
        try:
            await asyncio.wait_for(instance.run(), limit)
        except TimeoutError:
            ends = "STOPPING"  # instanceTerminationAction DELETE, the only one that is played
        except Exception:
            log.exception("%s did not come up", id)
        if row := self._store.get(INSTANCE, id):
            self._store.put(INSTANCE, id, row | {"status": ends})

    async def _leave(self, id: str) -> None:
        row = self._store.get(INSTANCE, id) or {}
        disk = id.replace("/instances/", "/disks/")
        keeps = row["keepsDisk"]
        if id in self._lives:
            instance, task = self._lives[id]
            if task is not asyncio.current_task():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await instance.close(save=boot_images.folder(self._world, disk) if keeps else None)
            del self._lives[id]
        await self._world.take("VM delete", figures.seconds("VM delete"))
        if keeps:
            self._store.put(DISK, disk, _disk(disk, row))
        self._store.delete(INSTANCE, id)
        del self._leaving[id]


def _disk(id: str, row: Body) -> Body:
    """A disk whose VM is gone."""
    return {
        "id": id,
        "selfLink": LINK + id,
        "name": row["name"],
        "project": row["project"],
        "zone": row["zone"],
        "sizeGb": str(row["bootDiskGb"]),
        "labels": row["diskLabels"],
        "effectiveLabels": row["diskLabels"],
        "status": "READY",
        "creationTimestamp": row["creationTimestamp"],
    }
