"""What is left in both clouds: looked at in the clouds themselves, not in Pulumi's state."""

import json
import sqlite3
from contextlib import closing

from rehearsal.google.buckets import BUCKET, OBJECT
from rehearsal.session import PROJECTS, Session

SECRET = "gcp:secretmanager/secret:Secret"  # noqa: S105 - a type's name
VERSION = "gcp:secretmanager/secretVersion:SecretVersion"
LEFT_ON_PURPOSE = ("gcp:projects/service:Service", "google:build")
"""Enabled APIs stay enabled: another stack of the project may need them. Cloud Build keeps the
record of each build, and has no way to delete one."""


KEPT_LABEL = "llm-endpoint-kept"
"""Marks a bucket that outlives its stack because the stack wants it so (`keepWeights`)."""


def kept(session: Session) -> list[str]:
    """Buckets that are there to stay, by name."""
    with _clouds(session) as db:
        rows = db.execute("SELECT body FROM resource WHERE type = ?", (BUCKET,)).fetchall()
    bodies = [json.loads(body) for (body,) in rows]
    return sorted(it["name"] for it in bodies if KEPT_LABEL in (it.get("labels") or {}))


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
    stays = kept(session)
    with _clouds(session) as db:
        for type_, id_, body in db.execute("SELECT * FROM resource ORDER BY type, id"):
            if type_ == VERSION and (SECRET, json.loads(body)["secret"]) in declared:
                continue
            if type_ in LEFT_ON_PURPOSE or (type_, id_) in declared:
                continue
            if (type_ == BUCKET and id_ in stays) or (
                type_ == OBJECT and id_.split("/")[1] in stays
            ):
                continue
            made_by_cloud = not type_.startswith(("gcp:", "cloudflare:index/"))
            if not (made_by_cloud and declared):
                left.append(f"{type_} {id_}")
    return left


def _clouds(session: Session) -> closing[sqlite3.Connection]:
    """Both clouds, to read."""
    return closing(sqlite3.connect(f"file:{session.world / 'clouds.db'}?mode=ro", uri=True))
