"""./scripts/rehearse as a stranger meets it: what it refuses, and what it leaves behind."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal import homes, preconditions, rehearse, timeline
from rehearsal.engine_run import LOW_DISK_MIB
from rehearsal.errors import RehearsalError
from rehearsal.progress import Progress
from rehearsal.session import ROOT, Session
from tests.processes import wait_until

COMMAND = [sys.executable, "-m", "rehearsal"]
NEEDS_ENGINE = pytest.mark.skipif(
    "LLM_ENDPOINT_ENGINE_BIN" not in os.environ, reason="./scripts/test says where pulumi is"
)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rehearsals live in a folder of the test's own."""
    for name, path in (("ALL", ""), ("KEPT", "kept"), ("RUNS", "runs"), ("LAST", "last")):
        monkeypatch.setattr(homes, name, tmp_path / path)
    return tmp_path


def processes(home: Path) -> list[int]:
    """Whatever runs with this folder in its arguments or its environment."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(home) in words:
            found.append(int(entry.name))
    return found


# --- what cannot work is said at the start --------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--speed fast", "argument --speed: fast: expected a number from 1 (real time) to 1000"),
        ("--speed 0", "argument --speed: 0: expected a number from 1"),
        ("--speed nan", "argument --speed: nan: expected"),
        ("--speed inf", "argument --speed: inf: expected"),
        ("--gguf nosuch.gguf", "argument --gguf: nosuch.gguf: No such file"),
        ("--gguf README.md", "argument --gguf: README.md: not a GGUF file"),
        ("--json nosuch/r.json", "argument --json: nosuch/r.json: cannot be written (No such file"),
        ("--json tests", "argument --json: tests: is a folder"),
        ("--keep --down", "--keep and --down exclude each other"),
        ("--down --json r.json", "--json reports a rehearsal; --down is none"),
    ],
)
def test_a_command_line_that_cannot_work_is_refused_at_once(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the flag, the value and what was expected, before anything is started."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["rehearse", *words.split()])

    with pytest.raises(SystemExit) as ended:
        rehearse.arguments()
    assert ended.value.code == 2
    assert f"error: {said}" in capsys.readouterr().err


def test_an_unknown_stack_is_refused_in_one_message() -> None:
    """Exit status 1, the known stacks, no traceback."""
    done = subprocess.run([*COMMAND, "--stack", "nosuch"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr.strip().endswith("stacks are: cloud-run, dev, prod")
    assert "Traceback" not in done.stderr


def test_another_system_than_linux_is_told_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Namespaces are Linux's."""
    monkeypatch.setattr("platform.system", lambda: "Darwin")

    with pytest.raises(RehearsalError, match=r"this is Darwin.*Run it in a Linux"):
        preconditions.check(tmp_path)


def test_a_missing_command_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """curl, for one."""
    (tmp_path / "bash").symlink_to(shutil.which("bash") or "")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(RehearsalError, match="`curl` is not on the PATH: install the package curl"):
        preconditions.check(tmp_path)


