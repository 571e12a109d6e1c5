"""What a client meets at the edge: Access, ingress rules, streaming, a tunnel that comes and goes.

The edge, Access, the tunnel's protocol and the stand-in cloudflared (a process of its own) are all
real here; the origin is a small HTTP server.
"""

import asyncio
import base64
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import openai
import pytest
import requests
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict

from rehearsal import cloudflare
from rehearsal.cloudflare import edge
from rehearsal.cloudflare.access import Access
from rehearsal.cloudflare.tunnel import Tunnels
from rehearsal.containers.cloudflared import go_regexp, ingress
from rehearsal.internet import Internet
from rehearsal.store import Body
from rehearsal.world import Accounts, World, client_environment

ROOT = Path(__file__).parent.parent
ACCOUNT, ZONE = "a" * 32, "b" * 32
TUNNEL = "d81adc5d-2716-4918-922a-5ded129fb95e"
HOST = "llm.example.com"
URL = f"https://{HOST}"
AUD = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
SECRET = base64.b64encode(b"s" * 32).decode()
API_TOKEN = "t" * 40
CLOUDFLARED = [sys.executable, "-m", "rehearsal.containers.cloudflared"]
API = f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNT}"
APP = {
    "accountId": ACCOUNT,
    "aud": AUD,
    "domain": HOST,
    "name": "llm",
    "serviceAuth401Redirect": True,
    "policies": [{"id": "machines", "precedence": 1}, {"id": "people", "precedence": 2}],
}


def tunnel_config(origin: int, **access: Any) -> dict[str, Any]:
    required = {"required": True, "teamName": "team", "audTags": [AUD]} | access
    rule = {
        "hostname": HOST,
        "path": "^/v1/(chat/completions|models)$",
        "service": f"http://127.0.0.1:{origin}",
        "originRequest": {"access": required, "connectTimeout": 5},
    }
    rules = [rule, {"service": "http_status:404"}]
    return {"accountId": ACCOUNT, "tunnelId": TUNNEL, "config": {"ingresses": rules}}


def service_token(name: str, **changes: Any) -> dict[str, Any]:
    expires = datetime.now(UTC) + timedelta(days=1)
    return {
        "accountId": ACCOUNT,
        "name": name,
        "clientId": f"{name}.access",
        "clientSecret": f"{name}-secret",
        "expiresAt": expires.isoformat().replace("+00:00", "Z"),
    } | changes


def headers(name: str, secret: str | None = None) -> dict[str, str]:
    secret = f"{name}-secret" if secret is None else secret
    return {"CF-Access-Client-Id": f"{name}.access", "CF-Access-Client-Secret": secret}


def token(secret: str = SECRET, tunnel: str = TUNNEL) -> str:
    return base64.b64encode(json.dumps({"a": ACCOUNT, "t": tunnel, "s": secret}).encode()).decode()


