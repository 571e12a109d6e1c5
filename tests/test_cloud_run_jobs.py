"""Jobs of Cloud Run: what whoever runs one and follows it by the API can rely on."""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from rehearsal import timeline
from rehearsal.errors import CloudError, OperationFailed
from rehearsal.google.cloud_run import EXECUTION, INSTANCE, JOB, OPERATION, TASK, jobs
from rehearsal.providers.cloud_run import JOB_MEMBER
from rehearsal.store import Body
from tests.region import HUB, OPERATOR, PROJECT, REGION, RUNTIME, STRANGER, Cloud, job

pytestmark = pytest.mark.rehearsal

STAGING = f"projects/{PROJECT}/locations/{REGION}/jobs/staging"
WAITS = "import time\nprint('waiting', flush=True)\ntime.sleep(60)"


@pytest.fixture
def cloud(tmp_path: Path) -> Generator[Cloud]:
    cloud = Cloud(tmp_path, 2000)
    yield cloud
    cloud.close()


def deploy(cloud: Cloud, code: str, **more: Any) -> Body:
    """Create a job; its outputs."""
    return cloud.create(JOB, "staging", job(code, **more))


def run(cloud: Cloud, **request: Any) -> Body:
    """Ask for an execution; the operation."""
    status, operation = cloud.api("POST", f"{STAGING}:run", body=request)
    assert status == 200, operation
    return operation


def follow(cloud: Cloud, operation: Body) -> Body:
    """The operation once it is done."""
    cloud.until(lambda: cloud.api("GET", operation["name"])[1].get("done"))
    return cloud.api("GET", operation["name"])[1]


def finish(cloud: Cloud, **request: Any) -> Body:
    """Run the job to its end; the operation."""
    return follow(cloud, run(cloud, **request))


def completed(execution: Body) -> Body:
    """The condition that says how it ended."""
    return next(it for it in execution["conditions"] if it["type"] == "Completed")


# --- running --------------------------------------------------------------------------------------

TELLS = """
import os
for name in ("JOB", "EXECUTION", "TASK_INDEX", "TASK_ATTEMPT", "TASK_COUNT"):
    print(name, os.environ[f"CLOUD_RUN_{name}"], flush=True)
print("MODEL", os.environ["MODEL"], "PORT" in os.environ)
"""


def test_a_job_runs_its_container_to_the_end(cloud: Cloud) -> None:
    """The operation ends with the execution, which says how it went; its log is kept."""
    deploy(cloud, TELLS, container={"envs": [{"name": "MODEL", "value": "a/b"}]})

    begun = run(cloud)
    done = follow(cloud, begun)

    execution = done["response"]
    id = execution["name"].rpartition("/")[2]
    assert begun["metadata"]["name"] == execution["name"]
    assert "done" not in begun
    assert execution["taskCount"] == execution["succeededCount"] == 1
    assert "failedCount" not in execution
    assert completed(execution)["state"] == "CONDITION_SUCCEEDED"
    assert completed(execution)["message"].startswith("Execution completed successfully in ")
    assert execution["template"]["containers"][0]["env"] == [{"name": "MODEL", "value": "a/b"}]
    log = (cloud.world.logs / f"{id}.log").read_text()
    told = {"JOB": "staging", "EXECUTION": id, "TASK_INDEX": 0, "TASK_ATTEMPT": 0, "TASK_COUNT": 1}
    for name, value in told.items():
        assert f" {name} {value}\n" in log
    assert "MODEL a/b False" in log
    assert "Container called exit(0)." in log
    assert not cloud.instances()
    assert f"run {id}" in [it.name for it in timeline.read(cloud.world.timeline)]


def test_executions_are_listed_newest_first(cloud: Cloud) -> None:
    """With their tasks; the job says how many there were."""
    deploy(cloud, "")
    assert cloud.api("GET", f"{STAGING}/executions") == (200, {})

    first, second = (finish(cloud)["response"]["name"] for _ in range(2))

    _, listed = cloud.api("GET", f"{STAGING}/executions")
    assert [it["name"] for it in listed["executions"]] == [second, first]
    assert cloud.api("GET", first)[1] == listed["executions"][1]
    _, tasks = cloud.api("GET", f"{first}/tasks")
    assert [it["index"] for it in tasks["tasks"]] == [0]
    assert tasks["tasks"][0]["lastAttemptResult"] == {"status": {}}
    _, told = cloud.api("GET", STAGING)
    assert told["executionCount"] == 2
    assert told["latestCreatedExecution"]["name"] == second.rpartition("/")[2]


