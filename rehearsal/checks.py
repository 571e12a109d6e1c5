"""What a rehearsal asks of the endpoint it stood up, as a caller and as a stranger."""

import http.client
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

import requests

from rehearsal import console, figures
from rehearsal.errors import RehearsalError
from rehearsal.google.cloud_run import EXECUTION, INSTANCE
from rehearsal.google.metadata import INSTANCE as MACHINE
from rehearsal.session import ROOT, Session

SECRET_VERSION = "gcp:secretmanager/secretVersion:SecretVersion"  # noqa: S105 - a type's name
TIMEOUT_S = 60.0
CHAT = "/v1/chat/completions"
WAKING_TRIES = 10
ENGINE_ONLY_PATHS = ("/metrics", "/invocations", "/pause", "/", "/v1/../metrics", "/health")
APPLICATION = "cloudflare:index/zeroTrustAccessApplication:ZeroTrustAccessApplication"
SERVICE_TOKEN = "cloudflare:index/zeroTrustAccessServiceToken:ZeroTrustAccessServiceToken"  # noqa: S105 - a type's name

Outcome = tuple[str, bool, str]
"""A check's name, whether it held, and what was seen."""


@dataclass(frozen=True)
class Credentials:
    """One service token."""

    client_id: str
    client_secret: str

    @property
    def headers(self) -> dict[str, str]:
        """The two headers that Access reads."""
        return {
            "CF-Access-Client-Id": self.client_id,
            "CF-Access-Client-Secret": self.client_secret,
        }


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, as far as the checks look at it."""

    status: int
    content_type: str
    text: str

    def __str__(self) -> str:
        return f"{self.status} {self.content_type} {self.text[:80]!r}"

    @property
    def is_json(self) -> bool:
        """The body parses as JSON and says that it is not a page."""
        try:
            json.loads(self.text)
        except ValueError:
            return False
        return "html" not in self.content_type


class Consoles:
    """The consoles of both clouds, as a person uses them."""

    def __init__(self, session: Session, stack: str) -> None:
        self.session = session
        self.stack = stack
        self.environment = session.environment(stack)
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.proxies = {"https": self.environment["HTTPS_PROXY"]}
        self._http.verify = self.environment["REQUESTS_CA_BUNDLE"]

    def console(self, method: str, type_: str = "", id_: str = "", body: Any = None) -> Any:
        """Look at the clouds, or change them by hand."""
        path = (
            f"/resources/{quote(type_, safe='')}/{quote(id_, safe='')}" if type_ else "/resources"
        )
        answer = self._http.request(
            method, f"https://{console.HOST}{path}", json=body, timeout=TIMEOUT_S
        )
        answer.raise_for_status()
        return answer.json()

    def fault(self, method: str, name: str) -> None:
        """Set (PUT) or clear (DELETE) what goes wrong in the clouds."""
        answer = self._http.request(
            method, f"https://{console.HOST}/faults/{name}", timeout=TIMEOUT_S
        )
        answer.raise_for_status()

    @contextmanager
    def by_hand(self, type_: str, id_: str, body: dict[str, Any] | None) -> Generator[None]:
        """Change a cloud's resource behind Pulumi's back (None: delete it), then put it back."""
        before = next(
            (r["body"] for r in self.console("GET") if (r["type"], r["id"]) == (type_, id_)), None
        )

        def make(it: dict[str, Any] | None) -> None:
            self.console("DELETE" if it is None else "PUT", type_, id_, it)

        make(body)
        try:
            yield
        finally:
            make(before)


class Endpoint(Consoles):
    """The endpoint as its stack's outputs describe it, reached as any client reaches it."""

    def __init__(self, session: Session, stack: str) -> None:
        super().__init__(session, stack)
        run = session.must(
            session.pulumi("stack", "output", "--json", "--show-secrets", stack=stack)
        )
        self.outputs: dict[str, Any] = json.loads(run.stdout)
        if run.log:
            run.log.unlink()  # it holds the secrets that were asked for
        self.base_url: str = self.outputs["baseUrl"]
        self.origin = self.base_url.removesuffix("/v1")
        self.hostname = self.origin.removeprefix("https://")
        self.model: str = self.outputs["model"]
        self.credentials: Credentials | None = None
        """The consumer's token; None where only people may call."""
        if self.outputs["clientIds"]:
            self.as_consumer(next(iter(self.outputs["clientIds"])))
        else:
            self.headers = self._log_in(*session.person(stack))

    def _log_in(self, team: str, email: str) -> dict[str, str]:
        """The header with a person's session, as `cloudflared access curl` sends it."""
        answer = self._http.post(
            f"https://{team}.cloudflareaccess.com/cdn-cgi/access/login/{self.hostname}",
            data={"email": email},
            allow_redirects=False,
            timeout=TIMEOUT_S,
        )
        back = parse_qs(urlsplit(answer.headers.get("Location", "")).query)
        if "token" not in back:
            raise RehearsalError(f"{email} cannot log in: {answer.status_code} {answer.text[:80]}")
        return {"CF-Access-Token": back["token"][0]}

    def as_consumer(self, name: str) -> Self:
        """Call with this consumer's token from now on."""
        self.consumer = name
        self.credentials = Credentials(
            self.outputs["clientIds"][name], self.outputs["clientSecrets"][name]
        )
        self.headers = self.credentials.headers
        return self

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        question: dict[str, Any] | None = None,
    ) -> "Answer":
        """One request exactly as given: no redirect followed, no path tidied."""
        proxy = urlsplit(self.environment["HTTPS_PROXY"])
        trust = ssl.create_default_context(cafile=self.environment["SSL_CERT_FILE"])
        connection = http.client.HTTPSConnection(
            proxy.hostname or "", proxy.port, timeout=TIMEOUT_S, context=trust
        )
        connection.set_tunnel(self.hostname, 443)
        body = json.dumps(question or self.question) if method == "POST" else None
        with closing(connection):
            connection.request(
                method, path, body, {"Content-Type": "application/json", **(headers or {})}
            )
            response = connection.getresponse()
            return Answer(
                response.status,
                response.headers.get_content_type(),
                response.read().decode(errors="replace"),
            )

    @property
    def question(self) -> dict[str, Any]:
        """A short chat request."""
        message = {"role": "user", "content": "What is this?"}
        return {"model": self.model, "messages": [message], "max_tokens": 64}


