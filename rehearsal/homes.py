"""Where rehearsals live in this clone: a folder a run, one for what is kept, the last logs."""

import fcntl
import shutil
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from rehearsal.errors import RehearsalError
from rehearsal.session import ROOT, Session

ALL = ROOT / ".rehearsal"
KEPT = ALL / "kept"
RUNS = ALL / "runs"
LAST = ALL / "last"


@contextmanager
def one_run() -> Generator[Path]:
    """A folder for one rehearsal, removed afterwards; also removes those of killed ones."""
    home = RUNS / f"{time.time_ns() // 10**6}-{threading.get_native_id()}"
    with _locked(ALL / "runs.lock", wait=True):
        RUNS.mkdir(parents=True, exist_ok=True)
        _remove_stale()
        lock = home.with_suffix(".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
        home.with_suffix(".lock").unlink(missing_ok=True)
        lock.close()


@contextmanager
def kept() -> Generator[Path]:
    """The folder of what --keep leaves up. RehearsalError when another command is at work on it."""
    with _locked(ALL / "kept.lock", wait=False):
        yield KEPT


def keep_logs(session: Session) -> None:
    """The logs of the last rehearsal outlive it, if the disk has room, for whoever wants them."""
    with suppress(OSError), _locked(ALL / "runs.lock", wait=True):
        shutil.rmtree(LAST, ignore_errors=True)
        for path in (session.logs, session.world / "machines"):
            if path.exists():
                ignored = shutil.ignore_patterns("disk", "python", "*.sock")
                shutil.copytree(path, LAST / path.name, ignore=ignored, symlinks=True)
        for name in ("daemon.log", "timeline.jsonl"):
            if (session.world / name).exists():
                shutil.copy(session.world / name, LAST / name)


def _remove_stale() -> None:
    """A lock ends with the process that holds it, whatever ends that process."""
    for path in RUNS.glob("*.lock"):
        with path.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            Session(path.with_suffix("")).discard()
            path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, *, wait: bool) -> Generator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise RehearsalError(
                "Another ./scripts/rehearse --keep or --down is at work in this clone: "
                "wait until it is done, then run this again."
            ) from None
        yield
