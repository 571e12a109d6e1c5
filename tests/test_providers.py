"""The providers refuse, create, change and delete as the real plugins and services do."""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pulumi.runtime.rpc import UNKNOWN

from rehearsal.errors import CloudError
from rehearsal.google.project import TITLES
from rehearsal.providers import cloudflare, google, schema, storage
from rehearsal.providers.cloudflare import Cloudflare
from rehearsal.providers.google import Google
from rehearsal.providers.resource import Operation, Package
from rehearsal.store import Body
from rehearsal.world import Accounts, World

PROJECT, NUMBER, REGION = "a-project", "104042781755", "us-central1"
ACCOUNT, ZONE = "a" * 32, "b" * 32
FAMILIES = "projects/{}/global/images/family/{}"
SOURCE = {"sourceImage": FAMILIES.format("deeplearning-platform-release", "common-cu129-ubuntu")}
SPOT = {
    "provisioningModel": "SPOT",
    "preemptible": True,
    "automaticRestart": False,
    "onHostMaintenance": "TERMINATE",
}


class Cloud:
    """One provider plugin with its cloud, used as the engine uses it."""

    def __init__(self, world: World, package: Package, config: dict[str, str]) -> None:
        self.world = world
        self.package = package
        self.config = config
        self.warnings: list[str] = []

    def operation(self, token: str, name: str) -> Operation:
        async def log(severity: str, message: str) -> None:
            self.warnings.append(message)

        urn = f"urn:pulumi:dev::p::a:b:C${token}::{name}"
        return Operation(self.world, self.config, urn, log)

    def check(self, token: str, name: str, inputs: Body, olds: Body | None = None) -> Body:
        """Inputs with defaults; ValueError when the plugin refuses them."""
        checked, failures = self.package.check(
            self.operation(token, name), olds or {}, inputs, name.encode()
        )
        if failures:
            raise ValueError("; ".join(reason for _, reason in failures))
        return checked

    def create(self, token: str, name: str, /, **inputs: Any) -> Body:
        """Check and create; the outputs."""
        checked = self.check(token, name, inputs)
        work = self.package.create(self.operation(token, name), checked, preview=False)
        return asyncio.run(work)[1]

    def update(self, token: str, name: str, before: Body, /, **inputs: Any) -> Body:
        """Check and update in place; the outputs."""
        checked = self.check(token, name, inputs)
        operation = self.operation(token, name)
        return asyncio.run(self.package.update(operation, before["id"], before, checked, False))

    def delete(self, token: str, body: Body) -> None:
        """Delete what `create` returned."""
        asyncio.run(self.package.delete(self.operation(token, "it"), body["id"], body))

    def refused(self, error: CloudError, token: str) -> str:
        """A refusal as the user reads it."""
        return self.package.words(error, self.operation(token, "it"), "create", {})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, speed=1e9)
    accounts = Accounts(
        projects={PROJECT: NUMBER},
        cloudflare_accounts={ACCOUNT: "team"},
        cloudflare_zones={ZONE: "example.com"},
        cloudflare_tokens=["t" * 40],
    )
    (tmp_path / "accounts.json").write_text(accounts.model_dump_json())
    yield world
    world.store.close()


@pytest.fixture
def bare_gcp(world: World) -> Cloud:
    """Google Cloud with no API enabled."""
    package = Google(schema.load("gcp", [row.token for row in google.ROWS]))
    return Cloud(world, package, {"project": PROJECT, "region": REGION})


@pytest.fixture
def gcp(bare_gcp: Cloud) -> Cloud:
    for api in TITLES:
        bare_gcp.create(google.SERVICE, api, service=api)
    return bare_gcp


@pytest.fixture
def cf(world: World) -> Cloud:
    package = Cloudflare(schema.load("cloudflare", [row.token for row in cloudflare.ROWS]))
    return Cloud(world, package, {"apiToken": "t" * 40})


def subnet(gcp: Cloud, name: str = "subnet", cidr: str = "10.0.0.0/24") -> Body:
    vpc = f"projects/{PROJECT}/global/networks/vpc"
    if not gcp.world.store.get(google.NETWORK, vpc):
        gcp.create(google.NETWORK, "vpc", name="vpc", autoCreateSubnetworks=False)
    return gcp.create(google.SUBNETWORK, name, network=vpc, ipCidrRange=cidr)


def template(gcp: Cloud, name: str = "template", **more: Any) -> Body:
    inputs: Body = {
        "machineType": "g2-standard-8",
        "disks": [SOURCE],
        "scheduling": SPOT,
    }
    return gcp.create(google.TEMPLATE, name, **(inputs | more))