def test_a_disk_that_is_nearly_full_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has what is free and what is needed."""
    monkeypatch.setattr(preconditions, "DISK_GIB", 10.0**9)

    with pytest.raises(
        RehearsalError, match=r"has .* GiB free; a rehearsal needs 1e\+09 GiB: make room"
    ):
        preconditions.check(tmp_path)


@pytest.mark.parametrize(
    ("said", "way_out"),
    [
        ("[Errno 19] mount: No such device (overlay)", "modprobe overlay"),
        ("[Errno 1] mount: Operation not permitted (proc)", "--privileged"),
    ],
)
def test_a_system_without_what_machines_need_has_a_way_out(said: str, way_out: str) -> None:
    """A kernel without overlayfs, a container that masks /proc."""
    assert way_out in preconditions.way_out(said)


@pytest.mark.rehearsal
@pytest.mark.parametrize(
    ("prison", "way_out"),
    [
        (("-Ur", "echo 0 >/proc/sys/user/max_user_namespaces"), "user.max_user_namespaces=9999"),
        (("-Ur", "echo 0 >/proc/sys/user/max_net_namespaces"), "user.max_net_namespaces=9999"),
        (("-U", ":"), "In a container, start that with --privileged"),
    ],
)
def test_where_namespaces_are_forbidden_it_says_what_allows_them(
    prison: tuple[str, str], way_out: str
) -> None:
    """One message, exit status 1, no run left behind."""
    flags, forbid = prison
    script = f'{forbid}; exec "$@"'
    done = subprocess.run(
        ["unshare", flags, "sh", "-c", script, "sh", *COMMAND],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1, done.stderr
    assert "this system does not allow that" in done.stderr
    assert way_out in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(homes.ALL.glob("probe-*"))


@pytest.mark.rehearsal
def test_this_system_can_boot_machines(tmp_path: Path) -> None:
    """The look at the system boots a machine as the keeper does, and clears up."""
    preconditions.check(tmp_path)

    assert list(tmp_path.iterdir()) == []


def clone_with_setup(folder: Path, script: str) -> Path:
    """A clone whose set-up does this; returns its scripts/rehearse."""
    scripts = folder / "scripts"
    scripts.mkdir()
    shutil.copy(ROOT / "scripts" / "rehearse", scripts)
    (scripts / "setup").write_text(f"#!/usr/bin/env bash\n{script}\n")
    (scripts / "setup").chmod(0o755)
    return scripts / "rehearse"


def test_what_the_set_up_lacks_ends_the_command(tmp_path: Path) -> None:
    """Its message is the only one, its status the command's."""
    command = clone_with_setup(tmp_path, "echo 'setup: no Pulumi engine' >&2; exit 7")
    done = subprocess.run([command], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (7, "setup: no Pulumi engine\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_ends_its_set_up_too(tmp_path: Path, number: signal.Signals) -> None:
    """The set-up hears of it, clears up and says so; the status is the signal's, as later on."""
    script = "trap 'echo cleared >&2; exit 143' TERM; touch begun; while :; do sleep 0.1; done"
    command = clone_with_setup(tmp_path, script)
    with subprocess.Popen([command], stderr=subprocess.PIPE, text=True) as process:
        wait_until((tmp_path / "begun").exists)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)

    assert said == "cleared\n"
    assert process.returncode == 128 + number
    assert not processes(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "Nothing half-made is left."),
        ("--down", "still up. Go on with: ./scripts/rehearse --down"),
        ("--down --stack dev", "still up. Go on with: ./scripts/rehearse --down --stack dev"),
    ],
)
def test_an_interrupted_command_says_what_is_left(words: str, said: str) -> None:
    """Of a rehearsal nothing; a destroy that was broken off goes on with the next one."""
    script = (
        "import os, signal; from rehearsal import rehearse\n"
        "rehearse.rehearse = rehearse.take_down = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "raise SystemExit(rehearse.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words.split()], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == 130
    assert done.stderr.endswith(f"{said}\n")


# --- folders and locks ----------------------------------------------------------------------------


def test_a_run_leaves_no_folder(elsewhere: Path) -> None:
    """Also when it fails."""

    def interrupted() -> None:
        with homes.one_run() as home:
            home.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((elsewhere / "runs").iterdir()) == []


def test_what_a_killed_run_left_goes_at_the_next_start(elsewhere: Path) -> None:
    """A run that is still at work keeps its folder."""
    (elsewhere / "runs" / "killed" / "world").mkdir(parents=True)
    (elsewhere / "runs" / "killed.lock").touch()
    with homes.one_run() as mine:
        mine.mkdir()
        with homes.one_run():
            assert mine.exists()
            assert not (elsewhere / "runs" / "killed").exists()


def test_two_commands_on_what_is_kept_do_not_meet(elsewhere: Path) -> None:
    """The second one says so and ends."""
    with (
        homes.kept(),
        pytest.raises(RehearsalError, match="is at work in this clone"),
        homes.kept(),
    ):
        pass


@pytest.mark.usefixtures("elsewhere")
def test_taking_down_nothing_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says that nothing is up; a stack by name is an error that says what is up."""
    monkeypatch.setattr(sys, "argv", ["rehearse", "--down"])
    assert rehearse.take_down(Progress(), rehearse.arguments()) == 0
    assert "Nothing is up." in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", ["rehearse", "--down", "--stack", "dev"])
    with pytest.raises(RehearsalError, match="--stack dev: not up; up are: none"):
        rehearse.take_down(Progress(), rehearse.arguments())


@pytest.mark.parametrize("place", ["timeline.jsonl", "machines/vm/timeline.jsonl"])
def test_a_report_tells_what_happened_since_its_rehearsal_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A second kept stack shares clouds and machines with the first one, not their history."""
    session = Session(tmp_path)
    file = session.world / place
    file.parent.mkdir(parents=True, exist_ok=True)
    with timeline.span(file, "of the first stack"):
        pass

    def stages(*_: object) -> None:
        with timeline.span(file, "of this one"):
            pass

    monkeypatch.setattr(rehearse, "_stages", stages)
    monkeypatch.setattr(sys, "argv", ["rehearse"])
    result = rehearse._rehearse(session, "dev", rehearse.arguments())  # pyright: ignore[reportPrivateUsage] - without its stages

    assert [event.name for event in result.timeline] == ["of this one"]


# --- progress -------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_what_is_being_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A live line with step, seconds and detail, never longer than the terminal is wide."""
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    progress = Progress(out)
    with progress.step("pulumi up"):
        progress.detail("51 done; HTTP 502: " + "x" * 80)
        wait_until(lambda: "HTTP 502" in out.getvalue())

    live = [line for line in out.getvalue().split("\r\x1b[2K") if "HTTP 502" in line]
    assert live[0].startswith("  ...    pulumi up, 0 s: 51 done; HTTP 502")
    assert max(map(len, live)) < 60
    assert "  done   pulumi up" in out.getvalue()


def test_a_log_file_gets_lines_and_no_escape_codes() -> None:
    """One line when the step is done."""
    out = io.StringIO()
    with Progress(out).step("pulumi up"):
        pass

    assert out.getvalue().startswith("  done   pulumi up")
    assert "\x1b" not in out.getvalue()


# --- whole runs -----------------------------------------------------------------------------------


@NEEDS_ENGINE
@pytest.mark.rehearsal
def test_a_rehearsal_of_dev_passes_and_reports(tmp_path: Path) -> None:
    """`./scripts/rehearse --json r.json` ends with 0; the report says why."""
    done = subprocess.run(
        [ROOT / "scripts" / "rehearse", "--json", tmp_path / "r.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["ok"] is True
    assert (report["stack"], report["platform"]) == ("dev", "vm")
    assert report["second_up_changes"] == 0
    assert report["leftovers"] == []
    assert report["resources"] > 40
    assert all(report["seconds"].values())
    assert all(check["ok"] for check in report["checks"])
    assert {"pulumi up", "VM boot", "pulumi destroy"} <= {it["name"] for it in report["timeline"]}
    assert "passed" in done.stdout


@NEEDS_ENGINE
@pytest.mark.rehearsal
def test_a_disk_that_fills_up_on_the_way_is_named() -> None:
    """The run stops, says what to do, and leaves no folder."""
    script = (
        f"mount -t tmpfs -o size={LOW_DISK_MIB}m tmpfs .rehearsal; "
        f"{sys.executable} -c 'from rehearsal import preconditions, rehearse; "
        "preconditions.DISK_GIB = 0; raise SystemExit(rehearse.main())'; echo status $?; "
        "ls .rehearsal/runs"
    )
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert "The disk is full: make room" in done.stdout
    assert done.stdout.endswith("status 1\n")
    assert "Traceback" not in done.stdout + done.stderr


@NEEDS_ENGINE
@pytest.mark.rehearsal
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_rehearsal_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C, or worse, while `up` runs: no process stays, and no folder after the next start."""
    out = tmp_path / "out"
    with out.open("w") as file:
        process = subprocess.Popen(
            [ROOT / "scripts" / "rehearse"], cwd=ROOT, stdout=file, stderr=file
        )
    home = homes.RUNS

    def starting() -> bool:
        return any(it.match("*.events") for it in home.glob(f"*-{process.pid}/logs/*"))

    wait_until(starting, seconds=60)
    (home,) = homes.RUNS.glob(f"*-{process.pid}")
    process.send_signal(number)
    process.wait(timeout=60)

    wait_until(lambda: not processes(home))
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert out.read_text().endswith("Nothing half-made is left.\n")
        assert "Traceback" not in out.read_text()
    else:
        with homes.one_run():
            pass
    assert not home.exists()
