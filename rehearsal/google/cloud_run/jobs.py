"""Jobs: executions, their tasks, and what becomes of each attempt.

States, counts and messages as they were observed on the service (docs of floci-gcp, 2026-09).
"""

import asyncio
import logging
import secrets
import string
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from rehearsal import figures, timeline
from rehearsal.errors import CloudError
from rehearsal.google.cloud_run import EXECUTION, JOB, OPERATION, TASK
from rehearsal.google.cloud_run.instance import GRACE_S, Instance
from rehearsal.google.cloud_run.platform import Platform
from rehearsal.google.cloud_run.respell import task_template
from rehearsal.google.cloud_run.workload import Workload
from rehearsal.store import Body, Change

TIMEOUT_FLOOR_S = 20.0
"""A task has at least so long, in this machine's time, which is not compressed."""

log = logging.getLogger(__name__)

ABORTED, DEADLINE_EXCEEDED, CANCELLED, INTERNAL = 10, 4, 1, 13
"""gRPC codes of an attempt's end."""


class Jobs:
    """Follows every job in the store: looks at what it needs, runs it when asked."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._world = platform.world
        self._store = platform.world.store
        self._running: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self) -> None:
        """Follow the store from now on. What ran when the last daemon ended has failed."""
        for name, row in self._store.all(EXECUTION).items():
            if row["reconciling"]:
                for id, task in self._tasks_of(name):
                    if "completionTime" not in task:
                        self._end_task(id, INTERNAL, "The task was lost.")
                self._complete(name, "The execution was lost.")
        self._store.subscribe(self._changed)
        for id, body in self._store.all(JOB).items():
            if body["reconciling"]:
                self._later(self._accept(id))

    async def close(self) -> None:
        """End every task at once."""
        self._closed = True
        for task in [*self._running.values(), *self._tasks]:
            task.cancel()
        await asyncio.gather(*self._running.values(), *self._tasks, return_exceptions=True)

    def _changed(self, change: Change, type: str, id: str, body: Body) -> None:
        if type != JOB or self._closed:
            return
        if change == "deleted":
            self._later(self._remove(id))
        elif body["reconciling"]:
            self._later(self._accept(id))

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, id: str) -> None:
        """Look for what a new or changed job needs; its conditions tell how that went."""
        body = self._store.get(JOB, id)
        if body is None:
            return
        condition: Body = {"type": "Ready", "state": "CONDITION_SUCCEEDED"}
        try:
            await self._platform.admit(self._workload(id, body, id.rpartition("/")[2]))
        except CloudError as error:
            said = {"code": error.code, "message": error.message}
            condition |= {"state": "CONDITION_FAILED", **said}
        condition["lastTransitionTime"] = now()
        changed = {"reconciling": False, "observedGeneration": body["generation"]}
        if body := self._store.get(JOB, id):
            self._store.put(JOB, id, body | changed | {"terminalConditions": [condition]})

    async def _remove(self, id: str) -> None:
        for name in [it for it in self._store.all(EXECUTION) if it.startswith(f"{id}/")]:
            await self._stop(name)
            for task, _ in self._tasks_of(name):
                self._store.delete(TASK, task)
            self._store.delete(EXECUTION, name)
        for name, row in self._store.all(OPERATION).items():
            if row["execution"].startswith(f"{id}/"):
                self._store.delete(OPERATION, name)

    # Asked by the API

    def run(self, id: str, overrides: Body) -> str:
        """Begin an execution; the name of its operation.

        CloudError 404 when there is no such job, 400 when it never became ready.
        """
        job = self._store.get(JOB, id)
        if job is None:
            raise missing("JOB", id)
        if job["reconciling"] or job["terminalConditions"][0]["state"] != "CONDITION_SUCCEEDED":
            message = f"Job '{id.rpartition('/')[2]}' is not ready."
            raise CloudError(400, message, "FAILED_PRECONDITION")
        template = overridden(job["template"], overrides)
        name = f"{id}/executions/{id.rpartition('/')[2]}-{_random(5)}"
        count = int(template["taskCount"])
        execution = {
            "name": name,
            "uid": _uid(),
            "generation": "1",
            "createTime": now(),
            "updateTime": now(),
            "launchStage": "GA",
            "job": id.rpartition("/")[2],
            "parallelism": int(template.get("parallelism") or 0) or count,
            "taskCount": count,
            "template": task_template(template["template"]),
            "reconciling": True,
            "conditions": [_condition("Completed", "CONDITION_RECONCILING")],
            "observedGeneration": "1",
            "logUri": _log_uri(id, name),
            "etag": secrets.token_hex(8),
        }
        self._store.put(EXECUTION, name, execution)
        operation = f"{id.rpartition('/jobs/')[0]}/operations/{_uid()}"
        self._store.put(OPERATION, operation, {"execution": name})
        self._note(id)
        workload = self._workload(id, {"template": template}, name.rpartition("/")[2])
        self._running[name] = asyncio.create_task(self._execute_and_record(name, workload))
        return operation

    async def cancel(self, name: str) -> None:
        """Stop an execution. CloudError 404 or 400 when it does not run."""
        execution = self._store.get(EXECUTION, name)
        if execution is None:
            raise missing("EXECUTION", name)
        if not execution["reconciling"]:
            id = name.rpartition("/")[2]
            message = f"Execution '{id}' cannot be cancelled because it is not running."
            raise CloudError(400, message, "FAILED_PRECONDITION")
        await self._stop(name)

    async def _stop(self, name: str) -> None:
        running = self._running.pop(name, None)
        if running is None:
            return
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for id, task in self._tasks_of(name):
            if "completionTime" not in task:
                self._end_task(id, CANCELLED, "Cancelled by user.")
        self._complete(name, "Cancelled by user.", reason="CANCELLED")

    # Execution

    async def _execute_and_record(self, name: str, workload: Workload) -> None:
        with timeline.span(self._world.timeline, f"run {workload.name}", holds="job"):
            await self._execute(name, workload)

    async def _execute(self, name: str, workload: Workload) -> None:
        began = time.monotonic()
        execution = self._store.get(EXECUTION, name) or {}
        count: int = execution["taskCount"]
        await self._world.take(f"start {workload.name}", figures.seconds("job starts"))
        lasted = self._lasted(began)
        self._set(
            name,
            startTime=now(),
            conditions=[
                _condition("Completed", "CONDITION_RECONCILING"),
                _condition("ResourcesAvailable", message="Provisioned imported containers."),
                _condition("Started", message=f"Started deployed execution in {lasted}."),
                _condition("ContainerReady", message="Imported container image."),
            ],
        )
        places = asyncio.Semaphore(execution["parallelism"])
        async with asyncio.TaskGroup() as group:
            for index in range(count):
                self._new_task(name, index, execution)
                group.create_task(self._run_task(name, index, workload, places))
        ends = [task for _, task in self._tasks_of(name)]
        failed = [it for it in ends if it["lastAttemptResult"]["status"]]
        if not failed:
            lasted = self._lasted(began)
            self._complete(name, f"Execution completed successfully in {lasted}.", ok=True)
        else:
            exited = "exitCode" in failed[0]["lastAttemptResult"]
            reason = "NON_ZERO_EXIT_CODE" if exited else ""
            self._complete(name, _failure(failed[0]), reason=reason)
        self._running.pop(name, None)

    async def _run_task(
        self, name: str, index: int, workload: Workload, places: asyncio.Semaphore
    ) -> None:
        """Run one task, as often as it may be tried."""
        id = f"{name}/tasks/{name.rpartition('/')[2]}-task{index}"
        template: Body = workload.template
        retries = int(template["maxRetries"])
        async with places:
            self._set_task(id, startTime=now())
            self._count(name)
            for attempt in range(retries + 1):
                self._set_task(id, retried=attempt)
                code, exit_code, message = await self._attempt(workload, index, attempt)
                self._count(name)
                if code == 0 or attempt == retries:
                    self._end_task(id, code, message, exit_code)
                    self._count(name)
                    return

    async def _attempt(self, workload: Workload, index: int, attempt: int) -> tuple[int, int, str]:
        """One run of the container: a gRPC code, its exit code, and what is said of it."""
        instance = Instance(
            self._platform,
            workload,
            CLOUD_RUN_TASK_INDEX=str(index),
            CLOUD_RUN_TASK_ATTEMPT=str(attempt),
        )
        timeout = float(str(workload.template["timeout"]).rstrip("s"))
        try:
            await instance.start()
            async with asyncio.timeout(max(timeout / self._world.speed, TIMEOUT_FLOOR_S)):
                exit_code = await instance.wait()
        except TimeoutError:
            message = "The configured timeout was reached."
            instance.log(f"Terminating task because it has reached the maximum timeout. {message}")
            return DEADLINE_EXCEEDED, 0, message
        except Exception as error:  # a container that cannot start must not end its execution
            if not isinstance(error, CloudError):
                log.exception("%s did not run", instance.name)
            instance.log(str(error))
            return INTERNAL, 0, str(error)
        finally:
            await instance.stop(0 if self._closed else GRACE_S)
        instance.log(f"Container called exit({exit_code}).")
        if exit_code:
            return ABORTED, exit_code, "The container exited with an error."
        return 0, 0, ""

    def _workload(self, id: str, body: Body, name: str) -> Workload:
        template: Body = body["template"]
        environment = {
            "CLOUD_RUN_JOB": id.rpartition("/")[2],
            "CLOUD_RUN_EXECUTION": name,
            "CLOUD_RUN_TASK_COUNT": str(template["taskCount"]),
        }
        return Workload(id, name, template["template"], environment)

    # Rows

    def _tasks_of(self, name: str) -> list[tuple[str, Body]]:
        rows = self._store.all(TASK).items()
        mine = [(id, row) for id, row in rows if id.startswith(f"{name}/")]
        return sorted(mine, key=lambda pair: pair[1]["index"])

    def _new_task(self, name: str, index: int, execution: Body) -> None:
        id = f"{name}/tasks/{name.rpartition('/')[2]}-task{index}"
        row = {
            "name": id,
            "uid": _uid(),
            "createTime": now(),
            "scheduledTime": now(),
            "updateTime": now(),
            "job": execution["job"],
            "execution": name.rpartition("/")[2],
            "index": index,
            "retried": 0,
            **execution["template"],
            "logUri": execution["logUri"],
        }
        self._store.put(TASK, id, row)

    def _set_task(self, id: str, **changes: Any) -> None:
        if row := self._store.get(TASK, id):
            self._store.put(TASK, id, row | changes | {"updateTime": now()})

    def _end_task(self, id: str, code: int, message: str, exit_code: int = 0) -> None:
        result: Body = {"status": {"code": code, "message": message} if code else {}}
        if exit_code:
            result["exitCode"] = exit_code
        state = "CONDITION_FAILED" if code else "CONDITION_SUCCEEDED"
        self._set_task(
            id,
            completionTime=now(),
            lastAttemptResult=result,
            conditions=[_condition("Completed", state, message)],
        )

    def _count(self, name: str) -> None:
        """Bring the execution's counts up to date."""
        tasks = [task for _, task in self._tasks_of(name)]
        codes = [
            it["lastAttemptResult"]["status"].get("code", 0)
            for it in tasks
            if "lastAttemptResult" in it
        ]
        counts = {
            "runningCount": sum("startTime" in it and "completionTime" not in it for it in tasks),
            "succeededCount": codes.count(0),
            "failedCount": sum(code not in (0, CANCELLED) for code in codes),
            "cancelledCount": codes.count(CANCELLED),
            "retriedCount": sum(it["retried"] for it in tasks),
        }
        # The API leaves zeros out.
        row = self._store.get(EXECUTION, name) or {}
        kept = {key: value for key, value in row.items() if key not in counts}
        counted = {key: value for key, value in counts.items() if value}
        if row:
            self._store.put(EXECUTION, name, kept | counted)

    def _complete(self, name: str, message: str, *, ok: bool = False, reason: str = "") -> None:
        execution = self._store.get(EXECUTION, name)
        if execution is None:
            return
        state = "CONDITION_SUCCEEDED" if ok else "CONDITION_FAILED"
        completed = _condition("Completed", state, message)
        if reason:
            completed["executionReason"] = reason
        others = [it for it in execution["conditions"] if it["type"] != "Completed"]
        self._set(name, reconciling=False, completionTime=now(), conditions=[completed, *others])
        self._count(name)
        self._note(name.rpartition("/executions/")[0])

    def _set(self, name: str, **changes: Any) -> None:
        if row := self._store.get(EXECUTION, name):
            self._store.put(EXECUTION, name, row | changes | {"updateTime": now()})

    def _note(self, id: str) -> None:
        """What a job says of its executions."""
        mine = [
            row for name, row in self._store.all(EXECUTION).items() if name.startswith(f"{id}/")
        ]
        latest = max(mine, key=lambda row: row["createTime"])
        reference = {
            "name": latest["name"].rpartition("/")[2],
            "createTime": latest["createTime"],
            "completionTime": latest.get("completionTime", ""),
        }
        if job := self._store.get(JOB, id):
            told = {"executionCount": len(mine), "latestCreatedExecutions": [reference]}
            self._store.put(JOB, id, job | told)

    def _lasted(self, began: float) -> str:
        return f"{(time.monotonic() - began) * self._world.speed:.2f}s"


