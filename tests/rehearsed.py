"""A world with stacks in it, and what came of promises there."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import pytest

from rehearsal import checks
from rehearsal.session import Session


@contextmanager
def world_of(
    folders: pytest.TempPathFactory, speed: float, *stacks: str, up: bool = False
) -> Generator[Session]:
    """A world of its own in which committed stacks are made ready, or stand."""
    session = Session(folders.mktemp("rehearsal"))
    try:
        for stack in stacks:
            session.own(stack)
            session.start_daemon(speed, outlives_us=False)
            session.prepare_stack(stack)
            if up:
                session.must(session.pulumi("up", "--yes", "--skip-preview", stack=stack))
        yield session
    finally:
        session.discard()


def broken(outcomes: Iterable[checks.Outcome]) -> list[str]:
    """The promises that were not kept, and what was seen instead."""
    seen = list(outcomes)
    assert seen
    return [f"{name}: {detail}" for name, ok, detail in seen if not ok]


def held(outcomes: Iterable[checks.Outcome]) -> None:
    """Every outcome is a promise kept."""
    assert broken(outcomes) == []
