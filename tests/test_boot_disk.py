"""What `pulumi up` runs to have a disk prepared: the machine that does it comes, works and goes."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rehearsal.google import project
from rehearsal.google.metadata import INSTANCE
from rehearsal.google.network import SUBNETWORK
from rehearsal.google.single_instances import DISK
from rehearsal.store import Store
from tests.clouds import MACHINE, PROJECT, REGION, Clouds, clouds
from tests.processes import wait_until

ROOT = Path(__file__).parents[1]
NETWORK = f"projects/{PROJECT}/global/networks/llm"
SUBNET = f"projects/{PROJECT}/regions/{REGION}/subnetworks/llm"
ENVIRONMENT = {
    "PROJECT": PROJECT,
    "REGION": REGION,
    "ZONES": f"{REGION}-a {REGION}-b",
    "STACK": "dev",
    "BASE_IMAGE": "projects/debian-cloud/global/images/family/debian-12",
    "DISK_GB": "100",
    "SUBNETWORK": f"https://www.googleapis.com/compute/v1/{SUBNET}",
    "SERVICE_ACCOUNT": MACHINE,
    "ENGINE_IMAGE": "us-central1-docker.pkg.dev/team-llm/hub/vllm/vllm-openai:v0.33.0",
    "CLOUDFLARED_IMAGE": "us-central1-docker.pkg.dev/team-llm/hub/cloudflare/cloudflared:2026.8.2",
    "WEIGHTS_BUCKET": "",
}
HASTY = """
import sys
from scripts import boot_disk
boot_disk.POLL_SECONDS, boot_disk.HOPELESS_SECONDS = 0.05, 0.3
sys.exit(boot_disk.main())
"""
BOOTED = "boot 1.0 2.0 ok\n"


class Scene:
    """A project with a network, and what there becomes of VMs that `phases` says how to work."""

    def __init__(self, cloud: Clouds) -> None:
        self.cloud = cloud
        self.phases = f"{BOOTED}disk-prepared 3.0 1.0 ok"
        self.console = ""
        self.over = threading.Event()
        cloud.store.delete(INSTANCE, "stager")
        api = "compute.googleapis.com"
        cloud.store.put(project.SERVICE, f"{PROJECT}/{api}", {"service": api})
        cloud.store.put(SUBNETWORK, SUBNET, {"network": NETWORK, "ipCidrRange": "10.0.0.0/24"})

    def play(self) -> None:
        """VMs run as soon as they are made, report, and go when they are told to."""
        store = Store(self.cloud.world.directory / "clouds.db")
        while not self.over.wait(0.02):
            for id, row in store.all(INSTANCE).items():
                if row["status"] == "PROVISIONING":
                    folder = self.cloud.world.directory / "machines" / row["name"]
                    folder.mkdir(parents=True)
                    (folder / "console.log").write_text(self.console)
                    told = {"llm-endpoint/phases": self.phases}
                    store.put(INSTANCE, id, row | {"status": "RUNNING", "guestAttributes": told})
                elif row["status"] == "STOPPING":
                    if row["keepsDisk"]:
                        disk = id.replace("/instances/", "/disks/")
                        shown = {"effectiveLabels": row["diskLabels"], "selfLink": disk}
                        place = {key: row[key] for key in ("name", "project", "zone")}
                        store.put(DISK, disk, place | shown)
                    store.delete(INSTANCE, id)
        store.close()

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """The script, at work."""
        return subprocess.Popen(
            [sys.executable, "-c", HASTY, *arguments],
            cwd=ROOT,
            env=self.cloud.environment | ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Its exit code, and what it said on either stream."""
        process = self.start(*arguments)
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error

    def left(self) -> list[str]:
        """Machines, and disks without one."""
        return [*self.cloud.store.all(INSTANCE), *self.cloud.store.all(DISK)]


@pytest.fixture(name="scene")
def _scene(tmp_path: Path) -> Generator[Scene]:
    with clouds(tmp_path) as cloud:
        scene = Scene(cloud)
        with playing(scene.play, scene.over):
            yield scene