def group(gcp: Cloud, **more: Any) -> Body:
    inputs: Body = {
        "baseInstanceName": "llm",
        "targetSize": 1,
        "distributionPolicyTargetShape": "ANY",
        "updatePolicy": {
            "type": "PROACTIVE",
            "minimalAction": "REPLACE",
            "instanceRedistributionType": "NONE",
            "maxSurgeFixed": 0,
            "maxUnavailableFixed": 3,
        },
    }
    if "versions" not in more:
        inputs["versions"] = [{"instanceTemplate": template(gcp)["selfLink"]}]
    return gcp.create(google.GROUP, "group", **(inputs | more))


def tunnel(cf: Cloud, name: str = "llm") -> Body:
    return cf.create(cloudflare.TUNNEL, name, accountId=ACCOUNT, name=name, configSrc="cloudflare")


# Google Cloud


def test_an_api_must_be_enabled_first(bare_gcp: Cloud):
    """A resource of a service that is not enabled is refused, with the address to enable it."""
    with pytest.raises(CloudError, match="Compute Engine API has not been used") as refusal:
        bare_gcp.create(google.NETWORK, "vpc")

    words = bare_gcp.refused(refusal.value, google.NETWORK)
    assert "Error creating Network: googleapi: Error 403:" in words
    assert f"compute.googleapis.com/overview?project={NUMBER}" in words


def test_a_project_must_be_the_callers(gcp: Cloud):
    """Somebody else's project is refused."""
    with pytest.raises(CloudError, match="Permission denied on resource project other"):
        gcp.create(google.NETWORK, "vpc", project="other")


def test_what_exists_cannot_be_created_again(gcp: Cloud):
    """Two resources of one name: the second is refused with 409."""
    gcp.create(google.NETWORK, "one", name="vpc")

    with pytest.raises(CloudError, match="global/networks/vpc' already exists") as refusal:
        gcp.create(google.NETWORK, "two", name="vpc")
    assert (refusal.value.code, refusal.value.reason) == (409, "alreadyExists")


def test_pulumi_names_what_the_program_does_not(gcp: Cloud):
    """A name is the resource's with seven hexadecimal digits, and stays over updates."""
    first = gcp.check(google.NETWORK, "vpc", {})
    again = gcp.check(google.NETWORK, "vpc", {"mtu": 1500}, olds=first | {"name": "vpc-1234567"})

    assert len(first["name"]) == len("vpc-1234567")
    assert again["name"] == "vpc-1234567"


def test_a_name_that_is_too_long_is_refused(gcp: Cloud):
    """A service account's id has at most 30 characters, Pulumi's seven digits included."""
    with pytest.raises(ValueError, match="longer than maximum length 30"):
        gcp.check(google.ACCOUNT, "a-machine-of-a-longer-name", {})


def test_a_fixed_name_is_replaced_delete_first(gcp: Cloud):
    """Only what Pulumi named itself can be replaced without an interruption."""
    operation = gcp.operation(google.TEMPLATE, "template")
    inputs: Body = {"machineType": "g2-standard-8", "disks": [SOURCE]}
    changed = inputs | {"machineType": "g2-standard-4"}
    fixed, own = ({"name": "fixed"}, {})

    for name, deletes_first in ((fixed, True), (own, False)):
        old = gcp.check(google.TEMPLATE, "template", inputs | name)
        new = gcp.check(google.TEMPLATE, "template", changed | name, olds=old)
        diff = gcp.package.diff(operation, old, new)

        assert diff.changes["machineType"].replaces
        assert diff.delete_before_replace is deletes_first


@pytest.mark.parametrize(
    ("token", "change", "path", "replaces"),
    [
        (google.TEMPLATE, {"metadataStartupScript": "echo 2"}, "metadataStartupScript", True),
        (google.TEMPLATE, {"metadata": {"a-key": "2"}}, 'metadata["a-key"]', True),
        (google.NETWORK, {"mtu": 1500}, "mtu", False),
        (google.NETWORK, {"description": "2"}, "description", True),
        (google.SECRET, {"labels": {"a": "2"}}, "labels.a", False),
    ],
)
def test_what_a_change_does(gcp: Cloud, token: str, change: Body, path: str, replaces: bool):
    """Some changes replace a resource and others update it, as the real plugin has it."""
    before = {"metadataStartupScript": "echo", "metadata": {"a-key": "1"}, "labels": {"a": "1"}}
    before |= {"mtu": 1460, "description": "1", "__defaults": []}

    changes = gcp.package.diff(gcp.operation(token, "it"), before, before | change).changes

    assert {key: each.replaces for key, each in changes.items()} == {path: replaces}


