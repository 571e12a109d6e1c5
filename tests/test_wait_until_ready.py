"""The probe that ends `pulumi up`."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, get_args

import pytest
import requests

from components.settings import Settings
from scripts import wait_until_ready
from scripts.wait_until_ready import ANSWERS_IN_A_ROW, REPEAT_SECONDS, Question

QUESTION = Question("llm.example.com", "org/model", "abc123", "an-id.access", "a-client-secret")


def completion(fingerprint: str | None = "abc123", **changes: Any) -> dict[str, Any]:
    """The part of a chat completion that the probe looks at."""
    choice = {"message": {"role": "assistant", "content": "Yes"}}
    return {"choices": [choice], "system_fingerprint": fingerprint} | changes


class Endpoint:
    """An endpoint on this machine that answers what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = completion()
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                endpoint.asked.append((self.path, dict(self.headers), body))
                content = endpoint.body
                data = (
                    content.encode() if isinstance(content, str) else json.dumps(content).encode()
                )
                self.send_response(endpoint.status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(name="endpoint")
def _endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    endpoint = Endpoint()
    post = requests.post

    def nearby(url: str, **options: Any) -> requests.Response:
        return post(url.replace("https://llm.example.com", endpoint.address), **options)

    monkeypatch.setattr(wait_until_ready.requests, "post", nearby)
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


def test_it_asks_as_a_consumer_asks(endpoint: Endpoint) -> None:
    """One cheap question over the public API, with the service token in its two headers."""
    assert QUESTION.ask() is None

    ((path, headers, body),) = endpoint.asked
    assert path == "/v1/chat/completions"
    assert headers["CF-Access-Client-Id"] == "an-id.access"
    assert headers["CF-Access-Client-Secret"] == "a-client-secret"
    assert (body["model"], body["max_tokens"]) == ("org/model", 1)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (530, "no machine is connected yet"),
        (403, "Access or cloudflared refuses the probe"),
        (401, "Access refuses the probe's service token"),
        (502, "a machine is connected, and its engine does not answer"),
        (503, "loads the model"),
        (302, "HTTP 302"),
        (418, "HTTP 418"),
    ],
)
def test_it_says_in_words_how_far_a_deployment_is(
    endpoint: Endpoint, status: int, words: str
) -> None:
    """Each status that the edge, the tunnel and the engine give is told as a phase."""
    endpoint.status = status

    assert words in str(QUESTION.ask())


@pytest.mark.parametrize(
    "body", ["<html>log in</html>", [], {"object": "list"}, completion(choices=[]), None]
)
def test_another_page_is_no_answer(endpoint: Endpoint, body: Any) -> None:
    """Status 200 counts only with a chat completion in it."""
    endpoint.body = body

    assert "HTTP 200" in str(QUESTION.ask())


def test_the_old_machine_is_no_answer(endpoint: Endpoint) -> None:
    """While the machine of the previous revision still serves, `up` goes on waiting."""
    endpoint.body = completion(fingerprint="older")

    assert "another revision (older)" in str(QUESTION.ask())