class Lab:
    """The clouds' side in a thread of its own; tests are ordinary clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.gate = threading.Event()
        self.hung_up = threading.Event()
        self.seen: list[str] = []
        self._logs = 0
        self._running: list[subprocess.Popen[bytes]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.do(self._start())

    def do(self, action: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the clouds' loop, to its end."""
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(timeout=30)

    def put(self, type: str, id: str, body: Body) -> None:
        """Declare a resource, as a provider would."""

        async def act() -> None:
            self.world.store.put(type, id, body)

        self.do(act())

    def delete(self, type: str, id: str) -> None:
        async def act() -> None:
            self.world.store.delete(type, id)

        self.do(act())

    def all(self, type: str) -> dict[str, Body]:
        async def act() -> dict[str, Body]:
            return self.world.store.all(type)

        return self.do(act())

    def cloudflared(self, *, wait: bool = True, secret: str = SECRET) -> "Cloudflared":
        """Start a stand-in cloudflared and wait until all its connections stand."""
        self._logs += 1
        log, before = self.directory / f"cloudflared-{self._logs}.log", len(self.rows())
        file = self.directory / "token"
        file.write_text(token(secret) + "\n")
        with log.open("wb") as out:
            process = subprocess.Popen(
                [
                    *(*CLOUDFLARED, "tunnel", f"--edge=127.0.0.1:{self.tunnel_port}"),
                    *("--metrics=127.0.0.1:0", "--grace-period", "20s"),
                    *("run", f"--token-file={file}"),
                ],
                env={"PATH": os.environ["PATH"]} | self.environment,
                cwd=ROOT,
                stderr=out,
            )
        self._running.append(process)
        if wait:
            eventually(lambda: len(self.rows()) == before + 4)
        return Cloudflared(process, log)

    def rows(self) -> dict[str, Body]:
        return self.all(cloudflare.CONNECTION)

    def get(self, path: str = "/v1/models", **options: Any) -> requests.Response:
        """Ask the endpoint; with app's service token unless headers are given."""
        return requests.get(
            URL + path,
            **({"headers": headers("app")} | options),
            timeout=30,
            allow_redirects=False,
            **self.way(),
        )

    def raw(self, path: str) -> http.client.HTTPResponse:
        """Ask with app's service token for a path that is sent byte for byte."""
        proxy = urlsplit(self.environment["HTTPS_PROXY"])
        trust = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        connection = http.client.HTTPSConnection(proxy.netloc, context=trust, timeout=30)
        connection.set_tunnel(HOST)
        connection.request("GET", path, headers=headers("app") | {"Connection": "close"})
        return connection.getresponse()

    def api(self, method: str, path: str, key: str = API_TOKEN) -> requests.Response:
        bearer = {"Authorization": f"Bearer {key}"}
        return requests.request(method, API + path, headers=bearer, timeout=30, **self.way())

    def way(self) -> dict[str, Any]:
        """The arguments that lead `requests` into the rehearsal."""
        proxies = {"https": self.environment["HTTPS_PROXY"]}
        return {"proxies": proxies, "verify": str(self.directory / "ca.pem")}

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self.gate.set()
        self.do(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        accounts = Accounts(
            projects={},
            cloudflare_accounts={ACCOUNT: "team"},
            cloudflare_zones={ZONE: "example.com"},
            cloudflare_tokens=[API_TOKEN],
        )
        (self.directory / "accounts.json").write_text(accounts.model_dump_json())
        self.world = World.open(self.directory)
        self._internet = Internet(self.world)
        self._edge = edge.Edge(self.world, self._internet)
        proxy = await self._internet.start_proxy()
        self.environment = client_environment(self.directory, proxy)
        entry = socket.create_server(("127.0.0.1", 0))
        self.tunnel_port = entry.getsockname()[1]
        self._servers = [await self._edge.tunnels.serve(entry)]
        self._engine = web.Server(self._origin, handler_cancellation=True, access_log=None)
        listening = await asyncio.get_running_loop().create_server(self._engine, "127.0.0.1", 0)
        self.origin_port = listening.sockets[0].getsockname()[1]
        self._servers.append(listening)
        for type, id, body in declared(self.origin_port):
            self.world.store.put(type, id, body)

    async def _finish(self) -> None:
        for server in self._servers:
            server.close()
        await self._engine.shutdown(timeout=1)
        await self._edge.close()
        await self._internet.close()
        self.world.store.close()

    async def _origin(self, request: web.BaseRequest) -> web.StreamResponse:
        """Streams for /v1/chat/completions, the request itself for anything else."""
        self.seen.append(request.raw_path)
        if "X-Silence" in request.headers:
            await asyncio.to_thread(self.gate.wait, 20)
        if request.path != "/v1/chat/completions":
            return web.json_response({"path": request.raw_path, "headers": dict(request.headers)})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await response.write(chunk("first"))
            await asyncio.to_thread(self.gate.wait, 20)
            await response.write(chunk("second") + b"data: [DONE]\n\n")
        except asyncio.CancelledError:
            self.hung_up.set()
            raise
        return response


class Cloudflared:
    """A running stand-in and what it logs."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process, self.log = process, log

    def says(self, text: str) -> None:
        eventually(lambda: text in self.log.read_text())


def declared(origin: int) -> list[tuple[str, str, Body]]:
    """The resources of an endpoint, and of another application in the same account."""
    other = APP | {"domain": "other.example.com", "aud": "0" * 64, "policies": [{"id": "others"}]}
    record = {"zoneId": ZONE, "name": HOST, "type": "CNAME", "proxied": True, "ttl": 1}
    return [
        (cloudflare.TUNNEL, TUNNEL, {"accountId": ACCOUNT, "name": "llm"}),
        (cloudflare.TUNNEL_SECRET, TUNNEL, {"secret": SECRET}),
        (cloudflare.TUNNEL_CONFIG, TUNNEL, tunnel_config(origin)),
        (cloudflare.DNS_RECORD, "r", record | {"content": f"{TUNNEL}.cfargotunnel.com"}),
        (cloudflare.APPLICATION, "app", APP),
        (cloudflare.APPLICATION, "other", other),
        (cloudflare.POLICY, "machines", policy("non_identity", {"serviceToken": {"tokenId": "1"}})),
        (cloudflare.POLICY, "others", policy("non_identity", {"serviceToken": {"tokenId": "2"}})),
        (cloudflare.POLICY, "people", policy("allow", {"emailDomain": {"domain": "example.org"}})),
        (cloudflare.SERVICE_TOKEN, "1", service_token("app")),
        (cloudflare.SERVICE_TOKEN, "2", service_token("other")),
    ]


def policy(decision: str, *includes: Body, **groups: list[Body]) -> Body:
    return {"accountId": ACCOUNT, "decision": decision, "includes": list(includes)} | groups


def chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    body = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return b"data: " + json.dumps(body | {"choices": [choice]}).encode() + b"\n\n"


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("world"))
    yield lab
    lab.stop()


@pytest.fixture(scope="module")
def running(clouds: Lab) -> Cloudflared:
    return clouds.cloudflared()


@pytest.fixture
def lab(clouds: Lab, running: Cloudflared) -> Iterator[Lab]:
    """An endpoint with one cloudflared; what a test declares otherwise is undone."""
    clouds.gate.clear()
    clouds.hung_up.clear()
    clouds.seen.clear()
    yield clouds
    for type, id, body in declared(clouds.origin_port):
        if clouds.all(type).get(id) != body:
            clouds.put(type, id, body)


# --- Access ---------------------------------------------------------------------------------------


def test_a_consumer_with_its_service_token_reaches_the_origin(lab: Lab) -> None:
    """The two headers are enough; the origin gets Access's assertion instead of the secret."""
    answer = lab.get()
    arrived = {name.lower(): value for name, value in answer.json()["headers"].items()}

    assert answer.status_code == 200
    assert answer.headers["Server"] == "cloudflare"
    assert arrived["host"] == HOST
    assert "cf-access-jwt-assertion" in arrived
    assert not {"cf-access-client-id", "cf-access-client-secret"} & arrived.keys()
    assert "app-secret" not in answer.text


REFUSED = {
    "no credentials": {},
    "a wrong secret": headers("app", "wrong"),
    "an unknown client": headers("nobody"),
    "the id alone": {"CF-Access-Client-Id": "app.access"},
    "an expired token": headers("expired"),
    "a disabled token": headers("disabled"),
    "another application's token": headers("other"),
    "a forged session": {"Cookie": "CF_Authorization=forged"},
}


@pytest.mark.parametrize("presented", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize(("api", "status"), [(True, 401), (False, 403)])
def test_anyone_else_is_refused_in_json(
    lab: Lab, presented: dict[str, str], api: bool, status: int
) -> None:
    """Missing, wrong, expired and foreign credentials get a JSON refusal, never a login page."""
    expired = service_token("expired", expiresAt="2020-01-01T00:00:00Z")
    lab.put(cloudflare.SERVICE_TOKEN, "3", expired)
    lab.put(cloudflare.SERVICE_TOKEN, "4", service_token("disabled", enabled=False))
    includes = [{"serviceToken": {"tokenId": id}} for id in "134"]
    lab.put(cloudflare.POLICY, "machines", policy("non_identity", *includes))
    policies = [{"id": "machines"}, *([{"id": "people"}] if api else [])]
    declared = {"serviceAuth401Redirect": api, "policies": policies}
    lab.put(cloudflare.APPLICATION, "app", APP | declared)

    answer = lab.get(headers=presented)

    assert answer.status_code == status
    assert answer.json()["status_code"] == status
    assert answer.json()["aud"] == answer.headers["Cf-Access-Aud"] == AUD
    assert lab.seen == []


def test_one_header_can_carry_both_halves_of_the_token(lab: Lab) -> None:
    """With readServiceTokensFromHeader a single header is read, as JSON with lower-case keys."""
    lab.put(cloudflare.APPLICATION, "app", APP | {"readServiceTokensFromHeader": "Authorization"})
    pair = {"cf-access-client-id": "app.access", "cf-access-client-secret": "app-secret"}
    upper = {name.upper(): value for name, value in pair.items()}

    assert lab.get(headers={"Authorization": json.dumps(pair)}).status_code == 200
    assert lab.get(headers={"Authorization": json.dumps(upper)}).status_code == 401


def test_a_browser_is_sent_to_the_login_only_where_the_application_says_so(lab: Lab) -> None:
    """Without the 401 option a visitor without credentials is redirected to the team's login."""
    lab.put(cloudflare.APPLICATION, "app", APP | {"serviceAuth401Redirect": False})

    answer = lab.get(headers={"Accept": "text/html"})
    wrong = lab.get(headers=headers("app", "wrong"))

    assert answer.status_code == wrong.status_code == 302
    login = f"https://team.cloudflareaccess.com/cdn-cgi/access/login/{HOST}?kid={AUD}"
    assert answer.headers["Location"].startswith(login)


@pytest.mark.parametrize(
    ("email", "status"), [("a@example.org", 200), ("a@example.net", 403)], ids=["known", "stranger"]
)
def test_a_person_logs_in_by_email(lab: Lab, email: str, status: int) -> None:
    """Somebody of an allowed domain gets a session at the login; anybody else does not."""
    with requests.Session() as browser:
        login = f"https://team.cloudflareaccess.com/cdn-cgi/access/login/{HOST}"
        answer = browser.post(
            login, params={"redirect_url": "/v1/models"}, data={"email": email}, **lab.way()
        )

    assert answer.status_code == status
    assert (lab.seen == ["/v1/models"]) == (status == 200)


@pytest.mark.parametrize(
    ("policies", "who", "outcome"),
    [
        ([policy("allow", {"everyone": {}})], "app", "refuse"),
        ([policy("non_identity", {"anyValidServiceToken": {}})], "app", "pass"),
        ([policy("non_identity", {"email": {"email": "a@example.org"}})], "app", "refuse"),
        ([policy("non_identity", {"group": {"id": "g"}})], "app", "refuse"),
        ([policy("bypass", {"everyone": {}})], None, "pass"),
        (
            [
                policy("deny", {"everyone": {}}),
                policy("non_identity", {"serviceToken": {"tokenId": "1"}}),
            ],
            "app",
            "pass",
        ),
        (
            [
                policy(
                    "non_identity",
                    {"anyValidServiceToken": {}},
                    excludes=[{"serviceToken": {"tokenId": "1"}}],
                )
            ],
            "app",
            "refuse",
        ),
        (
            [
                policy(
                    "non_identity",
                    {"anyValidServiceToken": {}},
                    requires=[{"serviceToken": {"tokenId": "2"}}],
                )
            ],
            "app",
            "refuse",
        ),
        ([], "app", "refuse"),
    ],
)
def test_policies_decide_as_access_documents_them(
    lab: Lab, policies: list[Body], who: str | None, outcome: str
) -> None:
    """Service Auth and Bypass come first; an Allow policy never admits a service token."""
    presented = CIMultiDict(headers(who) if who else {})

    async def judge() -> str:
        return Access(lab.world).judge(APP | {"policies": policies}, presented, {}).outcome

    assert lab.do(judge()) == outcome


def test_without_the_application_cloudflared_itself_refuses(lab: Lab) -> None:
    """An endpoint that lost its Access application is closed, not open."""
    lab.delete(cloudflare.APPLICATION, "app")

    plain = lab.get()
    forged = lab.get(headers={"Cf-Access-Jwt-Assertion": jwt.encode({"aud": AUD}, "k" * 32)})

    assert (plain.status_code, plain.text) == (403, "")
    assert forged.status_code == 502
    assert lab.seen == []


def test_another_applications_assertion_is_refused_by_cloudflared(lab: Lab) -> None:
    """cloudflared takes tokens of its own application only."""
    lab.put(cloudflare.TUNNEL_CONFIG, TUNNEL, tunnel_config(lab.origin_port, audTags=["f" * 64]))

    assert lab.get().status_code == 403
    assert lab.seen == []


# --- ingress --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/metrics", "/invocations", "/pause", "/v1", "/v1/", "/v1/modelsx", "/x/v1/models"),
        *("/v1/../metrics", "/v1/models/../../metrics", "/v1/%2e%2e/metrics", "//v1/models"),
        *("/v1/models%0a", "/v1/models%00", "/V1/models", "/v1%2fmodels/x"),
    ],
)
def test_only_the_api_paths_reach_the_origin(lab: Lab, path: str) -> None:
    """With a valid token, whatever is not an API path answers 404 before the engine."""
    with lab.raw(path) as answer:
        assert (answer.status, answer.read()) == (404, b"")
    assert lab.seen == []


