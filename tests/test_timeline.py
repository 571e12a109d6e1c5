"""`./scripts/timeline`: where the time of a boot went, and of the `up` before it."""

import json
import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rehearsal.google.instances import GROUP, timestamp
from rehearsal.google.metadata import INSTANCE
from rehearsal.google.project import SERVICE
from scripts import spans, timeline_drawing
from scripts.boot_phases import parse
from scripts.spans import CREATION, Span
from tests.clouds import PROJECT, REGION, Clouds, clouds

ROOT = Path(__file__).parents[1]
BEGAN = datetime(2026, 11, 25, 8, 0, tzinfo=UTC).timestamp()
ID = f"projects/{PROJECT}/regions/{REGION}/instanceGroupManagers/llm-dev-group-1"
REPORT = f"""\
boot {BEGAN + 80} 60.0 ok
prepare {BEGAN + 140} 1.0 ok
tunnel-image {BEGAN + 141} 15.0 ok
engine-image {BEGAN + 141} 200.0 ok
engine-start {BEGAN + 341} 0.3 ok
prune {BEGAN + 341.3} 4.0 ok
engine-init {BEGAN + 341.3} 25.0 ok
engine-load {BEGAN + 366.3} 10.0 ok
engine-ready {BEGAN + 376.3} 1.0 ok
"""


def resource(name: str, type: str, at: float, *after: str, **more: Any) -> dict[str, Any]:
    """As `pulumi stack export` has one; `at` is when it was done, in seconds."""
    done = datetime.fromtimestamp(BEGAN + at, UTC).isoformat().replace("+00:00", "Z")
    return {
        "urn": f"urn:pulumi:dev::llm-endpoint::{type}::llm-dev-{name}",
        "type": type,
        "custom": not type.startswith("llm-endpoint:"),
        "created": done,
        "modified": done,
        "dependencies": [f"urn:pulumi:dev::llm-endpoint::{it}" for it in after],
        **more,
    }


def state(answered: float = 380) -> list[dict[str, Any]]:
    """A stack of which everything was made in one `up`."""
    network = "gcp:compute/network:Network"
    template = "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"
    return [
        {**resource("dev", "pulumi:pulumi:Stack", 0), "custom": False},
        resource("network", "llm-endpoint:index:PrivateNetwork", 0),
        resource("compute", "gcp:projects/service:Service", 8.5),
        resource("dns", "cloudflare:index/dnsRecord:DnsRecord", 3),
        resource("vpc", network, 19.5, "gcp:projects/service:Service::llm-dev-compute"),
        resource("template", template, 30.5, f"{network}::llm-dev-vpc"),
        resource("group", spans.GROUP_TYPE, 60, f"{template}::llm-dev-template", id=ID),
        resource("answer", "command:local:Command", answered),
    ]


def test_the_way_to_the_answer_is_one_chain() -> None:
    """From the first resource over the machine's boot to the answer; the rest goes on beside it.

    The machine's creation began while Pulumi still polled the group's.
    """
    before = spans.creation(state(), "dev", BEGAN + 50)
    booted = spans.boot(BEGAN + 50, parse(REPORT), before)
    found = [*before, *booted, *spans.answer(state(), booted, "dev")]

    assert [it.name.split(":")[0].split(" ")[0] for it in spans.critical(found)] == [
        *("compute", "vpc", "template", "machine", "boot", "prepare", "engine-image"),
        *("engine-start", "engine-init", "engine-load", "engine-ready", "answer"),
    ]


def test_a_resource_takes_the_time_since_the_last_it_waited_for() -> None:
    """Pulumi notes ends only."""
    found = {it.name: it.seconds for it in spans.creation(state(), "dev", BEGAN + 50)}

    assert found["compute (API switched on)"] == pytest.approx(8.5)
    assert found["vpc (network)"] == pytest.approx(11)
    assert not any("private network" in it for it in found), "a component is no work"


def test_a_machine_made_again_later_is_no_part_of_an_up() -> None:
    """After a preemption the story is its boot alone, however soon that was."""
    assert spans.creation(state(), "dev", BEGAN + 86400) == []
    assert spans.creation(state(answered=380), "dev", BEGAN + 400) == []
    booted = spans.boot(BEGAN + 86400, parse(REPORT))
    assert spans.answer(state(answered=-4000), booted, "dev") == []


def at(seconds: float) -> str:
    """A time as `pulumi stack history` has it."""
    return datetime.fromtimestamp(BEGAN + seconds, UTC).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    "history",
    [
        [{"startTime": at(25), "endTime": at(400)}, {"startTime": at(-9), "endTime": at(20)}],
        [{"startTime": at(-9), "endTime": at(20)}],
        [
            {"startTime": at(900), "endTime": at(905)},
            {"startTime": at(25), "endTime": at(400)},
        ],
    ],
    ids=["over", "under way", "another since"],
)
def test_what_an_earlier_up_made_is_no_part_of_a_later_one(history: list[dict[str, str]]) -> None:
    """Else the time between them would seem to have been spent on whatever came first."""
    found = spans.creation(state(), "dev", BEGAN + 50, history)

    assert [it.name.partition(" ")[0] for it in found] == ["template", "group"]
    assert sum(it.seconds for it in found) == pytest.approx(60 - 30.5)


def test_small_things_share_a_row() -> None:
    """Dozens of resources that nothing waits for are one; what is waited for is always there."""
    long = Span("long", CREATION, 0, 100)
    short = [Span(f"s{n}", CREATION, n, n + 0.1) for n in range(30)]
    tiny = Span("tiny but waited for", CREATION, 100, 100.1)

    drawn = timeline_drawing.rows([long, *short, tiny], [long, tiny])

    assert [row.name for row in drawn] == ["long", "tiny but waited for", "beside them, 30 more"]


