"""See to it that a model's weights are in their bucket; `pulumi up` runs this, before any GPU.

`python -m scripts.stage_weights`, on the machine of whoever deploys, with their own credentials of
Google's (scripts/google_api.py). It finds out first whether the model can be had at all, then lets
the stack's job (scripts/download_weights.py) fill the bucket and tells how far that is.

Everything comes from the environment, so that nothing secret stands in a process list: PROJECT,
REGION, JOB, BUCKET, and what the job has: SOURCE, MODEL, REVISION, HF_ENDPOINT; HF_TOKEN is secret.
How it goes is told on stderr. The last line, alone on stdout, is the same for the same weights.

Interrupted or killed, it has the execution that it has started cancelled
(scripts/cancel_when_gone.py). Exits 1 when the weights are not there.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter

from scripts.cancel_when_gone import Interrupted, watched
from scripts.download_weights import STATUS, Source, StagingError, amount, source_of
from scripts.google_api import GoogleError, base, call, session

POLL_SECONDS = 1.0
REPEAT_SECONDS = 15.0
"""What lasts is told again after so long."""
PATIENCE_SECONDS, JOBS_PATIENCE_SECONDS = 30.0, 300.0
"""So long Google may give no proper answer; the second while the job is at work."""
TIMEOUT = (5.0, 10.0)
"""Seconds for the model's host to connect, and to answer."""
SAME = ("SOURCE", "MODEL", "REVISION", "BUCKET")
"""Variables of the job in which an execution must agree, to be one for the same weights."""


T = TypeVar("T")


def say(line: str) -> None:
    """A line for whoever watches."""
    print(line, file=sys.stderr, flush=True)


# --- The model ------------------------------------------------------------------------------------


def find_commit(source: Source) -> str | None:
    """The commit that is to be staged; None where the model's host cannot be reached from here.

    StagingError when the model cannot be had: there is none, or it is not for us.
    """
    with requests.Session() as http:
        http.mount("https://", HTTPAdapter(max_retries=1))
        try:
            answer = http.get(source.about, headers=source.headers, timeout=TIMEOUT)
            refuse(source, answer)
            answer.raise_for_status()
            commit = source.commit(answer.content)
            answer = http.head(source.sample(commit), headers=source.headers, timeout=TIMEOUT)
            refuse(source, answer)
        except requests.RequestException:
            # A mirror may be there for the cloud alone; what runs there will tell.
            say(f"{urlsplit(source.about).netloc} does not answer here; the cloud will ask it")
            return None
        return commit


def refuse(source: Source, answer: requests.Response) -> None:
    """StagingError when the answer says that we cannot have the model."""
    code = answer.headers.get("X-Error-Code", "")
    if answer.status_code in (401, 403, 404) and code != "EntryNotFound":
        raise source.refusal(answer.status_code, code)


# --- The job (https://cloud.google.com/run/docs/reference/rest/v2/projects.locations.jobs) --------


@dataclass(frozen=True)
class Execution:
    """One run of the job, as Cloud Run tells it."""

    body: Mapping[str, Any]

    @property
    def name(self) -> str:
        """In full: projects/P/locations/R/jobs/J/executions/E."""
        return self.body["name"]

    @property
    def id(self) -> str:
        """The last part of it."""
        return self.name.rpartition("/")[2]

    @property
    def completed(self) -> Mapping[str, Any]:
        """The condition that says how it ended, or that it has not."""
        conditions: list[dict[str, Any]] = self.body.get("conditions") or []
        found = [it for it in conditions if it["type"] == "Completed"]
        return found[0] if found else {}

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return "completionTime" in self.body

    @property
    def succeeded(self) -> bool:
        """Whether every task ended well."""
        return self.completed.get("state") == "CONDITION_SUCCEEDED"

    def stages(self, env: Mapping[str, str]) -> bool:
        """Whether it is at work on the same weights. One that is being cancelled is not."""
        container: dict[str, Any] = self.body["template"]["containers"][0]
        variables: list[dict[str, str]] = container.get("env") or []
        its = {it["name"]: it.get("value", "") for it in variables}
        going = not self.ended and self.completed.get("executionReason") != "CANCELLING"
        return going and all(its.get(key, "") == env.get(key, "") for key in SAME)