BULK = {"mode": "BULK"}
MAVEN = {"versionPolicy": "RELEASE"}


@pytest.mark.parametrize(
    ("token", "key", "old", "new", "at", "replaces"),
    [
        (google.GROUP, "targetSizePolicies", None, [BULK], "", True),
        (google.GROUP, "targetSizePolicies", [BULK], None, "", True),
        (google.GROUP, "targetSizePolicies", [], [BULK], "[0]", True),
        (google.GROUP, "targetSizePolicies", [BULK, BULK], [BULK], "[1]", True),
        (google.GROUP, "targetSizePolicies", [BULK], UNKNOWN, "", True),
        (google.GROUP, "updatePolicy", None, {"type": "PROACTIVE"}, "", False),
        (google.REPOSITORY, "mavenConfig", None, MAVEN, "", True),
        (google.REPOSITORY, "mavenConfig", MAVEN, None, "", True),
        (google.TEMPLATE, "tags", ["a"], ["a", "b"], "[1]", True),
    ],
)
def test_what_comes_or_goes_replaces_by_what_is_in_it(
    gcp: Cloud, token: str, key: str, old: Any, new: Any, at: str, replaces: bool
):
    """A block with a part that replaces does so when it appears, disappears or is not known yet."""
    changes = gcp.package.diff(gcp.operation(token, "it"), {key: old}, {key: new}).changes

    assert {path: each.replaces for path, each in changes.items()} == {key + at: replaces}


def test_a_reference_must_resolve(gcp: Cloud):
    """A subnet in a network that does not exist is refused with 404."""
    with pytest.raises(CloudError, match="networks/nowhere' was not found") as refusal:
        gcp.create(
            google.SUBNETWORK,
            "subnet",
            network=f"projects/{PROJECT}/global/networks/nowhere",
            ipCidrRange="10.0.0.0/24",
        )
    assert refusal.value.code == 404


@pytest.mark.parametrize("spelling", ["id", "selfLink", "name"])
def test_a_network_may_be_named_in_three_ways(gcp: Cloud, spelling: str):
    """By id, link or name; the service answers with the link, and that is no difference."""
    vpc = gcp.create(google.NETWORK, "vpc")
    inputs = gcp.check(google.ROUTER, "router", {"network": vpc[spelling]})
    router = gcp.create(google.ROUTER, "router", network=vpc[spelling])

    read = gcp.package.read(gcp.operation(google.ROUTER, "router"), router["id"], router, inputs)

    assert router["network"] == vpc["selfLink"]
    assert asyncio.run(read)[2] == inputs


def test_what_is_used_cannot_be_deleted(gcp: Cloud):
    """A network goes only after its subnets, a template only after its group."""
    used = subnet(gcp)
    vpc = gcp.world.store.get(google.NETWORK, f"projects/{PROJECT}/global/networks/vpc") or {}

    with pytest.raises(CloudError, match=f"already being used by '{used['id']}'") as refusal:
        gcp.delete(google.NETWORK, vpc)
    assert refusal.value.reason == "resourceInUseByAnotherResource"

    gcp.delete(google.SUBNETWORK, used)
    gcp.delete(google.NETWORK, vpc)
    assert gcp.world.store.all(google.NETWORK) == {}


def test_a_template_in_service_cannot_be_deleted(gcp: Cloud):
    """The group holds its template until it has another one."""
    made = template(gcp)
    standing = group(gcp, versions=[{"instanceTemplate": made["id"]}])

    with pytest.raises(CloudError, match=r"instance_template resource .* already being used"):
        gcp.delete(google.TEMPLATE, made)

    newer = template(gcp, "newer")
    inputs = {"baseInstanceName": "llm", "versions": [{"instanceTemplate": newer["selfLink"]}]}
    gcp.update(google.GROUP, "group", standing, name=standing["name"], **inputs)
    gcp.delete(google.TEMPLATE, made)


def test_subnets_of_a_network_do_not_overlap(gcp: Cloud):
    """The second range is refused; the first may be changed against itself."""
    subnet(gcp)

    with pytest.raises(CloudError, match="conflicts with existing subnetwork 'subnet-"):
        subnet(gcp, "other", "10.0.0.128/25")


