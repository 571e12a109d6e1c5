"""The clouds of a rehearsal: they start, say why they do not, and never stay unasked."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from rehearsal import leaks
from rehearsal.errors import RehearsalError
from rehearsal.session import ENDPOINT, ROOT, Session
from tests.processes import alive, wait_until

SPEED = 60.0
STARTS_CLOUDS = (
    "import sys; from pathlib import Path; from rehearsal.session import Session\n"
    "session = Session(Path(sys.argv[1])); session.own('dev')\n"
    "session.start_daemon(60.0, outlives_us=sys.argv[2] == 'stay')\n"
)


@pytest.fixture
def session(tmp_path: Path) -> Generator[Session]:
    session = Session(tmp_path / "home")
    session.own("dev")
    yield session
    session.discard()


def pid_of(session: Session) -> int:
    """The running clouds' process."""
    assert session.daemon is not None
    return session.daemon["pid"]


def test_the_persons_credentials_are_the_owners_alone(session: Session) -> None:
    """Google's libraries find them by environment; they stay, and nobody else can read them."""
    session.start_daemon(SPEED, outlives_us=False)
    path = Path(session.environment("dev")["GOOGLE_APPLICATION_CREDENTIALS"])
    before = path.read_text()

    session.own("prod")

    assert path.read_text() == before
    assert '"authorized_user"' in before
    assert path.stat().st_mode & 0o777 == 0o600


def test_scripts_call_google_as_the_person_in_a_rehearsals_shell(session: Session) -> None:
    """With its environment alone, over HTTPS: who they are is known, and what there is."""
    session.start_daemon(SPEED, outlives_us=False)
    script = (
        "from scripts.google_api import *\n"
        "import requests\n"
        "print(requests.get('https://huggingface.co/api/models/Qwen/Qwen3-8B').json()['id'])\n"
        "call(session(), 'GET', base('storage') + '/storage/v1/b/no-such-bucket')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=session.environment("dev"),
        capture_output=True,
        text=True,
    )

    assert done.stdout == "Qwen/Qwen3-8B\n"
    assert "GoogleError: The specified bucket does not exist. (HTTP 404)" in done.stderr


def test_a_proxy_of_the_persons_own_is_out_of_the_way(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both spellings, for curl, requests and the clouds themselves; and it gets no request."""
    with socket.create_server(("127.0.0.1", 0)) as own:
        for name in ("https_proxy", "http_proxy", "all_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{own.getsockname()[1]}")
            monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{own.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "huggingface.co")
        session.start_daemon(SPEED, outlives_us=False)
        environment = {"PATH": os.environ["PATH"], **session.environment("dev")}
        url = "https://huggingface.co/api/models/Qwen/Qwen3-8B"
        script = f"import requests; print(requests.get({url!r}).text)"
        for command in (["curl", "-sS", url], [sys.executable, "-c", script]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert '"Qwen/Qwen3-8B"' in done.stdout, done.stderr
        plain = ["curl", "-sS", "-o", "/dev/null", "-w", "%{redirect_url}", f"http{url[5:]}"]
        done = subprocess.run(plain, env=environment, capture_output=True, text=True)
        assert done.stdout == url
        own.setblocking(False)
        with pytest.raises(BlockingIOError):
            own.accept()

    words = Path(f"/proc/{pid_of(session)}/environ").read_bytes().lower().split(b"\0")
    assert not [word for word in words if b"_proxy=" in word]


@pytest.mark.parametrize(
    "leak", ["ya29." + "x_-Y" * 32, "the planted token", "Authorization: Bearer ya29." + "a" * 128]
)
def test_secrets_are_found_by_their_value_and_by_their_form(leak: str) -> None:
    """Access tokens are made by the hundred, so that none is known by its value."""
    secrets = {"a token": "the planted token"}
    places = [("a log", f"token={leak}\n".encode()), ("the code", b'prefix = "ya29."')]

    looked, found = leaks.search(places, secrets)

    assert looked == 2
    assert len(found) == 1
    assert found[0].endswith(" in a log")


def test_an_unknown_stack_is_named_beside_the_known_ones(session: Session) -> None:
    """The message says which stacks there are."""
    with pytest.raises(
        RehearsalError, match=r"--stack nosuch: .* stacks are: cloud-run, dev, prod"
    ):
        session.own("nosuch")


def test_a_stack_file_that_is_no_yaml_is_named(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback of a parser."""
    (tmp_path / "Pulumi.dev.yaml").write_text("config: [")
    monkeypatch.setattr(Session, "stack_source", lambda *_: tmp_path / "Pulumi.dev.yaml")  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType] -- takes anything

    with pytest.raises(RehearsalError, match=r"Pulumi.dev.yaml is not valid YAML"):
        session.own("dev")


