"""What `pulumi up` runs to have weights in a bucket: it asks, lets the job work, and tells."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rehearsal.world import PERSON
from scripts.download_weights import STATUS
from scripts.stage_weights import REPEAT_SECONDS, Execution, Teller, seen
from tests.clouds import BUCKET, HUB_TOKEN, PROJECT, REGION, Clouds, clouds, write_credentials

ROOT = Path(__file__).parents[1]
JOB = f"projects/{PROJECT}/locations/{REGION}/jobs/llm-dev-staging"
MODEL, GATED = "Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct"
LOG = "https://console.cloud.google.com/logs/viewer?project=team-llm&advancedFilter=x"
HASTY = """
import sys
from scripts import stage_weights
stage_weights.POLL_SECONDS = 0.05
sys.exit(stage_weights.main())
"""
DONE = re.compile(r"commit [0-9a-f]{40}, 12 files, \d+ bytes\n")


class CloudRun(ThreadingHTTPServer):
    """Cloud Run's Admin API v2, as its reference documents jobs:run and executions.

    An execution really runs the staging script, as the container would.
    https://cloud.google.com/run/docs/reference/rest/v2/projects.locations.jobs.executions
    """

    def __init__(self, cloud: Clouds, container: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.cloud = cloud
        self.container = container
        """The job's environment."""
        self.executions: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.calls: list[str] = []
        self.hiccups = 0
        """So many answers more are 503."""
        self.starts = True
        """Whether the container can be started at all."""

    def run(self) -> dict[str, Any]:
        """jobs:run: an operation whose metadata is the execution."""
        execution = self.add()
        threading.Thread(target=self._execute, args=(execution,)).start()
        return {"name": f"{JOB}/operations/1", "metadata": execution}

    def add(self, **changes: str) -> dict[str, Any]:
        """An execution that is at work and, if nobody runs it, stays so."""
        name = f"{JOB}/executions/llm-dev-staging-{len(self.executions):05d}"
        container = self.container | changes
        env = [{"name": key, "value": value} for key, value in container.items()]
        self.executions[name] = {
            "name": name,
            "template": {"containers": [{"image": "python", "env": env}]},
            "conditions": [{"type": "Completed", "state": "CONDITION_RECONCILING"}],
            "logUri": LOG,
        }
        return self.executions[name]

    def cancel(self, name: str) -> None:
        """executions:cancel."""
        self.executions[name]["conditions"][0]["executionReason"] = "CANCELLING"
        self.processes[name].terminate()

    def _execute(self, execution: dict[str, Any]) -> None:
        name, code = execution["name"], 1
        id = name.rpartition("/")[2]
        if self.starts:
            execution["startTime"] = "2026-11-25T03:00:00Z"
            self.processes[name] = subprocess.Popen(
                [sys.executable, ROOT / "scripts" / "download_weights.py"],
                env=self.cloud.environment | self.container | {"CLOUD_RUN_EXECUTION": id},
                stdout=subprocess.DEVNULL,
            )
            code = self.processes[name].wait()
        completed = execution["conditions"][0]
        completed["state"] = "CONDITION_FAILED" if code else "CONDITION_SUCCEEDED"
        completed["message"] = f"Task {id}-task0 failed with exit code: {code}" if code else "Done."
        execution["completionTime"] = "2026-11-25T03:01:00Z"

    def wait(self) -> None:
        """Until every execution has ended."""
        wait_until(lambda: all("completionTime" in it for it in self.executions.values()))


