"""run.googleapis.com: Cloud Run's Admin API v2, as far as jobs are run with it, and looked at."""

from rehearsal.google.cloud_run import EXECUTION, JOB, OPERATION, SERVICE, TASK
from rehearsal.google.cloud_run.jobs import Jobs, failure, missing
from rehearsal.google.cloud_run.respell import task_template
from rehearsal.google.identity import Identity
from rehearsal.google.rest import Api, Call, Route, locations
from rehearsal.store import Body
from rehearsal.world import World

HOST = "run.googleapis.com"
EXECUTION_TYPE = "type.googleapis.com/google.cloud.run.v2.Execution"


class AdminApi:
    """The site; `handle` answers one request.

    Absent on purpose: making, changing and deleting, which the providers do.
    """

    def __init__(self, world: World, identity: Identity, jobs: Jobs) -> None:
        self._store = world.store
        self._jobs = jobs
        place = "/v2/projects/{project}/locations/{location}"
        job, service = f"{place}/jobs/{{job}}", f"{place}/services/{{service}}"
        execution = f"{job}/executions/{{execution}}"
        routes = (
            Route("POST", f"{job}:run", "run.jobs.run", self.run_job),
            Route("GET", job, "run.jobs.get", self.get_job),
            Route("GET", f"{place}/jobs", "run.jobs.list", self.list_jobs, "jobs"),
            Route("POST", f"{execution}:cancel", "run.executions.cancel", self.cancel_execution),
            Route("GET", execution, "run.executions.get", self.get_execution),
            Route(
                "GET",
                f"{job}/executions",
                "run.executions.list",
                self.list_executions,
                "executions",
            ),
            Route("GET", f"{execution}/tasks/{{task}}", "run.tasks.get", self.get_task),
            Route("GET", f"{execution}/tasks", "run.tasks.list", self.list_tasks, "tasks"),
            Route("GET", f"{place}/operations/{{id}}", "run.operations.get", self.get_operation),
            Route("GET", service, "run.services.get", self.get_service),
            Route("GET", f"{place}/services", "run.services.list", self.list_services, "services"),
            locations("run.locations.list"),  # in v1 of the API alone
        )
        denied = (
            "Permission '{permission}' denied on resource '{name}' (or resource may not exist)."
        )
        self.handle = Api(world, identity, HOST, routes, denied=denied).handle

    # Answers

    def run_job(self, call: Call) -> Body:
        """jobs:run"""
        return self._operation(self._jobs.run(call.name, call.body.get("overrides") or {}))

    def get_job(self, call: Call) -> Body:
        """jobs.get"""
        return _job(self._row(JOB, call.name))

    def list_jobs(self, call: Call) -> list[Body]:
        """jobs.list"""
        return [_job(row) for row in self._below(JOB, call.name)]

    async def cancel_execution(self, call: Call) -> Body:
        """executions:cancel"""
        await self._jobs.cancel(call.name)
        operation = next(
            id for id, it in self._store.all(OPERATION).items() if it["execution"] == call.name
        )
        return self._operation(operation)

    def get_execution(self, call: Call) -> Body:
        """executions.get"""
        return self._row(EXECUTION, call.name)

    def list_executions(self, call: Call) -> list[Body]:
        """executions.list: the newest first."""
        rows = self._below(EXECUTION, call.name)
        return sorted(rows, key=lambda row: row["createTime"], reverse=True)

    def get_task(self, call: Call) -> Body:
        """tasks.get"""
        return self._row(TASK, call.name)

    def list_tasks(self, call: Call) -> list[Body]:
        """tasks.list"""
        return sorted(self._below(TASK, call.name), key=lambda row: row["index"])

    def get_operation(self, call: Call) -> Body:
        """operations.get"""
        return self._operation(call.name)

    def get_service(self, call: Call) -> Body:
        """services.get"""
        return _service(self._row(SERVICE, call.name))

    def list_services(self, call: Call) -> list[Body]:
        """services.list"""
        return [_service(row) for row in self._below(SERVICE, call.name)]

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


def _service(row: Body) -> Body:
    """A service as the API answers it, as far as somebody looks."""
    kept = (
        *("uid", "generation", "createTime", "updateTime", "creator", "launchStage", "ingress"),
        *("observedGeneration", "reconciling", "etag", "uri", "urls", "latestReadyRevision"),
    )
    conditions: list[Body] = row["terminalConditions"]
    return {
        "name": row["id"],
        "labels": row.get("effectiveLabels") or {},
        **{key: row[key] for key in kept if row.get(key) is not None},
        **({"terminalCondition": conditions[0]} if conditions else {}),
    }
