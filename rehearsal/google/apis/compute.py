"""compute.googleapis.com: quotas, what is offered where, and what a project has."""

import re
from collections.abc import Iterator
from functools import cache, partial
from typing import NamedTuple

from components import catalogue
from rehearsal.errors import CloudError
from rehearsal.google import images, quotas
from rehearsal.google.apis.groups import Groups
from rehearsal.google.apis.instances import Instances
from rehearsal.google.boot_images import IMAGE
from rehearsal.google.identity import Identity
from rehearsal.google.instance_groups import PLAIN_MACHINES, TEMPLATES
from rehearsal.google.instances import GROUP
from rehearsal.google.metadata import INSTANCE
from rehearsal.google.rest import Api, Call, Route, cut
from rehearsal.google.single_instances import DISK
from rehearsal.store import Body
from rehearsal.world import World

HOST = "compute.googleapis.com"
LINK = "https://www.googleapis.com/compute/v1/"
NAT = "gcp:compute/routerNat:RouterNat"
HIGH = 0.9
"""How likely a Spot machine is to be had where the accounts do not say otherwise."""


class Collection(NamedTuple):
    """What a project has of a kind."""

    types: tuple[str, ...]
    scope: str
    """global, regions or zones."""
    shown: tuple[str, ...] = ()
    """What is shown besides names, times and labels."""


_CHECKS = "gcp:compute/healthCheck:HealthCheck", "gcp:compute/regionHealthCheck:RegionHealthCheck"
COLLECTIONS: dict[str, tuple[Collection, ...]] = {
    "networks": (Collection(("gcp:compute/network:Network",), "global"),),
    "firewalls": (Collection(("gcp:compute/firewall:Firewall",), "global", ("network",)),),
    "healthChecks": (
        Collection(_CHECKS[:1], "global", ("type",)),
        Collection(_CHECKS[1:], "regions", ("type",)),
    ),
    "subnetworks": (
        Collection(("gcp:compute/subnetwork:Subnetwork",), "regions", ("network", "ipCidrRange")),
    ),
    "routers": (Collection(("gcp:compute/router:Router",), "regions", ("network",)),),
    # Addresses that Cloud NAT takes by itself are the NAT's own; others somebody reserved by hand.
    "addresses": (
        Collection(("gcp:compute/address:Address",), "regions", ("address", "users")),
        Collection(("gcp:compute/globalAddress:GlobalAddress",), "global", ("address", "users")),
    ),
    "instanceTemplates": (
        Collection(TEMPLATES[:1], "regions"),
        Collection(TEMPLATES[1:], "global"),
    ),
    "instanceGroupManagers": (
        Collection((GROUP,), "regions", ("targetSize", "instanceGroup", "baseInstanceName")),
    ),
    "instances": (
        Collection((INSTANCE,), "zones", ("status", "machineType", "labels", "scheduling")),
    ),
    # Those of machines are rows of theirs; others somebody made by hand, or kept of a machine.
    "disks": (Collection((DISK,), "zones", ("sizeGb", "status", "users")),),
    "images": (Collection((IMAGE,), "global", ("family", "sourceDisk", "labels")),),
}
GLOBAL_ONLY = ("firewalls", "images", "networks")
"""Collections of which nothing is in a region or zone, and so no aggregated list exists."""


@cache
def zones() -> frozenset[str]:
    """Every zone that the catalogue knows."""
    return frozenset(zone for gpu in catalogue.gpus() for zone in catalogue.zones(gpu))


def offers(world: World, zone: str, gpu: str) -> bool:
    """Whether Google has a GPU in a zone, for these projects."""
    return zone in catalogue.zones(gpu) and zone not in world.accounts.zones_without_gpus


