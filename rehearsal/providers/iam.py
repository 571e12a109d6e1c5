"""Who may do what: service accounts, and the rows of IAM bindings, which are all alike."""

import re
from typing import Any

from rehearsal.errors import CloudError
from rehearsal.providers.checks import texts
from rehearsal.providers.resource import Life, Operation, Reference, ResourceType
from rehearsal.store import Body

ACCOUNT = "gcp:serviceaccount/account:Account"
MEMBER = Life("IAM member", "IAM member", "IAM member")

member = texts(
    "member", "(?:user|group|serviceAccount|domain|principal|principalSet):.+|all.*Users"
)
account_member = Reference(
    (ACCOUNT,),
    keys=("member",),
    only=r"^serviceAccount:.*@(?!gcp-sa-|compute-system|serverless-robot)[^.]+\.iam\.gserviceaccount",
    deletion="allowed",
    linked=False,
    missing=(400, "Service account {value} does not exist.", "badRequest"),
)


def known_role(operation: Operation, body: Body) -> None:
    """Roles are named in full."""
    if not re.fullmatch(
        r"(roles/|(projects|organizations)/[^/]+/roles/)[A-Za-z0-9_.]+", body["role"]
    ):
        message = f"Role {body['role']} is not supported for this resource."
        raise CloudError(400, message, "badRequest")


def iam_member(token: str, id: str, **more: Any) -> ResourceType:
    """A row of an IAM binding: additive, so that there is no conflict."""
    references = {"member": account_member, **more.pop("references", {})}
    return ResourceType(
        token=token,
        id=id,
        life=MEMBER,
        references=references,
        preview=(member,),
        service=(known_role,),
        **more,
    )
