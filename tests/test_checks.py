"""What the checks of ./scripts/preflight find at Cloudflare, at the model's host, at Docker Hub."""

import json
import re
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from components.settings import Settings
from rehearsal.cloudflare import APPLICATION, DNS_RECORD, SERVICE_TOKEN, TUNNEL, permissions
from rehearsal.session import Session
from rehearsal.world import Accounts, client_environment
from scripts.checks import check, cloudflare, engine_image, model
from scripts.checks.check import Check, Finding, Subject, why
from tests.stack_config import configuration

ACCOUNT, ZONE = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
CHECKS = (*cloudflare.CHECKS, *model.CHECKS, *engine_image.CHECKS)
GATED = "meta-llama/Llama-3.2-3B-Instruct"


class World:
    """Both clouds of somebody who owns what the stack `dev` names."""

    def __init__(self, home: Path) -> None:
        self.session = Session(home)
        self.session.own("dev")
        self.session.start_daemon(600, outlives_us=False)
        self._file = self.session.world / "accounts.json"
        self._before = self._file.read_text()
        assert self.session.daemon
        self.environment = client_environment(self.session.world, self.session.daemon["internet"])
        self._made: list[str] = []

    @property
    def accounts(self) -> Accounts:
        """What the person owns."""
        return Accounts.model_validate_json(self._file.read_text())

    def change(self, **changes: Any) -> None:
        """Change what the person owns, or may."""
        self._file.write_text(self.accounts.model_copy(update=changes).model_dump_json())

    def make(self, type: str, id: str, /, **body: Any) -> None:
        """Somebody else makes something in the account."""
        url = f"https://console.rehearsal.test/resources/{quote(type, '')}/{quote(id, '')}"
        requests.put(url, json=body | {"id": id}, timeout=10).raise_for_status()
        self._made.append(url)

    def reset(self) -> None:
        """As it was."""
        self._file.write_text(self._before)
        for url in self._made:
            requests.delete(url, timeout=10).raise_for_status()
        self._made.clear()

    def subject(self, **changes: str) -> Subject:
        """The stack `dev` with some of its keys changed, and the person's own tokens."""
        keys = {f"llm-endpoint:{name}": value for name, value in changes.items()}
        settings = Settings.parse(configuration("dev", keys), secret={"cloudflare:apiToken"})
        accounts = self.accounts
        return Subject(settings, accounts.cloudflare_tokens[0], accounts.hugging_face_tokens[0])


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    world = World(tmp_path_factory.mktemp("rehearsal"))
    yield world
    world.session.discard()


@pytest.fixture
def world(clouds: World, monkeypatch: pytest.MonkeyPatch) -> Generator[World]:
    """The clouds, as a script of the person's reaches them."""
    monkeypatch.setattr(check, "BACKOFF_SECONDS", 0.0)
    for name, value in clouds.environment.items():
        monkeypatch.setenv(name, value)
    yield clouds
    clouds.reset()


def found(subject: Subject, checks: Iterable[Check] = CHECKS) -> list[Finding]:
    """What the checks find; what they leave to the runner is unknown."""
    findings: list[Finding] = []
    for each in checks:
        try:
            findings += each(subject)
        except check.PASSING as error:
            findings.append(Finding(each.__name__, "unknown", why(error)))
    return findings


def test_a_sound_stack_has_nothing_to_complain_of(world: World) -> None:
    """Every check is made, and every one is fine."""
    findings = found(world.subject())

    assert {it.state for it in findings} == {"ok"}, findings
    assert len(findings) == len(CHECKS)


Situation = Callable[[World], Subject]
SITUATIONS: dict[str, tuple[Situation, str, str, str]] = {}
"""In the words of a user -> how it comes about, which check fails, what it says, what to do."""


def situation(words: str, name: str, says: str, step: str) -> Callable[[Situation], Situation]:
    """Adds a row."""

    def add(prepare: Situation) -> Situation:
        SITUATIONS[words] = prepare, name, says, step
        return prepare

    return add


