"""compute.googleapis.com about managed instance groups: their machines, and why they get none."""

from collections.abc import Callable
from typing import NamedTuple

from rehearsal.errors import CloudError
from rehearsal.google.instance_groups import ERROR, template_of
from rehearsal.google.instances import GROUP
from rehearsal.google.metadata import INSTANCE
from rehearsal.google.rest import Call
from rehearsal.store import Body
from rehearsal.world import World

LINK = "https://www.googleapis.com/compute/v1/"
ACTIONS = {"PROVISIONING": "CREATING", "STOPPING": "DELETING"}
"""What the group does with a VM in a status; with others nothing."""


class Way(NamedTuple):
    """A method of the API, below a group or an instance."""

    method: str
    verb: str
    """What follows the resource's name; nothing for itself."""
    permission: str
    answer: Callable[[Call], Body | list[Body]]
    listed: str = ""


class Groups:
    """The answers."""

    def __init__(self, world: World) -> None:
        self._store = world.store

    def ways_of_groups(self) -> tuple[Way, ...]:
        """Below `.../regions/{region}/instanceGroupManagers/{group}`."""
        see = "compute.instanceGroupManagers.get"
        return (
            Way("GET", "", see, self.group),
            Way("GET", "/listErrors", see, self.errors, "items"),
            Way("POST", "/listManagedInstances", see, self.machines, "managedInstances"),
        )

    def ways_of_instances(self) -> tuple[Way, ...]:
        """Below `.../zones/{zone}/instances/{instance}`."""
        attributes = "compute.instances.getGuestAttributes"
        return (
            Way("GET", "", "compute.instances.get", self.instance),
            Way("GET", "/getGuestAttributes", attributes, self.guest_attributes),
        )

    def group(self, call: Call) -> Body:
        """regionInstanceGroupManagers.get"""
        id, row = self._group(call)
        zones = [{"zone": zone} for zone in row["distributionPolicyZones"]]
        return {
            "kind": "compute#instanceGroupManager",
            "name": row["name"],
            "creationTimestamp": row.get("creationTimestamp", ""),
            "targetSize": row["targetSize"],
            "baseInstanceName": row["baseInstanceName"],
            "distributionPolicy": {"zones": zones},
            "versions": [{"instanceTemplate": LINK + template_of(row)}],
            "selfLink": LINK + id,
        }

    def errors(self, call: Call) -> list[Body]:
        """regionInstanceGroupManagers.listErrors"""
        id, _ = self._group(call)
        return [
            {
                "error": {"code": row["code"], "message": row["message"]},
                "timestamp": row["timestamp"],
                "instanceActionDetails": {
                    "action": "CREATING",
                    "instance": LINK + row["instance"],
                    "version": {"instanceTemplate": LINK + row["template"]},
                },
            }
            for row in self._store.all(ERROR).values()
            if row["group"] == id
        ]

    def machines(self, call: Call) -> list[Body]:
        """regionInstanceGroupManagers.listManagedInstances"""
        id, _ = self._group(call)
        return [
            {
                "instance": LINK + instance,
                "name": row["name"],
                "id": row["instanceId"],
                "instanceStatus": row["status"],
                "currentAction": ACTIONS.get(row["status"], "NONE"),
                "version": {"instanceTemplate": LINK + row["template"]},
                "instanceHealth": [{"detailedHealthState": row["health"]}],
            }
            for instance, row in self._store.all(INSTANCE).items()
            if row["group"] == id
        ]

    def instance(self, call: Call) -> Body:
        """instances.get"""
        id, row = self._instance(call)
        return {
            "kind": "compute#instance",
            "id": row["instanceId"],
            "name": row["name"],
            "creationTimestamp": row["creationTimestamp"],
            "lastStartTimestamp": row["creationTimestamp"],
            "status": row["status"],
            "machineType": f"{LINK}{id.partition('/instances/')[0]}/machineTypes/"
            + row["machineType"],
            "labels": row["labels"],
            "selfLink": LINK + id,
        }

    def guest_attributes(self, call: Call) -> Body:
        """instances.getGuestAttributes, of a namespace (`NAME/`) or one key in it."""
        _, row = self._instance(call)
        path = call.query.get("queryPath", "")
        items = [
            {"namespace": namespace, "key": key, "value": value}
            for name, value in row.get("guestAttributes", {}).items()
            for namespace, _, key in [name.partition("/")]
            if path in (name, f"{namespace}/")
        ]
        if not items:
            message = f"The resource '{path}' of type 'Guest Attribute' was not found."
            raise CloudError(404, message, "notFound")
        return {
            "kind": "compute#guestAttributes",
            "queryPath": path,
            "queryValue": {"items": items},
            "selfLink": LINK + call.name,
        }

    def _group(self, call: Call) -> tuple[str, Body]:
        parts = call.parts
        place = f"projects/{parts['project']}/regions/{parts['region']}"
        return self._need(GROUP, f"{place}/instanceGroupManagers/{parts['group']}")

    def _instance(self, call: Call) -> tuple[str, Body]:
        parts = call.parts
        place = f"projects/{parts['project']}/zones/{parts['zone']}"
        return self._need(INSTANCE, f"{place}/instances/{parts['instance']}")

    def _need(self, type: str, id: str) -> tuple[str, Body]:
        row = self._store.get(type, id)
        if row is None:
            raise CloudError(404, f"The resource '{id}' was not found", "notFound")
        return id, row