@pytest.mark.parametrize(
    ("scheduling", "words"),
    [
        (SPOT | {"automaticRestart": True}, "automaticRestart be false"),
        ({"provisioningModel": "SPOT", "preemptible": True}, "automaticRestart be false"),
        (SPOT | {"preemptible": False}, "preemptible be true"),
        (SPOT | {"onHostMaintenance": "MIGRATE"}, "do not support live migration"),
        (SPOT | {"provisioningModel": "CHEAP"}, "Invalid value for field 'provisioningModel'"),
        (SPOT | {"provisioningModel": "FLEX_START"}, "must have maxRunDuration"),
    ],
)
def test_a_template_that_no_vm_could_have_is_refused(gcp: Cloud, scheduling: Body, words: str):
    """The plugin lets impossible scheduling pass; the service does not."""
    with pytest.raises(CloudError, match=words):
        template(gcp, scheduling=scheduling)


@pytest.mark.parametrize(
    ("project", "family", "found"),
    [
        ("cos-cloud", "cos-stable", True),
        ("cos-cloud", "cos-121-lts", True),
        (PROJECT, "a-baked-one", True),
        ("cos-cloud", "cos-latest", False),
        ("nobody", "cos-stable", False),
    ],
)
def test_a_boot_image_must_be_one_of_its_family(gcp: Cloud, project: str, family: str, found: bool):
    """The plugin looks it up; one of the project's own is taken at its word."""
    disks = [{"sourceImage": FAMILIES.format(project, family)}]
    if found:
        assert template(gcp, disks=disks)["disks"] == disks
    else:
        with pytest.raises(ValueError, match=f"Could not find image or family {family}"):
            template(gcp, disks=disks)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"maxSurgeFixed": 1}, "has to be either 0 or at least equal to the number of zones"),
        ({"maxUnavailableFixed": 1}, "has to be either 0 or at least equal"),
        ({"maxUnavailableFixed": 0}, "cannot both be 0"),
        ({"instanceRedistributionType": "PROACTIVE"}, "must be NONE when the target shape is ANY"),
    ],
)
def test_an_impossible_update_policy_is_refused(gcp: Cloud, change: Body, words: str):
    """A regional group's numbers follow its zones."""
    policy = {
        "type": "PROACTIVE",
        "minimalAction": "REPLACE",
        "instanceRedistributionType": "NONE",
        "maxSurgeFixed": 0,
        "maxUnavailableFixed": 3,
    }

    with pytest.raises(CloudError, match=words):
        group(gcp, updatePolicy=policy | change)


@pytest.mark.parametrize(
    ("token", "inputs", "words"),
    [
        (google.NETWORK, {"name": "Bad_Name"}, "doesn't match regexp"),
        (google.ACCOUNT, {"accountId": "abc"}, "doesn't match regexp"),
        (google.SUBNETWORK, {"network": "n", "ipCidrRange": "10.0.0.1/24"}, "not a valid IP range"),
        ("gcp:compute/firewall:Firewall", {"network": "n"}, "one of `allow,deny` must"),
        (
            google.GROUP,
            {"baseInstanceName": "llm", "versions": [], "waitForInstances": True},
            "does not play",
        ),
        (
            google.GROUP,
            {
                "baseInstanceName": "llm",
                "versions": [],
                "autoHealingPolicies": {"healthCheck": "h", "initialDelaySec": 3601},
            },
            r"range \(0 - 3600\)",
        ),
        (
            google.GROUP,
            {
                "baseInstanceName": "llm",
                "versions": [],
                "instanceLifecyclePolicy": {"forceUpdateOnRepair": "ALWAYS"},
            },
            r'forceUpdateOnRepair to be one of \["YES" "NO"\]',
        ),
        (
            "gcp:projects/iAMMember:IAMMember",
            {"project": PROJECT, "role": "roles/viewer", "member": "somebody@example.com"},
            "doesn't match regexp",
        ),
    ],
)
def test_the_plugin_refuses_at_preview(gcp: Cloud, token: str, inputs: Body, words: str):
    """What the plugin knows to be wrong never reaches the service."""
    with pytest.raises(ValueError, match=words):
        gcp.check(token, "it", inputs)


def test_a_remote_repository_needs_an_upstream(gcp: Cloud):
    """Preview lets it pass; up does not."""
    with pytest.raises(CloudError, match="remote_repository_config is required"):
        gcp.create(
            google.REPOSITORY, "hub", repositoryId="hub", format="DOCKER", mode="REMOTE_REPOSITORY"
        )