def test_another_process_with_the_clouds_old_number_is_left_alone(session: Session) -> None:
    """After a restart of the machine, the pid on disk may be somebody else's."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (session.world / "daemon.json").write_text(f'{{"pid": {stranger.pid}}}')
        session.stop_daemon()
        running = stranger.poll() is None
        stranger.kill()

    assert running


@pytest.mark.parametrize("value", ["true", "false"])
def test_protection_is_read_from_the_rehearsals_own_stack_file(
    session: Session, value: str
) -> None:
    """The committed file may say otherwise."""
    file = session.stack_file(ENDPOINT, "prod")
    file.parent.mkdir(parents=True)
    file.write_text(f'config:\n  llm-endpoint:protect: "{value}"\n')

    assert session.protected("prod") == (value == "true")


@pytest.mark.rehearsal
def test_clouds_that_cannot_start_say_why(session: Session) -> None:
    """The end of their log is in the message, and no process is left."""
    (session.world / "clouds.db").mkdir()

    with pytest.raises(RehearsalError, match=r"(?s)did not start.*unable to open database"):
        session.start_daemon(SPEED, outlives_us=False)
    assert session.daemon is None


@pytest.mark.rehearsal
def test_clouds_that_crash_say_so(session: Session) -> None:
    """Whoever asks later learns that they ended, and what they said last."""
    session.start_daemon(SPEED, outlives_us=False)
    assert session.why_the_clouds_ended() is None
    os.kill(pid_of(session), signal.SIGKILL)

    wait_until(lambda: session.daemon is None)
    assert "ended unexpectedly (status -9)" in (session.why_the_clouds_ended() or "")


@pytest.mark.rehearsal
def test_clouds_come_back_on_the_ports_they_had(session: Session) -> None:
    """Exports that were printed go on working after a crash, but for a port that is taken."""
    session.start_daemon(SPEED, outlives_us=False)
    before = session.exports("dev")
    assert session.daemon is not None
    port = session.daemon["providers"]["gcp"]
    session.stop_daemon()
    session.start_daemon(SPEED, outlives_us=False)
    again = session.exports("dev")
    session.stop_daemon()
    with socket.create_server(("127.0.0.1", port)):
        session.start_daemon(SPEED, outlives_us=False)
    taken = session.exports("dev")

    assert again == before
    assert taken["PULUMI_DEBUG_PROVIDERS"] != before["PULUMI_DEBUG_PROVIDERS"]
    assert taken["HTTPS_PROXY"] == before["HTTPS_PROXY"]


@pytest.mark.rehearsal
@pytest.mark.parametrize("wish", ["stay", "end"])
def test_clouds_outlive_their_command_only_when_asked_to(session: Session, wish: str) -> None:
    """A killed rehearsal takes its clouds with it; those of --keep stay."""
    command = [sys.executable, "-c", STARTS_CLOUDS + "input()", str(session.home), wish]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as starter:
        wait_until(lambda: session.daemon is not None)
        pid = pid_of(session)
        starter.kill() if wish == "end" else starter.communicate(b"\n")

    if wish == "end":
        wait_until(lambda: not alive(pid))
    else:
        assert alive(pid)