def answers(endpoint: Endpoint) -> Iterator[Outcome]:
    """The endpoint answers ordinary clients."""
    if endpoint.credentials:
        yield _openai_is_answered(endpoint, endpoint.credentials)
    headers = "\n".join(f"{key}: {value}" for key, value in endpoint.headers.items())
    curl = subprocess.run(
        [
            *("curl", "-sS", "--fail-with-body", f"{endpoint.origin}{CHAT}", "-H", "@-"),
            *("-H", "Content-Type: application/json", "-d", json.dumps(endpoint.question)),
        ],
        env=endpoint.environment,
        input=headers,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    try:
        said = json.loads(curl.stdout)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError):
        said = ""
    yield "curl is answered", bool(said), said.strip() or (curl.stderr or curl.stdout)[-300:]


def _openai_is_answered(endpoint: Endpoint, credentials: Credentials) -> Outcome:
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "chat.py"), "What is this?"],
        env=endpoint.environment
        | {
            "OPENAI_BASE_URL": endpoint.base_url,
            "MODEL": endpoint.model,
            "CF_ACCESS_CLIENT_ID": credentials.client_id,
            "CF_ACCESS_CLIENT_SECRET": credentials.client_secret,
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    text = run.stdout.strip() if run.returncode == 0 else run.stderr.strip()[-300:]
    return "an openai client is answered, streaming", run.returncode == 0 and bool(text), text


def staged_without_a_gpu(endpoint: Endpoint) -> Iterator[Outcome]:
    """Where weights were fetched into a bucket, that was before any GPU was paid for."""
    rows = [(row["type"], row["body"]) for row in endpoint.console("GET")]
    staged = [body["completionTime"] for type_, body in rows if type_ == EXECUTION]
    if not staged:
        return
    paid = [
        body.get("startTime") or body["creationTimestamp"]
        for type_, body in rows
        if type_ in (MACHINE, INSTANCE) and body.get("gpu")
    ]
    end, start = max(map(moment, staged)), min(map(moment, paid))
    name = "no GPU was running while the weights were staged"
    yield name, end <= start, f"staged until {end:%H:%M:%S}, first GPU at {start:%H:%M:%S}"


def sleeps_and_wakes(endpoint: Endpoint, speed: float) -> Iterator[Outcome]:
    """A service that nobody calls costs its connector only, and the next request wakes it."""

    def running(type_: str) -> list[dict[str, Any]]:
        return [row["body"] for row in endpoint.console("GET") if row["type"] == type_]

    deadline = time.monotonic() + 2 * figures.seconds("instance with GPU idle") / speed + 30
    while running(INSTANCE) and time.monotonic() < deadline:
        time.sleep(1)
    gpus = [body for body in [*running(INSTANCE), *running(MACHINE)] if body.get("gpu")]
    yield "after idle time only the connector is left", not gpus, f"{len(gpus)} with a GPU"

    seen: list[Answer] = []
    for _ in range(WAKING_TRIES):
        seen.append(endpoint.request("POST", CHAT, endpoint.headers))
        if seen[-1].status == 200:
            break
    *waiting, last = seen
    yield "the next request wakes it", last.status == 200, str(last)
    polite = all(it.status in (429, 503, 524) and it.content_type != "text/html" for it in waiting)
    told = ", ".join(map(str, waiting)) or "the first one was answered"
    yield "who waits meanwhile is told so, and not in HTML", polite, told


def moment(text: str) -> datetime:
    """A time as Google's APIs write it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def consumer_has_it(endpoint: Endpoint, credentials: Credentials) -> Iterator[Outcome]:
    """The other team's Secret Manager holds what its app needs, under this endpoint's name."""
    stored = {
        (row["body"]["secret"].rpartition("/")[2], row["body"].get("secretData"))
        for row in endpoint.console("GET")
        if row["type"] == SECRET_VERSION
    }
    for what, value in (
        ("base URL", endpoint.base_url),
        ("model", endpoint.model),
        ("client id", credentials.client_id),
        ("client secret", credentials.client_secret),
    ):
        secret = f"{endpoint.consumer}-llm-{endpoint.stack}-{what.lower().replace(' ', '-')}"
        held = (secret, value) in stored
        yield f"the consumer stack stored the {what} in its Secret Manager", held, secret


def refusals(endpoint: Endpoint) -> Iterator[Outcome]:
    """Whoever should not get in does not, and is told so as the real services tell it."""
    yield _refused(endpoint, "a caller without a token", {})
    if endpoint.credentials:
        yield from _tokens_refused(endpoint, endpoint.credentials)

    for path in ENGINE_ONLY_PATHS:
        method = "POST" if path in ("/invocations", "/pause") else "GET"
        answer = endpoint.request(method, path, endpoint.headers)
        name = f"{method} {path} is not there, even with a token"
        yield name, answer.status == 404, str(answer)

    guard = next(
        row["id"]
        for row in endpoint.console("GET")
        if row["type"] == APPLICATION and row["body"].get("domain") == endpoint.hostname
    )
    with endpoint.by_hand(APPLICATION, guard, None):
        answer = endpoint.request("POST", CHAT, endpoint.headers)
        name = "with the Access application deleted by hand, cloudflared itself refuses"
        yield name, answer.status == 403, str(answer)


def _refused(endpoint: Endpoint, who: str, headers: dict[str, str]) -> Outcome:
    answer = endpoint.request("POST", CHAT, headers)
    ok = answer.status in (401, 403) and answer.is_json
    return f"{who} is refused, in JSON", ok, str(answer)


def _tokens_refused(endpoint: Endpoint, right: Credentials) -> Iterator[Outcome]:
    wrong = Credentials(right.client_id, "0" * 64)
    yield _refused(endpoint, "a wrong secret", wrong.headers)
    own, token = next(
        (row["id"], row["body"])
        for row in endpoint.console("GET")
        if row["type"] == SERVICE_TOKEN and row["body"]["clientId"] == right.client_id
    )
    with endpoint.by_hand(SERVICE_TOKEN, own, token | {"expiresAt": "2020-01-01T00:00:00Z"}):
        yield _refused(endpoint, "an expired token", right.headers)
    foreign = Credentials(f"{'f' * 32}.access", "e" * 64)
    body = token | {"clientId": foreign.client_id, "clientSecret": foreign.client_secret}
    with endpoint.by_hand(SERVICE_TOKEN, "foreign", body | {"id": "foreign"}):
        yield _refused(endpoint, "a token that is not of this application", foreign.headers)
