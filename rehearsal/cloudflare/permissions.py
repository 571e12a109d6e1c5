"""What an API token may do: Cloudflare's names of permissions, and which thing takes which."""

from rehearsal.cloudflare import (
    APPLICATION,
    DNS_RECORD,
    POLICY,
    SERVICE_TOKEN,
    TUNNEL,
    TUNNEL_CONFIG,
)
from rehearsal.world import World

APPS, TOKENS = "Access: Apps and Policies", "Access: Service Tokens"
ORGANISATION = "Access: Organizations, Identity Providers, and Groups"
TUNNELS, DNS, ZONE = "Cloudflare Tunnel", "DNS", "Zone"

OF_TYPE = {
    APPLICATION: APPS,
    POLICY: APPS,
    SERVICE_TOKEN: TOKENS,
    TUNNEL: TUNNELS,
    TUNNEL_CONFIG: TUNNELS,
    DNS_RECORD: DNS,
}
"""Type -> the permission that it takes to see (`... Read`) and to change (`... Edit`) one."""


def permitted(world: World, name: str, verb: str) -> bool:
    """Whether the tokens may `Read` or `Edit`; who may edit may read."""
    held = world.accounts.cloudflare_permissions
    return held is None or f"{name} Edit" in held or (verb == "Read" and f"{name} Read" in held)