class Compute:
    """The answers. Absent on purpose: making, changing and deleting, which the providers do, but
    for VMs outside groups (instances.py)."""

    def __init__(self, world: World) -> None:
        self._world = world

    def project(self, call: Call) -> Body:
        """projects.get, with the quotas that count all regions together."""
        owner = call.parts["project"]
        return {
            "kind": "compute#project",
            "id": self._world.accounts.projects[owner],
            "name": owner,
            "quotas": [*self._quotas(owner, quotas.GLOBAL)],
            "selfLink": f"{LINK}{call.name}",
        }

    def region(self, call: Call) -> Body:
        """regions.get, with the region's quotas; those by GPU family are not among them."""
        region = call.parts["region"]
        here = sorted(it for it in zones() if it.rpartition("-")[0] == region)
        if not here:
            raise _missing(call.name)
        owner = call.parts["project"]
        return {
            "kind": "compute#region",
            "name": region,
            "status": "UP",
            "zones": [f"{LINK}projects/{owner}/zones/{zone}" for zone in here],
            "quotas": [*self._quotas(owner, region)],
            "selfLink": f"{LINK}{call.name}",
        }

    def _quotas(self, owner: str, region: str) -> Iterator[Body]:
        for quota in quotas.quotas():
            elsewhere = quota.service != HOST or quota.dimension
            if elsewhere or quota.everywhere != (region == quotas.GLOBAL):
                continue
            yield {
                "metric": quota.name,
                "limit": float(quotas.limit(self._world, quota.name)),
                "usage": float(quotas.used(self._world, quota.name, owner, region)),
            }

    def machine_types(self, call: Call) -> list[Body]:
        """machineTypes.list; of machines without GPUs the smallest only."""
        found = {
            machine.machine_type: _machine_type(call, machine.machine_type)
            for gpu in catalogue.gpus()
            for machine in catalogue.machines(gpu)
            if machine.attached or offers(self._world, call.parts["zone"], gpu)
        }
        found["e2-micro"] = _machine_type(call, "e2-micro")
        return [*found.values()]

    def machine_type(self, call: Call) -> Body:
        """machineTypes.get"""
        wanted = call.parts["type"]
        if PLAIN_MACHINES.fullmatch(wanted) and call.parts["zone"] in zones():
            return _machine_type(call, wanted) | {"selfLink": f"{LINK}{call.name}"}
        for found in self.machine_types(call):
            if found["name"] == wanted and call.parts["zone"] in zones():
                return found | {"selfLink": f"{LINK}{call.name}"}
        raise _missing(call.name)

    def accelerator_types(self, call: Call) -> list[Body]:
        """acceleratorTypes.list"""
        here = [it for it in catalogue.gpus() if offers(self._world, call.parts["zone"], it)]
        return [_accelerator_type(call, name) for name in here]

    def accelerator_type(self, call: Call) -> Body:
        """acceleratorTypes.get"""
        if not offers(self._world, call.parts["zone"], call.parts["type"]):
            raise _missing(call.name)
        return _accelerator_type(call, call.parts["type"])

    def family(self, call: Call) -> Body:
        """images.getFromFamily"""
        owner, family = call.parts["project"], call.parts["family"]
        if not images.family_exists(owner, family):
            raise _missing(call.name)
        name = f"{family}-v20261101"
        link = f"{LINK}projects/{owner}/global/images/{name}"
        return {"kind": "compute#image", "name": name, "family": family, "selfLink": link}

    def advice(self, call: Call) -> Body:
        """advice.capacity: how likely machines are to be had, for Spot."""
        properties, policy = (
            _part(call.body, "instanceProperties"),
            _part(call.body, "distributionPolicy"),
        )
        flexibility = _part(call.body, "instanceFlexibilityPolicy")
        selections: list[Body] = [*_part(flexibility, "instanceSelections").values()]
        scheduling = _part(properties, "scheduling")
        if scheduling.get("provisioningModel") != "SPOT" or not call.body.get("size"):
            message = "Invalid value for field 'instanceProperties.scheduling.provisioningModel'."
            raise CloudError(400, message, "invalid")
        region = call.parts["region"]
        asked = [it["zone"].rpartition("/")[2] for it in policy.get("zones") or ()]
        here = asked or [it for it in zones() if it.rpartition("-")[0] == region]
        chances = {zone: self._world.accounts.obtainability.get(zone, HIGH) for zone in here}
        best = max(sorted(chances), key=chances.__getitem__)
        machine = selections[0]["machineTypes"][0] if selections else ""
        shard = {"zone": f"{LINK}projects/{call.parts['project']}/zones/{best}"}
        shard |= {"instanceCount": call.body["size"], "machineType": machine}
        scores = {"obtainability": chances[best], "estimatedUptime": "3600s"}
        shards = [shard | {"provisioningModel": "SPOT"}]
        return {"recommendations": [{"scores": scores, "shards": shards}]}

    # What a project has

    def listed(self, call: Call, noun: str, collection: Collection) -> list[Body]:
        """A list in one scope; a scope's name is what the path says."""
        place = call.parts.get("region") or call.parts.get("zone") or ""
        rows = self._rows(noun, collection, call.parts["project"])
        return [it for it in rows if not place or _place(it) == place]

    def aggregated(self, call: Call, noun: str) -> Body:
        """The same in all scopes at once, by scope; `filter` may name a label.

        Scopes that have nothing on the page are there, too, with a warning.
        """
        label, _, value = call.query.get("filter", "").removeprefix("labels.").partition("=")
        rows = [
            ("/".join([collection.scope, *filter(None, [_place(row)])]), row)
            for collection in COLLECTIONS[noun]
            for row in self._rows(noun, collection, call.parts["project"])
            if not label or row["labels"].get(label) == value
        ]
        shown, more = cut(rows, call.query)
        found: dict[str, Body] = {scope: _nothing(scope) for scope in _scopes(noun)}
        for scope, row in shown:
            if noun not in found.get(scope, {}):
                found[scope] = {noun: []}
            found[scope][noun].append(row)
        kind = f"compute#{noun.removesuffix('s')}AggregatedList"
        return {"kind": kind, "items": found} | more

    def _rows(self, noun: str, collection: Collection, owner: str) -> list[Body]:
        store = self._world.store
        number = self._world.accounts.projects[owner]
        rows = [
            _shown(noun, id, row, collection.shown)
            | (_parts(row, number) if noun == "instances" else {})
            | ({"nats": self._nats(row)} if noun == "routers" else {})
            for type in collection.types
            for id, row in store.all(type).items()
            if row["project"] == owner
        ]
        if noun == "disks":
            machines = store.all(INSTANCE).values()
            rows += [_boot_disk(row) for row in machines if row["project"] == owner]
        return rows

    def _nats(self, router: Body) -> list[Body]:
        """What routers.list shows of a router's Cloud NATs."""
        return [
            {"name": row["name"], "natIpAllocateOption": row.get("natIpAllocateOption")}
            for row in self._world.store.all(NAT).values()
            if (row["router"], row["region"]) == (router["name"], router["region"])
            and row["project"] == router["project"]
        ]

    def image(self, call: Call) -> Body:
        """images.get, of the project's own."""
        id = call.name
        if row := self._world.store.get(IMAGE, id):
            return _shown("images", id, row, ("family", "sourceDisk")) | {"status": "READY"}
        raise _missing(id)


