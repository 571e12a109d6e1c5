"""Wait until the model answers through Cloudflare Access; `pulumi up` runs this last.

Everything comes from the environment, so that nothing secret stands in a
process list; components/readiness.py sets it. Exits 1 when the time is up, or
when the group of machines cannot get one without somebody's doing.

Beside asking, it looks at the machines through Google's API, with the deployer's own credentials.
Without those, or where they may not look, it goes by what the endpoint answers alone.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from scripts.google_api import GoogleError, session
from scripts.group_watch import GroupWatch
from scripts.machine_group import MachineGroup

POLL_SECONDS = 0.4
"""From the beginning of one question to that of the next: with the pauses below and answers that
take 0.15 s, `up` ends within a second of the moment at which the model could answer."""
AGAIN_SECONDS = 0.05
"""Pause after a right answer, until as many as it takes have come; and after any that was slow."""
REPEAT_SECONDS = 15.0
"""A phase that lasts is reported again after so long."""
CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 30.0
ANSWERS_IN_A_ROW = 3
"""While machines of two revisions serve, one right answer may be luck."""

REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "chat/completions": (
        {"messages": [{"role": "user", "content": "Are you there?"}], "max_tokens": 1},
        "choices",
    ),
    "completions": ({"prompt": "Are you there?", "max_tokens": 1}, "choices"),
    "embeddings": ({"input": "Are you there?"}, "data"),
}
"""Path below /v1 -> a cheap request, and where its answer holds what was asked for."""

PHASES = {
    401: "Access refuses the probe's service token",
    403: "Access or cloudflared refuses the probe: a new token takes a few seconds; "
    "else is the Access application still there?",
    400: "the model does not take such a request: readinessApi must name what it can do",
    404: "the path or the model is unknown to what answers; "
    "a model that does not chat needs readinessApi",
    429: "the engine has no room for another request",
    502: "a machine is connected, and its engine does not answer; "
    "or it does not accept Access's signature: check accessTeamName",
    503: "the engine is up, and loads the model",
    504: "the request is accepted, and not answered yet: the engine is busy, or wakes up",
    524: "the request is accepted, and not answered yet: the engine is busy, or wakes up",
    530: "no machine is connected yet: "
    "it is being created, boots, pulls its image or loads the model (error 1033)",
}
"""What an HTTP status from this endpoint means, in the order in which a deployment goes."""


@dataclass(frozen=True)
class Question:
    """What is asked, of whom, and which answer counts."""

    hostname: str
    model: str
    revision: str
    """Expected `system_fingerprint`; empty when any answer will do."""
    client_id: str
    client_secret: str
    api: str = "chat/completions"
    """What is asked of the model: a key of REQUESTS."""
    any_machine: bool = False
    """A machine will do that serves another model, as its operator has yet to replace it."""

    def ask(self) -> str | None:
        """One request; None when the answer is right, else what is seen instead."""
        request, _ = REQUESTS[self.api]
        try:
            response = requests.post(
                f"https://{self.hostname}/v1/{self.api}",
                headers={
                    "CF-Access-Client-Id": self.client_id,
                    "CF-Access-Client-Secret": self.client_secret,
                },
                json={"model": self.model} | request,
                timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return unreachable(error, self.hostname)
        if self.any_machine and response.status_code == 404 and knows_no_such_model(response):
            return None
        if response.status_code != 200:
            phase = PHASES.get(response.status_code, "an answer that was not expected")
            return f"HTTP {response.status_code}: {phase}"
        return self.judge(response)

    def judge(self, response: requests.Response) -> str | None:
        """What is wrong with an answer that came with status 200."""
        _, answer = REQUESTS[self.api]
        try:
            body = response.json()
            given, fingerprint = body[answer], body.get("system_fingerprint")
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"HTTP 200, but it is no answer of /v1/{self.api}: something else has this name"
        if not given:
            return f"HTTP 200, but its {answer} are empty"
        # Only completions carry a fingerprint: any machine's embedding will do.
        knows = self.api == "chat/completions" or fingerprint
        if self.revision and knows and fingerprint != self.revision:
            return f"a machine of another revision ({fingerprint}) still answers"
        return None


def knows_no_such_model(response: requests.Response) -> bool:
    """An engine's own answer to the name of a model that it does not serve."""
    try:
        return "model" in str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return False


def unreachable(error: requests.RequestException, hostname: str) -> str:
    """Why no answer came at all."""
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate for {hostname} is not valid (yet): {error.__class__.__name__}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if "NameResolutionError" in repr(error):
        return f"the name {hostname} does not resolve yet (DNS)"
    return f"{hostname} cannot be reached: {error.__class__.__name__}"


