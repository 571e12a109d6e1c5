"""What Google does by itself: promises that a machine, and whoever runs a group, rely on."""

import asyncio
import base64
import json
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, web

from rehearsal import timeline
from rehearsal.google import identity as iam
from rehearsal.google import instance_groups, instances, network, registry, secret_manager
from rehearsal.google.guest import Surroundings
from rehearsal.google.identity import CLOUD_PLATFORM, Identity
from rehearsal.google.instance_groups import ERROR, InstanceGroups, Plan, plan
from rehearsal.google.instances import GROUP
from rehearsal.google.metadata import INSTANCE, MetadataServer
from rehearsal.google.oauth2 import OAuth2
from rehearsal.google.registry import Registry
from rehearsal.google.secret_manager import SecretManager, crc32c
from rehearsal.internet import Internet
from rehearsal.machines import machine
from rehearsal.machines.machine import MachineSpec
from rehearsal.store import Body
from rehearsal.world import PERSON, Accounts, World

PROJECT, NUMBER, REGION = "team-llm", "104042781755", "us-central1"
HOST = "us-central1-docker.pkg.dev"
API = f"https://www.googleapis.com/compute/v1/projects/{PROJECT}"
MACHINE = f"machine@{PROJECT}.iam.gserviceaccount.com"
STRANGER = f"stranger@{PROJECT}.iam.gserviceaccount.com"
GROUP_ID = f"projects/{PROJECT}/regions/{REGION}/instanceGroupManagers/llm"
SECRET = f"projects/{PROJECT}/secrets/tunnel-token"
REPOSITORY = f"projects/{PROJECT}/locations/{REGION}/repositories/hub"
ZONES = [f"{REGION}-{letter}" for letter in "abc"]
SITES = ["secretmanager.googleapis.com", HOST, "team.cloudflareaccess.com"]

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world in which a team's network, secret, repository and machine identity exist."""
    world = World.open(tmp_path / "world", speed=2000)
    accounts = Accounts(
        projects={PROJECT: NUMBER},
        google_apis=[secret_manager.HOST],
        cloudflare_accounts={},
        cloudflare_zones={},
    )
    (world.directory / "accounts.json").write_text(accounts.model_dump_json())
    put = world.store.put
    for email in (MACHINE, STRANGER):
        put(iam.ACCOUNT, email, {"email": email})
    put(
        network.SUBNETWORK,
        f"projects/{PROJECT}/regions/{REGION}/subnetworks/llm",
        {
            "ipCidrRange": "10.10.0.0/29",
            "network": f"{API}/global/networks/llm",
            "privateIpGoogleAccess": True,
            "region": REGION,
            "selfLink": f"{API}/regions/{REGION}/subnetworks/llm",
        },
    )
    place = {"project": PROJECT, "region": REGION}
    router = place | {"name": "llm", "network": f"{API}/global/networks/llm"}
    put(network.ROUTER, "router", router)
    ranges = "ALL_SUBNETWORKS_ALL_IP_RANGES"
    nat = place | {"router": "llm", "sourceSubnetworkIpRangesToNat": ranges}
    put(network.ROUTER_NAT, "nat", nat)
    put(network.FIREWALL, "probes", _rule(["35.191.0.0/16", "130.211.0.0/22"], ["8000"]))
    version = {"secret": SECRET, "version": "1", "enabled": True, "secretData": "planted ✓"}
    put(secret_manager.VERSION, "1", version | {"name": _numbered("1")})
    remote = {"dockerRepository": {"publicRepository": "DOCKER_HUB"}}
    put(registry.REPOSITORY, REPOSITORY, {"remoteRepositoryConfig": remote})
    member = f"serviceAccount:{MACHINE}"
    role = {"role": "roles/secretmanager.secretAccessor", "member": member}
    put("gcp:secretmanager/secretIamMember:SecretIamMember", "a", role | {"secretId": SECRET})
    role = {"role": "roles/artifactregistry.reader", "member": member}
    binding = "gcp:artifactregistry/repositoryIamMember:RepositoryIamMember"
    put(binding, "b", role | {"repository": REPOSITORY})
    return world


def _rule(ranges: list[str], ports: list[str], **more: Any) -> Body:
    allows = [{"protocol": "tcp", "ports": ports}]
    link = f"{API}/global/networks/llm"
    return {"network": link, "sourceRanges": ranges, "allows": allows, "priority": 1000} | more


def _numbered(version: str) -> str:
    return f"projects/{NUMBER}/secrets/tunnel-token/versions/{version}"


@asynccontextmanager
async def serve(handler: Handler) -> AsyncGenerator[tuple[ClientSession, str]]:
    """A client, and the address at which `handler` answers."""
    server = await asyncio.get_running_loop().create_server(web.Server(handler), "127.0.0.1", 0)
    async with ClientSession() as client:
        yield client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


def ask(handler: Handler, path: str, **options: Any) -> tuple[int, str, Mapping[str, str]]:
    """Status, body and headers of one request."""
    method = options.pop("method", "GET")

    async def once() -> tuple[int, str, Mapping[str, str]]:
        async with serve(handler) as (client, address):
            answer: ClientResponse = await client.request(
                method, address + path, allow_redirects=False, **options
            )
            return answer.status, await answer.text(), answer.headers

    return asyncio.run(once())