def test_a_role_needs_an_account_that_exists(gcp: Cloud):
    """A binding of a service account that nobody made is refused."""
    member = f"serviceAccount:ghost@{PROJECT}.iam.gserviceaccount.com"

    with pytest.raises(CloudError, match=r"ghost@.* does not exist"):
        gcp.create(
            "gcp:projects/iAMMember:IAMMember",
            "role",
            project=PROJECT,
            role="roles/logging.logWriter",
            member=member,
        )


def test_a_secrets_versions_are_never_numbered_twice(gcp: Cloud):
    """A new value is a new number, also after the old version was destroyed."""
    secret = gcp.create(google.SECRET, "s", secretId="s", replication={"auto": {}})
    first = gcp.create(google.SECRET_VERSION, "v", secret=secret["id"], secretData="one")
    gcp.delete(google.SECRET_VERSION, first)
    second = gcp.create(google.SECRET_VERSION, "v", secret=secret["id"], secretData="two")

    assert (first["name"], second["name"]) == tuple(
        f"projects/{NUMBER}/secrets/s/versions/{version}" for version in (1, 2)
    )


def test_a_secret_takes_everything_with_it(gcp: Cloud):
    """Versions, their traces, and who may read them."""
    secret = gcp.create(google.SECRET, "s", secretId="s", replication={"auto": {}})
    version = gcp.create(google.SECRET_VERSION, "v", secret=secret["id"], secretData="one")
    gcp.create(google.SECRET_VERSION, "w", secret=secret["id"], secretData="two")
    gcp.delete(google.SECRET_VERSION, version)

    gcp.delete(google.SECRET, secret)

    assert [id for _, id, _ in gcp.world.store.everything() if "secrets/" in id] == []


def test_a_protected_secret_stays(gcp: Cloud):
    """`deletionProtection` holds until it has been taken back."""
    secret = gcp.create(
        google.SECRET, "s", secretId="s", replication={"auto": {}}, deletionProtection=True
    )

    with pytest.raises(ValueError, match="deletion_protection=false"):
        gcp.delete(google.SECRET, secret)


def bucket(gcp: Cloud, **more: Any) -> Body:
    inputs: Body = {"location": "us-central1", "publicAccessPrevention": "enforced"}
    return gcp.create(storage.BUCKET, "weights", **(inputs | more))


def test_a_bucket_is_named_by_pulumi_and_answers_as_the_plugin_has_it(gcp: Cloud):
    """Names are shared by the whole world, so Pulumi draws one; the location comes in capitals."""
    made = bucket(gcp)

    assert re.fullmatch(r"weights-[0-9a-f]{7}", made["name"])
    assert made["id"] == made["name"]
    assert made["location"] == "US-CENTRAL1"
    assert made["url"] == f"gs://{made['name']}"
    assert made["selfLink"] == f"https://www.googleapis.com/storage/v1/b/{made['name']}"
    assert made["projectNumber"] == int(NUMBER)
    assert made["softDeletePolicy"] == {"retentionDurationSeconds": 604800}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"name": "Weights"}, "doesn't match regexp"),
        ({"publicAccessPrevention": "yes"}, "expected publicAccessPrevention to be one of"),
        ({"location": "us-central9"}, "The specified location constraint is not valid."),
    ],
)
def test_an_impossible_bucket_is_refused(gcp: Cloud, inputs: Body, said: str):
    """By the plugin at preview, or by the service."""
    with pytest.raises((ValueError, CloudError), match=said):
        bucket(gcp, **inputs)


def test_a_bucket_with_objects_is_deleted_only_when_told_to(gcp: Cloud):
    """As the plugin has it; with `forceDestroy` everything in it goes, and who may use it."""
    full = bucket(gcp, name="full-of-weights")
    declared = gcp.create(
        storage.OBJECT, "o", bucket=full["name"], name="a/config.json", content="{}"
    )
    role = {"bucket": full["name"], "role": "roles/storage.objectViewer", "member": "user:a@b.c"}
    binding = gcp.create(storage.MEMBER, "m", **role)
    assert declared["id"] == "full-of-weights-a/config.json"
    assert declared["md5hexhash"] == "99914b932bd37a50b983c5e7c90ae93b"
    assert binding["id"] == "b/full-of-weights/roles/storage.objectViewer/user:a@b.c"

    with pytest.raises(ValueError, match=r"containing objects without `force_destroy` set to true"):
        gcp.delete(storage.BUCKET, full)
    forced = gcp.update(
        storage.BUCKET,
        "weights",
        full,
        name=full["name"],
        location="us-central1",
        forceDestroy=True,
    )
    gcp.delete(storage.BUCKET, forced)

    left = [id for token, id, _ in gcp.world.store.everything() if "storage" in token]
    assert left == []
    assert not any((gcp.world.directory / "buckets").iterdir())


