"""run.googleapis.com: Cloud Run's Admin API v2, as far as jobs are run and looked at with it."""

import json
import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from rehearsal.errors import CloudError
from rehearsal.google.cloud_run import EXECUTION, JOB, OPERATION, TASK
from rehearsal.google.cloud_run.jobs import Jobs, failure, missing
from rehearsal.google.cloud_run.respell import task_template
from rehearsal.google.identity import CLOUD_PLATFORM, Identity
from rehearsal.store import Body
from rehearsal.world import World

HOST = "run.googleapis.com"
EXECUTION_TYPE = "type.googleapis.com/google.cloud.run.v2.Execution"

PLACE = r"(projects/[^/:]+/locations/[^/:]+)"
ID = r"[^/:]+"

Answer = Callable[["AdminApi", str, Body], Awaitable[Body]]


class AdminApi:
    """The site; `handle` answers one request.

    Absent on purpose: making, changing and deleting (the providers do that), services, paging.
    """

    def __init__(self, world: World, identity: Identity, jobs: Jobs) -> None:
        self._store = world.store
        self._identity = identity
        self._jobs = jobs

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """The answer in Google's JSON, refusals included."""
        for method, pattern, permission, answer in ROUTES:
            match = re.fullmatch(f"/v2/{pattern}", request.path)
            if match and method == request.method:
                try:
                    name = match[0].removeprefix("/v2/").rpartition(":")[0] or match[0][4:]
                    self._authorize(request.headers.get("Authorization"), permission, name)
                    body = json.loads(await request.text() or "{}")
                    return _json(await answer(self, name, body), 200)
                except CloudError as error:
                    said = {"code": error.code, "message": error.message, "status": error.reason}
                    return _json({"error": said}, error.code)
        return web.Response(status=404, text="Not Found", content_type="text/html")

    def _authorize(self, authorization: str | None, permission: str, name: str) -> None:
        caller = self._identity.caller(authorization)
        if CLOUD_PLATFORM not in caller.scopes:
            message = "Request had insufficient authentication scopes."
            raise CloudError(403, message, "PERMISSION_DENIED")
        if not self._identity.allowed(caller, permission, name):
            where = f"resource '{name}' (or resource may not exist)"
            message = f"Permission '{permission}' denied on {where}."
            raise CloudError(403, message, "PERMISSION_DENIED")

    # Answers

    async def run_job(self, name: str, body: Body) -> Body:
        """jobs:run"""
        return self._operation(self._jobs.run(name, body.get("overrides") or {}))

    async def get_job(self, name: str, _: Body) -> Body:
        """jobs.get"""
        return _job(self._row(JOB, name))

    async def list_jobs(self, name: str, _: Body) -> Body:
        """jobs.list"""
        return _listed("jobs", [_job(row) for row in self._below(JOB, name)])

    async def cancel_execution(self, name: str, _: Body) -> Body:
        """executions:cancel"""
        await self._jobs.cancel(name)
        operation = next(
            id for id, it in self._store.all(OPERATION).items() if it["execution"] == name
        )
        return self._operation(operation)

    async def get_execution(self, name: str, _: Body) -> Body:
        """executions.get"""
        return self._row(EXECUTION, name)

    async def list_executions(self, name: str, _: Body) -> Body:
        """executions.list: the newest first."""
        rows = self._below(EXECUTION, name)
        newest = sorted(rows, key=lambda row: row["createTime"], reverse=True)
        return _listed("executions", newest)

    async def get_task(self, name: str, _: Body) -> Body:
        """tasks.get"""
        return self._row(TASK, name)

    async def list_tasks(self, name: str, _: Body) -> Body:
        """tasks.list"""
        return _listed("tasks", sorted(self._below(TASK, name), key=lambda row: row["index"]))

    async def get_operation(self, name: str, _: Body) -> Body:
        """operations.get"""
        return self._operation(name)

    def _operation(self, name: str) -> Body:
        row = self._row(OPERATION, name)
        execution = self._row(EXECUTION, row["execution"])
        typed = {"@type": EXECUTION_TYPE, **execution}
        answer: Body = {"name": name, "metadata": typed}
        if not execution["reconciling"]:
            error = failure(execution, self._below(TASK, execution["name"] + "/tasks"))
            answer |= {"done": True} | ({"error": error} if error else {"response": typed})
        return answer

    def _row(self, type: str, name: str) -> Body:
        row = self._store.get(type, name)
        if row is None:
            raise missing(type.rpartition("_")[2].rpartition(":")[2].upper(), name)
        return row

    def _below(self, type: str, collection: str) -> list[Body]:
        rows = self._store.all(type).items()
        return [row for id, row in rows if id.rpartition("/")[0] == collection]


ROUTES: tuple[tuple[str, str, str, Answer], ...] = (
    ("POST", f"{PLACE}/jobs/{ID}:run", "run.jobs.run", AdminApi.run_job),
    ("GET", f"{PLACE}/jobs/{ID}", "run.jobs.get", AdminApi.get_job),
    ("GET", f"{PLACE}/jobs", "run.jobs.list", AdminApi.list_jobs),
    (
        "POST",
        f"{PLACE}/jobs/{ID}/executions/{ID}:cancel",
        "run.executions.cancel",
        AdminApi.cancel_execution,
    ),
    ("GET", f"{PLACE}/jobs/{ID}/executions/{ID}", "run.executions.get", AdminApi.get_execution),
    ("GET", f"{PLACE}/jobs/{ID}/executions", "run.executions.list", AdminApi.list_executions),
    ("GET", f"{PLACE}/jobs/{ID}/executions/{ID}/tasks/{ID}", "run.tasks.get", AdminApi.get_task),
    ("GET", f"{PLACE}/jobs/{ID}/executions/{ID}/tasks", "run.tasks.list", AdminApi.list_tasks),
    ("GET", f"{PLACE}/operations/{ID}", "run.operations.get", AdminApi.get_operation),
)
"""Method, path, the permission that it takes, and what answers."""


def _job(row: Body) -> Body:
    """A job as the API answers it."""
    kept = (
        *("uid", "generation", "createTime", "updateTime", "creator", "launchStage"),
        *("observedGeneration", "executionCount", "reconciling", "etag", "labels"),
    )
    template: Body = row["template"]
    conditions: list[Body] = row["terminalConditions"]
    latest: list[Body] = row.get("latestCreatedExecutions") or []
    return {
        "name": row["id"],
        **{key: row[key] for key in kept if key in row},
        "template": template | {"template": task_template(template["template"])},
        **({"terminalCondition": conditions[0]} if conditions else {}),
        **({"latestCreatedExecution": latest[0]} if latest else {}),
    }


def _listed(noun: str, rows: list[Body]) -> Body:
    """A page; Google leaves an empty list out."""
    return {noun: rows} if rows else {}


def _json(body: Body, status: int) -> web.Response:
    return web.json_response(body, status=status, dumps=lambda it: json.dumps(it, indent=2) + "\n")