def _scopes(noun: str) -> list[str]:
    """All places in which a collection may have something."""
    kinds = {it.scope for it in COLLECTIONS[noun]}
    names = {"global": ["global"], "zones": sorted(zones()), "regions": sorted(catalogue.regions())}
    return [
        kind if kind == "global" else f"{kind}/{name}"
        for kind in sorted(kinds)
        for name in names[kind]
    ]


def _nothing(scope: str) -> Body:
    message = f"There are no results for scope '{scope}' on this page."
    return {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": message, "data": []}}


def _part(body: Body, key: str) -> Body:
    return body.get(key) or {}


def _place(row: Body) -> str:
    return str(row.get("zone") or row.get("region") or "").rpartition("/")[2]


def _shown(noun: str, id: str, row: Body, more: tuple[str, ...]) -> Body:
    """A resource as the API has it, as far as somebody looks."""
    links = {
        kind[:-1]: f"{LINK}projects/{row['project']}/{kind}/{row[kind[:-1]].rpartition('/')[2]}"
        for kind in ("regions", "zones")
        if row.get(kind[:-1])
    }
    return {
        "kind": f"compute#{noun.removesuffix('s')}",
        "name": row["name"],
        "creationTimestamp": row.get("creationTimestamp", ""),
        "labels": row.get("effectiveLabels") or {},
        "selfLink": f"{LINK}{id}",
        **links,
        **{key: row[key] for key in more if row.get(key) is not None},
    }


def _parts(row: Body, number: str) -> Body:
    """Disks of an instance, GPUs that are attached to it, and which group has made it."""
    gpu: Body = row["gpu"] or {}
    machines = catalogue.machines(gpu["type"]) if gpu else ()
    attached = any(it.attached for it in machines)
    kind = {"acceleratorType": gpu.get("type"), "acceleratorCount": gpu.get("count")}
    disk = {"boot": True, "deviceName": row["name"], "diskSizeGb": str(row["bootDiskGb"])}
    group = re.sub("^projects/[^/]+", f"projects/{number}", row.get("group") or "")
    maker = [{"key": "created-by", "value": group}] if group else []
    return {
        "disks": [disk],
        "metadata": {"kind": "compute#metadata", "items": maker},
        **({"guestAccelerators": [kind]} if attached else {}),
    }


def _boot_disk(row: Body) -> Body:
    """The boot disk that goes with an instance, and by its name."""
    id = f"projects/{row['project']}/zones/{row['zone']}/disks/{row['name']}"
    shown = _shown("disks", id, row, ("labels",))
    user = f"{LINK}projects/{row['project']}/zones/{row['zone']}/instances/{row['name']}"
    return shown | {"sizeGb": str(row["bootDiskGb"]), "status": "READY", "users": [user]}


def _machine_type(call: Call, name: str) -> Body:
    machines = [it for gpu in catalogue.gpus() for it in catalogue.machines(gpu)]
    found = next((it for it in machines if it.machine_type == name), None)
    built_in = found is not None and not found.attached
    kind, count = "guestAcceleratorType", "guestAcceleratorCount"
    return {
        "kind": "compute#machineType",
        "name": name,
        "guestCpus": quotas.vcpus(name),
        "memoryMb": found.ram_gb * 1024 if found else 1024,
        "zone": call.parts["zone"],
        **({"accelerators": [{kind: found.gpu, count: found.count}]} if found and built_in else {}),
    }


def _accelerator_type(call: Call, name: str) -> Body:
    owner, zone = call.parts["project"], call.parts["zone"]
    most = max(it.count for it in catalogue.machines(name))
    return {
        "kind": "compute#acceleratorType",
        "name": name,
        "description": catalogue.gpu(name).product,
        "zone": f"{LINK}projects/{owner}/zones/{zone}",
        "maximumCardsPerInstance": most,
        "selfLink": f"{LINK}projects/{owner}/zones/{zone}/acceleratorTypes/{name}",
    }


def _missing(name: str) -> CloudError:
    return CloudError(404, f"The resource '{name}' was not found", "notFound")


def api(world: World, identity: Identity) -> Api:
    """The site."""
    compute = Compute(world)
    project = "/compute/v1/projects/{project}"
    zone, region = f"{project}/zones/{{zone}}", f"{project}/regions/{{region}}"
    scopes = {"global": f"{project}/global", "regions": region, "zones": zone}
    accelerators, machines = f"{zone}/acceleratorTypes", f"{zone}/machineTypes"
    advice = "/compute/beta/projects/{project}/regions/{region}/advice/capacity"
    routes = [
        Route("GET", project, "compute.projects.get", compute.project),
        Route("GET", region, "compute.regions.get", compute.region),
        Route("GET", machines, "compute.machineTypes.list", compute.machine_types, "items"),
        Route("GET", f"{machines}/{{type}}", "compute.machineTypes.get", compute.machine_type),
        Route(
            "GET", accelerators, "compute.acceleratorTypes.list", compute.accelerator_types, "items"
        ),
        Route(
            "GET",
            f"{accelerators}/{{type}}",
            "compute.acceleratorTypes.get",
            compute.accelerator_type,
        ),
        Route(
            "GET",
            f"{project}/global/images/family/{{family}}",
            "compute.images.getFromFamily",
            compute.family,
        ),
        Route("GET", f"{project}/global/images/{{image}}", "compute.images.get", compute.image),
        Route("POST", advice, "compute.advice.capacity", compute.advice),
    ]
    groups = Groups(world)
    instances = Instances(world)
    below = {
        f"{region}/instanceGroupManagers/{{group}}": groups.ways_of_groups(),
        f"{zone}/instances/{{instance}}": (
            *groups.ways_of_instances(),
            *instances.ways_of_instances(),
        ),
    }
    for path, way in instances.ways_of_zones():
        routes.append(Route(way.method, zone + path, *way[2:]))
    for path, ways in below.items():
        routes += [Route(it.method, path + it.verb, *it[2:]) for it in ways]
    for noun, collections in COLLECTIONS.items():
        permission = f"compute.{noun}.list"
        if noun not in GLOBAL_ONLY:
            whole = f"{project}/aggregated/{noun}"
            routes.append(Route("GET", whole, permission, partial(compute.aggregated, noun=noun)))
        for collection in collections:
            answer = partial(compute.listed, noun=noun, collection=collection)
            path = f"{scopes[collection.scope]}/{noun}"
            routes.append(Route("GET", path, permission, answer, "items"))
    denied = "Required '{permission}' permission for '{name}'"
    return Api(world, identity, HOST, routes, denied=denied, older=True)