def test_a_declared_object_has_its_bytes(gcp: Cloud):
    """Content comes, changes and goes with the resource that declares it."""
    made = bucket(gcp)
    path = gcp.world.directory / "buckets" / made["name"] / "a" / "note"
    about = {"bucket": made["name"], "name": "a/note"}
    first = gcp.create(storage.OBJECT, "o", content="one", **about)
    assert path.read_text() == "one"

    second = gcp.update(storage.OBJECT, "o", first, content="two", **about)
    assert path.read_text() == "two"
    assert second["md5hash"] != first["md5hash"]

    gcp.delete(storage.OBJECT, second)
    assert not path.parent.exists()
    assert path.parent.parent.is_dir()


def test_nobody_lets_everybody_into_a_private_bucket(gcp: Cloud):
    """Public access prevention stands above roles."""
    made = bucket(gcp)

    with pytest.raises(CloudError, match="public access prevention is enforced"):
        gcp.create(
            storage.MEMBER,
            "m",
            bucket=made["name"],
            role="roles/storage.objectViewer",
            member="allUsers",
        )


def test_an_api_stays_enabled(gcp: Cloud):
    """Destroying the declaration of an API leaves it enabled, for others may need it."""
    body = gcp.world.store.get(google.SERVICE, f"{PROJECT}/compute.googleapis.com") or {}

    gcp.delete(google.SERVICE, body)

    assert gcp.create(google.NETWORK, "vpc")


def test_labels_of_the_stack_reach_every_resource(gcp: Cloud):
    """The provider's default labels, the resource's own and Pulumi's mark are all in effect."""
    gcp.config["defaultLabels"] = json.dumps({"stack": "dev", "run": "0"})

    secret = gcp.create(
        google.SECRET, "s", secretId="s", replication={"auto": {}}, labels={"run": "1"}
    )

    assert secret["labels"] == {"run": "1"}
    assert secret["effectiveLabels"] == {
        "goog-pulumi-provisioned": "true",
        "stack": "dev",
        "run": "1",
    }


def test_a_group_is_gone_only_with_its_machines(gcp: Cloud):
    """Deleting a group waits until the last of its instances is gone."""
    standing = group(gcp)
    store = gcp.world.store
    store.put("google:instance", "vm", {"group": standing["id"]})

    async def destroy() -> bool:
        operation = gcp.operation(google.GROUP, "group")
        deletion = asyncio.create_task(gcp.package.delete(operation, standing["id"], standing))
        while store.get(google.GROUP, standing["id"]):  # noqa: ASYNC110 nothing tells
            await asyncio.sleep(0.01)
        waited = not deletion.done()
        store.delete("google:instance", "vm")
        await deletion
        return waited

    assert asyncio.run(destroy())


def test_refresh_sees_what_changed_outside(gcp: Cloud):
    """A change by hand shows in the inputs; a deletion as an empty id; a new state as neither."""
    inputs = gcp.check(google.NETWORK, "vpc", {"name": "vpc", "routingMode": "REGIONAL"})
    vpc = gcp.create(google.NETWORK, "vpc", name="vpc", routingMode="REGIONAL")
    operation, store = gcp.operation(google.NETWORK, "vpc"), gcp.world.store

    def read() -> tuple[str, Body]:
        id, _, actual = asyncio.run(gcp.package.read(operation, vpc["id"], vpc, inputs))
        return id, actual

    store.put(google.NETWORK, vpc["id"], vpc | {"gatewayIpv4": "10.0.0.1"})
    assert read() == (vpc["id"], inputs)
    store.put(google.NETWORK, vpc["id"], vpc | {"routingMode": "GLOBAL"})
    assert read() == (vpc["id"], inputs | {"routingMode": "GLOBAL"})
    store.delete(google.NETWORK, vpc["id"])
    assert read() == ("", {})


def test_preview_knows_inputs_and_nothing_that_a_service_says(gcp: Cloud):
    """At preview nothing is created, and what the service makes is unknown."""
    checked = gcp.check(google.NETWORK, "vpc", {"name": "vpc"})
    operation = gcp.operation(google.NETWORK, "vpc")

    id, outputs = asyncio.run(gcp.package.create(operation, checked, preview=True))

    assert (id, outputs["name"], outputs["project"]) == ("", "vpc", PROJECT)
    assert outputs["selfLink"] == outputs["networkId"] == UNKNOWN
    assert gcp.world.store.all(google.NETWORK) == {}