def test_the_path_reaches_the_origin_as_it_was_written(lab: Lab) -> None:
    """Rules see the decoded path, the origin the one that was sent, query included."""
    with lab.raw("/v1/%6dodels?a=%2f&b") as answer:
        assert json.load(answer)["path"] == "/v1/%6dodels?a=%2f&b"


def test_a_changed_configuration_takes_effect_at_once(lab: Lab, running: Cloudflared) -> None:
    """The edge pushes a new configuration to a running cloudflared; a wrong one changes nothing."""
    config = tunnel_config(lab.origin_port)
    teapot = {"ingresses": [{"service": "http_status:418"}]}
    open_ended = {"ingresses": [{"hostname": HOST, "service": "http_status:200"}]}
    lab.put(cloudflare.TUNNEL_CONFIG, TUNNEL, config | {"config": teapot})
    eventually(lambda: lab.get().status_code == 418)
    lab.put(cloudflare.TUNNEL_CONFIG, TUNNEL, config | {"config": open_ended})

    running.says("The last ingress rule must match all URLs")

    assert lab.get().status_code == 418


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("^/v1/models$", "/v1/models", True),
        ("^/v1/models$", "/v1/models\n", False),
        ("v1", "/x/v1/y", True),
        (r"^/v1/[a-z$]+\z", "/v1/a$", True),
        (r"^/v1/\$", "/v1/$", True),
    ],
)
def test_path_patterns_mean_what_they_mean_to_cloudflared(
    pattern: str, path: str, matches: bool
) -> None:
    """A pattern is searched, not anchored, and `$` is the very end."""
    assert bool(go_regexp(pattern).search(path)) == matches


