"""The only way to the engine: a tunnel that a machine of the stack opens towards Cloudflare."""

from typing import TypedDict

import pulumi
import pulumi_cloudflare as cloudflare
from pulumi_command import local

from components.domain import Domain
from components.ordering import after
from components.place import Place
from components.stored_secret import StoredSecret


class TunnelArgs(TypedDict):
    domain: Domain
    tunnel_name: pulumi.Input[str]
    """New with every tunnel: Cloudflare may keep a deleted tunnel's name taken."""
    place: Place
    connector: pulumi.Input[str]
    """The IAM member that opens the tunnel."""


class Tunnel(pulumi.ComponentResource):
    """A tunnel, and who may open it; components/public_hostname.py says where it leads."""

    id: pulumi.Output[str]
    token_version: pulumi.Output[str]
    """Full name of the version of the secret with which cloudflared opens it, once readable."""

    def __init__(
        self, name: str, args: TunnelArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:Tunnel", name, {}, opts)
        domain = args["domain"]
        child = pulumi.ResourceOptions(parent=self)

        # Acts only when deleted, right after the tunnel: its deletion was reported, and not done.
        confirmation = local.Command(
            f"{name}-tunnel-gone",
            delete=".venv/bin/python -m scripts.confirm_tunnel_deletion",
            environment={
                "CLOUDFLARE_ACCOUNT_ID": domain.account_id,
                "TUNNEL_NAME": args["tunnel_name"],
                "CLOUDFLARE_API_TOKEN": domain.api_token,
            },
            opts=child,
        )
        tunnel = cloudflare.ZeroTrustTunnelCloudflared(
            f"{name}-tunnel",
            account_id=domain.account_id,
            name=after(args["tunnel_name"], confirmation),
            config_src="cloudflare",
            opts=pulumi.ResourceOptions(parent=self, protect=domain.protect),
        )
        # Acts only when deleted, between the machines' deletion and the tunnel's: Cloudflare
        # refuses to delete a tunnel (error 1022) while it still counts connections.
        disconnection = local.Command(
            f"{name}-disconnection",
            delete=".venv/bin/python -m scripts.clear_tunnel_connections",
            environment={
                "CLOUDFLARE_ACCOUNT_ID": domain.account_id,
                "TUNNEL_ID": tunnel.id,
                "CLOUDFLARE_API_TOKEN": domain.api_token,
            },
            triggers=[tunnel.id],
            opts=child,
        )
        token = cloudflare.get_zero_trust_tunnel_cloudflared_token_output(
            account_id=domain.account_id, tunnel_id=tunnel.id
        ).token
        stored = StoredSecret(
            f"{name}-tunnel-token",
            {
                "place": args["place"],
                # The provider does not mark it secret.
                "value": pulumi.Output.secret(token),
                "reader": args["connector"],
                "protect": domain.protect,
            },
            opts=child,
        )

        # To a preview an output that is absent counts as unknown, and the id would with it.
        seen = pulumi.Output.all(tunnel.id, tunnel.deleted_at).apply(lambda it: alive(*it))
        self.id = tunnel.id if pulumi.runtime.is_dry_run() else seen
        self.token_version = after(stored.version, disconnection)
        self.register_outputs({"id": self.id, "token_version": self.token_version})


def alive(id: str, deleted_at: str | None) -> str:
    """The tunnel's id. RunError for a tunnel that somebody has deleted.

    Cloudflare goes on answering for it, so the provider does not notice; after a `pulumi refresh`
    its time of deletion is the only sign.
    """
    if deleted_at:
        raise pulumi.RunError(
            f"The tunnel {id} was deleted outside of this stack ({deleted_at}): no machine can"
            " connect.\n  next: pulumi up --replace '**-tunnel'"
        )
    return id