def bearer(identity: Identity, email: str = MACHINE, scope: str = CLOUD_PLATFORM) -> dict[str, str]:
    """The header of a caller."""
    return {"Authorization": f"Bearer {identity.mint(email, [scope])[0]}"}


# --- metadata -------------------------------------------------------------------------------------

VALUE = "--served-model-name=a b\n--chat-template={{ 'x' }}\n$(reboot); ünïcode"


@pytest.fixture
def server(world: World) -> MetadataServer:
    """The metadata server of one instance."""
    row = {
        "name": "llm-x1y2",
        "project": PROJECT,
        "zone": ZONES[0],
        "instanceId": "42",
        "image": "projects/p/global/images/i",
        "machineType": "g2-standard-8",
        "metadata": {"engine-args": VALUE, "foo-bar": "1"},
        "networkIp": "10.10.0.2",
        "network": f"{API}/global/networks/llm",
        "scheduling": {"preemptible": True, "automaticRestart": False},
        "serviceAccount": {"email": MACHINE, "scopes": [CLOUD_PLATFORM]},
        "tags": ["llm"],
    }
    world.store.put(INSTANCE, "i", row)
    return MetadataServer(world, Identity(world.store), "i")


FLAVOR = {"Metadata-Flavor": "Google"}
V1 = "/computeMetadata/v1"


def test_metadata_is_refused_to_forgers(server: MetadataServer) -> None:
    """A request without Google's header, or one that was forwarded, gets 403 and no value."""
    path = f"{V1}/instance/attributes/foo-bar"
    for headers in ({}, FLAVOR | {"X-Forwarded-For": "10.0.0.1"}):
        status, body, answered = ask(server.handle, path, headers=headers)
        assert (status, answered["Server"]) == (403, "Metadata Server for VM")
        assert "Metadata-Flavor" in answered
        assert body.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/instance/attributes/engine-args", 200, VALUE),
        ("/instance/attributes/missing", 404, None),
        ("/instance/attributes/foo-bar/", 404, None),
        ("/instance/attributes", 301, ""),
        ("/instance/attributes/", 200, "engine-args\nfoo-bar\n"),
        ("/instance/zone", 200, f"projects/{NUMBER}/zones/{ZONES[0]}"),
        ("/instance/hostname", 200, f"llm-x1y2.{ZONES[0]}.c.{PROJECT}.internal"),
        ("/instance/network-interfaces/0/ip", 200, "10.10.0.2"),
        ("/instance/scheduling/preemptible", 200, "TRUE"),
        ("/instance/service-accounts/default/email", 200, MACHINE),
        ("/instance/service-accounts/default/scopes", 200, CLOUD_PLATFORM + "\n"),
        ("/instance/preempted", 200, "FALSE"),
        ("/instance/attributes/foo-bar?alt=json", 200, '"1"'),
        ("/project/project-id", 200, PROJECT),
        ("/project/numeric-project-id", 200, NUMBER),
        ("/", 200, "instance/\nproject/\n"),
        ("/instance/attributes/?recursive=true&alt=text", 200, f"engine-args {VALUE}\nfoo-bar 1\n"),
    ],
)
def test_metadata_reads_as_on_a_real_vm(
    server: MetadataServer, path: str, status: int, body: str | None
) -> None:
    """Values come byte for byte; directories end with a slash; what is not there is 404."""
    answer = ask(server.handle, V1 + path, headers=FLAVOR)
    assert answer[0] == status
    assert body is None or answer[1] == body
    assert status != 200 or answer[2]["ETag"]


def test_recursive_metadata_is_json_without_tokens(server: MetadataServer) -> None:
    """A recursive listing names things as the API does, users' keys as users wrote them."""
    found = json.loads(ask(server.handle, f"{V1}/?recursive=true", headers=FLAVOR)[1])
    assert found["instance"]["attributes"] == {"engine-args": VALUE, "foo-bar": "1"}
    assert found["instance"]["networkInterfaces"][0]["ip"] == "10.10.0.2"
    assert "token" not in found["instance"]["serviceAccounts"]["default"]


def test_a_metadata_watcher_learns_of_a_change(world: World, server: MetadataServer) -> None:
    """`wait_for_change` answers when the value changes, and at once when it has changed."""

    async def watch() -> tuple[str, str]:
        async with serve(server.handle) as (client, address):
            url = f"{address}{V1}/instance/attributes/foo-bar"
            watching = asyncio.create_task(
                client.get(f"{url}?wait_for_change=true", headers=FLAVOR)
            )
            await asyncio.wait([watching], timeout=0.5)
            assert not watching.done()
            row = world.store.get(INSTANCE, "i") or {}
            world.store.put(INSTANCE, "i", row | {"metadata": {"foo-bar": "2"}})
            late = await client.get(f"{url}?wait_for_change=true&last_etag=0", headers=FLAVOR)
            return await (await watching).text(), await late.text()

    assert asyncio.run(watch()) == ("2", "2")