@pytest.mark.parametrize("pattern", ["^/(?!metrics)", "(a)\\1", "(?<=/)v1", "a++", "["])
def test_patterns_that_go_does_not_have_are_refused(pattern: str) -> None:
    """A look-ahead would pass a careless check and fail on the real cloudflared."""
    rules = [{"path": pattern, "service": "http_status:200"}, {"service": "http_status:404"}]

    with pytest.raises(ValueError, match="Rule #1 has an invalid regex: error parsing regexp"):
        ingress({"ingress": rules})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"hostname": HOST, "service": "http://localhost:1"}], "The last ingress rule"),
        ([{"service": "http_status:1"}, {"service": "http_status:404"}], "Rule #1 is matching"),
        ([{"service": "localhost:8000"}], "is an invalid address"),
        ([{"service": "http://localhost:1/v1"}], "don't support proxying to a different path"),
        ([{"hostname": "a.*.b", "service": "http://a"}], "at most one wildcard"),
        ([{"hostname": "a:80", "service": "http://a"}], "cannot contain a port"),
    ],
)
def test_ingress_rules_are_checked_as_cloudflared_checks_them(
    rules: list[Body], message: str
) -> None:
    """A configuration that the real one refuses is refused, in its words."""
    with pytest.raises(ValueError, match=message):
        ingress({"ingress": rules})


