"""The real engine, attached to the stand-in providers, behaves as with the real plugins."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal import providers
from rehearsal.providers import google
from rehearsal.world import Accounts, World
from tests.project import Project

PROGRAM = """
import pulumi
from pulumi_command import local
from pulumi_gcp import compute, projects, secretmanager, storage

config = pulumi.Config()
apis = pulumi.ResourceOptions(
    depends_on=[
        projects.Service(name, service=f"{name}.googleapis.com")
        for name in ("compute", "secretmanager")
    ]
)
secret = secretmanager.Secret("secret", replication={"auto": {}}, opts=apis)
version = secretmanager.SecretVersion(
    "version", secret=secret.id, secret_data=config.require_secret("planted")
)
vpc = compute.Network("vpc", auto_create_subnetworks=False, opts=apis)
subnet = compute.Subnetwork("subnet", network=vpc.id, ip_cidr_range="10.0.0.0/24")
template = compute.RegionInstanceTemplate(
    "template",
    machine_type=config.require("machine"),
    disks=[{"source_image": "family/x"}],
    network_interfaces=[{"subnetwork": subnet.id}],
    metadata={"note": config.require_secret("planted")},
    scheduling={"on_host_maintenance": "TERMINATE"},
)
bucket = storage.Bucket(
    "bucket", location="us-central1", public_access_prevention="enforced", force_destroy=True
)
storage.BucketIAMMember(
    "reader", bucket=bucket.name, role="roles/storage.objectViewer", member="user:a@example.com"
)
storage.BucketObject("object", bucket=bucket.name, name="folder/object", content="some text")
command = local.Command("command", create="echo ran", environment={"ID": subnet.id})
pulumi.export("printed", command.stdout)
"""


class Stack(Project):
    """A stack of a small program, and the world it stands in."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, "small", PULUMI_DEBUG_COMMANDS="1")  # --event-log is one of them
        (self.folder / "__main__.py").write_text(PROGRAM)
        self.world = home / "world"
        self.world.mkdir()

    def summary(self, operation: str, *arguments: str) -> dict[str, int]:
        """Run an operation; how many resources it created, updated, kept ..."""
        events = self.folder / "events"
        events.unlink(missing_ok=True)
        extra = () if "--preview-only" in arguments else ("--yes", "--skip-preview")
        self.pulumi(operation, *arguments, *extra, "--event-log", str(events))
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        [found] = [line["summaryEvent"] for line in lines if "summaryEvent" in line]
        return found["resourceChanges"]

    def cloud(self) -> World:
        """The world, through an eye of our own."""
        return World(self.world)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    accounts = Accounts(
        projects={"a-project": "123456"}, cloudflare_accounts={}, cloudflare_zones={}
    )
    (made.world / "accounts.json").write_text(accounts.model_dump_json())

    loop, ports, ready = asyncio.new_event_loop(), dict[str, int](), threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        world = World(made.world, speed=1e6)
        served = await providers.serve(world, ports={}, environment=os.environ, cwd=made.folder)
        ports.update(served.ports)
        ready.set()
        await stop.wait()
        await served.close()
        world.store.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    listed = ",".join(f"{name}:{port}" for name, port in ports.items())
    made.environment["PULUMI_DEBUG_PROVIDERS"] = listed
    try:
        made.pulumi("stack", "init", "dev")
        plain = {
            "gcp:project": "a-project",
            "gcp:region": "us-central1",
            "machine": "g2-standard-4",
        }
        for key, value in plain.items():
            made.pulumi("config", "set", key, value)
        made.pulumi("config", "set", "--secret", "planted", "a planted secret")
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.mark.rehearsal
def test_the_engine_is_at_home(stack: Stack):
    """Up, up again, refresh, a change, a loss, and destroy do what they do in life."""
    assert stack.summary("up") == {"create": 12}
    assert stack.summary("up") == {"same": 12}
    assert stack.summary("refresh", "--preview-only") == {"same": 12}
    assert "a planted secret" not in stack.pulumi("stack", "export")
    assert stack.pulumi("stack", "output", "printed") == "ran\n"

    stack.pulumi("config", "set", "machine", "g2-standard-8")
    assert stack.summary("up") == {"same": 11, "replace": 1}

    world = stack.cloud()
    [template] = world.store.all(google.TEMPLATE)
    world.store.delete(google.TEMPLATE, template)
    assert stack.summary("refresh") == {"same": 11, "delete": 1}
    assert stack.summary("up") == {"same": 11, "create": 1}

    assert stack.summary("destroy") == {"delete": 12}
    assert {type for type, _, _ in world.store.everything()} == {google.SERVICE}
    world.store.close()


@pytest.mark.rehearsal
def test_a_refusal_reads_as_in_life(stack: Stack):
    """What a service refuses is printed by the engine beside the resource's name."""
    stack.pulumi("config", "set", "gcp:project", "somebody-elses")

    refusal = "Error creating Service: googleapi: Error 403: Permission denied"
    with pytest.raises(AssertionError, match=refusal) as failure:
        stack.summary("up")

    assert "Traceback" not in str(failure.value)
