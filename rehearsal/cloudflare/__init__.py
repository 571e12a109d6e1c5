"""Cloudflare, as far as the endpoint meets it: edge, Access, tunnels, REST API."""

from collections.abc import Callable
from typing import Any, cast

APPLICATION = "cloudflare:index/zeroTrustAccessApplication:ZeroTrustAccessApplication"
POLICY = "cloudflare:index/zeroTrustAccessPolicy:ZeroTrustAccessPolicy"
SERVICE_TOKEN = "cloudflare:index/zeroTrustAccessServiceToken:ZeroTrustAccessServiceToken"  # noqa: S105  # a type's name
DNS_RECORD = "cloudflare:index/dnsRecord:DnsRecord"
TUNNEL = "cloudflare:index/zeroTrustTunnelCloudflared:ZeroTrustTunnelCloudflared"
TUNNEL_CONFIG = "cloudflare:index/zeroTrustTunnelCloudflaredConfig:ZeroTrustTunnelCloudflaredConfig"
TUNNEL_SECRET = "cloudflare:tunnel_secret"  # noqa: S105  # a type's name
"""Id: the tunnel's. Body: `{"secret": ...}`, as it stands in the tunnel's token."""
CONNECTION = "cloudflare:connection"
"""Id: a UUID. Body: tunnelId, connectorId, connIndex, openedAt; lives as long as the connection."""


def respell(value: Any, key: Callable[[str], str]) -> Any:
    """A value with every object's keys renamed, all the way down, and without what is null."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key(name): respell(item, key) for name, item in items if item is not None}
    if isinstance(value, list):
        return [respell(item, key) for item in cast("list[Any]", value)]
    return value