# Cloudflare


def test_a_malformed_token_is_refused_before_any_call(cf: Cloud):
    """The token's form is checked at configuration, its validity by the first call."""
    assert cf.package.check_config({"apiToken": "short"})
    assert not cf.package.check_config({"apiToken": "u" * 40})

    cf.config["apiToken"] = "u" * 40
    with pytest.raises(CloudError, match="Authentication error") as refusal:
        tunnel(cf)
    assert '403 Forbidden {"success": false, "errors": [{"code": 10000,' in cf.refused(
        refusal.value, cloudflare.TUNNEL
    )


@pytest.mark.parametrize(("account", "code"), [("mine", 404), ("c" * 32, 403)])
def test_accounts_are_the_callers(cf: Cloud, account: str, code: int):
    """A malformed account id leads nowhere, and somebody else's is refused."""
    with pytest.raises(CloudError) as refusal:
        cf.create(cloudflare.TUNNEL, "t", accountId=account, name="t")
    assert refusal.value.code == code


def test_a_tunnels_name_is_unique(cf: Cloud):
    """A second tunnel of the name is refused with 1013; a deleted one gives its name free."""
    first = tunnel(cf)
    with pytest.raises(CloudError, match="already have a tunnel") as refusal:
        tunnel(cf)
    assert refusal.value.reason == "1013"

    cf.delete(cloudflare.TUNNEL, first)
    assert tunnel(cf)["id"] != first["id"]


def test_a_connected_tunnel_stays(cf: Cloud):
    """Deletion is refused with 1022 until the last connection is closed; then all of it goes."""
    body, store = tunnel(cf), cf.world.store
    rule = {"service": "http_status:404"}
    settings = {"accountId": ACCOUNT, "tunnelId": body["id"], "config": {"ingresses": [rule]}}
    configuration = cf.create(cloudflare.TUNNEL_CONFIG, "c", **settings)
    store.put(cloudflare.CONNECTION, "c1", {"tunnelId": body["id"]})

    cf.delete(cloudflare.TUNNEL_CONFIG, configuration)
    with pytest.raises(CloudError, match="active connections") as refusal:
        cf.delete(cloudflare.TUNNEL, body)
    assert refusal.value.reason == "1022"

    store.delete(cloudflare.CONNECTION, "c1")
    cf.delete(cloudflare.TUNNEL, body)
    assert list(store.everything()) == []


def test_a_configuration_is_never_deleted_alone(cf: Cloud):
    """The plugin says so, and the tunnel keeps its configuration."""
    body = tunnel(cf)
    rule = {"service": "http_status:404"}
    settings = {"accountId": ACCOUNT, "tunnelId": body["id"], "config": {"ingresses": [rule]}}
    configuration = cf.create(cloudflare.TUNNEL_CONFIG, "c", **settings)

    cf.delete(cloudflare.TUNNEL_CONFIG, configuration)

    assert "will not change it in the API" in cf.warnings[0]
    assert cf.world.store.get(cloudflare.TUNNEL_CONFIG, body["id"])


def test_a_tunnels_token_opens_that_tunnel(cf: Cloud):
    """The token names account and tunnel and carries the secret that Cloudflare keeps."""
    body = tunnel(cf)
    arguments = {"accountId": ACCOUNT, "tunnelId": body["id"]}

    token = cloudflare.tunnel_token(cf.world, cf.config, arguments)["token"]

    kept = cf.world.store.get(cloudflare.TUNNEL_SECRET, body["id"]) or {}
    assert json.loads(base64.b64decode(token)) == {
        "a": ACCOUNT,
        "t": body["id"],
        "s": kept["secret"],
    }


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([{"hostname": "a.example.com", "service": "http://x"}], "last ingress rule must match"),
        ([{"service": "http://x"}, {"service": "http_status:404"}], "will never be triggered"),
    ],
)
def test_ingress_ends_with_the_rule_for_everything_else(cf: Cloud, rules: list[Body], words: str):
    """Only the last rule, and the last rule always, has no condition."""
    with pytest.raises(CloudError, match=words):
        cf.create(
            cloudflare.TUNNEL_CONFIG,
            "c",
            accountId=ACCOUNT,
            tunnelId=tunnel(cf)["id"],
            config={"ingresses": rules},
        )


