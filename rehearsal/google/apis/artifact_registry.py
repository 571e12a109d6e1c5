"""artifactregistry.googleapis.com: a region's repositories; registry.py has what is in them."""

from rehearsal.google.identity import Identity
from rehearsal.google.image_store import REPOSITORY
from rehearsal.google.rest import Api, Call, Route, locations
from rehearsal.store import Body
from rehearsal.world import World

HOST = "artifactregistry.googleapis.com"
SHOWN = ("format", "mode", "description", "createTime", "updateTime", "remoteRepositoryConfig")


def api(world: World, identity: Identity) -> Api:
    """The site."""

    def repositories(call: Call) -> list[Body]:
        rows = world.store.all(REPOSITORY).items()
        return [
            {"name": name, "labels": row.get("effectiveLabels") or {}}
            | {key: row[key] for key in SHOWN if row.get(key)}
            for name, row in rows
            if name.startswith(f"{call.name}/")
        ]

    path = "/v1/projects/{project}/locations/{location}/repositories"
    permission = "artifactregistry.repositories.list"
    routes = (
        Route("GET", path, permission, repositories, "repositories"),
        locations("artifactregistry.locations.list"),
    )
    return Api(world, identity, HOST, routes)
