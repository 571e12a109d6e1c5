"""Scripts call Google's APIs as whoever deploys, and say what to do when Google refuses."""

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from rehearsal.world import PERSON
from scripts import google_api
from scripts.google_api import GoogleError, base, call, session
from tests.clouds import REFRESH_TOKEN, Clouds, clouds, write_credentials


class Api(ThreadingHTTPServer):
    """An API of Google's: answers with `replies` in turn, the last one for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.replies: list[tuple[int | None, Any]] = []
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1/things"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        api = cast("Api", self.server)
        api.requests.append((self.command, self.headers["Authorization"]))
        replies = api.replies
        status, body = replies.pop(0) if len(replies) > 1 else replies[0]
        if status is None:
            return  # the connection ends without a word
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Clouds]:
    with clouds(tmp_path) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        yield cloud


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Generator[Api]:
    monkeypatch.setattr(google_api, "BACKOFF_SECONDS", 0)
    with Api() as api:
        threading.Thread(target=api.serve_forever, args=(0.01,)).start()
        yield api
        api.shutdown()


def refused(status: int, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": status, "message": message} | more}


def test_the_deployers_credentials_sign_a_request(cloud: Clouds, api: Api) -> None:
    """An access token of the person who logged in, minted once for all requests of a session."""
    api.replies = [(200, {"name": "a thing"})]

    with session() as http:
        answers = [call(http, "GET", api.url) for _ in range(2)]

    assert answers == [{"name": "a thing"}] * 2
    (signed,) = {authorization for _, authorization in api.requests}
    assert cloud.identity.caller(signed).email == PERSON


@pytest.mark.parametrize("reply", [(429, {}), (500, {}), (503, b"<html>"), (None, None)])
def test_a_hiccup_is_tried_again(cloud: Clouds, api: Api, reply: tuple[int | None, Any]) -> None:
    """Too many requests, a server's error or a lost connection end in the answer all the same."""
    api.replies = [reply, reply, (200, {"name": "a thing"})]

    with session() as http:
        assert call(http, "GET", api.url) == {"name": "a thing"}
    assert len(api.requests) == 3


def test_a_post_is_sent_once(cloud: Clouds, api: Api) -> None:
    """What may have started something is not started again; the caller decides."""
    api.replies = [(503, refused(503, "The service is currently unavailable."))]

    with session() as http, pytest.raises(GoogleError, match="currently unavailable") as raised:
        call(http, "POST", api.url, body={})

    assert (raised.value.status, len(api.requests)) == (503, 1)


@pytest.mark.parametrize(
    ("status", "body", "said", "step"),
    [
        (401, refused(401, "Invalid Credentials"), "Invalid Credentials (HTTP 401)", "login"),
        (403, refused(403, "Permission denied."), "Permission denied. (HTTP 403)", "roles"),
        (
            403,
            refused(403, "API has not been used.", details=[{"reason": "SERVICE_DISABLED"}]),
            "API has not been used. (HTTP 403)",
            "gcloud services enable 127.0.0.1",
        ),
        (404, refused(404, "Not there."), "Not there. (HTTP 404)", "gcp:project"),
        (429, refused(429, "Quota exceeded."), "Quota exceeded. (HTTP 429)", "quota"),
        (502, b"<html>", "HTTP 502 Bad Gateway from 127.0.0.1", "try again"),
    ],
)
def test_a_refusal_is_googles_sentence_and_the_next_step(
    cloud: Clouds, api: Api, status: int, body: Any, said: str, step: str
) -> None:
    """Whoever reads it knows what Google said and what to type."""
    api.replies = [(status, body)]

    with session(retries=0) as http, pytest.raises(GoogleError) as raised:
        call(http, "GET", api.url)

    assert raised.value.status == status
    assert raised.value.message.startswith(said)
    assert step in raised.value.next_step
    assert f"next: {raised.value.next_step}" in str(raised.value)


def test_no_answer_names_the_host(cloud: Clouds, api: Api) -> None:
    """A machine without a way to Google is told which host did not answer."""
    api.replies = [(None, None)]

    with session(retries=0) as http, pytest.raises(GoogleError, match=r"no answer from 127") as it:
        call(http, "GET", api.url)

    assert it.value.status is None


def test_without_a_login_it_says_how_to_log_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback and no puzzle: the command to type."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))

    with pytest.raises(GoogleError, match="gcloud auth application-default login"):
        session()


def test_a_login_that_has_expired_says_how_to_log_in(cloud: Clouds, api: Api) -> None:
    """Google's word, the command, and nothing of the token itself."""
    write_credentials(cloud.world.directory, f"{REFRESH_TOKEN}-of-last-year")
    api.replies = [(200, {})]

    with session() as http, pytest.raises(GoogleError, match="expired or revoked") as raised:
        call(http, "GET", api.url)

    assert raised.value.next_step == "gcloud auth application-default login"
    assert "of-last-year" not in str(raised.value)
    assert api.requests == []


def test_an_api_may_stand_elsewhere_as_gcloud_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Private endpoints are set with the variable that gcloud itself reads."""
    assert base("storage") == "https://storage.googleapis.com"
    for override in ("https://private.example.com/", "https://private.example.com/storage/v1/"):
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", override)
        assert base("storage") == "https://private.example.com"