def test_guest_attributes_work_only_where_enabled(world: World, server: MetadataServer) -> None:
    """A machine can publish a value of its own once its metadata allows it."""
    path = f"{V1}/instance/guest-attributes/llm/phase"
    put = {"method": "PUT", "data": "serving", "headers": FLAVOR}
    assert ask(server.handle, path, **put)[0] == 403
    row = world.store.get(INSTANCE, "i") or {}
    row["metadata"]["enable-guest-attributes"] = "TRUE"
    world.store.put(INSTANCE, "i", row)
    assert ask(server.handle, path, headers=FLAVOR)[0] == 404
    assert ask(server.handle, path, **put)[0] == 200
    assert ask(server.handle, path, headers=FLAVOR)[1] == "serving"


# --- Secret Manager -------------------------------------------------------------------------------


def test_a_machine_reads_its_secret_with_the_token_of_its_metadata(
    world: World, server: MetadataServer
) -> None:
    """The token from the metadata server opens the secret; the checksum fits the payload."""
    path = f"{V1}/instance/service-accounts/default/token"
    token = json.loads(ask(server.handle, path, headers=FLAVOR)[1])
    assert token["token_type"] == "Bearer"
    assert token["expires_in"] > 3000
    site = SecretManager(world, server._identity)  # pyright: ignore[reportPrivateUsage] - same mint
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    for secret in (f"projects/{NUMBER}/secrets/tunnel-token", SECRET):
        status, body, _ = ask(site.handle, f"/v1/{secret}/versions/latest:access", headers=headers)
        answer = json.loads(body)
        data = base64.b64decode(answer["payload"]["data"])
        assert (status, data.decode(), answer["name"]) == (200, "planted ✓", _numbered("1"))
        assert answer["payload"]["dataCrc32c"] == str(crc32c(data))


def test_the_checksum_is_castagnolis() -> None:
    """The check value of RFC 3720."""
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("case", "status", "word"),
    [
        ("no token", 401, "UNAUTHENTICATED"),
        ("made-up token", 401, "UNAUTHENTICATED"),
        ("deleted account", 401, "UNAUTHENTICATED"),
        ("other account", 403, "PERMISSION_DENIED"),
        ("narrow scope", 403, "PERMISSION_DENIED"),
        ("other secret", 403, "PERMISSION_DENIED"),
        ("no such version", 404, "NOT_FOUND"),
        ("DISABLED", 400, "FAILED_PRECONDITION"),
        ("DESTROYED", 400, "FAILED_PRECONDITION"),
    ],
)
def test_secrets_are_refused_as_google_refuses_them(
    world: World, case: str, status: int, word: str
) -> None:
    """Whoever may not read a secret, or asks for one that cannot be read, is told why."""
    identity = Identity(world.store)
    headers = bearer(
        identity,
        STRANGER if case == "other account" else MACHINE,
        "https://www.googleapis.com/auth/logging.write"
        if case == "narrow scope"
        else CLOUD_PLATFORM,
    )
    headers = {"no token": {}, "made-up token": {"Authorization": "Bearer ya29.x"}}.get(
        case, headers
    )
    row = world.store.get(secret_manager.VERSION, "1") or {}
    if case == "DISABLED":
        world.store.put(secret_manager.VERSION, "1", row | {"enabled": False})
    if case == "DESTROYED":
        world.store.put(secret_manager.DESTROYED, "1", {"secret": SECRET, "version": "1"})
        world.store.delete(secret_manager.VERSION, "1")
    if case == "deleted account":
        world.store.delete(iam.ACCOUNT, MACHINE)
    secret = SECRET + "-2" if case == "other secret" else SECRET
    version = "9" if case == "no such version" else "1"
    site = SecretManager(world, identity)
    path = f"/v1/{secret}/versions/{version}:access"
    answered, body, _ = ask(site.handle, path, headers=headers)
    error = json.loads(body)["error"]
    assert (answered, error["code"], error["status"]) == (status, status, word)
    if status == 400:
        assert error["message"] == f"Secret Version [{_numbered('1')}] is in {case} state."
    assert "planted" not in body


# --- the person who rehearses ---------------------------------------------------------------------


def test_the_person_may_do_everything_in_their_own_projects(world: World) -> None:
    """An access token of the person's is an owner's, and ends at the project's border."""
    identity = Identity(world.store)
    accounts = world.accounts.model_copy(update={"google_refresh_tokens": ["1//x"]})
    (world.directory / "accounts.json").write_text(accounts.model_dump_json())
    form = {"grant_type": "refresh_token", "refresh_token": "1//x"}
    site = OAuth2(world, identity).handle

    status, body, _ = ask(site, "/token", method="POST", data=form)
    person = identity.caller(f"Bearer {json.loads(body)['access_token']}")
    refused = ask(site, "/token", method="POST", data=form | {"refresh_token": "1//y"})

    assert status == 200
    assert person.email == PERSON
    assert identity.allowed(person, "run.jobs.run", f"projects/{PROJECT}/locations/l/jobs/j")
    assert not identity.allowed(person, "run.jobs.run", f"projects/{PROJECT}-2/locations/l/jobs/j")
    assert refused[0] == 400
    assert "invalid_grant" in refused[1]


# --- the registry ---------------------------------------------------------------------------------


def pull(
    world: World, image: str, identity: Identity, headers: dict[str, str]
) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """What the registry answers to `docker pull`'s request for a manifest."""
    repository, _, reference = image.partition("@")
    if not reference:
        repository, _, reference = image.partition(":")
    path = f"/v2/{PROJECT}/{repository}/manifests/{reference}"
    headers = headers | {"Host": HOST}
    status, body, answered = ask(Registry(world, identity).handle, path, headers=headers)
    return status, json.loads(body), answered


