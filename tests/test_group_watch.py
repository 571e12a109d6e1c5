"""What `pulumi up` says of the machines while it waits, over Google's REST API."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rehearsal.google.instance_groups import ERROR
from rehearsal.google.instances import GROUP, timestamp
from rehearsal.google.metadata import INSTANCE
from rehearsal.google.project import SERVICE
from scripts.google_api import GoogleError, session
from scripts.group_watch import Failure, GroupWatch, Narrator, hopeless, remedy
from scripts.machine_group import MachineGroup
from tests.clouds import PROJECT, REGION, Clouds, clouds

NAME = "llm-dev-group-1a2b3c4"
ID = f"projects/{PROJECT}/regions/{REGION}/instanceGroupManagers/{NAME}"
TEMPLATE = f"projects/{PROJECT}/regions/{REGION}/instanceTemplates/new"
ZONES = [f"{REGION}-{letter}" for letter in "abc"]
NO_STOCK = (
    "ZONE_RESOURCE_POOL_EXHAUSTED",
    "The zone does not have enough resources available to fulfill the request.",
)
NO_QUOTA = (
    "QUOTA_EXCEEDED",
    "Quota 'PREEMPTIBLE_NVIDIA_L4_GPUS' exceeded.  Limit: 0.0 in region us-central1.",
)


@pytest.fixture(name="cloud")
def _cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clouds]:
    """A project with a group that has no machine; this process calls Google there."""
    with clouds(tmp_path) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        cloud.store.put(SERVICE, f"{PROJECT}/compute.googleapis.com", {"project": PROJECT})
        group = {
            "name": NAME,
            "project": PROJECT,
            "region": REGION,
            "targetSize": 1,
            "baseInstanceName": "llm-dev",
            "distributionPolicyZones": ZONES,
            "versions": [{"instanceTemplate": TEMPLATE}],
        }
        cloud.store.put(GROUP, ID, group)
        yield cloud


def watching(cloud: Clouds) -> tuple[GroupWatch, list[str]]:
    """Who looks, and what was told."""
    told: list[str] = []
    group = MachineGroup(session(retries=0), PROJECT, REGION, NAME)
    return GroupWatch(group, told.extend), told


def fail(cloud: Clouds, zone: str, error: tuple[str, str], **changes: Any) -> None:
    """The group could not create a machine."""
    code, message = error
    row = {"code": code, "message": message, "group": ID, "zone": zone, "template": TEMPLATE}
    place = f"projects/{PROJECT}/zones/{zone}/instances/llm-dev-x"
    row |= {"instance": place, "timestamp": timestamp(time.time())}
    cloud.store.put(ERROR, f"{ID}/errors/{zone}", row | changes)


def machine(cloud: Clouds, status: str, phases: str = "", template: str = TEMPLATE) -> None:
    """The group has one."""
    row = cloud.store.get(INSTANCE, "stager") or {}
    row |= {"name": "llm-dev-k3x9", "zone": ZONES[0], "group": ID, "template": template}
    row |= {"status": status, "health": "UNKNOWN"}
    row["guestAttributes"] = {"llm-endpoint/phases": phases} if phases else {}
    id = f"projects/{PROJECT}/zones/{ZONES[0]}/instances/{row['name']}-{template[-3:]}"
    cloud.store.put(INSTANCE, id, row)


@pytest.mark.parametrize(
    ("status", "phases", "words"),
    [
        ("PROVISIONING", "", "is being created"),
        ("RUNNING", "", "boots"),
        ("RUNNING", "boot 1.0 60.0 ok\nprepare 61.0 - running", "reads what it is to be"),
        (
            "RUNNING",
            "boot 1.0 9.0 ok\nengine-image 12.0 - running\nweights 12.1 - running\ngpu 12 1 ok",
            "pulls the engine's image, copies the weights",
        ),
        ("RUNNING", "boot 1.0 9.0 ok\nengine-load 300.0 - running", "loads the weights"),
        (
            "RUNNING",
            "engine-image 12.0 3.0 failed\nprune 99.0 1.0 failed",
            "cannot go on: it failed at: pulls the engine's image",
        ),
        ("RUNNING", "engine-ready 400.0 2.0 ok\nprune 99.0 - running", "the engine answers"),
        ("STOPPING", "", "is stopping"),
    ],
)
def test_a_machine_tells_how_far_it_is(cloud: Clouds, status: str, phases: str, words: str) -> None:
    """Where it is, and what it is at, in words for people."""
    watch, told = watching(cloud)
    machine(cloud, status, phases)

    watch.look()

    assert watch.seen.startswith("llm-dev-k3x9")
    assert f"({ZONES[0]})" in watch.seen
    assert words in watch.seen
    assert told == []


def test_a_machine_of_the_revision_before_is_not_meant(cloud: Clouds) -> None:
    """It boots no more; what is waited for is one of the new template."""
    watch, _ = watching(cloud)
    machine(cloud, "RUNNING", "engine-ready 1.0 1.0 ok", template=TEMPLATE.replace("new", "old"))

    watch.look()

    assert watch.seen == "the group has no machine yet"


def test_a_stockout_is_told_with_zones_and_remedy(cloud: Clouds) -> None:
    """Once, and again when there are more zones without stock; the group goes on trying."""
    watch, told = watching(cloud)
    fail(cloud, ZONES[0], NO_STOCK)
    watch.look()
    watch.look()
    first = list(told)
    fail(cloud, ZONES[1], NO_STOCK)
    watch.look()

    assert first[0] == f"no machine in {ZONES[0]}: ZONE_RESOURCE_POOL_EXHAUSTED"
    assert "does not have enough resources" in first[1]
    assert "llm-endpoint:zones" in first[2]
    assert len(first) == 3
    assert told[3] == f"no machine in {ZONES[0]}, {ZONES[1]}: ZONE_RESOURCE_POOL_EXHAUSTED"
    assert not watch.hopeless


def test_without_any_quota_it_does_not_wait(cloud: Clouds) -> None:
    """A quota of 0 does not change by itself; one that is used up may."""
    watch, told = watching(cloud)
    fail(cloud, ZONES[0], NO_QUOTA)
    watch.look()

    assert watch.hopeless
    assert "iam-admin/quotas" in told[-1]
    used_up = Failure(ZONES[0], "QUOTA_EXCEEDED", "Limit: 1.0", "", datetime.now(UTC))
    assert not hopeless([used_up], ZONES)
    assert "free what uses up the quota" in remedy(used_up)


def test_what_no_zone_has_is_not_waited_for() -> None:
    """A machine type may be missing in one zone; in all of them, no patience helps."""
    now = datetime.now(UTC)
    missing = [Failure(zone, "RESOURCE_NOT_FOUND", "no such type", "", now) for zone in ZONES]

    assert not hopeless(missing[:2], ZONES)
    assert hopeless(missing, ZONES)
    assert not hopeless(missing, [])


def test_errors_of_another_up_are_not_told(cloud: Clouds) -> None:
    """Google remembers yesterday's stockout, and what befell the template before."""
    watch, told = watching(cloud)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).timestamp()
    fail(cloud, ZONES[0], NO_STOCK, timestamp=timestamp(yesterday))
    fail(cloud, ZONES[1], NO_STOCK, template=TEMPLATE.replace("new", "old"))

    watch.look()

    assert told == []


