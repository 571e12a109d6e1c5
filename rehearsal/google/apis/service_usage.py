"""serviceusage.googleapis.com: which APIs are on in a project."""

from rehearsal.errors import CloudError
from rehearsal.google import project
from rehearsal.google.identity import Identity
from rehearsal.google.rest import Api, Call, Route
from rehearsal.store import Body
from rehearsal.world import World

HOST = "serviceusage.googleapis.com"
BATCH = 30
"""Names in one batchGet, at most."""


def api(world: World, identity: Identity) -> Api:
    """The site. Absent on purpose: enabling and disabling, which the providers do."""

    def show(owner: str, name: str) -> Body:
        if name not in project.KNOWN:
            message = f"Not found or permission denied for service(s): {name}."
            raise CloudError(403, message, "PERMISSION_DENIED")
        parent = f"projects/{world.accounts.projects[owner]}"
        return {
            "name": f"{parent}/services/{name}",
            "config": {"name": name, "title": project.TITLES.get(name, name)},
            "state": "ENABLED" if project.enabled(world, owner, name) else "DISABLED",
            "parent": parent,
        }

    def get(call: Call) -> Body:
        return show(call.parts["project"], call.parts["service"])

    def batch_get(call: Call) -> Body:
        names = call.query.getall("names", [])
        if not 0 < len(names) <= BATCH:
            raise CloudError(400, f"Between 1 and {BATCH} names are allowed.", "INVALID_ARGUMENT")
        owner = call.parts["project"]
        return {"services": [show(owner, name.rpartition("/")[2]) for name in names]}

    def list_all(call: Call) -> list[Body]:
        shown = (show(call.parts["project"], name) for name in sorted(project.KNOWN))
        wanted = call.query.get("filter", "").removeprefix("state:")
        return [it for it in shown if wanted in ("", it["state"])]

    services = "/v1/projects/{project}/services"
    routes = (
        Route("GET", services, "serviceusage.services.list", list_all, "services"),
        Route("GET", f"{services}:batchGet", "serviceusage.services.get", batch_get),
        Route("GET", f"{services}/{{service}}", "serviceusage.services.get", get),
    )
    return Api(world, identity, HOST, routes, needs_quota_project=True, billed=False)