# --- streaming ------------------------------------------------------------------------------------


def test_an_openai_client_streams_token_by_token(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token arrives before the engine has made the second: nothing buffers."""
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)
    with openai.OpenAI(base_url=f"{URL}/v1", api_key="-", default_headers=headers("app")) as client:
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        first = next(stream).choices[0].delta.content
        lab.gate.set()
        rest = [event.choices[0].delta.content for event in stream]

    assert (first, rest) == ("first", ["second"])


def test_many_streams_at_once_do_not_wait_for_one_another(lab: Lab) -> None:
    """Forty streams are all open at the same time through one cloudflared."""
    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(complete, lab) for _ in range(40)]
        eventually(lambda: len(lab.seen) == 40)
        lab.gate.set()

        assert [answer.result() for answer in asked] == ["first second"] * 40


def test_a_client_that_hangs_up_stops_the_engine(lab: Lab) -> None:
    """When the client goes away, the origin's request is cancelled."""
    answer = requests.post(
        f"{URL}/v1/chat/completions", headers=headers("app"), stream=True, timeout=30, **lab.way()
    )
    next(answer.iter_lines())
    answer.close()

    assert lab.hung_up.wait(20)


def test_curl_streams_too(lab: Lab) -> None:
    """curl with the printed environment and two headers gets the whole stream."""
    lab.gate.set()
    both = [part for name, value in headers("app").items() for part in ("-H", f"{name}: {value}")]
    answer = subprocess.run(
        ["curl", "-sSN", *both, "-d", "{}", f"{URL}/v1/chat/completions"],
        env={"PATH": os.environ["PATH"]} | lab.environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert answer.stdout.endswith("data: [DONE]\n\n")


def complete(lab: Lab) -> str:
    answer = requests.post(
        f"{URL}/v1/chat/completions", headers=headers("app"), timeout=60, **lab.way()
    )
    lines = [line for line in answer.text.split("\n\n") if line.startswith("data: {")]
    return " ".join(json.loads(line[6:])["choices"][0]["delta"]["content"] for line in lines)


# --- when something is down -----------------------------------------------------------------------


def test_an_origin_that_is_not_up_yet_is_a_502(lab: Lab) -> None:
    """While the engine loads its port refuses, and clients see Cloudflare's 502 at once."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    lab.put(cloudflare.TUNNEL_CONFIG, TUNNEL, tunnel_config(port))

    answer = lab.get()

    assert (answer.status_code, answer.text) == (502, "error code: 502")


def test_a_host_without_a_dns_record_does_not_resolve(lab: Lab) -> None:
    """No record, no host; an unproxied one does not lead to the tunnel either."""
    body = lab.all(cloudflare.DNS_RECORD)["r"]
    lab.put(cloudflare.DNS_RECORD, "r", body | {"proxied": False})

    with pytest.raises(requests.exceptions.ProxyError):
        lab.get()


def test_a_record_that_leads_to_no_tunnel_is_an_origin_dns_error(lab: Lab) -> None:
    """A tunnel that was deleted under its record answers 530 with error 1016."""
    body = lab.all(cloudflare.DNS_RECORD)["r"]
    lab.put(cloudflare.DNS_RECORD, "r", body | {"content": "gone.cfargotunnel.com"})

    answer = lab.get()

    assert (answer.status_code, answer.text) == (530, "error code: 1016")


def test_a_second_cloudflared_takes_over(lab: Lab) -> None:
    """With two replicas, one may die and every request is still answered."""
    spare = lab.cloudflared()
    spare.process.kill()
    spare.process.wait()

    assert {lab.get().status_code for _ in range(8)} == {200}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Lab]:
    """An endpoint that no cloudflared serves yet."""
    lab = Lab(tmp_path)
    yield lab
    lab.stop()


def test_a_tunnel_that_nobody_serves_is_1033(fresh: Lab) -> None:
    """Before the machine is up clients see 530 with error 1033; a browser sees a page."""
    answer = fresh.get()
    page = fresh.get(headers=headers("app") | {"Accept": "text/html"})

    assert (answer.status_code, answer.text) == (530, "error code: 1033")
    assert (page.status_code, page.headers["Content-Type"][:9]) == (530, "text/html")


def test_a_stopped_cloudflared_finishes_what_it_began(fresh: Lab) -> None:
    """On SIGTERM it unregisters at once and lets the stream in progress come to its end."""
    cloudflared = fresh.cloudflared()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(complete, fresh)
        eventually(lambda: fresh.seen)
        cloudflared.process.send_signal(signal.SIGTERM)
        eventually(lambda: fresh.rows() == {})
        meanwhile = fresh.get()
        fresh.gate.set()

        assert answer.result() == "first second"
    assert meanwhile.status_code == 530
    assert cloudflared.process.wait(20) == 0
    assert cloudflared.log.read_text().count("Unregistered tunnel connection") == 4
    assert "Unclosed" not in cloudflared.log.read_text()


def test_a_request_that_crosses_the_goodbye_is_answered(
    fresh: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the edge has begun to send when a cloudflared stops is not lost."""
    process, take = fresh.cloudflared().process, Tunnels.take

    async def late(tunnels: Tunnels, tunnel: str) -> ResponseHandler:
        stream = await take(tunnels, tunnel)
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(eventually, lambda: fresh.rows() == {})
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, 1)
        return stream

    monkeypatch.setattr(Tunnels, "take", late)

    assert fresh.get().status_code == 200
    assert process.wait(20) == 0


def test_a_connection_that_breaks_stays_listed_for_a_while(fresh: Lab) -> None:
    """After an unclean death the tunnel still counts as connected, until given up or cleared."""
    cloudflared = fresh.cloudflared()
    cloudflared.process.kill()
    cloudflared.process.wait()
    eventually(lambda: fresh.get().status_code == 530)
    listed = len(fresh.rows())
    cleared = fresh.api("DELETE", f"/cfd_tunnel/{TUNNEL}/connections")

    assert listed == 4
    assert cleared.json()["success"]
    assert fresh.rows() == {}


def test_broken_connections_are_given_up_in_the_end(fresh: Lab) -> None:
    """Nobody has to clear them: the edge forgets them after half a minute of cloud time."""
    cloudflared = fresh.cloudflared()
    cloudflared.process.kill()

    eventually(lambda: fresh.rows() == {})


def test_a_cleared_cloudflared_that_still_runs_comes_back(fresh: Lab) -> None:
    """Clearing connections does not stop a machine: its cloudflared connects again."""
    fresh.cloudflared()
    before = set(fresh.rows())
    fresh.api("DELETE", f"/cfd_tunnel/{TUNNEL}/connections")

    eventually(lambda: len(set(fresh.rows()) - before) == 4)
    assert fresh.get().status_code == 200


def test_a_deleted_tunnel_cuts_its_cloudflared_off(fresh: Lab) -> None:
    """A cloudflared whose tunnel is gone is told so and serves nothing."""
    cloudflared = fresh.cloudflared()
    fresh.delete(cloudflare.TUNNEL, TUNNEL)

    cloudflared.says('error="Unauthorized: Tunnel not found"')
    assert fresh.rows() == {}


def test_a_wrong_tunnel_secret_is_refused(fresh: Lab) -> None:
    """A token whose secret is not the tunnel's never registers, and its secret is not logged."""
    wrong = base64.b64encode(b"w" * 32).decode()
    cloudflared = fresh.cloudflared(wait=False, secret=wrong)

    cloudflared.says('error="Unauthorized: Invalid tunnel secret"')
    assert fresh.rows() == {}
    assert wrong not in cloudflared.log.read_text()


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """An endpoint whose edge waits two seconds, which are two minutes of cloud time."""
    monkeypatch.setattr(edge, "PATIENCE_FLOOR", 0.0)
    lab = Lab(tmp_path)
    yield lab
    lab.stop()


def test_an_engine_that_falls_silent_is_given_up(impatient: Lab) -> None:
    """Silence before the answer ends in 524; silence within a stream breaks it off."""
    impatient.cloudflared()
    answer = impatient.get(headers=headers("app") | {"X-Silence": "1"})

    assert (answer.status_code, answer.text) == (524, "error code: 524")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        complete(impatient)


# --- command line and API -------------------------------------------------------------------------


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*CLOUDFLARED, *arguments],
        env={"PATH": os.environ["PATH"]} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "message", "status"),
    [
        (["tunnel", "run", "--metrics=x"], {}, "flag provided but not defined: -metrics", 0),
        (["tunnel", "--token=x", "run"], {}, "flag provided but not defined: -token", 0),
        (["tunnel", "run"], {"TUNNEL_TOKEN": "x"}, "Provided Tunnel token is not valid.", 255),
        (["tunnel", "run"], {}, "requires the ID or name of the tunnel", 255),
        (
            ["tunnel", "run", "--token-file", "/nowhere"],
            {},
            "Failed to read token file: open /nowhere: no such file or directory",
            255,
        ),
        (
            ["tunnel", "--grace-period=30", "run"],
            {"TUNNEL_TOKEN": token()},
            'invalid value "30" for flag -grace-period',
            0,
        ),
        (
            ["tunnel", "--grace-period=4m", "run"],
            {"TUNNEL_TOKEN": token()},
            "grace-period must be equal or less than 3m0s",
            1,
        ),
    ],
)
def test_wrong_usage_is_refused_as_the_real_cloudflared_refuses_it(
    arguments: list[str], environment: dict[str, str], message: str, status: int
) -> None:
    """The stand-in knows the real flags, where each of them belongs, and the real messages."""
    result = command(*arguments, **environment)

    assert message in result.stdout + result.stderr
    assert result.returncode == status