class Api(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        api = self.server
        assert isinstance(api, CloudRun)
        path = self.path.removeprefix("/v2/").partition("?")[0]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        caller = api.cloud.identity.caller(self.headers["Authorization"])
        assert caller.email == PERSON
        api.calls.append(f"{self.command} {path.removeprefix(JOB)}")
        if api.hiccups:
            api.hiccups -= 1
            self._reply(503, {"error": {"code": 503, "message": "The service is unavailable."}})
        elif (self.command, path) == ("POST", f"{JOB}:run"):
            self._reply(200, api.run())
        elif (self.command, path) == ("GET", f"{JOB}/executions"):
            self._reply(200, {"executions": [*api.executions.values()]} if api.executions else {})
        elif self.command == "GET" and path in api.executions:
            self._reply(200, api.executions[path])
        elif self.command == "POST" and path.removesuffix(":cancel") in api.executions:
            api.cancel(path.removesuffix(":cancel"))
            self._reply(200, {"name": "operations/2"})
        else:
            self._reply(404, {"error": {"code": 404, "message": f"No {path}."}})

    do_GET = do_POST = _answer

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Deployer:
    """Whoever runs `pulumi up`, the cloud they run it in, and the job of their stack."""

    def __init__(self, cloud: Clouds, api: CloudRun) -> None:
        self.cloud, self.api = cloud, api
        self.environment = {
            key: value for key, value in cloud.environment.items() if key != "GCE_METADATA_HOST"
        }
        self.environment |= {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN": f"http://127.0.0.1:{api.server_port}/",
            "PROJECT": PROJECT,
            "REGION": REGION,
            "JOB": "llm-dev-staging",
            **api.container,
        }

    def start(self, **changes: str) -> subprocess.Popen[str]:
        """The script, at work."""
        return subprocess.Popen(
            [sys.executable, "-c", HASTY],
            cwd=ROOT,
            env=self.environment | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stage(self, **changes: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr of the script."""
        with self.start(**changes) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    @property
    def started(self) -> int:
        """How many executions were asked for."""
        return self.api.calls.count("POST :run")


@contextmanager
def deploying(
    directory: Path, faults: frozenset[str], speed: float, **container: str
) -> Generator[Deployer]:
    variables = {
        "SOURCE": "hub",
        "MODEL": MODEL,
        "REVISION": "main",
        "HF_ENDPOINT": "https://huggingface.co",
        "BUCKET": BUCKET,
        **container,
    }
    with clouds(directory, speed, faults) as cloud, CloudRun(cloud, variables) as api:
        cloud.allow("roles/storage.objectUser")
        threading.Thread(target=api.serve_forever, args=(0.01,)).start()
        try:
            yield Deployer(cloud, api)
            api.wait()
        finally:
            api.shutdown()
            for process in api.processes.values():
                process.kill()


@pytest.fixture
def faults() -> frozenset[str]:
    return frozenset()


@pytest.fixture
def speed() -> float:
    return 1e6


@pytest.fixture
def deployer(tmp_path: Path, faults: frozenset[str], speed: float) -> Generator[Deployer]:
    with deploying(tmp_path, faults, speed) as deployer:
        yield deployer


# --- Staging --------------------------------------------------------------------------------------


def test_the_job_fills_the_bucket_and_the_last_line_says_with_what(deployer: Deployer) -> None:
    """One execution; on stdout one line, the same whenever the same is staged."""
    status, out, err = deployer.stage()
    again = deployer.stage()

    assert (status, deployer.started) == (0, 1)
    assert DONE.fullmatch(out)
    assert f"started llm-dev-staging-00000; its log: {LOG}" in err
    assert "model-00001-of-00004.safetensors" in deployer.cloud.objects()
    assert again == (0, out, "")
    assert deployer.started == 1


def test_it_runs_as_a_module(deployer: Deployer) -> None:
    """As `pulumi up` calls it, from the project's folder."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.stage_weights"],
        cwd=ROOT,
        env=deployer.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert DONE.fullmatch(done.stdout), done.stderr


@pytest.mark.parametrize("speed", [60.0])
def test_progress_is_told_while_the_job_runs(deployer: Deployer) -> None:
    """From the start of the job to its end, in lines with the time before them."""
    status, _, err = deployer.stage()

    lines = [line.split(" s  ")[1] for line in err.splitlines()[1:]]
    assert status == 0
    assert lines[0] in ("the job is being started", "the job begins")
    assert re.fullmatch(r"\d+ of 12 files, \d\.\d of 1\.3 MB", lines[-1])
    assert len(set(lines)) == len(lines)


def test_a_new_revision_is_staged_into_the_same_bucket(tmp_path: Path) -> None:
    """What is staged of another commit does not count as done."""
    with deploying(tmp_path, frozenset(), 1e6, REVISION="v1") as deployer:
        first = deployer.stage()[1]
        deployer.api.container["REVISION"] = "main"
        second = deployer.stage(REVISION="main")[1]

    assert deployer.started == 2
    assert DONE.fullmatch(second)
    assert second != first


def test_ollamas_models_are_staged_the_same_way(tmp_path: Path) -> None:
    """By the manifest's digest instead of a commit of git's."""
    ollama = {"SOURCE": "ollama", "MODEL": "qwen3:8b", "REVISION": "", "HF_ENDPOINT": ""}
    with deploying(tmp_path, frozenset(), 1e6, **ollama) as deployer:
        status, out, _ = deployer.stage()
        again = deployer.stage()

    assert status == 0
    assert re.fullmatch(r"commit [0-9a-f]{64}, 6 files, \d+ bytes\n", out)
    assert again == (0, out, "")


def test_the_token_is_shown_nowhere(tmp_path: Path) -> None:
    """It reaches the hub, from here and from the job, and nothing that is printed or kept."""
    path = tmp_path / "hub-token"
    path.write_text(HUB_TOKEN)
    with deploying(tmp_path, frozenset(), 1e6, MODEL=GATED, HF_TOKEN_PATH=str(path)) as deployer:
        status, out, err = deployer.stage(HF_TOKEN=HUB_TOKEN)

        assert status == 0
        assert HUB_TOKEN not in out + err + str(deployer.api.executions)
        assert "ya29." not in out + err
        objects = deployer.cloud.objects().values()
        assert not any(HUB_TOKEN.encode() in content for content in objects)


# --- Before the job -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"MODEL": GATED},
            [
                f"{GATED} is gated, and there is no Hugging Face token",
                f"accept its licence at https://huggingface.co/{GATED}",
                "pulumi config set --secret huggingFaceToken",
            ],
        ),
        (
            {"MODEL": "nobody/nothing"},
            ["there is no model nobody/nothing at https://huggingface.co", "compare the name"],
        ),
        (
            {"REVISION": "no-such-branch"},
            [f"{MODEL} has no revision no-such-branch", "pulumi config set modelRevision COMMIT"],
        ),
        (
            {"SOURCE": "ollama", "MODEL": "no-such-model"},
            ["registry.ollama.ai has no model library/no-such-model:latest", "https://ollama.com/"],
        ),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_before_any_job_runs(
    deployer: Deployer, changes: dict[str, str], words: list[str]
) -> None:
    """In seconds, with the page to visit and the command to type."""
    status, out, err = deployer.stage(**changes)

    assert (status, out, deployer.api.calls) == (1, "", [])
    assert all(word in err for word in words), err
    assert "\n  next: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("faults", [frozenset({"hub-licence"})])
def test_a_licence_that_was_not_accepted_is_told_before_any_job_runs(deployer: Deployer) -> None:
    """With a token that the hub knows."""
    status, _, err = deployer.stage(MODEL=GATED, HF_TOKEN=HUB_TOKEN)

    assert (status, deployer.api.calls) == (1, [])
    assert "the token's owner has not accepted its licence" in err
    assert f"next: accept it at https://huggingface.co/{GATED}, then pulumi up" in err


def test_a_mirror_that_only_the_job_reaches_does_not_stop_it(deployer: Deployer) -> None:
    """What cannot be asked from here, the job finds out."""
    status, out, err = deployer.stage(HF_ENDPOINT="https://mirror.example.internal")

    assert status == 0
    assert "mirror.example.internal does not answer here; the cloud will ask it" in err
    assert DONE.fullmatch(out)


def test_without_a_login_it_says_how_to_log_in(deployer: Deployer) -> None:
    """Google's credentials are missing, or have expired."""
    missing = deployer.stage(GOOGLE_APPLICATION_CREDENTIALS="/nonexistent")
    write_credentials(deployer.cloud.world.directory, "1//of-last-year")
    expired = deployer.stage()

    for status, _, err in (missing, expired):
        assert status == 1
        assert "next: gcloud auth application-default login" in err
        assert "Traceback" not in err


# --- While the job runs ---------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [60.0])
def test_an_execution_at_work_is_joined(deployer: Deployer) -> None:
    """After a `pulumi up` that was killed, the next one does not start a second download."""
    deployer.api.run()

    status, out, err = deployer.stage()

    assert (status, deployer.started) == (0, 0)
    assert "joining llm-dev-staging-00000, which is at work already" in err
    assert DONE.fullmatch(out)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BUCKET": "the-bucket-before"}, None),
        ({"MODEL": "another/model"}, None),
        ({"REVISION": "v1"}, None),
        ({}, "CANCELLING"),
    ],
)
def test_an_execution_for_something_else_is_not_joined(
    deployer: Deployer, changes: dict[str, str], reason: str | None
) -> None:
    """The job is the stack's: what runs when the model is changed stages the old one."""
    other = deployer.api.add(**changes)
    if reason:
        other["conditions"][0]["executionReason"] = reason

    status, _, err = deployer.stage()
    other["completionTime"] = "2026-11-25T03:01:00Z"

    assert (status, deployer.started) == (0, 1)
    assert "started llm-dev-staging-00001" in err


