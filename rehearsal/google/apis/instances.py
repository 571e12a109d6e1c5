"""compute.googleapis.com about VMs outside groups, their disks, and what a call has begun."""

import secrets
from collections.abc import Mapping
from typing import Any

from rehearsal.errors import CloudError
from rehearsal.google import boot_images, instances
from rehearsal.google.apis.groups import Way
from rehearsal.google.instance_groups import obstacle
from rehearsal.google.metadata import INSTANCE
from rehearsal.google.network import SUBNETWORK, resolve
from rehearsal.google.rest import Call
from rehearsal.google.single_instances import DISK, LINK
from rehearsal.store import Body
from rehearsal.world import World

OPERATION = "google:compute_operation"
"""What a call has begun: `verb`, `target` (a VM's or disk's id), and `error`, or none."""


class Instances:
    """The answers. Absent on purpose: starting, stopping and changing VMs, other disks than those
    with which a VM is made."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store

    def ways_of_zones(self) -> tuple[tuple[str, Way], ...]:
        """Below `.../zones/{zone}`: a path and its method."""
        see = "compute.zoneOperations.get"
        return (
            ("/instances", Way("POST", "", "compute.instances.create", self.insert)),
            ("/operations/{operation}", Way("GET", "", see, self.operation)),
            ("/disks/{disk}", Way("GET", "", "compute.disks.get", self.disk)),
            ("/disks/{disk}", Way("DELETE", "", "compute.disks.delete", self.delete_disk)),
        )

    def ways_of_instances(self) -> tuple[Way, ...]:
        """Below `.../zones/{zone}/instances/{instance}`."""
        keep, show = "compute.instances.setDiskAutoDelete", "compute.instances.getSerialPortOutput"
        return (
            Way("DELETE", "", "compute.instances.delete", self.delete),
            Way("POST", "/setDiskAutoDelete", keep, self.set_disk_auto_delete),
            Way("GET", "/serialPort", show, self.serial_port),
        )

    def insert(self, call: Call) -> Body:
        """instances.insert"""
        row = self._row(call)
        id = f"{_zone(call)}/instances/{row['name']}"
        if self._store.get(INSTANCE, id):
            raise CloudError(409, f"The resource '{id}' already exists", "alreadyExists")
        hindrance = obstacle(self._world, row)
        if hindrance is None:
            self._store.put(INSTANCE, id, row)
        return self._begun(call, "insert", id, hindrance._asdict() if hindrance else None)

    def _row(self, call: Call) -> Body:
        body, parts = call.body, call.parts
        (disk,) = body["disks"]
        made_of: Body = disk["initializeParams"]
        (interface,) = body["networkInterfaces"]
        subnetwork = resolve(self._store, interface["subnetwork"], SUBNETWORK)
        if subnetwork is None:
            raise _missing(interface["subnetwork"])
        scheduling: Body = body.get("scheduling") or {}
        if scheduling.get("maxRunDuration") and not scheduling.get("instanceTerminationAction"):
            message = "Invalid value for field 'resource.scheduling.instanceTerminationAction': ''."
            raise CloudError(400, message, "invalid")
        (account,) = body["serviceAccounts"]
        items: list[Mapping[str, str]] = body["metadata"]["items"]
        return instances.new(self._store, body, subnetwork) | {
            "name": body["name"],
            "project": parts["project"],
            "zone": parts["zone"],
            "group": "",
            "template": "",
            "image": made_of["sourceImage"],
            "bootDiskGb": int(made_of.get("diskSizeGb") or 10),
            "metadata": {it["key"]: it["value"] for it in items},
            "tags": [],
            "serviceAccount": account,
            "keepsDisk": not disk.get("autoDelete"),
            "diskLabels": made_of.get("labels") or {},
        }

    def delete(self, call: Call) -> Body:
        """instances.delete"""
        id, row = self._instance(call)
        self._store.put(INSTANCE, id, row | {"status": "STOPPING"})
        return self._begun(call, "delete", id)

    def set_disk_auto_delete(self, call: Call) -> Body:
        """instances.setDiskAutoDelete"""
        id, row = self._instance(call)
        if call.query.get("deviceName") != row["name"]:
            raise CloudError(400, "Invalid value for field 'deviceName'.", "invalid")
        keeps = call.query.get("autoDelete") == "false"
        self._store.put(INSTANCE, id, row | {"keepsDisk": keeps})
        return self._begun(call, "setDiskAutoDelete", "")

    def serial_port(self, call: Call) -> Body:
        """instances.getSerialPortOutput"""
        _, row = self._instance(call)
        console = self._world.directory / "machines" / row["name"] / "console.log"
        text = console.read_text(errors="replace") if console.exists() else ""
        return {"kind": "compute#serialPortOutput", "contents": text, "selfLink": LINK + call.name}

    def disk(self, call: Call) -> Body:
        """disks.get, of one that has outlived its VM."""
        return self._disk(call)[1]

    def delete_disk(self, call: Call) -> Body:
        """disks.delete"""
        id, _ = self._disk(call)
        self._store.delete(DISK, id)
        boot_images.drop(self._world, id)
        return self._begun(call, "delete", "")

    def operation(self, call: Call) -> Body:
        """zoneOperations.get"""
        id = f"{_zone(call)}/operations/{call.parts['operation']}"
        row = self._store.get(OPERATION, id)
        if row is None:
            raise _missing(id)
        return self._told(id, row)

    def _begun(self, call: Call, verb: str, target: str, error: Body | None = None) -> Body:
        id = f"{_zone(call)}/operations/operation-{secrets.token_hex(8)}"
        row: Body = {"verb": verb, "target": target, "error": error}
        self._store.put(OPERATION, id, row)
        return self._told(id, row)

    def _told(self, id: str, row: Body) -> Body:
        found = self._store.get(INSTANCE, row["target"]) or {}
        going = {"insert": found.get("status") == "PROVISIONING", "delete": bool(found)}
        failed: dict[str, Any] = {"error": {"errors": [row["error"]]}} if row["error"] else {}
        return {
            "kind": "compute#operation",
            "name": id.rpartition("/")[2],
            "operationType": row["verb"],
            "status": "RUNNING" if going.get(row["verb"]) else "DONE",
            "targetLink": LINK + row["target"],
            "selfLink": LINK + id,
            **failed,
        }

    def _instance(self, call: Call) -> tuple[str, Body]:
        return self._need(INSTANCE, f"{_zone(call)}/instances/{call.parts['instance']}")

    def _disk(self, call: Call) -> tuple[str, Body]:
        return self._need(DISK, f"{_zone(call)}/disks/{call.parts['disk']}")

    def _need(self, type: str, id: str) -> tuple[str, Body]:
        row = self._store.get(type, id)
        if row is None:
            raise _missing(id)
        return id, row


def _zone(call: Call) -> str:
    return f"projects/{call.parts['project']}/zones/{call.parts['zone']}"


def _missing(name: str) -> CloudError:
    return CloudError(404, f"The resource '{name}' was not found", "notFound")