def test_an_execution_may_differ_from_its_job(cloud: Cloud) -> None:
    """In arguments, variables and number of tasks; the job stays as it is."""
    deploy(cloud, "")
    code = "import os, sys; print('told', os.environ['A'], flush=True); sys.exit(0)"
    changes = {"args": ["-c", code], "env": [{"name": "A", "value": "1"}]}

    done = finish(cloud, overrides={"containerOverrides": [changes], "taskCount": 2})

    assert done["response"]["succeededCount"] == 2
    assert cloud.logs().count("told 1") == 2
    assert cloud.api("GET", STAGING)[1]["template"]["taskCount"] == 1


def test_a_job_writes_to_a_bucket(cloud: Cloud) -> None:
    """Through its mount, as the account that it runs as."""
    (cloud.world.buckets / "weights").mkdir(parents=True)
    cloud.call(lambda: cloud.bind("roles/storage.objectUser", RUNTIME, project=PROJECT))
    volume = {"name": "weights", "gcs": {"bucket": "weights"}}
    mount = {"volumeMounts": [{"name": "weights", "mountPath": "/weights"}]}
    deploy(cloud, "open('/weights/a', 'w').write('x')", container=mount, task={"volumes": [volume]})

    assert finish(cloud)["response"]["succeededCount"] == 1
    assert (cloud.world.buckets / "weights/a").read_text() == "x"


# --- failing --------------------------------------------------------------------------------------


def test_a_job_that_fails_says_so(cloud: Cloud) -> None:
    """The operation's error and the execution's condition name the task and its exit code."""
    deploy(cloud, "import sys; sys.exit('no such model')")

    done = finish(cloud)

    execution = done["metadata"]
    task = f"{execution['name'].rpartition('/')[2]}-task0"
    message = f"Task {task} failed with exit code: 1 and message: The container exited with an"
    assert done["error"] == {"code": 10, "message": f"{message} error."}
    assert "response" not in done
    assert execution["failedCount"] == 1
    failed = completed(execution)
    assert (failed["state"], failed["executionReason"]) == (
        "CONDITION_FAILED",
        "NON_ZERO_EXIT_CODE",
    )
    assert failed["message"] == f"{message} error."
    assert "no such model" in cloud.logs()
    result = cloud.api("GET", f"{execution['name']}/tasks")[1]["tasks"][0]["lastAttemptResult"]
    assert result["exitCode"] == 1


def test_a_task_is_tried_again(cloud: Cloud) -> None:
    """As often as the job allows, and no more often than it takes."""
    code = "import os, sys; sys.exit(int(os.environ['CLOUD_RUN_TASK_ATTEMPT']) < 2)"
    deploy(cloud, code, task={"maxRetries": 3})

    execution = finish(cloud)["response"]

    assert execution["succeededCount"] == 1
    assert execution["retriedCount"] == 2


