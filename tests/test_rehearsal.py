"""Two stacks in one project, account and zone, through a whole life, with the real engine."""

import gzip
import json
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from rehearsal import audit, checks, homes, leaks, rehearse
from rehearsal.progress import Progress
from rehearsal.session import CONSUMER, Session
from scripts.audit import LOOKED_FOR
from scripts.audits import state
from tests.processes import wait_until
from tests.rehearsed import broken, held, world_of
from tests.streams import streams, told_to_stop

pytestmark = pytest.mark.rehearsal

SPEED = 120.0
INSTANCE = "google:instance"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Generator[Session]:
    """A world of its own in which dev and prod stand; the tests below run in their order."""
    with world_of(tmp_path_factory, SPEED, "dev", "prod", up=True) as session:
        yield session


def machines(endpoint: checks.Endpoint, stack: str) -> set[str]:
    """The ids of a stack's running machines."""
    return {
        row["id"]
        for row in endpoint.console("GET")
        if row["type"] == INSTANCE and row["body"]["labels"]["llm-endpoint-stack"] == stack
    }


def resources(session: Session, stack: str) -> list[str]:
    """The URNs of what a stack's state holds."""
    run = session.must(session.pulumi("stack", "export", stack=stack))
    return [it["urn"] for it in json.loads(run.stdout)["deployment"]["resources"]]


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_two_stacks_stand_side_by_side_and_answer(session: Session, stack: str) -> None:
    """An openai client (streaming) and curl are answered by each."""
    held(checks.answers(checks.Endpoint(session, stack)))


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_audit_sees_all_of_a_stack_and_nothing_of_the_other(
    session: Session, stack: str
) -> None:
    """By the clouds' own APIs: what Pulumi's state has, and the machine that a group has made."""
    run = session.must(session.pulumi("stack", "export", stack=stack))
    held_by_state = {
        state.key(it["type"], it["id"])
        for it in json.loads(run.stdout)["deployment"]["resources"]
        if it["type"] in LOOKED_FOR
    }

    found = audit.told(session, stack)

    assert found["ok"], audit.in_words(found)
    assert {it["verdict"] for it in found["things"]} == {"in the state"}
    assert {it["id"] for it in found["things"] if it["type"]} == held_by_state
    made = sorted(it["kind"] for it in found["things"] if not it["type"])
    assert made == ["disk", "machine"]
    protected = {it["kind"] for it in found["things"] if it["because"] == "protected"}
    assert ("tunnel" in protected) == (stack == "prod")


def test_a_second_up_a_refresh_and_a_preview_change_nothing(session: Session) -> None:
    """What stands is what was declared, down to the last default."""
    for command in (("up", "--yes"), ("refresh", "--preview-only"), ("preview",)):
        run = session.must(session.pulumi(*command, stack="dev"))
        assert run.changed == 0, run.stdout
        assert run.changes["same"] >= 40


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_strangers_and_side_doors_are_refused(session: Session, stack: str) -> None:
    """Wrong, expired, foreign and missing tokens; engine paths; and the origin without Access."""
    held(checks.refusals(checks.Endpoint(session, stack)))


def test_no_secret_is_where_none_belongs(session: Session) -> None:
    """State, output, metadata, logs, and the guests' processes, environments and files."""
    held(leaks.check(session, "dev", checks.Endpoint(session, "dev")))


@pytest.mark.parametrize("place", ["a log", "a packed log", "metadata", "a file in the guests"])
def test_a_secret_leaked_on_purpose_is_found(session: Session, place: str) -> None:
    """The search is not blind: what it looks at, it sees."""
    endpoint = checks.Endpoint(session, "dev")
    secret = leaks.planted(session, endpoint)["the Hugging Face token"]
    (machine,) = machines(endpoint, "dev")
    row = next(row["body"] for row in endpoint.console("GET") if row["id"] == machine)
    match place:
        case "metadata":
            leaked = {**row, "metadata": {**row["metadata"], "careless": secret}}
            with endpoint.by_hand(INSTANCE, machine, leaked):
                found = broken(leaks.check(session, "dev", endpoint))
        case "a log":
            with written([session.logs / "careless.log"], f"token={secret}".encode()):
                found = broken(leaks.check(session, "dev", endpoint))
        case "a packed log":
            packed = gzip.compress(f"token={secret}".encode())
            with written([session.logs / "careless.log"], packed):
                found = broken(leaks.check(session, "dev", endpoint))
        case _:
            roots = leaks.guest_roots(session)
            with written([root / "tmp" / "careless" for root in roots], f"token={secret}".encode()):
                found = broken(leaks.check(session, "dev", endpoint))
    assert len(found) == 1
    assert place.split()[-1].removesuffix("s") in found[0]