def test_any_machine_will_do_where_rollouts_are_manual(endpoint: Endpoint) -> None:
    """Without a revision to expect, every completion counts."""
    endpoint.body = completion(fingerprint=None)

    assert Question("llm.example.com", "org/model", "", "id", "secret").ask() is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (requests.ConnectionError("NameResolutionError(...)"), "does not resolve yet (DNS)"),
        (requests.exceptions.SSLError("handshake"), "certificate"),
        (requests.ReadTimeout("slow"), "no answer in time"),
        (requests.ConnectionError("refused"), "cannot be reached"),
    ],
)
def test_it_tells_why_nothing_answers(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    """DNS, TLS and silence are told apart, and none of them ends the wait."""

    def fail(url: str, **options: Any) -> requests.Response:
        raise error

    monkeypatch.setattr(wait_until_ready.requests, "post", fail)

    assert words in str(QUESTION.ask())


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


ANSWER_S = 0.15
"""How long an answer takes, through Access and back."""


def waited(answers: list[str | None], timeout: float = 600) -> list[tuple[float, str, bool]]:
    """What is printed when these answers come one after the other, the last one for ever."""
    clock, given = Clock(), iter(answers)

    def ask() -> str | None:
        return next(given, answers[-1])

    return list(wait_until_ready.wait(ask, timeout, clock, clock.sleep))


def test_it_prints_a_line_for_every_phase() -> None:
    """A phase is told once when it begins, and the end is told."""
    lines = waited(["no tunnel", "no tunnel", "loading", None, None, None])

    assert [seen for _, seen, _ in lines] == ["no tunnel", "loading", "the model answers"]
    assert [ready for _, _, ready in lines] == [False, False, True]


@pytest.mark.parametrize("possible_at", [10.0, 10.1, 10.2, 10.3, 10.4])
def test_an_answer_is_noticed_within_a_second(possible_at: float) -> None:
    """Wherever between two questions the model becomes able to answer, `up` ends soon after."""
    clock = Clock()

    def ask() -> str | None:
        able = clock.now >= possible_at
        clock.sleep(ANSWER_S)
        return None if able else "loading"

    *_, (ended, _, ready) = wait_until_ready.wait(ask, 600, clock, clock.sleep)

    assert ready
    assert possible_at <= ended < possible_at + 1


def test_a_slow_answer_is_followed_by_the_next_question_at_once() -> None:
    """The pause is counted from the question, not from its answer."""
    clock, asked = Clock(), list[float]()

    def ask() -> str:
        asked.append(clock.now)
        clock.sleep(20)
        return "busy"

    list(wait_until_ready.wait(ask, 50, clock, clock.sleep))

    assert asked[1] - asked[0] < 20.1


def test_one_answer_may_be_luck() -> None:
    """With machines of two revisions behind the name, it takes several right answers in a row."""
    lines = waited([None, "another revision", *[None] * ANSWERS_IN_A_ROW])

    asked_at, ready_at = (elapsed for elapsed, _, _ in lines)
    assert [ready for _, _, ready in lines] == [False, True]
    pauses = wait_until_ready.POLL_SECONDS, wait_until_ready.AGAIN_SECONDS
    assert ready_at - asked_at == pytest.approx(pauses[0] + pauses[1] * (ANSWERS_IN_A_ROW - 1))


def test_a_long_phase_is_repeated_now_and_then() -> None:
    """Somebody who watches sees that it goes on, without a line a second."""
    lines = waited(["loading"], timeout=60)

    times = [elapsed for elapsed, _, _ in lines]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 1 + int(60 / REPEAT_SECONDS - 0.5)
    assert all(REPEAT_SECONDS <= it < REPEAT_SECONDS + 1 for it in pauses)


def test_it_stops_when_the_time_is_up(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It then says what it saw last and where to look, fails, and prints no secret."""
    endpoint.status = 502
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/credentials.json")
    for name, value in {
        "ENDPOINT_HOSTNAME": "llm.example.com",
        "ENDPOINT_MODEL": "org/model",
        "ENDPOINT_API": "chat/completions",
        "ENDPOINT_ANY_MACHINE": "false",
        "ENDPOINT_REVISION": "abc123",
        "CF_ACCESS_CLIENT_ID": "an-id.access",
        "CF_ACCESS_CLIENT_SECRET": "a-client-secret",
        "READY_TIMEOUT_MINUTES": "0",
        "PLATFORM": "vm",
        "GOOGLE_PROJECT": "a-project",
        "GOOGLE_REGION": "us-central1",
        "INSTANCE_GROUP": "llm-dev-group-1a2b3c4",
    }.items():
        monkeypatch.setenv(name, value)

    assert wait_until_ready.main() == 1

    out, err = capsys.readouterr()
    assert "its engine does not answer" in err
    assert out.count("how far the machines are is not known: no credentials") == 1
    assert "530 or 502 for long?" in err
    assert "list-errors llm-dev-group-1a2b3c4 --project=a-project --region=us-central1" in err
    assert "a-client-secret" not in out + err


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("completions", {"choices": [{"text": " Yes"}], "system_fingerprint": "abc123"}),
        ("embeddings", {"data": [{"embedding": [0.1, 0.2]}]}),
    ],
)
def test_a_model_that_does_not_chat_is_asked_what_it_can_do(
    endpoint: Endpoint, api: str, body: dict[str, Any]
) -> None:
    """Its own path, a request that it takes, and an answer that has something in it."""
    question = replace(QUESTION, api=api)
    endpoint.body = body

    assert question.ask() is None
    ((path, _, request),) = endpoint.asked
    assert path == f"/v1/{api}"
    assert request["model"] == "org/model"
    assert "messages" not in request
    endpoint.body = {key: [] for key in body}
    assert question.ask() is not None
    endpoint.body = body | {"system_fingerprint": "of-another"}
    assert "another revision" in str(question.ask())


def test_every_answer_that_a_stack_may_wait_for_can_be_asked_for() -> None:
    """The settings and the probe know the same ones."""
    annotation = Settings.model_fields["readiness_api"].annotation

    assert set(get_args(annotation)) == set(wait_until_ready.REQUESTS)


def test_under_a_manual_rollout_a_machine_with_the_old_model_will_do(endpoint: Endpoint) -> None:
    """The new model comes when the operator replaces the machines: `up` does not wait for that."""
    endpoint.status = 404
    endpoint.body = {"error": {"message": "The model `org/model` does not exist.", "code": 404}}

    assert QUESTION.ask() is not None
    assert replace(QUESTION, revision="", any_machine=True).ask() is None
    endpoint.body = "error code: 404"
    assert replace(QUESTION, revision="", any_machine=True).ask() is not None