def test_readiness_tells_whether_the_edge_is_connected(fresh: Lab) -> None:
    """/ready on the metrics address answers 503 without a connection and 200 with one."""
    cloudflared = fresh.cloudflared()
    address = cloudflared.log.read_text().partition("metrics server on ")[2].partition("/")[0]

    ready = requests.get(f"http://{address}/ready", timeout=10)
    assert (ready.status_code, ready.json()["readyConnections"]) == (200, 4)

    fresh.delete(cloudflare.TUNNEL, TUNNEL)
    eventually(lambda: requests.get(f"http://{address}/ready", timeout=10).status_code == 503)


def test_the_api_lists_who_serves_a_tunnel(lab: Lab) -> None:
    """Connections are grouped by connector, and a tunnel with some is healthy."""
    connectors = lab.api("GET", f"/cfd_tunnel/{TUNNEL}/connections").json()["result"]
    tunnel = lab.api("GET", f"/cfd_tunnel/{TUNNEL}").json()["result"]

    assert sum(len(connector["conns"]) for connector in connectors) >= 4
    assert (tunnel["status"], tunnel["account_id"]) == ("healthy", ACCOUNT)


@pytest.mark.parametrize(
    ("path", "key", "status", "code"),
    [
        ("/cfd_tunnel", "wrong", 403, 10000),
        ("/../" + "c" * 32 + "/cfd_tunnel", API_TOKEN, 403, 9109),
        ("/cfd_tunnel/nope", API_TOKEN, 404, 1003),
        ("/nonsense", API_TOKEN, 404, 7000),
    ],
)
def test_the_api_refuses_in_cloudflares_envelope(
    lab: Lab, path: str, key: str, status: int, code: int
) -> None:
    """Wrong tokens, foreign accounts and unknown things are refused with Cloudflare's codes."""
    answer = lab.api("GET", path, key)

    assert answer.status_code == status
    assert not answer.json()["success"]
    assert answer.json()["errors"][0]["code"] == code


def test_the_api_never_shows_a_secret_again(lab: Lab) -> None:
    """Lists of service tokens and tunnels carry no secret."""
    text = lab.api("GET", "/access/service_tokens").text + lab.api("GET", "/cfd_tunnel").text

    assert "app.access" in text
    assert "app-secret" not in text
    assert SECRET not in text
