"""The whole program under an engine that only takes notes."""

import asyncio
import os
import runpy
import subprocess
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pulumi
import pytest
from pulumi.runtime import MockCallArgs, MockResourceArgs, Mocks, set_all_config, set_mocks
from pulumi.runtime.mocks import MockMonitor
from pulumi.runtime.stack import Stack

from tests.stack_config import SECRET_KEYS, configuration

ROOT = Path(__file__).parents[1]
SECRET_MARK = "4dabf18193072939515e22adb298388d"
"""How the engine's wire format marks a secret value."""
MASKED = "[secret]"

TUNNEL_TOKEN = "a-tunnel-token"
COMPUTED: dict[str, dict[str, Any]] = {
    "gcp:cloudrunv2/service:Service": {"uri": "https://llm-service-1a2b3c4-ez.a.run.app"},
    "gcp:cloudrunv2/job:Job": {"name": "llm-staging-1a2b3c4"},
    "gcp:storage/bucket:Bucket": {"name": "llm-weights-1a2b3c4"},
    "gcp:compute/image:Image": {
        "selfLink": "https://www.googleapis.com/compute/v1/projects/p/global/images/prepared"
    },
    "gcp:compute/network:Network": {"name": "llm-vpc-1a2b3c4"},
    "gcp:compute/router:Router": {"name": "llm-router-1a2b3c4"},
    "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate": {"selfLink": "a-template"},
    "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager": {"name": "llm-group-1a2"},
    "gcp:artifactregistry/repository:Repository": {
        "registryUri": "us-central1-docker.pkg.dev/example-project/docker-hub"
    },
    "gcp:secretmanager/secretVersion:SecretVersion": {"name": "projects/1/secrets/s/versions/1"},
    "cloudflare:index/zeroTrustAccessApplication:ZeroTrustAccessApplication": {"aud": "an-aud"},
    "cloudflare:index/zeroTrustAccessServiceToken:ZeroTrustAccessServiceToken": {
        "clientId": "an-id.access",
        "clientSecret": "a-client-secret",
    },
}
"""What the services would make up, as far as another resource takes it."""


@dataclass(frozen=True)
class Declared:
    """One resource as the program declared it."""

    type: str
    name: str
    inputs: Mapping[str, Any]
    """Plain, but for secrets, which read MASKED."""
    received: Mapping[str, Any]
    """The same as the service gets them."""
    protect: bool
    depends_on: frozenset[str]
    """URNs of what it waits for."""
    urn: str


@dataclass
class Deployment:
    """What a stack declared, and what it hands to others."""

    resources: list[Declared] = field(default_factory=list[Declared])
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])

    def of(self, type: str) -> list[Declared]:
        """The resources whose type token ends in `type`."""
        found = [resource for resource in self.resources if resource.type.endswith(f":{type}")]
        assert found, f"the stack declares no {type}"
        return found

    def one(self, type: str, package: str = "") -> Declared:
        """The only resource of a type, in a module whose name has `package` in it."""
        (only,) = (item for item in self.of(type) if package in item.type)
        return only

    def all_before(self, resource: Declared) -> dict[str, Declared]:
        """All that must exist before `resource`, by URN."""
        by_urn = {declared.urn: declared for declared in self.resources}
        seen: dict[str, Declared] = {}
        todo = [resource.urn]
        while todo:
            for urn in by_urn[todo.pop()].depends_on & by_urn.keys() - seen.keys():
                seen[urn] = by_urn[urn]
                todo.append(urn)
        return seen

    def waits_for(self, resource: Declared) -> set[str]:
        """Type names of all that must exist before `resource`."""
        return {item.type.rpartition(":")[2] for item in self.all_before(resource).values()}


class RecordingEngine(Mocks):
    """Answers as the services would, and knows nothing else: another look-up is a mistake."""

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        inputs = unwrapped(args.inputs)  # pyright: ignore[reportUnknownMemberType]  # untyped SDK
        computed = COMPUTED.get(args.typ, {})
        if args.typ == "gcp:serviceaccount/account:Account":
            email = f"{inputs['accountId']}@example-project.iam.gserviceaccount.com"
            computed = {"email": email, "member": f"serviceAccount:{email}"}
        return f"{args.name}-id", inputs | computed

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        answers = {
            "cloudflare:index/getZeroTrustTunnelCloudflaredToken:"
            "getZeroTrustTunnelCloudflaredToken": {"token": TUNNEL_TOKEN}
        }
        return answers[args.token], []