@contextmanager
def playing(play: Callable[[], None], over: threading.Event) -> Generator[None]:
    """In a thread, until the end."""
    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_disk_is_prepared_and_then_removed(scene: Scene) -> None:
    """The machine is gone by the end, its disk is there; what an earlier run left is not."""
    _, before, _ = scene.run()

    code, disk, said = scene.run()

    assert code == 0, said
    assert scene.left() == [disk.strip().partition("/compute/v1/")[2]]
    assert disk != before
    assert f"deleting {before.strip().partition('/compute/v1/')[2]}" in said
    assert scene.run("--remove")[0] == 0
    assert scene.left() == []


def test_the_machine_fetches_and_holds_no_secret(scene: Scene) -> None:
    """It is told what to fetch, ends by itself, and is nothing but a small machine."""
    scene.phases = f"{BOOTED}engine-image 3.0 - running"
    process = scene.start()
    wait_until(lambda: bool(scene.cloud.store.all(INSTANCE)))
    (row,) = scene.cloud.store.all(INSTANCE).values()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    metadata: dict[str, Any] = row["metadata"]
    assert metadata["engine-image"] == ENVIRONMENT["ENGINE_IMAGE"]
    assert metadata["prepare-disk"]
    assert not [key for key in metadata if key.endswith("-secret")]
    assert row["gpu"] is None
    assert row["externalIp"] is False
    assert row["scheduling"]["instanceTerminationAction"] == "DELETE"
    assert int(row["scheduling"]["maxRunDuration"]["seconds"]) <= 7200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_it_leaves_no_machine(scene: Scene, number: signal.Signals) -> None:
    """Ctrl-C in `pulumi up` kills what it runs: no machine is paid for after that."""
    scene.phases = f"{BOOTED}engine-image 3.0 - running"
    process = scene.start()
    machines = scene.cloud.store.all
    wait_until(lambda: "RUNNING" in [it["status"] for it in machines(INSTANCE).values()])

    process.send_signal(number)
    process.communicate(timeout=30)

    wait_until(lambda: scene.left() == [])


def test_a_zone_without_room_is_no_end(scene: Scene) -> None:
    """The next one is tried; where none has room, that is said in Google's words."""
    scene.cloud.world.faults.set(f"stockout-{REGION}-a")
    code, disk, said = scene.run()
    assert (code, f"/zones/{REGION}-b/" in disk) == (0, True), said
    assert f"no machine in {REGION}-a: ZONE_RESOURCE_POOL_EXHAUSTED" in said

    scene.cloud.world.faults.set("stockout")
    code, disk, said = scene.run()
    assert (code, disk, scene.left()) == (1, "", [])
    assert "next: " in said


def test_what_cannot_be_fetched_is_named(scene: Scene) -> None:
    """With the machine's own words; and nothing is left of it."""
    scene.phases = f"{BOOTED}engine-image 3.0 9.0 failed"
    scene.console = "startup-script: llm-endpoint error: the image x could not be pulled: it must\n"

    code, disk, said = scene.run()

    assert (code, disk, scene.left()) == (1, "", [])
    assert "cannot go on: it failed at: pulls the engine's image" in said
    assert "the image x could not be pulled" in said


def test_nobody_elses_machines_are_touched(scene: Scene) -> None:
    """Not those of another stack, nor this stack's own that serve."""
    for stack, purpose in (("prod", "boot-disk"), ("dev", "")):
        labels = {"llm-endpoint-stack": stack, "llm-endpoint-purpose": purpose}
        id = f"projects/{PROJECT}/zones/{REGION}-a/instances/{stack}"
        row = {"name": stack, "project": PROJECT, "zone": f"{REGION}-a", "group": "g"}
        more = {"status": "RUNNING", "labels": labels, "gpu": None, "bootDiskGb": 10}
        scene.cloud.store.put(INSTANCE, id, row | more)

    assert scene.run("--remove")[0] == 0

    assert len(scene.left()) == 2