def wait(
    ask: Callable[[], str | None],
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    hopeless: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[float, str, bool]]:
    """Ask until the answers are right, `timeout` seconds are over, or it is `hopeless`.

    Yields what is worth a line, as (seconds so far, what is seen, whether that is the end).
    """
    start = clock()
    shown, shown_at, right = "", 0.0, 0
    while True:
        asked = clock()
        seen = ask()
        now = clock() - start
        right = right + 1 if seen is None else 0
        if right == ANSWERS_IN_A_ROW:
            yield now, "the model answers", True
            return
        if seen and (seen != shown or now - shown_at >= REPEAT_SECONDS):
            yield now, seen, False
            shown, shown_at = seen, now
        if now >= timeout or hopeless():
            return
        took = clock() - asked
        sleep(AGAIN_SECONDS if right else max(AGAIN_SECONDS, POLL_SECONDS - took))


def advice(platform: str, project: str, region: str, group: str) -> str:
    """Where to look when it did not answer in time."""
    where = f"--project={project} --region={region}"
    look = "gcloud compute instance-groups managed"
    if platform == "cloud-run":
        return f"""Where to look next:
  530 for long? the connector: {look} list-instances {group} {where}
  502, 503, 524?  the service: gcloud run services list {where}
                its log has the engine's own words: pulumi stack output logsUrl
  more time:    pulumi config set readyTimeoutMinutes 60
`pulumi up` asks again; nothing that was created is lost."""
    return f"""Where to look next:
  no machine?   {look} list-errors {group} {where}
                (ZONE_RESOURCE_POOL_EXHAUSTED: no GPU to be had, set other zones or provisioning;
                 QUOTA_EXCEEDED: ask Google for quota)
  its state:    {look} list-instances {group} {where}
  its log:      pulumi stack output logsUrl
  530 or 502 for long?  the engine's own words are in the log: model too big, no access to the model
                (Hugging Face token), wrong accessTeamName
  more time:    pulumi config set readyTimeoutMinutes 60
`pulumi up` asks again; nothing that was created is lost."""


def watched(env: Mapping[str, str], tell: Callable[[Sequence[str]], None]) -> GroupWatch | None:
    """Who looks at the machines meanwhile; None, and a word of why, without credentials."""
    try:
        http = session(retries=0)
    except GoogleError as error:
        tell([f"(how far the machines are is not known: {error.message})"])
        return None
    place = env["GOOGLE_PROJECT"], env["GOOGLE_REGION"], env["INSTANCE_GROUP"]
    watch = GroupWatch(MachineGroup(http, *place), tell)
    watch.start()
    return watch


def together(seen: str, machines: str) -> str:
    """What the endpoint answers and what its machines are at, in one line."""
    if not machines:
        return seen
    status, _, _ = seen.partition(":")
    # That no machine is connected is all that 530 says.
    return f"{machines} ({status})" if status == "HTTP 530" else f"{seen}; {machines}"


def main() -> int:
    """Wait, and tell how it goes."""
    env = os.environ
    question = Question(
        hostname=env["ENDPOINT_HOSTNAME"],
        model=env["ENDPOINT_MODEL"],
        revision=env["ENDPOINT_REVISION"],
        client_id=env["CF_ACCESS_CLIENT_ID"],
        client_secret=env["CF_ACCESS_CLIENT_SECRET"],
        api=env["ENDPOINT_API"],
        any_machine=env["ENDPOINT_ANY_MACHINE"] == "true",
    )
    minutes = float(env["READY_TIMEOUT_MINUTES"])
    began, seen = time.monotonic(), "nothing"

    def tell(lines: Sequence[str]) -> None:
        first, *more = lines
        text = [f"{time.monotonic() - began:5.0f} s  {first}", *(f"         {it}" for it in more)]
        print("\n".join(text), flush=True)

    watch = watched(env, tell)

    def ask() -> str | None:
        answer = question.ask()
        return answer and together(answer, watch.seen if watch else "")

    def hopeless() -> bool:
        return watch is not None and watch.hopeless

    for elapsed, seen, ready in wait(ask, minutes * 60, hopeless=hopeless):
        print(f"{elapsed:5.0f} s  {seen}", flush=True)
        if ready:
            return 0
    reason = (
        "gets no machine, and waiting will not help: see above"
        if hopeless()
        else f"was not ready after {minutes:g} minutes. Seen last: {seen}"
    )
    print(
        f"{question.hostname} {reason}\n"
        + advice(
            env["PLATFORM"], env["GOOGLE_PROJECT"], env["GOOGLE_REGION"], env["INSTANCE_GROUP"]
        ),
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