@pytest.mark.parametrize(
    "image",
    [
        "hub/vllm/vllm-openai:v0.33.0",
        "hub/cloudflare/cloudflared:2026.8.2",
        f"hub/vllm/vllm-openai@sha256:{'0a' * 32}",
    ],
)
def test_a_reader_pulls_what_docker_hub_has(world: World, image: str) -> None:
    """A manifest says how big the image is and how long a pull takes in life."""
    identity = Identity(world.store)
    token, _ = identity.mint(MACHINE, [CLOUD_PLATFORM])
    basic = base64.b64encode(f"oauth2accesstoken:{token}".encode()).decode()
    for credential in (f"Bearer {token}", f"Basic {basic}"):
        headers = {"Authorization": credential}
        status, manifest, answered = pull(world, image, identity, headers)
        assert status == 200
        assert manifest["layers"][0]["size"] > 1_000_000
        assert float(manifest["annotations"][registry.SECONDS]) > 0
        assert answered["Docker-Content-Digest"].startswith("sha256:")


@pytest.mark.parametrize(
    ("image", "email", "status", "word"),
    [
        ("hub/vllm/vllm-openai:v0.33.0", None, 401, "UNAUTHORIZED"),
        ("hub/vllm/vllm-openai:v0.33.0", STRANGER, 403, "DENIED"),
        ("other/vllm/vllm-openai:v0.33.0", MACHINE, 403, "DENIED"),
        ("hub/vllm/vllm-openai:v0.33.9", MACHINE, 404, "MANIFEST_UNKNOWN"),
        ("hub/vllm/vllm-openia:v0.33.0", MACHINE, 404, "MANIFEST_UNKNOWN"),
        ("hub/vllm/vllm-openai@sha256:12", MACHINE, 404, "MANIFEST_UNKNOWN"),
    ],
)
def test_images_are_refused_as_artifact_registry_refuses_them(
    world: World, image: str, email: str | None, status: int, word: str
) -> None:
    """Strangers are denied; what Docker Hub does not have does not exist here."""
    identity = Identity(world.store)
    headers = bearer(identity, email) if email else {}
    answered, body, answer_headers = pull(world, image, identity, headers)
    assert (answered, body["errors"][0]["code"]) == (status, word)
    assert (status == 401) == ("WWW-Authenticate" in answer_headers)


def test_a_repository_that_is_missing_or_not_remote_has_no_images(world: World) -> None:
    """A project-wide reader is told that there is no repository; a standard one starts empty."""
    member = {"role": "roles/artifactregistry.reader", "member": f"serviceAccount:{STRANGER}"}
    world.store.put("gcp:projects/iAMMember:IAMMember", "c", member | {"project": PROJECT})
    identity = Identity(world.store)
    headers = bearer(identity, STRANGER)
    answers = [pull(world, "hub/vllm/vllm-openai:v0.33.0", identity, headers)]
    world.store.put(registry.REPOSITORY, REPOSITORY, {})
    answers += [
        pull(world, f"{it}/vllm/vllm-openai:v0.33.0", identity, headers) for it in ("hub", "nil")
    ]
    assert [status for status, _, _ in answers] == [200, 404, 404]
    words = [body["errors"][0]["code"] for _, body, _ in answers[1:]]
    assert words == ["MANIFEST_UNKNOWN", "NAME_UNKNOWN"]


# --- the network ----------------------------------------------------------------------------------

VM: Body = {"network": f"projects/{PROJECT}/global/networks/llm", "tags": ["llm"]}


@pytest.mark.parametrize(
    ("rule", "admitted"),
    [
        ({}, True),
        ({"targetTags": ["llm"]}, True),
        ({"targetTags": ["other"]}, False),
        ({"disabled": True}, False),
        ({"direction": "EGRESS"}, False),
        ({"network": f"{API}/global/networks/other"}, False),
        ({"sourceRanges": ["35.191.0.0/17"]}, False),
        ({"sourceRanges": ["0.0.0.0/0"]}, True),
        ({"allows": [{"protocol": "tcp", "ports": ["7000-9000"]}]}, True),
        ({"allows": [{"protocol": "all"}]}, True),
        ({"allows": [{"protocol": "udp", "ports": ["8000"]}]}, False),
        ({"allows": [{"protocol": "tcp", "ports": ["22"]}]}, False),
    ],
)
def test_nothing_comes_in_that_no_rule_lets_in(world: World, rule: Body, admitted: bool) -> None:
    """A health check reaches a machine only through a rule that fits it in every respect."""
    world.store.put(network.FIREWALL, "probes", _rule(["35.191.0.0/16"], ["8000"]) | rule)
    assert network.admits(world.store, VM, "35.191.0.0/16", 8000) is admitted


def test_a_deny_rule_wins_by_priority(world: World) -> None:
    """The rule with the lower number decides; between equals, the one that denies."""
    deny = _rule(["0.0.0.0/0"], []) | {"allows": [], "denies": [{"protocol": "all"}]}
    for priority, admitted in ((2000, True), (1000, False), (500, False)):
        world.store.put(network.FIREWALL, "deny", deny | {"priority": priority})
        assert network.admits(world.store, VM, "35.191.0.0/16", 8000) is admitted


