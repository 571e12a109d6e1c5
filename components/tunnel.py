"""The only way to the engine: a tunnel that the machine itself opens towards Cloudflare."""

from collections.abc import Sequence
from typing import TypedDict

import pulumi
import pulumi_cloudflare as cloudflare
from pulumi_command import local

from components.ordering import after


class TunnelArgs(TypedDict):
    account_id: str
    zone_id: str
    api_token: pulumi.Input[str]
    """Cloudflare's, to clear connections at deletion. Must be marked secret."""
    tunnel_name: pulumi.Input[str]
    """New with every tunnel: Cloudflare may keep a deleted tunnel's name taken."""
    hostname: str
    origin: str
    """The engine, as the machine's own cloudflared reaches it."""
    public_paths: Sequence[str]
    """Regular expressions of the paths that lead to the engine; all others answer 404."""
    access_team_name: str
    access_audience: pulumi.Input[str]
    """Whose tokens cloudflared lets pass: those of this Access application."""
    protect: bool


class Tunnel(pulumi.ComponentResource):
    """A tunnel, what it leads to, and its public name.

    cloudflared itself demands the token that Access issues. Should the Access
    application be wrong or gone, the endpoint is closed, not open.
    """

    token: pulumi.Output[str]
    """Secret; what runs cloudflared needs it. Known once the tunnel is ready to be used."""
    hostname: pulumi.Output[str]
    """The public name, once it leads to the tunnel."""

    def __init__(
        self, name: str, args: TunnelArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:Tunnel", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        protected = pulumi.ResourceOptions(parent=self, protect=args["protect"])

        tunnel = cloudflare.ZeroTrustTunnelCloudflared(
            f"{name}-tunnel",
            account_id=args["account_id"],
            name=args["tunnel_name"],
            config_src="cloudflare",
            opts=protected,
        )
        configuration = cloudflare.ZeroTrustTunnelCloudflaredConfig(
            f"{name}-tunnel-config",
            account_id=args["account_id"],
            tunnel_id=tunnel.id,
            config={
                "ingresses": [
                    *(
                        cloudflare.ZeroTrustTunnelCloudflaredConfigConfigIngressArgs(
                            hostname=args["hostname"],
                            path=path,
                            service=args["origin"],
                            origin_request={
                                "access": {
                                    "required": True,
                                    "team_name": args["access_team_name"],
                                    "aud_tags": [args["access_audience"]],
                                }
                            },
                        )
                        for path in args["public_paths"]
                    ),
                    {"service": "http_status:404"},
                ]
            },
            opts=child,
        )
        # Acts only when deleted, between the machines' deletion and the tunnel's: Cloudflare
        # refuses to delete a tunnel (error 1022) while it still counts connections.
        disconnection = local.Command(
            f"{name}-disconnection",
            delete=".venv/bin/python scripts/clear_tunnel_connections.py",
            environment={
                "CLOUDFLARE_ACCOUNT_ID": args["account_id"],
                "TUNNEL_ID": tunnel.id,
                "CLOUDFLARE_API_TOKEN": args["api_token"],
            },
            triggers=[tunnel.id],
            opts=child,
        )
        record = cloudflare.DnsRecord(
            f"{name}-dns",
            zone_id=args["zone_id"],
            name=args["hostname"],
            type="CNAME",
            content=after(pulumi.Output.concat(tunnel.id, ".cfargotunnel.com"), configuration),
            proxied=True,
            ttl=1,  # automatic, the only one that a proxied record may have
            opts=protected,
        )

        token = cloudflare.get_zero_trust_tunnel_cloudflared_token_output(
            account_id=args["account_id"], tunnel_id=tunnel.id
        ).token
        # The provider does not mark it secret.
        self.token = after(pulumi.Output.secret(token), configuration, disconnection)
        self.hostname = after(args["hostname"], record)
        self.register_outputs({"token": self.token, "hostname": self.hostname})


def cloudflared_image(version: str) -> str:
    """The image of what runs on the machine's end, on Docker Hub; a version or a digest."""
    return f"cloudflare/cloudflared{'@' if version.startswith('sha256:') else ':'}{version}"
