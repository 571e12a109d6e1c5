"""What a VPC lets through: reading the store's firewalls, NAT gateways and subnets."""

import ipaddress
import re
from collections.abc import Collection

from rehearsal.store import Body, Store

FIREWALL = "gcp:compute/firewall:Firewall"
ROUTER = "gcp:compute/router:Router"
ROUTER_NAT = "gcp:compute/routerNat:RouterNat"
SUBNETWORK = "gcp:compute/subnetwork:Subnetwork"

PROBE_RANGES = ("35.191.0.0/16", "130.211.0.0/22")
"""Where Google's health checks come from."""

GOOGLE_HOSTS = (".googleapis.com", ".pkg.dev", ".run.app")
"""What Private Google Access reaches without NAT."""


def bare(reference: str) -> str:
    """A reference in any of its forms as `projects/P/...`: without address, version, unique id."""
    return re.sub(r"^https://[^/]+/compute/[^/]+/", "", reference).partition("?")[0]


def same(one: str, other: str) -> bool:
    """Whether two references mean one resource; a bare name stands for itself in its project."""
    short, long = sorted((bare(one), bare(other)), key=len)
    return short == long or ("/" not in short and long.endswith(f"/{short}"))


def resolve(store: Store, reference: str, *types: str) -> Body | None:
    """The body of the resource of one of `types` that `reference` means."""
    for type in types:
        for id, body in store.all(type).items():
            if same(reference, id):
                return body
    return None


def free_address(cidr: str, taken: Collection[str]) -> str:
    """The lowest address of a subnet that nobody has. ValueError when it is full.

    Google keeps the first two and the last two addresses of a range for itself.
    """
    addresses = list(ipaddress.ip_network(cidr))
    for address in addresses[2:-2]:
        if str(address) not in taken:
            return str(address)
    raise ValueError(f"{cidr} has no free address")


def reaches_internet(store: Store, network: str, subnetwork: Body) -> bool:
    """Whether a machine without external address gets out: a NAT covers its subnet."""
    routers = {
        (it["project"], it["region"], it["name"])
        for it in store.all(ROUTER).values()
        if same(it["network"], network)
    }
    for nat in store.all(ROUTER_NAT).values():
        name = bare(nat["router"]).rpartition("/")[2]
        listed: list[Body] = nat.get("subnetworks") or []
        covered = nat["sourceSubnetworkIpRangesToNat"].startswith("ALL_SUBNETWORKS") or any(
            same(it["name"], subnetwork["selfLink"]) for it in listed
        )
        here = nat["region"] == subnetwork["region"]
        if here and covered and (nat["project"], nat["region"], name) in routers:
            return True
    return False


def admits(store: Store, instance: Body, source: str, port: int) -> bool:
    """Whether the firewall lets TCP from the range `source` in to the instance's `port`.

    By priority, deny before allow, and in the end nothing comes in, as in life.
    """
    rules = [
        rule
        for rule in store.all(FIREWALL).values()
        if same(rule["network"], instance["network"]) and _applies(rule, instance, source)
    ]
    for rule in sorted(rules, key=lambda it: (it["priority"], not it.get("denies"))):
        entries: list[Body] = rule.get("denies") or rule.get("allows") or []
        if any(_covers(it, port) for it in entries):
            return not rule.get("denies")
    return False


def _applies(rule: Body, instance: Body, source: str) -> bool:
    tags, accounts = rule.get("targetTags"), rule.get("targetServiceAccounts")
    account: Body = instance.get("serviceAccount") or {}
    wanted = ipaddress.IPv4Network(source)
    ranges: list[str] = rule.get("sourceRanges") or ["0.0.0.0/0"]
    return (
        rule.get("direction", "INGRESS") == "INGRESS"
        and not rule.get("disabled")
        and (not tags or bool({*tags} & {*instance["tags"]}))
        and (not accounts or account.get("email") in accounts)
        and any(wanted.subnet_of(ipaddress.IPv4Network(it)) for it in ranges if ":" not in it)
    )


def _covers(entry: Body, port: int) -> bool:
    if entry["protocol"].lower() not in ("tcp", "6", "all"):
        return False
    bounds = [[int(it) for it in str(one).split("-")] for one in entry.get("ports") or ["0-65535"]]
    return any(ends[0] <= port <= ends[-1] for ends in bounds)