# --- groups: what happens next --------------------------------------------------------------------


def _row(template: str, status: str = "RUNNING", health: str = "HEALTHY") -> Body:
    return {"template": template, "status": status, "available": health == "HEALTHY"}


OLD, NEW, GONE = _row("old"), _row("new"), _row("old", "STOPPING")
LOADING = _row("new", "RUNNING", "UNKNOWN")
REPLACE = {"type": "PROACTIVE", "maxSurgeFixed": 0, "maxUnavailableFixed": 3}
SURGE = {"type": "PROACTIVE", "maxSurgeFixed": 3, "maxUnavailableFixed": 0}
MANUAL = {"type": "OPPORTUNISTIC", "maxSurgeFixed": 0, "maxUnavailableFixed": 3}


@pytest.mark.parametrize(
    ("policy", "size", "rows", "create", "delete"),
    [
        (REPLACE, 1, [], 1, ""),
        (REPLACE, 1, [NEW], 0, ""),
        (REPLACE, 1, [OLD], 0, "0"),  # the old machine goes first
        (REPLACE, 1, [GONE], 0, ""),  # and the new one waits until it is gone
        (REPLACE, 2, [GONE, NEW], 0, ""),
        (REPLACE, 0, [NEW], 0, "0"),
        (SURGE, 1, [OLD], 1, ""),  # the new machine comes first
        (SURGE, 1, [OLD, LOADING], 0, ""),  # and the old one serves until it is healthy
        (SURGE, 1, [OLD, NEW], 0, "0"),
        (SURGE, 2, [OLD, OLD, NEW], 1, "0"),
        (MANUAL, 1, [OLD], 0, ""),
        (MANUAL, 2, [OLD], 1, ""),
        (MANUAL, 1, [OLD, NEW], 0, "0"),
        (MANUAL, 1, [NEW, LOADING], 0, "1"),  # of two, the one that serves stays
    ],
)
def test_a_group_takes_the_step_that_its_update_policy_allows(
    policy: Body, size: int, rows: list[Body], create: int, delete: str
) -> None:
    """Replace deletes before it creates, surge the other way round, manual touches nothing."""
    group: Body = {
        "targetSize": size,
        "autoHealingPolicies": {"healthCheck": "x"},
        "updatePolicy": policy,
        "versions": [{"instanceTemplate": "new"}],
    }
    step = plan(group, {str(number): row for number, row in enumerate(rows)})
    assert step == Plan(create, list(delete))


# --- groups: machines -----------------------------------------------------------------------------


