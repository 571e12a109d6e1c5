"""Where an endpoint lives on Cloudflare."""

from typing import NamedTuple

import pulumi


class Domain(NamedTuple):
    """What every resource of a stack on Cloudflare has in common."""

    account_id: pulumi.Input[str]
    api_token: pulumi.Input[str]
    """Of whoever deploys, for what only scripts can do there. Must be marked secret."""
    zone_id: str
    team_name: str
    """Of the account's Zero Trust organisation."""
    hostname: str
    """The endpoint's public name, in that zone."""
    protect: bool
    """Whether what clients depend on refuses to be deleted."""
