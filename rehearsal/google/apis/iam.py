"""iam.googleapis.com: a project's service accounts."""

from rehearsal.google.identity import ACCOUNT, Identity
from rehearsal.google.rest import Api, Call, Route
from rehearsal.store import Body
from rehearsal.world import World

HOST = "iam.googleapis.com"
SHOWN = ("name", "email", "uniqueId", "displayName", "description", "disabled")


def api(world: World, identity: Identity) -> Api:
    """The site."""

    def accounts(call: Call) -> list[Body]:
        owner = call.parts["project"]
        rows = (it for it in world.store.all(ACCOUNT).values() if it["project"] == owner)
        return [{"projectId": owner} | {k: row[k] for k in SHOWN if row.get(k)} for row in rows]

    path = "/v1/projects/{project}/serviceAccounts"
    routes = (Route("GET", path, "iam.serviceAccounts.list", accounts, "accounts", 100),)
    return Api(world, identity, HOST, routes, billed=False)
