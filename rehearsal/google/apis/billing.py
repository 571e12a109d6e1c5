"""cloudbilling.googleapis.com: whether somebody pays for a project."""

from rehearsal.google.identity import Identity
from rehearsal.google.rest import Api, Call, Route
from rehearsal.store import Body
from rehearsal.world import World

HOST = "cloudbilling.googleapis.com"
ACCOUNT = "billingAccounts/012345-6789AB-CDEF01"


def api(world: World, identity: Identity) -> Api:
    """The site."""

    def get(call: Call) -> Body:
        owner = call.parts["project"]
        paid = owner not in world.accounts.unbilled_projects
        return {
            "name": f"projects/{owner}/billingInfo",
            "projectId": owner,
            "billingAccountName": ACCOUNT if paid else "",
            "billingEnabled": paid,
        }

    path = "/v1/projects/{project}/billingInfo"
    routes = (Route("GET", path, "resourcemanager.projects.get", get),)
    return Api(world, identity, HOST, routes, needs_quota_project=True, billed=False)