class Job:
    """The stack's job, and the bucket that it fills. Methods raise GoogleError at each hiccup."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._http = session(retries=0)
        self._place = f"projects/{env['PROJECT']}/locations/{env['REGION']}/jobs/{env['JOB']}"
        self._run = f"{base('run')}/v2/"
        objects = f"{base('storage')}/storage/v1/b/{env['BUCKET']}/o/"
        self._status = f"{objects}{quote(STATUS, '')}?alt=media"

    def status(self) -> dict[str, Any]:
        """What the job has written into the bucket; empty before it has."""
        try:
            return call(self._http, "GET", self._status)
        except GoogleError as error:
            if error.status == 404:
                return {}
            raise

    def running(self) -> Execution | None:
        """An execution that is at work on these weights already."""
        url, page = f"{self._run}{self._place}/executions", ""
        while True:
            answer: dict[str, Any] = call(self._http, "GET", url, parameters={"pageToken": page})
            for body in answer.get("executions") or ():
                if (found := Execution(body)).stages(self._env):
                    return found
            page = answer.get("nextPageToken") or ""
            if not page:
                return None

    def start(self) -> Execution:
        """A new execution."""
        operation = call(self._http, "POST", f"{self._run}{self._place}:run", body={})
        return Execution(operation["metadata"])

    def look(self, execution: Execution) -> tuple[Execution, dict[str, Any]]:
        """How the execution stands, and what it has written."""
        body = call(self._http, "GET", self._run + execution.name)
        status = self.status()
        return Execution(body), status if status.get("execution") == execution.id else {}

    def cancellation(self, execution: Execution) -> str:
        """The address at which a POST stops it."""
        return f"{self._run}{execution.name}:cancel"


def seen(execution: Execution, status: Mapping[str, Any]) -> str:
    """What is worth telling of an execution that has not ended."""
    if status.get("state") == "failed":
        return f"an attempt failed, the job tries again: {status['error']}"
    if "files" in status:
        return amount(status["files"], status["bytes"])
    if "asking" in status:
        return f"the job asks {status['asking']} what the model consists of"
    if "startTime" in execution.body:
        return "the job begins"
    return "the job is being started"


# --- Following it ---------------------------------------------------------------------------------


class Teller:
    """Tells what is new at once, and what lasts now and then."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._say = say
        self._clock = clock
        self._start = clock()
        self._told, self._at = "", 0.0

    def tell(self, line: str) -> None:
        """The line, unless it has just been told."""
        now = self._clock() - self._start
        if line != self._told or now - self._at >= REPEAT_SECONDS:
            self._say(f"{now:5.0f} s  {line}")
            self._told, self._at = line, now


def insist(teller: Teller, patience: float, ask: Callable[[], T]) -> T:
    """Google's answer, asked for again where it had none. GoogleError when it stays so."""
    start = time.monotonic()
    while True:
        try:
            return ask()
        except GoogleError as error:
            passing = error.status is None or error.status == 429 or error.status >= 500
            if not passing or time.monotonic() - start > patience:
                raise
            teller.tell(f"asking again: {error.message}")
        time.sleep(POLL_SECONDS)


def follow(teller: Teller, job: Job, execution: Execution) -> tuple[Execution, dict[str, Any]]:
    """How the execution ended, and what it wrote last."""
    while True:
        stands, status = insist(teller, JOBS_PATIENCE_SECONDS, partial(job.look, execution))
        if stands.ended:
            return stands, status
        teller.tell(seen(stands, status))
        time.sleep(POLL_SECONDS)


def stage(env: Mapping[str, str], source: Source) -> dict[str, Any]:
    """What `.staging.json` says when all is there. StagingError or GoogleError when it is not."""
    commit = find_commit(source)
    job, teller = Job(env), Teller(say, time.monotonic)
    status = insist(teller, PATIENCE_SECONDS, job.status)
    if commit and (status.get("state"), status.get("commit")) == ("done", commit):
        return status
    if execution := insist(teller, PATIENCE_SECONDS, job.running):
        say(f"joining {execution.id}, which is at work already")
        execution, status = follow(teller, job, execution)
    else:
        with watched() as watch:
            execution = job.start()
            watch(job.cancellation(execution))
            say(f"started {execution.id}; its log: {execution.body.get('logUri', '')}")
            try:
                execution, status = follow(teller, job, execution)
            except Interrupted:
                say(f"{execution.id} is cancelled; what is in the bucket is not loaded again")
                raise
    if execution.succeeded:
        status = insist(teller, PATIENCE_SECONDS, job.status)
        if status.get("state") == "done":
            return status
    message = status.get("error") or execution.completed.get("message") or "the job ended"
    log = f"log: {execution.body.get('logUri', '')}"
    raise StagingError(f"{message}\n  {log}", status.get("next") or "see the log, then pulumi up")


def interrupt(number: int, _frame: Any) -> NoReturn:
    """Ends what is going on, once: whoever presses Ctrl-C again does not hinder the cancelling."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def main() -> int:
    """Stage, and tell."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    env = os.environ
    try:
        status = stage(env, source_of(env, env.get("HF_TOKEN", "")))
    except StagingError as error:
        say(f"The weights of {env['MODEL']} are not staged: {error}\n  next: {error.next_step}")
        return 1
    except GoogleError as error:
        say(f"The weights of {env['MODEL']} are not staged: {error}")
        return 1
    except Interrupted as interrupted:
        return 128 + interrupted.number
    files, size = status["files"]["total"], status["bytes"]["total"]
    print(f"commit {status['commit']}, {files} files, {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
