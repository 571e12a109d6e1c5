"""What is left in both clouds: looked at in the clouds themselves, not in Pulumi's state."""

import json
import sqlite3

from rehearsal.session import PROJECTS, Session

SECRET = "gcp:secretmanager/secret:Secret"  # noqa: S105 - a type's name
VERSION = "gcp:secretmanager/secretVersion:SecretVersion"
LEFT_ON_PURPOSE = ("gcp:projects/service:Service", "google:build")
"""Enabled APIs stay enabled: another stack of the project may need them. Cloud Build keeps the
record of each build, and has no way to delete one."""


def leftovers(session: Session) -> list[str]:
    """Everything in the clouds that no standing stack of this session declares, as `type id`.

    What a cloud makes by itself (an instance, a tunnel's connection) counts as
    left over when no stack has anything. A version too many of a secret goes with its secret.
    """
    declared: set[tuple[str, str]] = set()
    standing = [(project, stack) for project in PROJECTS for stack in session.stacks(project)]
    for project, stack in standing:
        run = session.pulumi("stack", "export", stack=stack, project=project)
        exported = session.must(run).stdout
        for resource in json.loads(exported)["deployment"].get("resources", []):
            declared.add((resource["type"], resource.get("id", "")))
    left: list[str] = []
    with sqlite3.connect(f"file:{session.world / 'clouds.db'}?mode=ro", uri=True) as db:
        for type_, id_, body in db.execute("SELECT * FROM resource ORDER BY type, id"):
            if type_ == VERSION and (SECRET, json.loads(body)["secret"]) in declared:
                continue
            made_by_cloud = not type_.startswith(("gcp:", "cloudflare:index/"))
            if type_ in LEFT_ON_PURPOSE or (type_, id_) in declared:
                continue
            if not (made_by_cloud and declared):
                left.append(f"{type_} {id_}")
    return left