@contextmanager
def written(files: list[Path], content: bytes) -> Generator[None]:
    """The content in every one of these files that can be written, at least one; then gone."""
    done: list[Path] = []
    for file in files:
        with suppress(OSError):  # a container's file system may be read-only
            file.write_bytes(content)
            file.chmod(0o644)
            done.append(file)
    assert done
    try:
        yield
    finally:
        for file in done:
            file.unlink(missing_ok=True)


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_another_team_takes_the_endpoint_by_stack_reference(session: Session, stack: str) -> None:
    """Base URL, model, client id and secret land in its Secret Manager, one set an endpoint."""
    session.prepare_consumer(stack)
    session.must(session.pulumi("up", "--yes", "--skip-preview", stack=stack, project=CONSUMER))
    endpoint = checks.Endpoint(session, stack)
    assert endpoint.credentials
    held(checks.consumer_has_it(endpoint, endpoint.credentials))


def test_a_new_consumer_gets_a_token_and_no_machine_is_touched(session: Session) -> None:
    """One token more, one policy told of it, and nobody is interrupted."""
    endpoint = checks.Endpoint(session, "dev")
    before = machines(endpoint, "dev")
    for index, name in enumerate([*endpoint.outputs["clientIds"], "newcomer"]):
        session.must(
            session.pulumi(
                "config", "set", "--path", f"llm-endpoint:consumers[{index}]", name, stack="dev"
            )
        )

    run = session.must(session.pulumi("up", "--yes", "--skip-preview", stack="dev"))

    assert {k: v for k, v in run.changes.items() if k != "same"} == {"create": 1, "update": 1}
    after = checks.Endpoint(session, "dev")
    assert machines(after, "dev") == before
    held(checks.answers(after.as_consumer("newcomer")))


@contextmanager
def asking(endpoint: checks.Endpoint) -> Generator[list[int]]:
    """Meanwhile somebody asks one question after the other, whatever the model is.

    The list has the statuses of the answers, each as often as it was another than before.
    """
    question = {key: it for key, it in endpoint.question.items() if key != "model"}
    headers = endpoint.headers
    statuses: list[int] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.wait(0.05):
            status = endpoint.request("POST", checks.CHAT, headers, question).status
            if statuses[-1:] != [status]:
                statuses.append(status)

    with ThreadPoolExecutor() as pool:
        somebody = pool.submit(ask)
        try:
            yield statuses
        finally:
            enough.set()
    somebody.result()


@pytest.mark.parametrize(
    ("rollout", "replicas", "model"),
    [
        ("replace", 1, "Qwen/Qwen3-8B"),
        ("surge", 2, "Qwen/Qwen3-4B-FP8"),  # from one machine
        ("surge", 2, "Qwen/Qwen3-4B"),  # from two
    ],
)
def test_a_new_model_is_served_by_new_machines_and_no_answer_is_cut(
    session: Session, rollout: str, replicas: int, model: str
) -> None:
    """`up` ends when a new machine answers; only with `replace` is nobody answered meanwhile.

    Old machines finish what they have begun to answer before they go, under either rollout.
    """
    endpoint = checks.Endpoint(session, "dev")
    before = machines(endpoint, "dev")
    for key, value in (("rollout", rollout), ("replicas", str(replicas)), ("model", model)):
        session.must(session.pulumi("config", "set", key, value, stack="dev"))

    with (
        asking(endpoint) as statuses,
        told_to_stop(endpoint, before) as stopping,
        streams(endpoint) as streamed,
    ):
        wait_until(lambda: any(it.whole for it in streamed))
        run = session.must(session.pulumi("up", "--yes", "--skip-preview", stack="dev"))
        wait_until(lambda: not machines(endpoint, "dev") & before)

    down = rollout == "replace"
    begun = [it for it in streamed if it.status not in ({502, 530} if down else set[int]())]
    assert [it for it in begun if not it.whole] == []
    old = next(it.fingerprint for it in streamed if it.whole)
    assert stopping.keys() == before
    for at in stopping.values():
        drained = [it for it in begun if it.begun < at < it.ended and it.fingerprint == old]
        assert drained, "no answer was on its way when a machine was told to stop"
    assert ("DOWN from now" in run.stdout) == down, "an outage was not announced, or none came"
    assert ("in about 8 minutes" in run.stdout.replace("\n", " ")) == down
    assert (statuses[0], statuses[-1]) == (200, 200)
    assert set(statuses[1:-1]) - {200} <= ({502, 530} if down else set[int]()), statuses
    assert (len(statuses) > 1) == down
    endpoint = checks.Endpoint(session, "dev")
    assert endpoint.model == model
    held(checks.answers(endpoint))
    assert len(machines(endpoint, "dev")) == replicas