def test_a_task_has_its_time(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is ended, and has failed."""
    monkeypatch.setattr(jobs, "TIMEOUT_FLOOR_S", 0.5)
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + WAITS
    deploy(cloud, code, task={"timeout": "60s"})

    done = finish(cloud)

    assert done["error"]["code"] == 4
    assert done["error"]["message"].endswith("message: The configured timeout was reached.")


def test_an_execution_can_be_cancelled(cloud: Cloud) -> None:
    """Its container is ended; it counts as cancelled, and its operation has no error."""
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + WAITS
    deploy(cloud, code)
    operation = run(cloud)
    name = operation["metadata"]["name"]
    cloud.until(lambda: "waiting" in cloud.logs())

    status, cancelled = cloud.api("POST", f"{name}:cancel", body={})

    assert (status, cancelled["done"]) == (200, True)
    execution = follow(cloud, operation)["response"]
    assert execution["cancelledCount"] == 1
    assert completed(execution)["message"] == "Cancelled by user."
    assert completed(execution)["executionReason"] == "CANCELLED"
    assert not cloud.instances()
    status, refused = cloud.api("POST", f"{name}:cancel", body={})
    assert (status, refused["error"]["status"]) == (400, "FAILED_PRECONDITION")


def test_what_ran_when_the_clouds_ended_has_failed(cloud: Cloud) -> None:
    """It does not run for ever in the eyes of who follows it."""
    deploy(cloud, WAITS)
    operation = run(cloud)
    cloud.until(lambda: "waiting" in cloud.logs())

    cloud.restart()

    assert follow(cloud, operation)["error"]["message"].endswith("The task was lost.")


# --- who may, and what is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("POST", f"{STAGING}:run", "run.jobs.run"),
        ("GET", STAGING, "run.jobs.get"),
        ("GET", f"{STAGING}/executions", "run.executions.list"),
        ("POST", f"{STAGING}/executions/x:cancel", "run.executions.cancel"),
    ],
)
def test_strangers_are_refused(cloud: Cloud, method: str, path: str, permission: str) -> None:
    """Whether the job exists or not."""
    status, answer = cloud.api(method, path, STRANGER, {} if method == "POST" else None)

    assert status == 403
    assert answer["error"]["status"] == "PERMISSION_DENIED"
    assert f"Permission '{permission}' denied on resource" in answer["error"]["message"]


def test_whoever_was_given_one_job_runs_that_one(cloud: Cloud) -> None:
    """roles/run.invoker on the job lets an account run it, and not look at what comes of it."""
    deploy(cloud, "")
    member = f"serviceAccount:{STRANGER}"
    cloud.create(
        JOB_MEMBER,
        "stranger",
        {"name": "staging", "location": REGION, "role": "roles/run.invoker", "member": member},
    )

    assert cloud.api("POST", f"{STAGING}:run", STRANGER, {})[0] == 200
    assert cloud.api("GET", f"{STAGING}/executions", STRANGER)[0] == 403


def test_without_a_token_there_is_no_answer(cloud: Cloud) -> None:
    """401, as at all of Google's APIs."""
    answer = cloud.ask("https://run.googleapis.com", f"/v2/{STAGING}")

    assert answer.status_code == 401
    assert answer.json()["error"]["status"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (STAGING, "JOB"),
        (f"{STAGING}/executions/staging-abcde", "EXECUTION"),
        (f"{STAGING}/executions/staging-abcde/tasks/staging-abcde-task0", "TASK"),
    ],
)
def test_what_does_not_exist_is_not_found(cloud: Cloud, name: str, kind: str) -> None:
    """In Cloud Run's words."""
    status, answer = cloud.api("GET", name, OPERATOR)

    id = name.rpartition("/")[2]
    where = f"in region '{REGION}' in project '{PROJECT}' does not exist."
    assert status == 404
    assert answer["error"]["message"] == f"Resource '{id}' of kind '{kind}' {where}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"container": {"image": f"{HUB}/library/python:9.99"}}, "not found."),
        ({"container": {"image": "us-docker.pkg.dev/a/b/library/python:3.13"}}, "must have perm"),
        (
            {
                "task": {
                    "serviceAccount": STRANGER,
                    "volumes": [{"name": "t", "secret": {"secret": "token"}}],
                }
            },
            "Permission denied on secret",
        ),
    ],
)
def test_a_job_needs_its_image_and_its_secrets(cloud: Cloud, more: Body, message: str) -> None:
    """It exists then, and cannot be run."""
    with pytest.raises(OperationFailed, match=message):
        deploy(cloud, "", **more)

    status, answer = cloud.api("POST", f"{STAGING}:run", body={})
    assert (status, answer["error"]["status"]) == (400, "FAILED_PRECONDITION")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task": {"maxRetries": 11}}, "must be between 0 and 10"),
        ({"task": {"timeout": "999999s"}}, "must be between 1s and 168 hours"),
        ({"task": {"nodeSelector": {"accelerator": "nvidia-l4"}}}, "nvidia.com/gpu must be 1"),
        ({"task": {"serviceAccount": "nobody@example.com"}}, "iam.serviceaccounts.actAs"),
    ],
)
def test_cloud_run_refuses_during_up(cloud: Cloud, more: Body, message: str) -> None:
    """What previews well, and cannot be."""
    with pytest.raises(CloudError) as refusal:
        deploy(cloud, "", **more)

    assert message in cloud.words(refusal.value, JOB)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task": {"timeout": "1h"}}, "doesn't match regexp"),
        ({"runExecutionToken": "once"}, "does not play runExecutionToken"),
        ({"task": {"encryptionKey": "k"}}, "does not play template.template.encryptionKey"),
    ],
)
def test_the_plugin_refuses_at_preview(cloud: Cloud, more: Body, message: str) -> None:
    """And what has no stand-in is refused with a word, never ignored."""
    with pytest.raises(ValueError, match=message):
        cloud.check(JOB, "staging", job("", **more))


# --- the end --------------------------------------------------------------------------------------


def test_a_job_is_protected_unless_it_says_otherwise(cloud: Cloud) -> None:
    """By default `destroy` stops until protection was taken away by an `up`."""
    inputs = job("")
    del inputs["deletionProtection"]
    made = cloud.create(JOB, "staging", inputs)

    with pytest.raises(ValueError, match="cannot destroy job without setting deletion_protection"):
        cloud.delete(JOB, made)

    cloud.delete(JOB, cloud.update(made, JOB, job("")))
    assert not cloud.all(JOB)


def test_nothing_is_left_of_a_deleted_job(cloud: Cloud) -> None:
    """What runs is ended; no execution, task or operation stays."""
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + WAITS
    made = deploy(cloud, code)
    run(cloud)
    cloud.until(lambda: "waiting" in cloud.logs())

    began = time.monotonic()
    cloud.delete(JOB, made)

    assert time.monotonic() - began < 10
    left = [cloud.all(type) for type in (JOB, EXECUTION, TASK, OPERATION, INSTANCE)]
    assert left == [[], [], [], [], []]
    assert not cloud.gpu_spans()
