"""cloudquotas.googleapis.com: limits by region and GPU family, and requests for more."""

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime

from components import catalogue
from rehearsal.errors import CloudError
from rehearsal.google import quotas
from rehearsal.google.identity import Identity
from rehearsal.google.quotas import Quota
from rehearsal.google.rest import Api, Call, Route
from rehearsal.store import Body
from rehearsal.world import World

HOST = "cloudquotas.googleapis.com"
PREFERENCE = "google:quota_preference"
"""A request for more, by its name."""


def api(world: World, identity: Identity) -> Api:
    """The site. Absent on purpose: changing a request, and granting one: people do that."""

    def infos(call: Call) -> list[Body]:
        ids: dict[str, list[Quota]] = {}
        for quota in quotas.quotas():
            if quota.service == call.parts["service"]:
                ids.setdefault(quota.id, []).append(quota)
        number = world.accounts.projects[call.parts["project"]]
        return [_info(world, number, alike) for alike in ids.values()]

    def info(call: Call) -> Body:
        found = [it for it in infos(call) if it["quotaId"] == call.parts["quota"]]
        if not found:
            raise CloudError(404, "Requested entity was not found.", "NOT_FOUND")
        return found[0]

    def ask(call: Call) -> Body:
        body = call.body
        names = ("service", "quotaId", "quotaConfig", "contactEmail")
        if missing := [name for name in names if not body.get(name)]:
            message = f"Invalid value at 'quota_preference': {missing[0]} must be set."
            raise CloudError(400, message, "INVALID_ARGUMENT")
        if not any(
            (it.service, it.id) == (body["service"], body["quotaId"]) for it in quotas.quotas()
        ):
            raise CloudError(404, f"Quota {body['quotaId']} was not found.", "NOT_FOUND")
        id = call.query.get("quotaPreferenceId") or secrets.token_hex(16)
        name = f"{call.name}/{id}"
        if world.store.get(PREFERENCE, name):
            raise CloudError(409, f"Resource '{name}' already exists", "ALREADY_EXISTS")
        config = {"preferredValue": str(body["quotaConfig"]["preferredValue"]), "grantedValue": "0"}
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        made = body | {"name": name, "quotaConfig": config, "reconciling": True, "createTime": now}
        world.store.put(PREFERENCE, name, made)
        return made

    def asked(call: Call) -> list[Body]:
        rows = world.store.all(PREFERENCE).items()
        return [row for name, row in rows if name.startswith(f"{call.name}/")]

    place = "/v1/projects/{project}/locations/global"
    listed = f"{place}/services/{{service}}/quotaInfos"
    see, change = "cloudquotas.quotas.get", "cloudquotas.quotas.update"
    routes = (
        Route("GET", listed, see, infos, "quotaInfos"),
        Route("GET", f"{listed}/{{quota}}", see, info),
        Route("GET", f"{place}/quotaPreferences", see, asked, "quotaPreferences"),
        Route("POST", f"{place}/quotaPreferences", change, ask),
    )
    return Api(world, identity, HOST, routes, needs_quota_project=True, billed=False)


def _info(world: World, number: str, alike: list[Quota]) -> Body:
    """One quota with its value in every place, as the API has it: a 0 is left out."""
    first = alike[0]
    container = f"projects/{number}/locations/global/services/{first.service}"
    dimensions = [
        *([] if first.everywhere else ["region"]),
        *(["gpu_family"] if first.dimension else []),
    ]
    return {
        "name": f"{container}/quotaInfos/{first.id}",
        "quotaId": first.id,
        "service": first.service,
        "containerType": "PROJECT",
        "dimensions": dimensions,
        "isPrecise": True,
        "quotaIncreaseEligibility": {"isEligible": True},
        "dimensionsInfos": [it for quota in alike for it in _places(world, quota)],
    }


def _places(world: World, quota: Quota) -> Iterable[Body]:
    value = quotas.limit(world, quota.name)
    family = {"gpu_family": quota.dimension} if quota.dimension else {}
    details = {"value": str(value)} if value else {}
    if quota.everywhere:
        yield {"details": details, "applicableLocations": ["global"]}
        return
    for region in catalogue.regions():
        yield {
            "dimensions": {"region": region, **family},
            "details": details,
            "applicableLocations": [region],
        }
