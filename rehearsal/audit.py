"""What is left in both clouds: looked at in the clouds themselves, not in Pulumi's state.

And what `./scripts/audit` says of it, which can only ask as anybody does.
"""

import json
import sqlite3
import subprocess
from contextlib import closing
from typing import Any

from rehearsal.errors import RehearsalError
from rehearsal.google.buckets import BUCKET, OBJECT
from rehearsal.session import PROJECTS, ROOT, Session
from rehearsal.world import Accounts
from scripts.audits.marks import KEPT_LABEL

SECRET = "gcp:secretmanager/secret:Secret"  # noqa: S105 - a type's name
VERSION = "gcp:secretmanager/secretVersion:SecretVersion"
LEFT_ON_PURPOSE = ("gcp:projects/service:Service", "google:build", "google:compute_operation")
"""Enabled APIs stay enabled: another stack of the project may need them. Cloud Build keeps the
record of each build, Compute Engine that of each operation, and nobody can delete one."""

AUDIT_LIMIT_S = 120.0


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
        for resource in session.resources(stack, project):
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


def told(session: Session, stack: str, *arguments: str) -> dict[str, Any]:
    """What `./scripts/audit --json` finds of a stack, which may have been removed."""
    accounts = Accounts.model_validate_json((session.world / "accounts.json").read_text())
    # Of a stack that is gone Pulumi knows no configuration any more.
    token = {"CLOUDFLARE_API_TOKEN": accounts.cloudflare_tokens[0]}
    run = subprocess.run(
        ["./scripts/audit", "--stack", stack, "--json", *arguments],
        cwd=ROOT,
        env=session.environment(stack) | token,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=AUDIT_LIMIT_S,
        check=False,
    )
    try:
        return json.loads(run.stdout)
    except ValueError:
        raise RehearsalError(f"scripts/audit broke off: {run.stdout}{run.stderr}") from None


def in_words(found: dict[str, Any]) -> str:
    """What an audit found left over, or could not find out."""
    left = [f"{it['kind']} {it['name']}" for it in found["things"] if it["verdict"] == "left over"]
    return ", ".join([*left, *(f"{it['list']}: {it['because']}" for it in found["unknown"])])


def _clouds(session: Session) -> closing[sqlite3.Connection]:
    """Both clouds, to read."""
    return closing(sqlite3.connect(f"file:{session.world / 'clouds.db'}?mode=ro", uri=True))
