"""Where clients find the endpoint: a public name, and what the tunnel behind it leads to."""

from collections.abc import Sequence
from typing import TypedDict

import pulumi
import pulumi_cloudflare as cloudflare

from components.announcement import announcement
from components.domain import Domain
from components.ordering import after
from components.origin import Origin

SWITCH = (
    "The platform or the engine changes: the endpoint is DOWN, wholly or in part, from now until"
    " the new one has loaded the model and the old one is gone, which takes 5 to 15 minutes if"
    " there is a GPU to be had."
)


class PublicHostnameArgs(TypedDict):
    domain: Domain
    platform: str
    engine: str
    tunnel_id: pulumi.Input[str]
    origin: Origin
    public_paths: Sequence[str]
    """Regular expressions of the paths that lead to the engine; all others answer 404."""
    access_audience: pulumi.Input[str]
    """Whose tokens cloudflared lets pass: those of this Access application."""


class PublicHostname(pulumi.ComponentResource):
    """The tunnel's ingress rules, and the proxied DNS record that leads to the tunnel.

    cloudflared itself demands the token that Access issues. Should the Access
    application be wrong or gone, the endpoint is closed, not open.
    """

    hostname: pulumi.Output[str]
    """The public name, once it leads to the engine."""

    def __init__(
        self, name: str, args: PublicHostnameArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:PublicHostname", name, {}, opts)
        domain = args["domain"]
        origin_request = cloudflare.ZeroTrustTunnelCloudflaredConfigConfigIngressOriginRequestArgs(
            access={
                "required": True,
                "team_name": domain.team_name,
                "aud_tags": [args["access_audience"]],
            },
            http_host_header=args["origin"].host,
        )

        platform = pulumi.Output.all(args["platform"], domain.account_id)
        switch = announcement(
            f"{name}-switch",
            SWITCH,
            {
                # Announced only once everything has begun that it is about.
                "PLATFORM": platform.apply(lambda it: it[0]),
                # Another engine has another port: of machines, the old ones are led past at once. A
                # service keeps its address, and its old revision until the new one answers.
                "ENGINE": args["engine"] if args["platform"] == "vm" else "",
            },
            pulumi.ResourceOptions(parent=self),
        )
        origin = after(args["origin"].url, switch)
        configuration = cloudflare.ZeroTrustTunnelCloudflaredConfig(
            f"{name}-tunnel-config",
            account_id=domain.account_id,
            tunnel_id=args["tunnel_id"],
            config={
                "ingresses": [
                    *(
                        cloudflare.ZeroTrustTunnelCloudflaredConfigConfigIngressArgs(
                            hostname=domain.hostname,
                            path=path,
                            service=origin,
                            origin_request=origin_request,
                        )
                        for path in args["public_paths"]
                    ),
                    {"service": "http_status:404"},
                ]
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
        target = pulumi.Output.concat(args["tunnel_id"], ".cfargotunnel.com")
        record = cloudflare.DnsRecord(
            f"{name}-dns",
            zone_id=domain.zone_id,
            name=domain.hostname,
            type="CNAME",
            content=after(target, configuration),
            proxied=True,
            ttl=1,  # automatic, the only one that a proxied record may have
            opts=pulumi.ResourceOptions(parent=self, protect=domain.protect),
        )

        self.hostname = after(domain.hostname, record)
        self.register_outputs({"hostname": self.hostname})
