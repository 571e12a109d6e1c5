"""A check, what it can find, and running many of them side by side."""

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

T = TypeVar("T")

LIMIT_S = 25.0
"""Seconds until checks that have no answer yet are given up."""
UNEXPECTED = (LookupError, TypeError, ValueError, AttributeError)
"""What is raised where an answer is of another shape than its service documents."""


class Increase(NamedTuple):
    """More of a quota, as Google's Cloud Quotas API is asked for it."""

    service: str
    """compute.googleapis.com"""
    quota: str
    """NVIDIA-L4-GPUS-per-project-region"""
    dimensions: dict[str, str]
    """region, and for some gpu_family; empty where all regions count together."""
    value: int
    """The limit to ask for."""


class FailsError(Exception):
    """What is checked does not hold: what is the matter, and what to do about it."""

    def __init__(self, problem: str, next_step: str, increase: Increase | None = None) -> None:
        super().__init__(problem)
        self.next_step = next_step
        self.increase = increase


class UnknownError(Exception):
    """It cannot be told: because of what, and what to do about that.

    `reasons` are a service's short words for it, where it has some.
    """

    def __init__(self, because: str, next_step: str, reasons: frozenset[str] = frozenset()) -> None:
        super().__init__(because)
        self.next_step = next_step
        self.reasons = reasons


class Check(NamedTuple):
    """One question. The answer is a detail worth knowing; FailsError or UnknownError otherwise."""

    name: str
    run: Callable[[], str]


Verdict = Literal["ok", "fails", "cannot know"]


class Finding(NamedTuple):
    """What came of a check."""

    name: str
    verdict: Verdict
    detail: str
    next_step: str = ""
    increase: Increase | None = None


def look(check: Check) -> Finding:
    """Run one check. It never raises, and what it does not understand is never ok."""
    try:
        return Finding(check.name, "ok", check.run())
    except FailsError as error:
        return Finding(check.name, "fails", str(error), error.next_step, error.increase)
    except UnknownError as error:
        return Finding(check.name, "cannot know", str(error), error.next_step)
    except UNEXPECTED as error:
        because = f"the answer is not as it is documented ({type(error).__name__}: {error})"
        step = "is there a proxy on the way? If not, the service has changed: go on without"
        return Finding(check.name, "cannot know", because, step)
    except Exception as error:  # a file that the environment names is not there, and the like
        because = f"something is amiss on this machine ({type(error).__name__}: {error})"
        step = "look at the environment (REQUESTS_CA_BUNDLE, SSL_CERT_FILE, HTTPS_PROXY)"
        return Finding(check.name, "cannot know", because, step)


def sendable(token: str) -> bool:
    """Whether a token can stand in a header: of visible characters, as all that are given out."""
    return re.fullmatch("[!-~]+", token) is not None


def run(checks: Iterable[Check], limit_s: float = LIMIT_S) -> Iterator[Finding]:
    """All findings, as they come; every check has a thread of its own.

    Who has not answered within `limit_s` is not waited for.
    """
    waiting = {check.name: check for check in checks}
    found = queue.SimpleQueue[Finding]()

    def work(check: Check) -> None:
        found.put(look(check))

    for check in waiting.values():  # daemons: nobody waits for them at the end
        threading.Thread(target=work, args=(check,), daemon=True).start()
    deadline = time.monotonic() + limit_s
    while waiting:
        try:
            finding = found.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        del waiting[finding.name]
        yield finding
    for name in waiting:
        because = f"no answer came within {limit_s:g} seconds"
        yield Finding(name, "cannot know", because, "try again, or look at the network")


class Shared:
    """Answers that several checks look at, each asked for once, by whoever comes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._answers: dict[str, Callable[[], Any]] = {}

    def once(self, key: str, ask: Callable[[], T]) -> T:
        """The answer, or the exception, of the first `ask` with this key."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._answers:
                self._answers[key] = _outcome(ask)
        return self._answers[key]()


def _outcome(ask: Callable[[], T]) -> Callable[[], T]:
    """What gives the answer again, or raises again."""
    try:
        answer = ask()
    except Exception as error:  # whoever looks at it raises it
        raised = error

        def fail() -> T:
            raise raised

        return fail
    return lambda: answer