@pytest.mark.parametrize("speed", [1.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_it_cancels_what_it_has_started(
    deployer: Deployer, number: signal.Signals
) -> None:
    """Ctrl-C, an orderly end, and the kill that pulumi-command gives to its commands: nothing goes
    on downloading behind the back of whoever wanted it to end."""
    with deployer.start() as process:
        wait_until(lambda: STATUS in deployer.cloud.objects())
        process.send_signal(number)
        out, err = process.communicate(timeout=30)

    (execution,) = deployer.api.executions.values()
    wait_until(lambda: execution["conditions"][0].get("executionReason") == "CANCELLING")
    deployer.api.wait()
    if number != signal.SIGKILL:
        assert (process.returncode, out) == (128 + number, "")
        assert (
            "llm-dev-staging-00000 is cancelled; what is in the bucket is not loaded again" in err
        )
        assert "Traceback" not in err


@pytest.mark.parametrize("speed", [1.0])
def test_interrupted_it_leaves_what_another_has_started(deployer: Deployer) -> None:
    """It has only been watching."""
    deployer.api.run()
    with deployer.start() as process:
        wait_until(lambda: any("/executions/" in call for call in deployer.api.calls))
        process.terminate()
        process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGTERM
    assert not any(call.endswith(":cancel") for call in deployer.api.calls)
    for running in deployer.api.processes.values():
        running.kill()


@pytest.mark.parametrize("speed", [60.0])
def test_a_hiccup_of_googles_while_it_watches_is_told_and_passed_over(deployer: Deployer) -> None:
    """The job goes on, and so does the watching."""
    with deployer.start() as process:
        wait_until(lambda: any("/executions/" in call for call in deployer.api.calls))
        deployer.api.hiccups = 3
        out, err = process.communicate(timeout=60)

    assert DONE.fullmatch(out), err
    assert "asking again: The service is unavailable. (HTTP 503)" in err


@pytest.mark.parametrize("faults", [frozenset({"hub-wrong-byte"})])
def test_a_job_that_fails_is_told_in_its_own_words(deployer: Deployer) -> None:
    """What it wrote into the bucket, where its log is, and what to do next."""
    status, out, err = deployer.stage()

    assert (status, out) == (1, "")
    assert f"The weights of {MODEL} are not staged: " in err
    assert re.search(r"\.(safetensors|json): its sha256 hash is \w+, and should be \w+\n", err)
    assert f"\n  log: {LOG}\n  next: pulumi up loads the file again" in err


def test_a_job_that_never_starts_is_told_in_cloud_runs_words(deployer: Deployer) -> None:
    """What is in the bucket is of an earlier execution, and says nothing of this one."""
    deployer.stage()
    deployer.api.starts = False

    deployer.api.container["REVISION"] = "v1"
    status, _, err = deployer.stage(REVISION="v1")

    assert status == 1
    assert "are not staged: Task llm-dev-staging-00001-task0 failed with exit code: 1\n" in err
    assert "next: see the log, then pulumi up" in err


def test_a_job_that_is_not_there_is_named(deployer: Deployer) -> None:
    """Somebody has deleted it by hand."""
    status, _, err = deployer.stage(JOB="another-job")

    assert status == 1
    assert "jobs/another-job/executions. (HTTP 404)" in err
    assert "next: compare gcp:project and gcp:region with Google's console" in err


# --- What it tells --------------------------------------------------------------------------------


def test_what_lasts_is_told_again_before_anybody_wonders() -> None:
    """Something new at once; the same after 15 seconds, so that there are never 30 of silence."""
    lines: list[str] = []
    now = 0.0
    teller = Teller(lines.append, lambda: now)
    for now in range(41):
        teller.tell("3 of 12 files" if now < 35 else "4 of 12 files")

    assert lines == [
        "    0 s  3 of 12 files",
        "   15 s  3 of 12 files",
        "   30 s  3 of 12 files",
        "   35 s  4 of 12 files",
    ]
    assert REPEAT_SECONDS < 30


@pytest.mark.parametrize(
    ("execution", "status", "line"),
    [
        ({}, {}, "the job is being started"),
        ({"startTime": "t"}, {}, "the job begins"),
        ({"startTime": "t"}, {"state": "running"}, "the job begins"),
        (
            {"startTime": "t"},
            {"state": "running", "asking": "mirror.example.internal"},
            "the job asks mirror.example.internal what the model consists of",
        ),
        (
            {"startTime": "t"},
            {
                "state": "running",
                "files": {"done": 1, "total": 3},
                "bytes": {"done": 5e9, "total": 15e9},
            },
            "1 of 3 files, 5.0 of 15.0 GB",
        ),
        (
            {"startTime": "t"},
            {"state": "failed", "error": "no answer"},
            "an attempt failed, the job tries again: no answer",
        ),
    ],
)
def test_what_is_seen_of_a_job_is_told_in_a_few_words(
    execution: dict[str, Any], status: dict[str, Any], line: str
) -> None:
    """In the order in which a job goes."""
    assert seen(Execution(execution), status) == line