def test_a_refused_configuration_creates_and_loses_nothing(session: Session) -> None:
    """One message, every problem, and the stack stands as it stood."""
    checks.Endpoint(session, "dev")
    good = session.stack_file_text("dev")
    for key, value in (("gpu", "nvidia-l5"), ("model", "not a model"), ("hostname", "llm.test")):
        session.must(session.pulumi("config", "set", key, value, stack="dev"))

    run = session.pulumi("up", "--yes", stack="dev")

    assert not run.ok
    for problem in ("nvidia-l5", "not a model", "llm.test"):
        assert problem in run.stdout
    assert "Traceback" not in run.stdout
    session.write_stack_file_text("dev", good)
    again = session.must(session.pulumi("up", "--yes", "--skip-preview", stack="dev"))
    assert again.changed == 0


def test_stack_output_shows_no_secret_unless_asked(session: Session) -> None:
    """Client secrets read [secret]; the rest is plain."""
    run = session.must(session.pulumi("stack", "output", "--json", stack="dev"))
    shown = json.loads(run.stdout)

    assert shown["clientSecrets"] == "[secret]"
    assert shown["baseUrl"].startswith("https://")


def test_an_endpoint_for_people_alone_is_rehearsed_as_one_of_them(session: Session) -> None:
    """Without a consumer, somebody who logs in is answered, and strangers are refused."""
    session.must(session.pulumi("config", "rm", "consumers", stack="dev"))
    person = ("llm-endpoint:allowedEmails[0]", "somebody@example.org")
    session.must(session.pulumi("config", "set", "--path", *person, stack="dev"))
    session.must(session.pulumi("up", "--yes", "--skip-preview", stack="dev"))

    endpoint = checks.Endpoint(session, "dev")
    assert endpoint.credentials is None
    held(checks.answers(endpoint))
    held(checks.refusals(endpoint))


def test_taking_one_stack_down_leaves_the_other_answering_and_nothing_else(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--down` takes dev and its consumer in one run, half-lifted protection and all.

    prod and its consumer do not notice.
    """
    (record,) = [it for it in resources(session, "dev") if it.endswith("::llm-dev-dns")]
    session.must(session.pulumi("state", "protect", "--yes", record, stack="dev"))
    monkeypatch.setattr(homes, "kept", lambda: nullcontext(session.home))
    monkeypatch.setattr(sys, "argv", ["rehearse", "--down", "--stack", "dev"])

    assert rehearse.take_down(Progress(), rehearse.arguments()) == 0
    assert "Nothing of it is left; up are: prod" in capsys.readouterr().out
    assert audit.leftovers(session) == []
    found = audit.told(session, "dev")
    assert found["ok"], audit.in_words(found)
    assert {it["verdict"] for it in found["things"]} == {"stays"}
    endpoint = checks.Endpoint(session, "prod")
    assert not machines(endpoint, "dev")
    held(checks.answers(endpoint))


def test_a_protected_stack_is_destroyed_only_after_lifting_its_protection(
    session: Session,
) -> None:
    """prod refuses, stays whole, and goes once `protect` is off."""
    refused = session.pulumi("destroy", "--yes", stack="prod")
    assert not refused.ok
    assert "protect" in refused.stdout
    held(checks.answers(checks.Endpoint(session, "prod")))

    session.must(session.pulumi("config", "set", "protect", "false", stack="prod"))
    session.must(session.pulumi("up", "--yes", "--skip-preview", stack="prod"))
    session.must(session.pulumi("destroy", "--yes", stack="prod"))

    session.must(session.pulumi("stack", "rm", "--yes", "prod", stack="prod"))
    assert audit.leftovers(session) == []


def test_a_consumer_whose_endpoint_was_destroyed_by_hand_is_taken_down_too(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--down` leaves nothing in either cloud, whatever was done before it."""
    assert (session.stacks(), session.stacks(CONSUMER)) == ([], ["prod"])
    monkeypatch.setattr(homes, "kept", lambda: nullcontext(session.home))
    monkeypatch.setattr(homes, "LAST", session.home / "last")
    monkeypatch.setattr(sys, "argv", ["rehearse", "--down"])

    assert rehearse.take_down(Progress(), rehearse.arguments()) == 0
    assert "Both clouds are empty." in capsys.readouterr().out
    assert session.daemon is None