def test_an_error_of_an_unknown_kind_is_told_as_google_has_it() -> None:
    """In one line, however many Google has made of it."""
    failure = Failure("z", "SOMETHING_NEW", "It\n  failed.", "", datetime.now(UTC))

    ((first, second, _),) = Narrator().news([failure])

    assert first == "no machine in z: SOMETHING_NEW"
    assert second == "  Google: It failed."


def environment(cloud: Clouds) -> dict[str, str]:
    """As components/readiness.py sets it, for an endpoint that does not answer."""
    return {
        **cloud.environment,
        "ENDPOINT_HOSTNAME": "llm.example.com",
        "ENDPOINT_MODEL": "org/model",
        "ENDPOINT_API": "chat/completions",
        "ENDPOINT_ANY_MACHINE": "false",
        "ENDPOINT_REVISION": "abc123",
        "CF_ACCESS_CLIENT_ID": "an-id.access",
        "CF_ACCESS_CLIENT_SECRET": "a-client-secret",
        "READY_TIMEOUT_MINUTES": "1",
        "PLATFORM": "vm",
        "GOOGLE_PROJECT": PROJECT,
        "GOOGLE_REGION": REGION,
        "INSTANCE_GROUP": NAME,
        "PYTHONUNBUFFERED": "1",
    }


def test_a_creation_error_is_on_the_screen_within_five_seconds(cloud: Clouds) -> None:
    """From the moment at which the cloud reports it; one that will not pass ends the wait."""
    with subprocess.Popen(
        [sys.executable, "-m", "scripts.wait_until_ready"],
        env=environment(cloud),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        for line in process.stdout:
            if "the group has no machine yet" in line:
                break
        fail(cloud, ZONES[0], NO_STOCK)
        reported = time.monotonic()
        for line in process.stdout:
            if f"no machine in {ZONES[0]}: ZONE_RESOURCE_POOL_EXHAUSTED" in line:
                break
        assert time.monotonic() - reported < 5
        fail(cloud, ZONES[1], NO_QUOTA)
        rest, error = process.stdout.read(), process.stderr.read()

    assert "QUOTA_EXCEEDED" in rest
    assert process.returncode == 1
    assert "gets no machine, and waiting will not help" in error


def test_who_may_not_look_is_told_once(cloud: Clouds) -> None:
    """Then it goes by the endpoint's answers alone."""
    watch, told = watching(cloud)
    cloud.store.delete(SERVICE, f"{PROJECT}/compute.googleapis.com")

    watch.start()
    deadline = time.monotonic() + 20
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)

    assert len(told) == 1
    assert "Google does not tell how far it is" in told[0]
    with pytest.raises(GoogleError):
        watch.look()