def record(cf: Cloud, **more: Any) -> Body:
    inputs: Body = {"zoneId": ZONE, "name": "llm", "type": "CNAME", "ttl": 1, "proxied": True}
    inputs |= {"content": "t.cfargotunnel.com"}
    return cf.create(cloudflare.DNS_RECORD, "r", **(inputs | more))


def test_a_record_lies_in_its_zone(cf: Cloud):
    """Cloudflare completes a name with the zone's."""
    assert record(cf)["name"] == "llm.example.com"
    assert record(cf, name="chat.example.com")["name"] == "chat.example.com"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "llm.example.com"}, "identical record already exists"),
        ({"content": "other.example.net"}, "A, AAAA, or CNAME record with that host already"),
        ({"name": "x", "type": "TXT"}, "cannot be proxied"),
    ],
)
def test_records_that_cloudflare_refuses(cf: Cloud, change: Body, words: str):
    """A second record of a CNAME's name, and a proxied record that is not for hosts."""
    record(cf)

    with pytest.raises(CloudError, match=words):
        record(cf, **change)


def test_a_proxied_record_has_no_ttl_of_its_own(cf: Cloud):
    """The plugin refuses it, but only during up."""
    with pytest.raises(ValueError, match="ttl must be set to 1"):
        record(cf, ttl=300)


def test_an_application_guards_a_domain_of_the_account(cf: Cloud):
    """A domain outside the zones is refused, and so is none."""
    inputs = {"accountId": ACCOUNT, "type": "self_hosted", "name": "a"}

    for domain in ("llm.example.net", "llm.notexample.com", None):
        with pytest.raises(CloudError, match=r"access\.api\.error\.invalid_request: domain"):
            cf.create(cloudflare.APPLICATION, "a", domain=domain, **inputs)
    assert (
        len(cf.create(cloudflare.APPLICATION, "a", domain="llm.example.com", **inputs)["aud"]) == 64
    )


def test_tokens_and_policies_in_use_stay(cf: Cloud):
    """An application holds its policy, a policy its service token."""
    token = cf.create(cloudflare.SERVICE_TOKEN, "t", accountId=ACCOUNT, name="t")
    rule = {"serviceToken": {"tokenId": token["id"]}}
    policy = cf.create(
        cloudflare.POLICY,
        "p",
        accountId=ACCOUNT,
        name="p",
        decision="non_identity",
        includes=[rule],
    )
    cf.create(
        cloudflare.APPLICATION,
        "a",
        accountId=ACCOUNT,
        type="self_hosted",
        domain="llm.example.com",
        policies=[{"id": policy["id"], "precedence": 1}],
    )

    for kind, body in ((cloudflare.POLICY, policy), (cloudflare.SERVICE_TOKEN, token)):
        with pytest.raises(CloudError, match="in_use"):
            cf.delete(kind, body)


def test_a_policy_names_one_kind_of_caller_a_rule(cf: Cloud):
    """Two selectors in one rule are refused at preview, a policy for nobody during up."""
    inputs: Body = {"accountId": ACCOUNT, "name": "p", "decision": "allow"}
    two = [{"email": {"email": "a@example.com"}, "everyone": {}}]

    with pytest.raises(ValueError, match="at most 1 attribute"):
        cf.check(cloudflare.POLICY, "p", inputs | {"includes": two})
    with pytest.raises(CloudError, match="at least one include"):
        cf.create(cloudflare.POLICY, "p", **inputs)


def test_a_service_token_is_rotated_in_place(cf: Cloud):
    """A higher secret version brings a new secret under the same id; a new name does not."""
    inputs = {"accountId": ACCOUNT, "name": "t"}
    token = cf.create(cloudflare.SERVICE_TOKEN, "t", **inputs)

    renamed = cf.update(cloudflare.SERVICE_TOKEN, "t", token, accountId=ACCOUNT, name="u")
    rotated = cf.update(cloudflare.SERVICE_TOKEN, "t", token, clientSecretVersion=2, **inputs)

    assert renamed["clientSecret"] == token["clientSecret"]
    assert rotated["clientSecret"] != token["clientSecret"]
    assert rotated["id"] == token["id"]
    assert rotated["clientId"] == token["clientId"]


def test_a_year_is_no_duration(cf: Cloud):
    """Durations are Go's: hours, not years."""
    with pytest.raises(CloudError, match="invalid duration 1y"):
        cf.create(cloudflare.SERVICE_TOKEN, "t", accountId=ACCOUNT, name="t", duration="1y")
