"""Google's APIs to look at what there is, one file each; the providers make and change it."""

from rehearsal.google.apis import (
    artifact_registry,
    billing,
    cloud_quotas,
    compute,
    iam,
    org_policy,
    resource_manager,
    service_usage,
)
from rehearsal.google.identity import Identity
from rehearsal.internet import Handler
from rehearsal.world import World

APIS = (
    artifact_registry,
    billing,
    cloud_quotas,
    compute,
    iam,
    org_policy,
    resource_manager,
    service_usage,
)


def sites(world: World, identity: Identity) -> dict[str, Handler]:
    """Host name -> its site."""
    return {module.HOST: module.api(world, identity).handle for module in APIS}
