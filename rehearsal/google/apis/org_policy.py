"""orgpolicy.googleapis.com: what the organisation forbids in a project."""

from rehearsal.google import org_policies
from rehearsal.google.identity import Identity
from rehearsal.google.rest import Api, Call, Route
from rehearsal.store import Body
from rehearsal.world import World

HOST = "orgpolicy.googleapis.com"


def api(world: World, identity: Identity) -> Api:
    """The site."""

    def effective(call: Call) -> Body:
        number, constraint = world.accounts.projects[call.parts["project"]], call.parts["policy"]
        rules = [org_policies.rule(world, constraint)]
        return {"name": f"projects/{number}/policies/{constraint}", "spec": {"rules": rules}}

    path = "/v2/projects/{project}/policies/{policy}:getEffectivePolicy"
    routes = (Route("GET", path, "orgpolicy.policy.get", effective),)
    return Api(world, identity, HOST, routes, needs_quota_project=True, billed=False)