def missing(kind: str, name: str) -> CloudError:
    """404, as Cloud Run says it."""
    _, project, _, region, *rest = name.split("/")
    message = (
        f"Resource '{rest[-1]}' of kind '{kind}' in region '{region}' in project '{project}' does"
        " not exist."
    )
    return CloudError(404, message, "NOT_FOUND")


def overridden(template: Body, overrides: Body) -> Body:
    """A job's template for one execution. CloudError 400 where the overrides do not fit it."""
    task: Body = dict(template["template"])
    container: Body = dict(task["containers"][0])
    changes: list[Body] = overrides.get("containerOverrides") or []
    if len(changes) > 1:
        raise CloudError(400, "The job has a single container.", "INVALID_ARGUMENT")
    for change in changes:
        if change.get("args") or change.get("clearArgs"):
            container["args"] = change.get("args") or []
        envs: list[Body] = [*(container.get("envs") or []), *(change.get("env") or [])]
        container["envs"] = [*{it["name"]: it for it in envs}.values()]
    task["containers"] = [container]
    if "timeout" in overrides:
        task["timeout"] = overrides["timeout"]
    count = overrides.get("taskCount") or template["taskCount"]
    return template | {"template": task, "taskCount": count}


def failure(execution: Body, tasks: list[Body]) -> Body | None:
    """The error of a failed execution's operation; None for one that went well or was cancelled."""
    failed = [
        it for it in tasks if it["lastAttemptResult"]["status"].get("code", 0) not in (0, CANCELLED)
    ]
    if execution["reconciling"] or not failed:
        return None
    return {
        "code": failed[0]["lastAttemptResult"]["status"]["code"],
        "message": _failure(failed[0]),
    }


def _failure(task: Body) -> str:
    result: Body = task["lastAttemptResult"]
    exit_code = result.get("exitCode", 0)
    name = task["name"].rpartition("/")[2]
    said = result["status"]["message"]
    return f"Task {name} failed with exit code: {exit_code} and message: {said}"


def _condition(type: str, state: str = "CONDITION_SUCCEEDED", message: str = "") -> Body:
    condition = {"type": type, "state": state, "lastTransitionTime": now()}
    return condition | ({"message": message} if message else {})


def _log_uri(id: str, name: str) -> str:
    _, project, _, region, _, job = id.split("/")
    wanted = (
        f'resource.type="cloud_run_job"\nresource.labels.job_name="{job}"\n'
        f'resource.labels.location="{region}"\n'
        f'labels."run.googleapis.com/execution_name"="{name.rpartition("/")[2]}"'
    )
    address = "https://console.cloud.google.com/logs/viewer"
    return f"{address}?project={project}&advancedFilter={quote(wanted)}"


def _random(length: int) -> str:
    letters = string.ascii_lowercase + string.digits
    return "".join(secrets.choice(letters) for _ in range(length))


def _uid() -> str:
    digits = secrets.token_hex(16)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def now() -> str:
    """The time as Google writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
