"""cloudresourcemanager.googleapis.com: projects, and who may do what in them."""

import zlib

from rehearsal.errors import CloudError
from rehearsal.google.identity import ACCOUNT, Identity
from rehearsal.google.rest import Api, Call, Route
from rehearsal.store import Body
from rehearsal.world import PERSON, World

HOST = "cloudresourcemanager.googleapis.com"
MEMBER = "gcp:projects/iAMMember:IAMMember"
MOST = 100
"""Permissions in one question."""


def api(world: World, identity: Identity) -> Api:
    """The site."""

    def get(call: Call) -> Body:
        owner = call.parts["project"]
        return {
            "name": f"projects/{world.accounts.projects[owner]}",
            "projectId": owner,
            "displayName": owner,
            "state": "ACTIVE",
        }

    def test(call: Call) -> Body:
        asked: list[str] = call.body.get("permissions") or []
        if not 0 < len(asked) <= MOST:
            message = f"Between 1 and {MOST} permissions are allowed."
            raise CloudError(400, message, "INVALID_ARGUMENT")
        held = [it for it in asked if identity.allowed(call.caller, it, call.name)]
        return {"permissions": held} if held else {}

    def policy(call: Call) -> Body:
        members: dict[str, list[str]] = {}
        for role in world.accounts.google_roles:
            members.setdefault(role, []).append(f"user:{PERSON}")
        for row in world.store.all(MEMBER).values():
            if row["project"] == call.parts["project"]:
                members.setdefault(row["role"], []).append(_member(row["member"]))
        bindings = [{"role": role, "members": who} for role, who in sorted(members.items())]
        return {"version": 1, "bindings": bindings}

    def _member(member: str) -> str:
        """A member as the policy shows it: an account that was deleted keeps its roles."""
        _, _, email = member.partition("serviceAccount:")
        owner = email.partition("@")[2].partition(".")[0]
        there = {row["email"] for row in world.store.all(ACCOUNT).values()}
        if owner not in world.accounts.projects or email in there:
            return member
        return f"deleted:{member}?uid={10**20 + zlib.crc32(email.encode())}"

    path = "/v3/projects/{project}"
    routes = (
        Route("GET", path, "resourcemanager.projects.get", get),
        Route("POST", f"{path}:testIamPermissions", "", test),
        Route("POST", f"{path}:getIamPolicy", "resourcemanager.projects.getIamPolicy", policy),
    )
    return Api(world, identity, HOST, routes, needs_quota_project=True, billed=False)