def lacking(permission: str) -> Situation:
    """A token that may do all but edit one kind of thing."""
    every = [
        f"{name} {verb}"
        for name in (*permissions.OF_TYPE.values(), permissions.ORGANISATION, permissions.ZONE)
        for verb in ("Read", "Edit")
    ]

    def prepare(world: World) -> Subject:
        world.change(cloudflare_permissions=[it for it in every if it != f"{permission} Edit"])
        return world.subject()

    return prepare


for permission in (permissions.TUNNELS, permissions.APPS, permissions.TOKENS, permissions.DNS):
    situation(
        f"the token may not edit {permission}",
        "Cloudflare permissions",
        f"the token lacks .*{permission} > Edit",
        "edit the token",
    )(lacking(permission))


@situation("no Cloudflare token", "Cloudflare token", "is not set", "pulumi config set --secret")
def _(world: World) -> Subject:
    subject = world.subject()
    return Subject(subject.settings, "", subject.hugging_face_token)


@situation("a revoked token", "Cloudflare token", "does not know it", "pulumi config set --secret")
def _(world: World) -> Subject:
    subject = world.subject()
    return Subject(subject.settings, "x" * 40, subject.hugging_face_token)


@situation("an expired token", "Cloudflare token", "it is expired", "pulumi config set --secret")
def _(world: World) -> Subject:
    subject = world.subject()
    token = subject.cloudflare_token
    world.change(cloudflare_tokens=["y" * 40], cloudflare_expired_tokens=[token])
    return subject


@situation("a pending zone", "Cloudflare zone", "is pending", "name servers")
def _(world: World) -> Subject:
    world.change(cloudflare_zone_status={ZONE: "pending"})
    return world.subject()


@situation("another zone's id", "Cloudflare zone", "is example.com, not", "cloudflareZoneName")
def _(world: World) -> Subject:
    return world.subject(cloudflareZoneName="example.org", hostname="llm-dev.example.org")


@situation(
    "a taken host name", "host name", "is taken: A 203.0.113.7", "pulumi config set hostname"
)
def _(world: World) -> Subject:
    record = {"zoneId": ZONE, "name": "llm-dev.example.com", "type": "A"}
    world.make(DNS_RECORD, "r1", **record, content="203.0.113.7")
    return world.subject()


@situation("another stack's record", "host name", "is taken: CNAME", "pulumi config set hostname")
def _(world: World) -> Subject:
    world.make(TUNNEL, "t1", accountId=ACCOUNT, name="llm-prod-vpc-1234567")
    record = {"zoneId": ZONE, "name": "llm-dev.example.com", "type": "CNAME"}
    world.make(DNS_RECORD, "r1", **record, content="t1.cfargotunnel.com")
    return world.subject()


@situation(
    "a guarded host name", "Access application", "guarded by the application 'wiki'", "delete"
)
def _(world: World) -> Subject:
    world.make(APPLICATION, "a1", accountId=ACCOUNT, name="wiki", domain="llm-dev.example.com")
    return world.subject()


@situation("the wrong team", "Zero Trust team", "team is 'other'", "accessTeamName other")
def _(world: World) -> Subject:
    world.change(cloudflare_accounts={ACCOUNT: "other"})
    return world.subject()


@situation("no Zero Trust", "Zero Trust team", "not switched on", "choose a team name")
def _(world: World) -> Subject:
    world.change(cloudflare_accounts={ACCOUNT: ""})
    return world.subject()


@situation("too many service tokens", "service tokens", "49 of 50 are others'", "fewer")
def _(world: World) -> Subject:
    for number in range(49):
        world.make(SERVICE_TOKEN, f"s{number}", accountId=ACCOUNT, name=f"somebody's {number}")
    return world.subject()


@situation("a revoked Hugging Face token", "Hugging Face token", "does not know it", "make one")
def _(world: World) -> Subject:
    subject = world.subject()
    return Subject(subject.settings, subject.cloudflare_token, "hf_revoked")


@situation("no such model", "model", "there is no model", "compare the name")
def _(world: World) -> Subject:
    return world.subject(model="Qwen/Qwen-none")


@situation("no such revision", "model", "has no revision v9", "pulumi config set modelRevision")
def _(world: World) -> Subject:
    return world.subject(modelRevision="v9")


