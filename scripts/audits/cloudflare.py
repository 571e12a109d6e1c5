"""What Cloudflare has of a stack, in the order in which it can be deleted."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from scripts.audits.marks import Marks
from scripts.audits.thing import Listing, Thing
from scripts.checks.cloudflare import API, Cloudflare

Row = Mapping[str, Any]

DNS_RECORD = "cloudflare:index/dnsRecord:DnsRecord"
APPLICATION = "cloudflare:index/zeroTrustAccessApplication:ZeroTrustAccessApplication"
POLICY = "cloudflare:index/zeroTrustAccessPolicy:ZeroTrustAccessPolicy"
SERVICE_TOKEN = "cloudflare:index/zeroTrustAccessServiceToken:ZeroTrustAccessServiceToken"  # noqa: S105 - a type's name
TUNNEL = "cloudflare:index/zeroTrustTunnelCloudflared:ZeroTrustTunnelCloudflared"

GO_WITH: Mapping[str, str] = {
    "cloudflare:index/zeroTrustTunnelCloudflaredConfig:ZeroTrustTunnelCloudflaredConfig": TUNNEL,
}
"""Type -> the type in which it lies, and with which it ends."""

TUNNELS_DOMAIN = "cfargotunnel.com"
"""`TUNNEL-ID.cfargotunnel.com` leads to a tunnel."""


class Titled(NamedTuple):
    """A list of Access's, whose things are known by their titles."""

    kind: str
    type: str
    path: str


TITLED = (
    Titled("Access application", APPLICATION, "access/apps"),
    Titled("Access policy", POLICY, "access/policies"),
    Titled("service token", SERVICE_TOKEN, "access/service_tokens"),
)


def listings(
    cloudflare: Cloudflare, marks: Marks, account: str, zones: Iterable[str], hostname: str
) -> Iterator[Listing]:
    """Everywhere that something of a stack may be, in one account and its zones."""
    for zone in zones:
        yield Listing(
            f"Cloudflare ({account}): DNS records of zone {zone}",
            lambda it=zone: records(cloudflare, marks, account, it, hostname),
        )
    for titled in TITLED:
        yield Listing(
            f"Cloudflare ({account}): {titled.path}",
            lambda it=titled: things(cloudflare, marks, account, it),
        )
    yield Listing(f"Cloudflare ({account}): tunnels", lambda: tunnels(cloudflare, marks, account))


def delete(path: str) -> str:
    """A command that deletes something. The token goes by a pipe: arguments are public."""
    header = "printf 'Authorization: Bearer %s' \"$CLOUDFLARE_API_TOKEN\""
    return f"{header} | curl -sS -X DELETE -H @- {shlex.quote(f'{API}/{path}')}"


def _all_tunnels(cloudflare: Cloudflare, account: str) -> list[dict[str, Any]]:
    """Those deleted included, which Cloudflare goes on showing."""
    return cloudflare.items(f"accounts/{account}/cfd_tunnel")


def records(
    cloudflare: Cloudflare, marks: Marks, account: str, zone: str, hostname: str
) -> Iterator[Thing]:
    """DNS records that lead to a tunnel of the stack's, or from its host name to any tunnel."""
    ours = {
        f"{it['id']}.{TUNNELS_DOMAIN}"
        for it in _all_tunnels(cloudflare, account)
        if marks.named(TUNNEL, it["name"])
    }
    for row in cloudflare.items(f"zones/{zone}/dns_records", type="CNAME"):
        target = str(row.get("content", "")).rstrip(".")
        to_any = row["name"] == hostname and target.endswith(f".{TUNNELS_DOMAIN}")
        if target in ours or to_any:
            command = delete(f"zones/{zone}/dns_records/{row['id']}")
            where = f"zone {zone}"
            yield Thing("DNS record", row["name"], where, row["id"], command, DNS_RECORD)


def things(cloudflare: Cloudflare, marks: Marks, account: str, titled: Titled) -> Iterator[Thing]:
    """Applications, policies or service tokens of Access's."""
    for row in cloudflare.items(f"accounts/{account}/{titled.path}"):
        if marks.titled(str(row.get("name", ""))):
            command = delete(f"accounts/{account}/{titled.path}/{row['id']}")
            where = f"account {account}"
            yield Thing(titled.kind, row["name"], where, row["id"], command, titled.type)


def tunnels(cloudflare: Cloudflare, marks: Marks, account: str) -> Iterator[Thing]:
    """Tunnels that are not deleted, with what they lead to."""
    for row in _all_tunnels(cloudflare, account):
        if not row.get("deleted_at") and marks.named(TUNNEL, row["name"]):
            path = f"accounts/{account}/cfd_tunnel/{row['id']}"
            # One with connections is not deleted (1022).
            connected = [delete(f"{path}/connections")] if row.get("connections") else []
            command = " && ".join([*connected, delete(path)])
            yield Thing("tunnel", row["name"], f"account {account}", row["id"], command, TUNNEL)