class FakeMachine:
    """A guest that is up at once and whose engine answers when `healthy` says so."""

    def __init__(self, spec: MachineSpec, healthy: bool) -> None:
        self.spec = spec
        self.healthy = healthy
        self.grace_s = -1.0
        self._off = asyncio.Event()
        self._engine: asyncio.Server | None = None

    async def start(self) -> None:
        async def answer(request: web.BaseRequest) -> web.Response:
            return web.Response(status=200 if self.healthy and request.path == "/health" else 503)

        loop = asyncio.get_running_loop()
        self._engine = await loop.create_server(web.Server(answer), "127.0.0.1", 0)

    @property
    def running(self) -> bool:
        return not self._off.is_set()

    async def come_back(self) -> bool:
        return False

    async def wait(self) -> None:
        await self._off.wait()

    async def listen(self, address: str, port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", 0))

    async def connect(self, address: str, port: int) -> socket.socket:
        assert (address, port) == (self.spec.internal_ip, 8000)
        assert self._engine
        return socket.create_connection(self._engine.sockets[0].getsockname())

    async def stop(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._off.set()

    async def save(self, folder: Path) -> None:
        """Nothing was written."""

    async def delete(self) -> None:
        self._off.set()
        if self._engine:
            self._engine.close()


class Cloud:
    """A running controller and the machines that it booted, oldest first."""

    def __init__(self, world: World, internet: Internet | None = None) -> None:
        self.world = world
        self.identity = Identity(world.store)
        self.machines: list[FakeMachine] = []
        self.engines_start = True
        self.most = 0
        self.groups = InstanceGroups(
            Surroundings(
                world=world,
                identity=self.identity,
                boot=machine.boot if internet else self._boot,
                names=internet.names if internet else lambda: SITES,
                serve_https=internet.serve if internet else self._serve_https,
                accept_tunnels=self._serve,
                ca=world.directory / "ca.pem",
            )
        )

    async def _boot(self, _: World, spec: MachineSpec) -> FakeMachine:
        guest = FakeMachine(spec, self.engines_start)
        await guest.start()
        self.machines.append(guest)
        self.most = max(self.most, sum(it.running for it in self.machines))
        return guest

    async def _serve_https(self, listening: socket.socket, _: str) -> asyncio.Server:
        return await self._serve(listening)

    async def _serve(self, listening: socket.socket) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(asyncio.Protocol, sock=listening)

    @property
    def rows(self) -> list[Body]:
        """The group's VMs."""
        return [*self.world.store.all(INSTANCE).values()]

    def states(self) -> list[tuple[str, str]]:
        """Status and health of every VM."""
        return [(row["status"], row["health"]) for row in self.rows]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the condition; AssertionError after ten seconds."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, self.rows
            await asyncio.sleep(0.02)

    async def serving(self, template: str = "one", count: int = 1) -> None:
        """Wait until so many VMs of the template serve, and no other VM exists."""
        await self.until(
            lambda: (
                self.states() == [("RUNNING", "HEALTHY")] * count
                and all(row["template"].endswith(f"/{template}") for row in self.rows)
            )
        )


@asynccontextmanager
async def running(world: World, internet: Internet | None = None) -> AsyncGenerator[Cloud]:
    """A controller that follows the world, with machines that boot where there is an internet."""
    cloud = Cloud(world, internet)
    cloud.groups.start()
    try:
        yield cloud
    finally:
        await cloud.groups.close()


def declare(
    world: World,
    template: str = "one",
    policy: Body = REPLACE,
    size: int = 1,
    script: str = "#!/bin/bash\n",
    update_on_repair: str = "NO",
    machine_type: str = "g2-standard-8",
) -> None:
    """Write a template, health check and group as the providers do."""
    put = world.store.put
    name = f"projects/{PROJECT}/regions/{REGION}/instanceTemplates/{template}"
    interface = {"subnetwork": f"{API}/regions/{REGION}/subnetworks/llm"}
    body: Body = {
        "machineType": machine_type,
        "disks": [{"sourceImage": "projects/x/global/images/family/y"}],
        "metadata": {"revision": template},
        "metadataStartupScript": script,
        "networkInterfaces": [interface],
        "scheduling": {"provisioningModel": "SPOT", "preemptible": True},
        "serviceAccount": {"email": MACHINE, "scopes": [CLOUD_PLATFORM]},
        "tags": ["llm"],
    }
    put(instance_groups.TEMPLATES[0], name, body)
    check = {"httpHealthCheck": {"port": 8000, "requestPath": "/health"}}
    limits = {"checkIntervalSec": 10, "timeoutSec": 5, "healthyThreshold": 1}
    check_id = f"projects/{PROJECT}/global/healthChecks/llm"
    put("gcp:compute/healthCheck:HealthCheck", check_id, check | limits | {"unhealthyThreshold": 2})
    group: Body = {
        "project": PROJECT,
        "region": REGION,
        "baseInstanceName": "llm",
        "autoHealingPolicies": {
            "healthCheck": f"{API}/global/healthChecks/llm",
            "initialDelaySec": 600,
        },
        "distributionPolicyZones": ZONES,
        "distributionPolicyTargetShape": "ANY",
        "instanceLifecyclePolicy": {"forceUpdateOnRepair": update_on_repair},
        "targetSize": size,
        "updatePolicy": policy,
        "versions": [
            {"instanceTemplate": f"https://www.googleapis.com/compute/beta/{name}?uniqueId=7"}
        ],
    }
    put(GROUP, GROUP_ID, group)


def rehearse(world: World, scenario: Callable[[Cloud], Awaitable[None]]) -> Cloud:
    """Run a scenario against a running controller."""

    async def run() -> Cloud:
        async with running(world) as cloud:
            await scenario(cloud)
            return cloud

    return asyncio.run(run())


def test_a_group_boots_the_machine_that_its_template_describes(world: World) -> None:
    """The GPU, the address, the metadata and the reachable hosts come from what was declared."""

    async def scenario(cloud: Cloud) -> None:
        declare(world)
        await cloud.serving()

    cloud = rehearse(world, scenario)
    spec, row = cloud.machines[0].spec, cloud.rows[0]
    assert (spec.gpu_type, spec.gpu_count, spec.gpu_memory_gib) == ("nvidia-l4", 1, 24)
    assert spec.internal_ip == row["networkIp"] == "10.10.0.2"
    assert spec.zone in ZONES
    assert row["metadata"] == {"revision": "one", "startup-script": "#!/bin/bash\n"}
    assert {HOST, "team.cloudflareaccess.com", "region1.v2.argotunnel.com"} <= {*spec.hosts}


def test_replace_never_has_two_machines(world: World) -> None:
    """With surge 0 a new template deletes the old machine before it boots the new one."""

    async def scenario(cloud: Cloud) -> None:
        declare(world)
        await cloud.serving()
        declare(world, "two")
        await cloud.serving("two")

    cloud = rehearse(world, scenario)
    assert (len(cloud.machines), cloud.most) == (2, 1)
    assert cloud.machines[0].grace_s == instances.SHUTDOWN_FLOOR_S


def test_surge_keeps_the_old_machine_until_the_new_one_is_healthy(world: World) -> None:
    """With a surge the endpoint is served throughout a rollout."""

    async def scenario(cloud: Cloud) -> None:
        declare(world, policy=SURGE)
        await cloud.serving()
        cloud.engines_start = False
        declare(world, "two", policy=SURGE)
        await cloud.until(lambda: ("RUNNING", "UNHEALTHY") in cloud.states())
        old, new = cloud.machines
        assert old.running
        new.healthy = True
        await cloud.serving("two")
        assert not cloud.machines[0].running

    assert rehearse(world, scenario).most == 2


def test_a_new_machine_counts_once_it_has_been_healthy_for_the_groups_time(world: World) -> None:
    """Until then, which what stands before the engine may need to come up, the old one stays."""
    policy = SURGE | {"minReadySec": 30}
    seen: list[tuple[str, bool, bool]] = []

    def watch(_: str, type: str, __: str, body: Body) -> None:
        if type == INSTANCE and body["metadata"]["revision"] == "two":
            rows = world.store.all(INSTANCE).values()
            old_stays = any(
                it["template"].endswith("/one") and it["status"] == "RUNNING" for it in rows
            )
            seen.append((body["health"], body["available"], old_stays))

    async def scenario(cloud: Cloud) -> None:
        declare(world, policy=policy)
        await cloud.until(lambda: [row["available"] for row in cloud.rows] == [True])
        world.store.subscribe(watch)
        declare(world, "two", policy=policy)
        await cloud.serving("two")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instances, "READY_FLOOR_S", 0.1)
        rehearse(world, scenario)
    assert ("HEALTHY", False, True) in seen
    assert ("HEALTHY", False, False) not in seen


def test_a_manual_rollout_waits_for_the_operator(world: World) -> None:
    """An opportunistic group keeps its machine until something else replaces it."""

    async def scenario(cloud: Cloud) -> None:
        declare(world, policy=MANUAL)
        await cloud.serving()
        declare(world, "two", policy=MANUAL)
        declare(world, "two", policy=MANUAL, size=2)
        await cloud.until(lambda: cloud.states() == [("RUNNING", "HEALTHY")] * 2)

    rows = rehearse(world, scenario).rows
    assert sorted(row["metadata"]["revision"] for row in rows) == ["one", "two"]


@pytest.mark.parametrize("fault", ["the guest dies", "the engine hangs"])
def test_a_broken_machine_is_made_anew_under_its_name(world: World, fault: str) -> None:
    """Auto-healing boots a fresh machine when a guest is gone or its engine stops answering."""

    async def scenario(cloud: Cloud) -> None:
        declare(world)
        await cloud.serving()
        if fault == "the guest dies":
            await cloud.machines[0].delete()
        else:
            cloud.machines[0].healthy = False
        await cloud.until(lambda: len(cloud.machines) == 2)
        await cloud.serving()

    first, second = rehearse(world, scenario).machines
    assert first.spec.name == second.spec.name
    assert not first.running


@pytest.mark.parametrize(("update_on_repair", "revision"), [("NO", "one"), ("YES", "two")])
def test_a_repaired_machine_takes_the_latest_template_only_where_the_group_says_so(
    world: World, update_on_repair: str, revision: str
) -> None:
    """By default it comes back as it was, though its template is gone; else it is brought up."""

    async def scenario(cloud: Cloud) -> None:
        declare(world, policy=MANUAL, update_on_repair=update_on_repair)
        await cloud.serving()
        declare(world, "two", policy=MANUAL, update_on_repair=update_on_repair)
        old = f"projects/{PROJECT}/regions/{REGION}/instanceTemplates/one"
        world.store.delete(instance_groups.TEMPLATES[0], old)
        await cloud.machines[0].delete()
        await cloud.until(lambda: len(cloud.machines) == 2)
        await cloud.serving(revision)

    cloud = rehearse(world, scenario)
    assert cloud.rows[0]["metadata"]["revision"] == revision
    assert cloud.rows[0]["name"] == cloud.machines[0].spec.name == cloud.machines[1].spec.name


def test_a_machine_is_not_healthy_behind_a_firewall(world: World) -> None:
    """Without a rule for Google's probes the engine may answer, but nobody hears it."""
    world.store.delete(network.FIREWALL, "probes")

    async def scenario(cloud: Cloud) -> None:
        declare(world)
        await cloud.until(lambda: cloud.states() == [("RUNNING", "UNHEALTHY")])
        world.store.put(network.FIREWALL, "p", _rule([*network.PROBE_RANGES], ["8000"]))
        await cloud.serving()

    assert len(rehearse(world, scenario).machines) == 1


@pytest.mark.parametrize(
    ("private_google_access", "hosts"),
    [(True, {"secretmanager.googleapis.com", HOST}), (False, set[str]())],
)
def test_without_nat_a_machine_reaches_google_at_most(
    world: World, private_google_access: bool, hosts: set[str]
) -> None:
    """cloudflared needs a NAT gateway; Private Google Access is enough for secrets and images."""
    world.store.delete(network.ROUTER_NAT, "nat")
    for id, body in world.store.all(network.SUBNETWORK).items():
        body["privateIpGoogleAccess"] = private_google_access
        world.store.put(network.SUBNETWORK, id, body)

    async def scenario(cloud: Cloud) -> None:
        declare(world)
        await cloud.serving()

    assert {*rehearse(world, scenario).machines[0].spec.hosts} == hosts


def test_a_group_tries_another_zone_in_a_stockout(world: World) -> None:
    """With target shape ANY a machine comes up in the first zone that has one."""
    world.faults.set(f"stockout-{ZONES[0]}")

    async def scenario(cloud: Cloud) -> None:
        declare(world)
        await cloud.serving()

    cloud = rehearse(world, scenario)
    assert cloud.rows[0]["zone"] == ZONES[1]
    (error,) = world.store.all(ERROR).values()
    assert (error["code"], error["zone"]) == ("ZONE_RESOURCE_POOL_EXHAUSTED", ZONES[0])


def test_a_surge_beyond_the_quota_says_so_and_goes_on_serving(world: World) -> None:
    """With a quota of one GPU the new machine never comes, and the old one stays."""
    world.faults.set("quota-1")

    async def scenario(cloud: Cloud) -> None:
        declare(world, policy=SURGE)
        await cloud.serving()
        declare(world, "two", policy=SURGE)
        await cloud.until(lambda: len(world.store.all(ERROR)) == len(ZONES))
        await cloud.serving("one")
        world.store.delete(GROUP, GROUP_ID)
        await cloud.until(lambda: not cloud.rows and not world.store.all(ERROR))

    errors: list[Body] = []
    world.store.subscribe(lambda _, type, __, body: errors.append(body) if type == ERROR else None)
    rehearse(world, scenario)
    metric = "PREEMPTIBLE_NVIDIA_L4_GPUS"
    assert errors[0]["code"] == "QUOTA_EXCEEDED"
    assert errors[0]["message"] == f"Quota '{metric}' exceeded.  Limit: 1.0 in region {REGION}."


def test_a_machine_type_that_nobody_sells_is_not_found(world: World) -> None:
    """A small one without a GPU is; the group says what it misses and waits."""

    async def scenario(cloud: Cloud) -> None:
        declare(world, machine_type="e2-mini")
        await cloud.until(lambda: bool(world.store.all(ERROR)))
        assert not cloud.rows
        declare(world, "two", machine_type="e2-micro")
        await cloud.serving("two")

    cloud = rehearse(world, scenario)
    errors = [it["message"] for it in world.store.all(ERROR).values()]
    assert all(it.endswith("/machineTypes/e2-mini' was not found") for it in errors)
    assert (cloud.machines[0].spec.gpu_count, cloud.rows[0]["gpu"]) == (0, None)


def test_the_timeline_tells_how_long_a_gpu_was_taken(world: World) -> None:
    """From the creation of its machine until that is gone."""

    async def scenario(cloud: Cloud) -> None:
        declare(world)
        await cloud.serving()
        world.store.delete(GROUP, GROUP_ID)
        await cloud.until(lambda: not cloud.rows)

    rehearse(world, scenario)
    [span] = [it for it in timeline.read(world.timeline) if it.holds]
    assert (span.holds, span.name[:11]) == ("nvidia-l4", "GPU of llm-")
    assert span.end > span.start


def test_deleting_a_group_shuts_its_machines_down(world: World) -> None:
    """The guests get their time to stop, and nothing is left."""

    async def scenario(cloud: Cloud) -> None:
        declare(world, size=2)
        await cloud.serving(count=2)
        assert {row["networkIp"] for row in cloud.rows} == {"10.10.0.2", "10.10.0.3"}
        world.store.delete(GROUP, GROUP_ID)
        await cloud.until(lambda: not cloud.rows)
        assert [it.running for it in cloud.machines] == [False, False]
        assert all(it.grace_s > 0 for it in cloud.machines)

    rehearse(world, scenario)


def test_a_group_survives_the_daemon(world: World) -> None:
    """What was up when the clouds were stopped is booted when they are started again."""

    async def scenario(cloud: Cloud) -> None:
        declare(world)
        await cloud.serving()

    async def again(cloud: Cloud) -> None:
        await cloud.until(lambda: len(cloud.machines) == 1)
        await cloud.serving()

    before, after = rehearse(world, scenario), rehearse(world, again)
    assert before.machines[0].spec.name == after.machines[0].spec.name
    assert not before.machines[0].running


SCRIPT = """#!/bin/bash
set -eu
metadata=http://metadata.google.internal/computeMetadata/v1/instance
ask() { curl --silent --show-error --header 'Metadata-Flavor: Google' "$metadata/$1"; }
token=$(ask service-accounts/default/token | sed 's/.*"access_token": "\\([^"]*\\)".*/\\1/')
curl --silent --show-error --fail --header "Authorization: Bearer $token" \\
  "https://secretmanager.googleapis.com/v1/SECRET/versions/latest:access"
curl --silent --show-error --fail --user "oauth2accesstoken:$token" \\
  "https://HOST/v2/PROJECT/hub/vllm/vllm-openai/manifests/v0.33.0"
mkdir /tmp/engine && cd /tmp/engine && echo "revision $(ask attributes/revision)" | tee health
exec python3 -m http.server 8000
"""


@pytest.mark.rehearsal
def test_a_real_guest_boots_reads_its_secret_and_becomes_healthy(world: World) -> None:
    """The startup script runs in a guest that meets Google as a VM does, and goes without trace."""
    script = SCRIPT.replace("SECRET", SECRET).replace("HOST", HOST).replace("PROJECT", PROJECT)

    async def run() -> str:
        internet = Internet(world)
        async with running(world, internet) as cloud:
            pull_site = Registry(world, cloud.identity)
            internet.site("*.pkg.dev", pull_site.handle, pull_site.names)
            internet.site(secret_manager.HOST, SecretManager(world, cloud.identity).handle)
            declare(world, script=script)
            await cloud.serving()
            (console,) = (world.directory / "machines").glob("*/console.log")
            world.store.delete(GROUP, GROUP_ID)
            await cloud.until(lambda: not cloud.rows)
        await internet.close()
        return console.read_text()

    console = asyncio.run(run())
    assert base64.b64encode("planted ✓".encode()).decode() in console
    assert registry.SECONDS in console
    assert "revision one" in console