class RecordingMonitor(MockMonitor):
    """Keeps, besides what the mocks see, each resource's options."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(RecordingEngine())
        self.deployment = deployment

    def RegisterResource(self, request: Any) -> Any:
        response = super().RegisterResource(request)  # pyright: ignore[reportUnknownMemberType]  # untyped SDK
        if request.type != "pulumi:pulumi:Stack":
            inputs = pulumi.runtime.rpc.deserialize_properties(request.object)
            self.deployment.resources.append(
                Declared(
                    type=request.type,
                    name=request.name,
                    inputs=masked(inputs),
                    received=unwrapped(inputs),
                    protect=request.protect,
                    depends_on=frozenset(request.dependencies),
                    urn=response.urn,
                )
            )
        return response


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with `change` made to it, and then to everything in it."""
    value = change(value)
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return {key: mapped(item, change) for key, item in entries.items()}
    if isinstance(value, list):
        return [mapped(item, change) for item in cast("list[Any]", value)]
    return value


def is_secret(value: Any) -> bool:
    """Whether the engine is told to keep it secret."""
    return isinstance(value, dict) and SECRET_MARK in value


def masked(value: Any) -> Any:
    """The value with every secret in it replaced, and whole numbers, which the wire lacks."""

    def mask(item: Any) -> Any:
        if isinstance(item, float) and item.is_integer():
            return int(item)
        return MASKED if is_secret(item) else item

    return mapped(value, mask)


def unwrapped(value: Any) -> Any:
    """The value with every secret in it laid bare, as a service gets it."""
    return mapped(value, lambda item: item["value"] if is_secret(item) else item)


Deploy = Callable[..., Deployment]


def deploy(
    stack: str = "dev",
    changes: dict[str, str] | None = None,
    program: Path = ROOT / "__main__.py",
    named: str = "",
    secret: Collection[str] = SECRET_KEYS,
) -> Deployment:
    """Run the program on a committed stack file, with `changes` to its configuration.

    The stack is called as its file is, or as `named`; the keys in `secret` are encrypted.
    """
    deployment = Deployment()
    set_all_config(configuration(stack, changes), list(secret))
    monitor = RecordingMonitor(deployment)
    set_mocks(monitor.mocks, "llm-endpoint", named or stack, preview=False, monitor=monitor)
    root = pulumi.runtime.get_root_resource()
    assert isinstance(root, Stack)
    root.outputs.clear()

    async def run() -> None:
        runpy.run_path(str(program))
        outputs = await pulumi.runtime.rpc.serialize_properties(root.outputs, {})
        deployment.outputs = masked(pulumi.runtime.rpc.deserialize_properties(outputs))

    pulumi.runtime.test(run)()  # pyright: ignore[reportUnknownMemberType]  # untyped SDK
    return deployment


@pytest.fixture(name="deploy", scope="session")
def _deploy() -> Generator[Deploy]:
    """`deploy`, but the same deployment for the same question: nobody changes one."""
    loop = asyncio.new_event_loop()
    known: dict[str, Deployment] = {}

    def cached(stack: str = "dev", changes: dict[str, str] | None = None) -> Deployment:
        question = repr((stack, changes))
        if question not in known:
            # Pulumi's SDK wants a current loop; any asyncio.run before has taken it away.
            asyncio.set_event_loop(loop)
            known[question] = deploy(stack, changes)
        return known[question]

    yield cached
    loop.close()


def pytest_configure() -> None:
    """Find the engine for tests that run it, also when pytest is not run by scripts/test."""
    if "LLM_ENDPOINT_ENGINE_BIN" not in os.environ:
        found = subprocess.run(
            [ROOT / "scripts" / "setup"], capture_output=True, text=True, check=True
        )
        os.environ["LLM_ENDPOINT_ENGINE_BIN"] = found.stdout.strip()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a reviewed change into the inventories."""
    parser.addoption("--update-inventories", action="store_true", help="write what is declared")