@situation("a licence not accepted", "model", "has not accepted its licence", "accept it at https")
def _(world: World) -> Subject:
    world.change(hugging_face_refusals=[GATED])
    return world.subject(model=GATED)


@situation("a gated model without a token", "model", "there is no Hugging Face token", "--secret")
def _(world: World) -> Subject:
    subject = world.subject(model=GATED)
    return Subject(subject.settings, subject.cloudflare_token, "")


@situation("an engine that was never built", "engine image", "has no vllm/vllm-openai", "config rm")
def _(world: World) -> Subject:
    return world.subject(engineVersion="0.99.0")


@situation("no such cloudflared", "cloudflared image", "has no cloudflare/cloudflared", "config rm")
def _(world: World) -> Subject:
    return world.subject(cloudflaredVersion="2099.1.0")


@pytest.mark.parametrize("words", SITUATIONS)
def test_a_situation_is_found_and_nothing_else(world: World, words: str) -> None:
    """Exactly one check fails, says what is wrong, and what to do."""
    prepare, name, says, step = SITUATIONS[words]

    failing = [it for it in found(prepare(world)) if it.state == "fails"]

    assert [it.check for it in failing] == [name], failing
    assert re.search(says, failing[0].detail)
    assert step in failing[0].next_step


def test_what_is_this_stacks_own_is_fine(world: World) -> None:
    """A second `up` finds its own record, tunnel, application and tokens."""
    world.make(TUNNEL, "t1", accountId=ACCOUNT, name="llm-dev-vpc-1234567")
    record = {"zoneId": ZONE, "name": "llm-dev.example.com", "type": "CNAME"}
    world.make(DNS_RECORD, "r1", **record, content="t1.cfargotunnel.com")
    world.make(APPLICATION, "a1", accountId=ACCOUNT, name="llm-dev", domain="llm-dev.example.com")
    for number in range(49):
        world.make(SERVICE_TOKEN, f"s{number}", accountId=ACCOUNT, name=f"llm-dev: {number}")

    assert {it.state for it in found(world.subject())} == {"ok"}


def test_ollamas_models_are_asked_after_where_they_are(world: World) -> None:
    """In Ollama's registry, which has no tokens."""
    fine = found(world.subject(engine="ollama", model="qwen3:8b"), model.CHECKS)

    assert [(it.check, it.state) for it in fine] == [("model", "ok")]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>Log in to the hotel's Wi-Fi</html>"),
        (200, b'{"success": tr'),
        (200, b"{}"),
        (200, b"[]"),
        (200, b"null"),
        (500, b"oops"),
        (502, b"<html>Bad Gateway</html>"),
    ],
)
def test_nonsense_is_neither_fine_nor_a_failure(
    world: World, monkeypatch: pytest.MonkeyPatch, status: int, content: bytes
) -> None:
    """A captive portal, a broken proxy, a service in trouble: it cannot be known, because ..."""

    def answer(self: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response._content, response.url = status, content, url  # pyright: ignore[reportPrivateUsage] -- there is no other way to make one
        return response

    monkeypatch.setattr(requests.Session, "request", answer)

    findings = found(world.subject())

    assert {it.state for it in findings} == {"unknown"}, findings
    assert all(it.detail for it in findings)


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        requests.exceptions.SSLError("self-signed"),
        requests.ReadTimeout("slow"),
        requests.exceptions.ProxyError("407"),
    ],
)
def test_without_a_network_nothing_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch, error: requests.RequestException
) -> None:
    """No way out, a certificate of somebody else's, no answer in time."""

    def answer(*_: Any, **__: Any) -> requests.Response:
        raise error

    monkeypatch.setattr(requests.Session, "request", answer)

    assert {it.state for it in found(world.subject())} == {"unknown"}


def test_no_token_is_ever_shown(world: World) -> None:
    """Not in what is found, and not by printing what was looked at."""
    subject = world.subject()
    text = json.dumps(found(subject)) + repr(subject)

    assert subject.cloudflare_token not in text
    assert subject.hugging_face_token not in text