@pytest.fixture(name="cloud")
def _cloud(tmp_path: Path) -> Iterator[Clouds]:
    """A stack whose group has a machine, and a `pulumi` that exports it."""
    with clouds(tmp_path) as cloud:
        cloud.store.put(SERVICE, f"{PROJECT}/compute.googleapis.com", {"project": PROJECT})
        group = {"name": "llm-dev-group-1", "project": PROJECT, "region": REGION}
        cloud.store.put(GROUP, ID, group)
        row = cloud.store.get(INSTANCE, "stager") or {}
        row |= {"name": "llm-dev-k3x9", "group": ID, "template": "projects/t", "status": "RUNNING"}
        row |= {"health": "HEALTHY", "creationTimestamp": timestamp(BEGAN + 50), "labels": {}}
        row |= {"guestAttributes": {"llm-endpoint/phases": REPORT}}
        place = f"projects/{PROJECT}/zones/{REGION}-a/instances/llm-dev-k3x9"
        cloud.store.put(INSTANCE, place, row)
        (tmp_path / "state.json").write_text(json.dumps({"deployment": {"resources": state()}}))
        pulumi = tmp_path / "bin" / "pulumi"
        pulumi.parent.mkdir()
        (tmp_path / "history.json").write_text("[]")
        pulumi.write_text(
            f"#!/bin/sh\ncd '{tmp_path}'\n"
            "case $2 in history) cat history.json ;; export) cat state.json ;; *) exit 1 ;; esac\n"
        )
        pulumi.chmod(0o755)
        yield cloud


def drawn(cloud: Clouds, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    path = os.pathsep.join([str(cloud.world.directory / "bin"), os.environ["PATH"]])
    return subprocess.run(
        [ROOT / "scripts" / "timeline", *arguments],
        env=cloud.environment | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_last_boot_is_drawn(cloud: Clouds, tmp_path: Path) -> None:
    """In the terminal and as a picture, in light and dark, with the critical path marked."""
    picture = tmp_path / "timeline.svg"
    run = drawn(cloud, "--stack", "dev", "--svg", str(picture))

    assert run.returncode == 0, run.stderr
    assert "From pulumi up to the first answer: stack dev, llm-dev-k3x9 in us-central1-a" in (
        run.stdout
    )
    line = next(it for it in run.stdout.splitlines() if "pulls the engine's image" in it)
    assert "3.3 min" in line
    assert "█" in line
    assert "░" in next(it for it in run.stdout.splitlines() if "cloudflared's image" in it)
    assert "Critical path: " in run.stdout
    assert max(map(len, run.stdout.splitlines()[:-1])) <= timeline_drawing.COLUMNS
    drawing = picture.read_text()
    ET.fromstring(drawing)  # noqa: S314 (our own)
    assert "prefers-color-scheme: dark" in drawing
    assert "pulls the engine&#x27;s image" in drawing


def test_a_boot_that_goes_on_says_where_it_is(cloud: Clouds) -> None:
    """The picture ends with what is done; the title says what comes."""
    place = f"projects/{PROJECT}/zones/{REGION}-a/instances/llm-dev-k3x9"
    row = cloud.store.get(INSTANCE, place) or {}
    report = "\n".join([*REPORT.splitlines()[:-2], f"engine-load {BEGAN + 366.3} - running"])
    row["guestAttributes"] = {"llm-endpoint/phases": report}
    cloud.store.put(INSTANCE, place, row)

    title = drawn(cloud, "--stack", "dev").stdout.partition("\n")[0]

    assert title.endswith("llm-dev-k3x9 in us-central1-a, which loads the weights just now")


def test_a_resource_is_named_in_words() -> None:
    """By its short name, and what it is."""
    binding = "gcp:storage/bucketIAMMember:BucketIAMMember"
    check = "gcp:compute/healthCheck:HealthCheck"
    made = [resource("weights-1-objectUser", binding, 5), resource("health", check, 6)]

    names = {it.name for it in spans.creation([*state(), *made], "dev", BEGAN + 50)}

    assert {
        "weights-1-objectUser (role granted)",
        "health (health check)",
        "group (machine group)",
    } <= names


def test_it_is_told_to_machines_too(cloud: Clouds) -> None:
    """Every span with its part, start, length, and whether it was waited for."""
    told = json.loads(drawn(cloud, "--json").stdout)

    assert told["seconds"] == pytest.approx(380)
    pulled = next(it for it in told["spans"] if it["name"].startswith("engine-image"))
    assert pulled == {
        "name": "engine-image: pulls the engine's image",
        "part": "the machine",
        "start": 141.0,
        "seconds": 200.0,
        "critical": True,
    }


def test_nothing_to_draw_is_explained(cloud: Clouds) -> None:
    """Without a machine, a report or credentials it says what to do, and is no traceback."""
    place = f"projects/{PROJECT}/zones/{REGION}-a/instances/llm-dev-k3x9"
    row = cloud.store.get(INSTANCE, place) or {}
    cloud.store.put(INSTANCE, place, row | {"guestAttributes": {}})
    unreported = drawn(cloud)
    cloud.store.delete(INSTANCE, place)
    without_machine = drawn(cloud)
    cloud.environment["GOOGLE_APPLICATION_CREDENTIALS"] = "/nowhere"
    without_credentials = drawn(cloud)

    assert "has reported nothing of its boot" in unreported.stderr
    assert "list-errors llm-dev-group-1" in without_machine.stderr
    assert "gcloud auth application-default login" in without_credentials.stderr
    for run in (unreported, without_machine, without_credentials):
        assert run.returncode == 1
        assert "Traceback" not in run.stderr
