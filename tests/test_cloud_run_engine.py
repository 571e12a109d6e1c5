"""The real engine and the real daemon, with a small program of a service and a job."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.store import Store
from rehearsal.world import Accounts

ROOT = Path(__file__).parents[1]
PROGRAM = """
import pulumi
from pulumi_gcp import cloudrunv2, projects, serviceaccount

config = pulumi.Config()
apis = pulumi.ResourceOptions(
    depends_on=[
        projects.Service(name, service=f"{name}.googleapis.com", disable_on_destroy=False)
        for name in ("run", "iam")
    ]
)
account = serviceaccount.Account("runtime", account_id="llm-runtime", opts=apis)
image = pulumi.Output.format("docker.io/library/python:{0}", config.require("tag"))
service = cloudrunv2.Service(
    "llm",
    location="us-central1",
    deletion_protection=False,
    ingress="INGRESS_TRAFFIC_INTERNAL_ONLY",
    invoker_iam_disabled=True,
    template={
        "containers": [
            {
                "image": image,
                "commands": ["python3", "-m", "http.server"],
                "args": ["8080"],
                "resources": {"limits": {"cpu": "1", "memory": "512Mi"}},
            }
        ],
        "scaling": {"max_instance_count": 1},
        "service_account": account.email,
        "timeout": "3600s",
    },
    opts=apis,
)
job = cloudrunv2.Job(
    "staging",
    location="us-central1",
    deletion_protection=False,
    template={
        "template": {
            "containers": [{"image": image, "commands": ["python3", "-c", "print(1)"]}],
            "max_retries": 0,
            "service_account": account.email,
        }
    },
    opts=apis,
)
pulumi.export("uri", service.uri)
"""


CONFIG = {"gcp:project": "a-project", "gcp:region": "us-central1"}


class Stack:
    """A stack of the program, and the clouds that it stands in."""

    def __init__(self, project: Path, world: Path, environment: dict[str, str]) -> None:
        self._project, self._world, self._environment = project, world, environment

    def pulumi(self, *arguments: str, fails: bool = False) -> str:
        """Run the CLI; its output. AssertionError with all of it when it ends otherwise."""
        done = subprocess.run(
            ["pulumi", *arguments],
            cwd=self._project,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        assert bool(done.returncode) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def up(self, tag: str, *more: str, fails: bool = False) -> str:
        """`pulumi up` with a tag of the image."""
        config = [f"--config={key}={value}" for key, value in (CONFIG | {"tag": tag}).items()]
        return self.pulumi("up", *config, "--yes", "--skip-preview", *more, fails=fails)

    def left(self) -> set[str]:
        """Types of what exists in the clouds."""
        store = Store(self._world / "clouds.db")
        types = {type for type, _, _ in store.everything()}
        store.close()
        return types


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose clouds are a daemon of their own."""
    engine = os.environ["LLM_ENDPOINT_ENGINE_BIN"]
    project, world = tmp_path / "project", tmp_path / "world"
    for folder in (project, world, tmp_path / "backend"):
        folder.mkdir()
    (project / "Pulumi.yaml").write_text("name: small\nruntime: python\n")
    (project / "__main__.py").write_text(PROGRAM)
    accounts = Accounts(
        projects={"a-project": "123456"}, cloudflare_accounts={}, cloudflare_zones={}
    )
    (world / "accounts.json").write_text(accounts.model_dump_json())
    path = os.pathsep.join([str(Path(sys.executable).parent), engine, os.environ["PATH"]])
    command = [sys.executable, "-m", "rehearsal.daemon", "--world", str(world), "--speed=2000"]
    with (tmp_path / "log").open("w") as log:
        daemon = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not (world / "daemon.json").exists():
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        ports = json.loads((world / "daemon.json").read_text())["providers"]
        made = Stack(
            project,
            world,
            {
                "PATH": path,
                "HOME": str(tmp_path),
                "PULUMI_HOME": str(tmp_path / "pulumi"),
                "PULUMI_BACKEND_URL": f"file://{tmp_path / 'backend'}",
                "PULUMI_CONFIG_PASSPHRASE": "rehearsal",
                "PULUMI_SKIP_UPDATE_CHECK": "1",
                "PULUMI_DEBUG_PROVIDERS": ",".join(f"{it}:{port}" for it, port in ports.items()),
            },
        )
        made.pulumi("stack", "init", "dev")
        yield made
    finally:
        daemon.terminate()
        daemon.wait()


@pytest.mark.rehearsal
def test_a_service_that_does_not_start_is_mended_by_the_next_up(stack: Stack) -> None:
    """The first up fails and leaves it in the state, the next brings it up; then all is calm."""
    failure = stack.up("9.99", fails=True)
    assert "Error waiting to create Service: Error waiting for Creating Service: Error" in failure
    assert "Image 'docker.io/library/python:9.99' not found." in failure
    assert "Traceback" not in failure

    assert "~ 2 updated" in stack.up("3.13-slim")
    assert "updated" not in stack.up("3.13-slim", "--refresh")

    stack.pulumi("destroy", "--yes", "--skip-preview")
    assert stack.left() == {"gcp:projects/service:Service"}
