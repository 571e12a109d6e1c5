"""Setting up on a machine that lacks something, and the `pulumi` of a rehearsal."""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from tests.processes import alive, wait_until
from tests.project import Project

ROOT = Path(__file__).parents[1]
TOOLS = (
    *("awk", "bash", "cat", "chmod", "cut", "dirname", "env", "flock", "grep", "head", "install"),
    *("mkdir", "mktemp", "mv", "readlink", "rm", "sha256sum", "sleep", "sort", "tail", "timeout"),
    *("touch", "uname"),
)


@dataclass
class Checkout:
    """A clone of the project on a machine that has the usual tools and nothing else."""

    folder: Path
    bin: Path
    cache: Path

    def command(self, name: str, script: str) -> None:
        """Put a command on the machine."""
        path = self.bin / name
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def start(self) -> subprocess.Popen[str]:
        """Start scripts/setup."""
        return subprocess.Popen(
            [str(self.folder / "scripts" / "setup")],
            env={"PATH": str(self.bin), "XDG_CACHE_HOME": str(self.cache), "HOME": str(self.cache)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def set_up(self) -> tuple[int, str, str]:
        """Run scripts/setup; status, output, messages."""
        process = self.start()
        output, messages = process.communicate(timeout=60)
        return process.returncode, output, messages

    def leftovers(self) -> list[str]:
        """What a failed run left in the cache, but for its lock."""
        return [path.name for path in self.cache.rglob("*") if path.name not in KEPT]


KEPT = {"llm-endpoint", "engine", "lock"}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path / "clone", tmp_path / "bin", tmp_path / "cache")
    for name in ("scripts/setup", "requirements-dev.txt"):
        (made.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, made.folder / name)
    shutil.copytree(ROOT / "rehearsal" / "engine", made.folder / "rehearsal" / "engine")
    made.bin.mkdir()
    made.cache.mkdir()
    for tool in TOOLS:
        (made.bin / tool).symlink_to(shutil.which(tool) or pytest.fail(f"{tool} is missing here"))
    return made


@pytest.fixture
def with_venv(checkout: Checkout) -> Checkout:
    """The clone, its virtual environment made already; there is no way to the download."""
    python = checkout.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{shutil.which('bash')}\necho no route to host >&2\nexit 1\n")
    python.chmod(0o755)
    digest = sha256((checkout.folder / "requirements-dev.txt").read_bytes()).hexdigest()
    (python.parents[1] / "locked").write_text(f"{digest}  - {checkout.folder}\n")
    return checkout


def engine(checkout: Checkout, version: str) -> None:
    """Put a Pulumi engine on the machine."""
    checkout.command("pulumi", f"echo {version}")
    checkout.command("pulumi-language-python", "")


def test_without_python_it_says_what_to_install(checkout: Checkout) -> None:
    """No Python: one message, the way out, nothing left behind."""
    status, _, messages = checkout.set_up()

    assert status == 1
    assert "no Python 3.11 or newer" in messages
    assert "next: install one" in messages
    assert checkout.leftovers() == []
    assert not (checkout.folder / ".venv").exists()


def test_a_python_that_is_too_old_is_not_taken(checkout: Checkout) -> None:
    """An old python3 counts as none."""
    checkout.command("python3", "exit 1")

    assert "no Python 3.11 or newer" in checkout.set_up()[2]


def test_without_any_way_to_an_engine_it_says_so(with_venv: Checkout) -> None:
    """No pulumi, no download, no Go: one message that names all three."""
    status, output, messages = with_venv.set_up()

    assert (status, output) == (1, "")
    assert "none on the PATH (>= 3.210), no way to the download, no Go to build one" in messages
    assert "next: install Pulumi" in messages
    assert with_venv.leftovers() == []


def test_what_is_done_is_not_done_again(with_venv: Checkout) -> None:
    """With everything in place it prints where the engine is, and nothing else."""
    engine(with_venv, "v3.272.0")

    assert with_venv.set_up() == (0, f"{with_venv.bin}\n", "")


def test_an_engine_that_is_too_old_is_not_taken(with_venv: Checkout) -> None:
    """An old pulumi on the PATH is passed over."""
    engine(with_venv, "v3.99.0")

    assert "no Pulumi engine: none on the PATH" in with_venv.set_up()[2]


def test_a_full_disk_is_named(with_venv: Checkout) -> None:
    """When the build says that the disk is full, so does the set-up."""
    with_venv.command("go", "echo 'write: no space left on device' >&2; exit 1")
    status, _, messages = with_venv.set_up()

    assert status == 1
    assert "the disk is full" in messages
    assert "next: make room" in messages
    assert with_venv.leftovers() == []


def test_a_built_engine_is_kept_for_every_clone(with_venv: Checkout) -> None:
    """What Go built lands in the user's cache, whole, and the next run finds it."""
    executor = with_venv.folder / "python" / "cmd" / "pulumi-language-python-exec"
    executor.parent.mkdir(parents=True)
    executor.touch()
    with_venv.command(
        "go",
        f"""
        [[ $3 == build ]] || {{ echo {with_venv.folder}; exit; }}
        mkdir -p "$8"
        printf '#!%s\\necho v3.259.0\\n' {shutil.which("bash")} >"$8/${{9##*/}}"
        [[ $9 == */pulumi-language-python || $9 == */pulumi ]] && chmod 755 "$8/${{9##*/}}"
        """,
    )
    first = with_venv.set_up()
    second = with_venv.set_up()

    assert first[0] == 0, first[2]
    assert second == (0, first[1], "")
    assert Path(first[1].strip()).parents[1] == with_venv.cache / "llm-endpoint" / "engine"
    assert sorted(path.name for path in Path(first[1].strip()).iterdir()) == [
        "pulumi",
        "pulumi-language-python",
        "pulumi-language-python-exec",
    ]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing_behind(
    with_venv: Checkout, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """Ctrl-C during the build ends the compilers and removes what was half-made."""
    started = tmp_path / "started"
    with_venv.command("go", f"sleep 60 & echo $! >{started}.new; mv {started}.new {started}; wait")
    process = with_venv.start()
    wait_until(started.exists)
    process.send_signal(number)
    _, messages = process.communicate(timeout=30)

    assert process.returncode == status
    assert "interrupted; nothing half-made is left" in messages
    assert with_venv.leftovers() == []
    wait_until(lambda: not alive(int(started.read_text())))


def test_two_at_once_wait_for_each_other(with_venv: Checkout, tmp_path: Path) -> None:
    """A second set-up on the same machine waits, and says so."""
    started = tmp_path / "started"
    with_venv.command("go", f"touch {started}; sleep 60")
    first = with_venv.start()
    wait_until(started.exists)
    second = with_venv.start()
    assert second.stderr is not None
    said = second.stderr.readline()
    for process in (second, first):
        process.terminate()
        process.communicate(timeout=30)

    assert "another set-up is at work" in said


# --- the pulumi of a rehearsal --------------------------------------------------------------------


COMMITTED = "config:\n  a-project:key: committed\n"


class Rehearsal(Project):
    """A shell with the rehearsal's exports, in a project of two lines."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "rehearsal"
        super().__init__(
            folder,
            "a-project",
            ROOT / "rehearsal" / "bin",
            LLM_ENDPOINT_REHEARSAL=str(self.home),
        )
        (self.folder / "Pulumi.dev.yaml").write_text(COMMITTED)

    def stack_file(self, stack: str) -> Path:
        """Where the rehearsal keeps a stack's configuration."""
        return self.home / "stacks" / "a-project" / f"Pulumi.{stack}.yaml"


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    made = Rehearsal(tmp_path)
    made.pulumi("stack", "init", "dev")
    return made


@pytest.mark.rehearsal
def test_the_committed_stack_file_is_never_touched(rehearsal: Rehearsal) -> None:
    """Salt, secrets and changed keys of a rehearsal land in the rehearsal's own file."""
    rehearsal.pulumi("config", "set", "key", "a value with 'quotes' and $signs")
    rehearsal.pulumi("config", "set", "--secret", "token", "s3cret")
    rehearsal.pulumi("up", "--yes", "--skip-preview")
    kept = rehearsal.stack_file("dev").read_text()

    assert rehearsal.pulumi("config", "get", "key").strip() == "a value with 'quotes' and $signs"
    assert (
        rehearsal.pulumi("-C", ".", "config", "get", "--stack", "dev", "token").strip() == "s3cret"
    )
    assert "encryptionsalt" in kept
    assert "s3cret" not in kept
    assert (rehearsal.folder / "Pulumi.dev.yaml").read_text() == COMMITTED


@pytest.mark.rehearsal
def test_removing_the_stack_keeps_the_committed_file(rehearsal: Rehearsal) -> None:
    """`destroy --remove` and `stack rm` remove the rehearsal's file only."""
    rehearsal.pulumi("stack", "init", "other")
    rehearsal.pulumi("stack", "rm", "--yes", "other")
    rehearsal.pulumi("destroy", "--yes", "--remove", "--stack", "dev")

    assert not rehearsal.stack_file("dev").exists()
    assert (rehearsal.folder / "Pulumi.dev.yaml").read_text() == COMMITTED
    assert "dev" not in rehearsal.pulumi("stack", "ls")


def test_outside_a_rehearsal_the_wrapper_says_what_to_do() -> None:
    """Without the exports it names the command that prints them."""
    done = subprocess.run(
        [str(ROOT / "rehearsal" / "bin" / "pulumi"), "up"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )

    assert done.returncode != 0
    assert "./scripts/rehearse --keep" in done.stderr
