"""A stack whose machines boot from an image of its own, from its making to its end."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from rehearsal import audit, checks
from rehearsal.faults import Faults
from rehearsal.google.boot_images import IMAGE
from rehearsal.google.metadata import INSTANCE
from rehearsal.google.single_instances import DISK
from rehearsal.session import Session
from tests.processes import wait_until
from tests.rehearsed import held, world_of

pytestmark = pytest.mark.rehearsal

SPEED = 600.0
STACK = "dev"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Generator[Session]:
    """A world of its own; the tests below run in their order."""
    with world_of(tmp_path_factory, SPEED, STACK) as session:
        yield session


def up(session: Session, **config: str) -> checks.Endpoint:
    """The stack after `pulumi up` with a changed configuration; it answers."""
    for key, value in config.items():
        session.must(session.pulumi("config", "set", key, value, stack=STACK))
    session.must(session.pulumi("up", "--yes", "--skip-preview", stack=STACK))
    endpoint = checks.Endpoint(session, STACK)
    held(checks.answers(endpoint))
    return endpoint


def rows(endpoint: checks.Endpoint, type: str) -> list[dict[str, Any]]:
    """What the clouds have of a type."""
    return [row["body"] for row in endpoint.console("GET") if row["type"] == type]


def console(session: Session, machine: str) -> str:
    """What the machine has said."""
    return Path(session.world, "machines", machine, "console.log").read_text()


def pulled(session: Session, machine: str) -> list[str]:
    """The images that the machine has pulled, by its own timeline."""
    return [line for line in timeline(session, machine).splitlines() if '"pull ' in line]


def timeline(session: Session, machine: str) -> str:
    """What its stand-ins took time for."""
    return Path(session.world, "machines", machine, "timeline.jsonl").read_text()


def test_a_machine_boots_with_nothing_to_fetch(session: Session) -> None:
    """A machine without a GPU has fetched it all; of that machine and its disk nothing is left."""
    prepared = {"bootImage": "prepared-with-weights", "compileCache": "bucket"}
    endpoint = up(session, model="Qwen/Qwen3-0.6B", **prepared)

    (image,) = rows(endpoint, IMAGE)
    (machine,) = rows(endpoint, INSTANCE)
    assert machine["image"].endswith(f"/images/{image['name']}")
    assert machine["gpu"]
    assert pulled(session, machine["name"]) == []
    assert "prepared disk:" not in console(session, machine["name"])
    assert rows(endpoint, DISK) == []
    (builder,) = (it for it in Path(session.world, "machines").iterdir() if "-builder-" in it.name)
    assert len(pulled(session, builder.name)) == 2

    held(checks.refusals(endpoint))


def test_a_second_up_changes_nothing(session: Session) -> None:
    """Nor does a refresh miss the machine that is gone."""
    for command in (("up", "--yes"), ("refresh", "--preview-only")):
        run = session.must(session.pulumi(*command, stack=STACK))
        assert run.changed == 0, run.stdout


def test_a_machine_after_a_preemption_neither_fetches_nor_compiles(session: Session) -> None:
    """The group makes it from the same image; what its engine compiled before it takes over."""
    endpoint = checks.Endpoint(session, STACK)
    (before,) = rows(endpoint, INSTANCE)
    booted = "startup-script exit status 0"
    seen = console(session, before["name"]).count(booted)
    Faults(Path(session.world, "faults")).set("preemption", 1)

    wait_until(lambda: console(session, before["name"]).count(booted) > seen, 90)

    assert pulled(session, before["name"]) == []
    wait_until(lambda: "torch.compile, cached" in timeline(session, before["name"]), 60)


def test_another_engine_version_makes_another_image(session: Session) -> None:
    """The new machine boots from it, and the old image is gone."""
    endpoint = checks.Endpoint(session, STACK)
    (before,) = rows(endpoint, IMAGE)

    endpoint = up(session, engineVersion="0.32.0")

    (image,) = rows(endpoint, IMAGE)
    (machine,) = rows(endpoint, INSTANCE)
    assert image["name"] != before["name"]
    assert machine["image"].endswith(f"/images/{image['name']}")
    assert pulled(session, machine["name"]) == []
    assert rows(endpoint, DISK) == []


def test_nothing_is_left_at_the_end(session: Session) -> None:
    """Neither image nor disk nor machine."""
    session.must(session.pulumi("destroy", "--yes", "--skip-preview", stack=STACK))

    assert audit.leftovers(session) == []
    assert not list(Path(session.world, "disks").iterdir())
