"""The audit finds what is left of a stack in the clouds, only that, and is never sure wrongly."""

import json
import os
import re
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from components.model_bucket import KEPT_LABEL
from rehearsal.checks import Consoles
from rehearsal.google.cloud_build import BUILD
from rehearsal.google.cloud_run import EXECUTION
from rehearsal.session import Session
from scripts import audit, stack_file
from scripts.audits import cloudflare, google, marks, state, thing
from scripts.audits.marks import LABEL, Marks
from scripts.audits.state import State
from scripts.audits.thing import Thing
from scripts.checks.check import Finding, UnknownError
from tests.conftest import ROOT, Deploy
from tests.stack_config import STACKS

PROJECT, REGION = "example-project", "us-central1"
ACCOUNT, ZONE = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
COMPUTE = f"projects/{PROJECT}"
OURS = {"effectiveLabels": {LABEL: "dev"}, "labels": {LABEL: "dev"}}
ANOTHERS = {"effectiveLabels": {LABEL: "dev-2"}, "labels": {LABEL: "dev-2"}}


class Planted(NamedTuple):
    """Something that somebody, or a command that broke off, has left in a cloud."""

    kind: str
    name: str
    type: str
    id: str
    body: dict[str, Any]
    delete: str
    """What must be part of the command that deletes it."""


def compute(kind: str, type: str, name: str, place: str, noun: str, **body: Any) -> Planted:
    """Something of Compute Engine's."""
    scope, _, where = place.partition("/")
    at = {scope[:-1]: where} if where else {}
    words = f"{noun} delete {name}" + (f" --{scope[:-1]}={where}" if where else "")
    body = {"name": name, "project": PROJECT, **at, **body}
    collection = type.rpartition("/")[2].partition(":")[0] + "s"
    return Planted(kind, name, type, f"{COMPUTE}/{place}/{collection}/{name}", body, words)


def access(kind: str, type: str, name: str, path: str) -> Planted:
    """Something of Cloudflare's account."""
    id = f"id-of-{kind.replace(' ', '-')}"
    body = {"accountId": ACCOUNT, "name": name, "id": id}
    return Planted(kind, name, type, id, body, f"/accounts/{ACCOUNT}/{path}/{id}")


MACHINE = f"llm-dev-machine@{PROJECT}.iam.gserviceaccount.com"
RUN_PLACE = f"{COMPUTE}/locations/europe-west4"
TUNNEL_ID = "f70ff985-a4ef-4643-bbbc-4a0ed4fc8415"

PLANTED = (
    compute("VPC network", google.NETWORK, "llm-dev-vpc-1a2b3c4", "global", "networks"),
    compute(
        *("subnet", google.SUBNET, "llm-dev-subnet-1a2b3c4", "regions/asia-east1"),
        "networks subnets",
        network="default",
        ipCidrRange="10.0.0.0/24",
    ),
    compute(
        *("disk", "gcp:compute/disk:Disk", "llm-dev-x7k2", f"zones/{REGION}-b", "disks"),
        sizeGb="100",
        status="READY",
    ),
    compute(
        *("address", "gcp:compute/address:Address", "by-hand", f"regions/{REGION}", "addresses"),
        **OURS,
    ),
    Planted(
        *("repository of images", "llm-dev-docker-hub", google.REPOSITORY),
        f"{RUN_PLACE}/repositories/llm-dev-docker-hub",
        {"project": PROJECT, "format": "DOCKER"},
        "artifacts repositories delete llm-dev-docker-hub --location=europe-west4",
    ),
    Planted(
        *("Cloud Run job", "llm-dev-staging-1a2b3c4", google.JOB),
        f"{RUN_PLACE}/jobs/llm-dev-staging-1a2b3c4",
        {
            "id": f"{RUN_PLACE}/jobs/llm-dev-staging-1a2b3c4",
            "template": {"template": {"containers": []}},
            "terminalConditions": [],
            "reconciling": False,
        },
        "run jobs delete llm-dev-staging-1a2b3c4 --region=europe-west4",
    ),
    Planted(
        *("secret", "llm-dev-tunnel-token", google.SECRET),
        f"{COMPUTE}/secrets/llm-dev-tunnel-token",
        {"name": "projects/104042781755/secrets/llm-dev-tunnel-token", "project": PROJECT},
        "secrets delete llm-dev-tunnel-token",
    ),
    Planted(
        *("bucket", "llm-dev-weights-42c9f0c1-1a2b3c4", google.BUCKET),
        "llm-dev-weights-42c9f0c1-1a2b3c4",
        {"name": "llm-dev-weights-42c9f0c1-1a2b3c4", "project": PROJECT, "location": "EU"},
        "storage rm --recursive gs://llm-dev-weights-42c9f0c1-1a2b3c4",
    ),
    Planted(
        *("service account", MACHINE, google.ACCOUNT),
        f"{COMPUTE}/serviceAccounts/{MACHINE}",
        {"name": f"{COMPUTE}/serviceAccounts/{MACHINE}", "email": MACHINE, "project": PROJECT}
        | {"uniqueId": "1"},
        f"iam service-accounts delete {MACHINE}",
    ),
    Planted(  # of an account that is gone
        *("role in the project", "roles/logging.logWriter of deleted:serviceAccount:", google.ROLE),
        f"{PROJECT}/roles/logging.logWriter/serviceAccount:{MACHINE}",
        {"project": PROJECT, "role": "roles/logging.logWriter"}
        | {"member": f"serviceAccount:{MACHINE}"},
        f"remove-iam-policy-binding {PROJECT} '--member=deleted:serviceAccount:{MACHINE}?uid=",
    ),
    Planted(
        *("DNS record", "llm-dev.example.com", cloudflare.DNS_RECORD, "d" * 32),
        {"zoneId": ZONE, "name": "llm-dev.example.com", "type": "CNAME"}
        | {"content": f"{TUNNEL_ID}.cfargotunnel.com"},
        f"/zones/{ZONE}/dns_records/{'d' * 32}",
    ),
    access("Access application", cloudflare.APPLICATION, "llm-dev", "access/apps"),
    access("Access policy", cloudflare.POLICY, "llm-dev: people", "access/policies"),
    access("service token", cloudflare.SERVICE_TOKEN, "llm-dev: app", "access/service_tokens"),
    access("tunnel", cloudflare.TUNNEL, "llm-dev-vpc-1a2b3c4", "cfd_tunnel"),
)


@pytest.fixture(name="world", scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Generator[Session]:
    """Both clouds, in which no stack is up; the APIs of one that was up are on."""
    session = Session(tmp_path_factory.mktemp("world"))
    session.own("dev")
    session.start_daemon(1000.0, outlives_us=False)
    consoles = Consoles(session, "dev")
    for name in ("artifactregistry", "cloudresourcemanager", "compute", "iam", "run"):
        switch_on(consoles, name)
    for name in ("secretmanager", "storage", "cloudbuild"):
        switch_on(consoles, name)
    try:
        yield session
    finally:
        session.discard()


def switch_on(consoles: Consoles, name: str) -> None:
    """Switch an API on, as somebody does in Google's console."""
    service = f"{name}.googleapis.com"
    body = {"project": PROJECT, "service": service}
    consoles.console("PUT", google.API, f"{PROJECT}/{service}", body)


@pytest.fixture(name="consoles")
def _consoles(world: Session, monkeypatch: pytest.MonkeyPatch) -> Consoles:
    for name, value in world.exports("dev").items():
        monkeypatch.setenv(name, value)
    return Consoles(world, "dev")


@contextmanager
def planted(consoles: Consoles, *things: Planted) -> Generator[None]:
    """They are in the clouds, put there by hand."""
    for it in things:
        consoles.console("PUT", it.type, it.id, it.body)
    try:
        yield
    finally:
        for it in things:
            consoles.console("DELETE", it.type, it.id)


def token(world: Session) -> str:
    """Cloudflare's."""
    return json.loads((world.world / "accounts.json").read_text())["cloudflare_tokens"][0]


def look(world: Session, known: State = state.EMPTY, *, gone: bool = False) -> audit.Audit:
    """The audit of dev, with this state."""
    with audit.listings(stack_file.read("dev").settings, token(world), known) as wanted:
        seen = thing.look(wanted)
    return audit.Audit([*audit.judge(seen.things, known, gone=gone)], seen.unknown, known)


def left(found: audit.Audit) -> list[Thing]:
    """What is left over; all that was asked has answered."""
    assert found.unknown == []
    return [it.thing for it in found.judged if it.verdict == "left over"]


@contextmanager
def changed(world: Session, **changes: Any) -> Generator[None]:
    """The rehearsing person's accounts, otherwise for a while."""
    path = world.world / "accounts.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | changes))
    try:
        yield
    finally:
        path.write_text(before)


# What is left over


@pytest.mark.parametrize("it", PLANTED, ids=lambda it: it.kind)
def test_what_somebody_left_is_found_alone(world: Session, consoles: Consoles, it: Planted) -> None:
    """Each kind of thing, in whichever region, with the command that deletes just that."""
    with planted(consoles, it):
        (found,) = left(look(world))

    assert found.kind == it.kind
    assert found.name.startswith(it.name)
    assert it.delete in found.delete
    assert left(look(world)) == []


def test_the_command_names_all_that_is_left_and_how_to_delete_it(
    world: Session, consoles: Consoles
) -> None:
    """It exits with 1, and with 0 once everything is gone."""
    (wrong,) = [it for it in PLANTED if it.kind == "service account"]  # its roles would be alive
    everything = [it for it in PLANTED if it is not wrong]
    with planted(consoles, *everything):
        run = command(world)
        pasted = token(world) + "\n"  # as from a file
        listed = json.loads(command(world, "--json", CLOUDFLARE_API_TOKEN=pasted).stdout)

    assert run.returncode == 1, run.stdout + run.stderr
    for it in everything:
        assert it.name in run.stdout
        assert it.delete in run.stdout
    assert f"{len(everything)} left over" in run.stdout
    assert "there is no stack dev" in run.stdout, "it may stand where Pulumi is not logged in"
    assert listed["ok"] is False
    assert [it["kind"] for it in listed["things"] if it["verdict"] == "left over"] == [
        found.kind for found in in_order(everything)
    ]
    after = command(world)
    assert after.returncode == 0, after.stdout + after.stderr
    assert "Nothing of it is left" in after.stdout


def in_order(things: list[Planted]) -> list[Planted]:
    """As they can be deleted: what uses something before it."""
    order = (
        *("Cloud Run job", "disk", "address", "subnet", "VPC network", "repository of images"),
        *("secret", "bucket", "role in the project", "DNS record", "Access application"),
        *("Access policy", "service token", "tunnel"),
    )
    return sorted(things, key=lambda it: order.index(it.kind))


def command(
    world: Session, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command itself."""
    return subprocess.run(
        ["scripts/audit", *arguments],
        cwd=ROOT,
        env=world.environment("dev") | {"CLOUDFLARE_API_TOKEN": token(world)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_carries_the_label_is_found_under_any_name(world: Session, consoles: Consoles) -> None:
    """A secret, a bucket and a service that somebody named as they liked."""
    name = f"{RUN_PLACE}/services/mine"
    service: dict[str, Any] = {
        "id": name,
        "terminalConditions": [],
        "reconciling": False,
        "template": {},
    }
    things = (
        Planted("", "", google.SECRET, "s", {"name": f"{COMPUTE}/secrets/mine"} | OURS, ""),
        Planted("", "", google.BUCKET, "mine", {"name": "mine", "location": "US"} | OURS, ""),
        Planted("", "", google.SERVICE, name, service | OURS, ""),
    )
    with planted(consoles, *(it._replace(body={"project": PROJECT} | it.body) for it in things)):
        kinds = [it.kind for it in left(look(world))]

    assert kinds == ["Cloud Run service", "secret", "bucket"]


def test_what_lies_in_the_stacks_network_is_its_own(world: Session, consoles: Consoles) -> None:
    """It stands in the way of the network's deletion."""
    link = f"https://www.googleapis.com/compute/v1/{COMPUTE}/global/networks/llm-dev-vpc-1a2b3c4"
    rule = compute(
        *("firewall rule", google.FIREWALL, "let-me-in", "global", "firewall-rules"), network=link
    )
    with planted(consoles, rule):
        (found,) = left(look(world))

    assert (found.kind, found.name) == ("firewall rule", "let-me-in")


def test_what_is_another_stacks_or_nobodys_is_left_alone(
    world: Session, consoles: Consoles
) -> None:
    """By its label, or by a name that only looks alike."""
    project = {"project": PROJECT}
    others = f"llm-dev-2-machine@{PROJECT}.iam.gserviceaccount.com"
    stranger = f"llm-dev-machine@another-{PROJECT}.iam.gserviceaccount.com"
    things = (
        compute("", google.NETWORK, "llm-dev-2-vpc-1a2b3c4", "global", ""),
        compute("", google.NETWORK, "default", "global", ""),
        compute("", google.NETWORK, "llm-dev-vpc", "global", "")._replace(
            body={"name": "llm-devs-vpc-1a2b3c4", **project}
        ),
        compute("", "gcp:compute/disk:Disk", "llm-dev-x7k2", f"zones/{REGION}-a", "", **ANOTHERS),
        compute("", "gcp:compute/disk:Disk", "llm-dev-2-x7k2", f"zones/{REGION}-a", ""),
        Planted("", "", google.ACCOUNT, others, {"name": others, "email": others} | project, ""),
        Planted(
            *("", "", google.ROLE, "a-role"),
            {"role": "roles/viewer", "member": f"serviceAccount:{stranger}"} | project,
            "",
        ),
        access("", cloudflare.APPLICATION, "llm-dev-2", ""),
        access("", cloudflare.SERVICE_TOKEN, "llm-dev-2: app", ""),
        access("", cloudflare.TUNNEL, "llm-dev-2-vpc-1a2b3c4", ""),
        Planted(
            *("", "", cloudflare.DNS_RECORD, "d" * 32),
            {"zoneId": ZONE, "name": "llm-dev.example.com", "type": "CNAME"}
            | {"content": "www.example.org"},
            "",
        ),
    )
    with planted(consoles, *things):
        assert left(look(world)) == []


def test_a_deleted_tunnel_is_gone_but_leads_to_its_record(
    world: Session, consoles: Consoles
) -> None:
    """Cloudflare goes on listing it; a record of another name that leads to it is left over."""
    (tunnel,) = [it for it in PLANTED if it.kind == "tunnel"]
    (record,) = [it for it in PLANTED if it.kind == "DNS record"]
    gone = tunnel._replace(body=tunnel.body | {"deletedAt": "2026-11-30T22:00:00Z"})
    body = record.body | {"name": "old.example.com", "content": f"{tunnel.id}.cfargotunnel.com"}
    with planted(consoles, gone, record._replace(body=body)):
        (found,) = left(look(world))

    assert (found.kind, found.name) == ("DNS record", "old.example.com")


def test_a_tunnel_with_connections_is_disconnected_first(
    world: Session, consoles: Consoles
) -> None:
    """Cloudflare refuses to delete it otherwise (1022)."""
    (tunnel,) = [it for it in PLANTED if it.kind == "tunnel"]
    live = {"tunnelId": tunnel.id, "connectorId": "c", "connIndex": 0, "openedAt": "now"}
    connection = Planted("", "", "cloudflare:connection", "connection", live, "")
    with planted(consoles, tunnel, connection):
        (found,) = left(look(world))

    first, _, second = found.delete.partition(" && ")
    assert first.endswith(f"/cfd_tunnel/{tunnel.id}/connections")
    assert second.endswith(f"/cfd_tunnel/{tunnel.id}")


@pytest.mark.parametrize(("kind", "page"), [("service token", 50), ("service account", 100)])
def test_lists_are_read_to_their_end(
    world: Session, consoles: Consoles, kind: str, page: int
) -> None:
    """What others have fills the pages before."""
    (ours,) = [it for it in PLANTED if it.kind == kind]

    def another(number: int) -> Planted:
        email = f"other-{number}@{PROJECT}.iam.gserviceaccount.com"
        body = ours.body | {"name": f"other {number}", "email": email}
        return ours._replace(id=f"0-{number:03d}", body=body)

    with planted(consoles, *map(another, range(page)), ours):
        (found,) = left(look(world))

    assert found.name == ours.name


def test_what_still_runs_is_to_be_ended_first(world: Session, consoles: Consoles) -> None:
    """An execution before its job; and a build, by whose account it is known."""
    (job,) = [it for it in PLANTED if it.kind == "Cloud Run job"]
    executions = {
        f"{job.id}/executions/done": {"completionTime": "2026-11-30T22:00:00Z"},
        f"{job.id}/executions/runs": {},
    }
    planned = [
        Planted("", "", EXECUTION, id, {"name": id, "createTime": "2026", **body}, "")
        for id, body in executions.items()
    ]
    accounts = f"{COMPUTE}/serviceAccounts"
    builds = {
        "ours": ("WORKING", "llm-dev-stager"),
        "ended": ("SUCCESS", "llm-dev-stager"),
        "theirs": ("WORKING", "llm-prod-stager"),
    }
    for id, (status, who) in builds.items():
        email = f"{who}@{PROJECT}.iam.gserviceaccount.com"
        body = {"id": id, "status": status, "serviceAccount": f"{accounts}/{email}"}
        body |= {"tags": ["llm-endpoint", "a-tag"], "createTime": "2026"}
        name = f"{COMPUTE}/locations/{REGION}/builds/{id}"
        planned.append(Planted("", "", BUILD, name, body, ""))
    with planted(consoles, job, *planned):
        found = left(look(world))

    assert [(it.kind, it.name) for it in found] == [
        ("running execution", "runs"),
        ("Cloud Run job", job.name),
        ("running build", "ours"),
    ]
    assert "run jobs executions cancel runs --region=europe-west4" in found[0].delete
    assert f"builds cancel ours --region={REGION}" in found[2].delete


def test_a_nat_is_found_in_its_router(world: Session, consoles: Consoles) -> None:
    """And is deleted before it."""
    place = f"regions/{REGION}"
    router = compute("", google.ROUTER, "llm-dev-router-1a2b3c4", place, "", network="default")
    nat = {"name": "by-hand", "router": router.name, "region": REGION, "project": PROJECT}
    with planted(consoles, router, Planted("", "", google.NAT, "nat", nat, "")):
        found = left(look(world))

    assert [it.kind for it in found] == ["Cloud NAT", "router"]
    assert f"nats delete by-hand --router={router.name} --region={REGION}" in found[0].delete


# What stays on purpose


def test_what_is_left_on_purpose_is_told_and_is_no_failure(
    world: Session, consoles: Consoles
) -> None:
    """A bucket of keepWeights, and the APIs; each with what deletes it."""
    (bucket,) = [it for it in PLANTED if it.kind == "bucket"]
    labels = {"effectiveLabels": {LABEL: "dev", KEPT_LABEL: "true"}}
    with planted(consoles, bucket._replace(body=bucket.body | labels)):
        run = command(world)

    assert run.returncode == 0, run.stdout
    assert re.search(rf"stays +bucket +{bucket.name} .*keepWeights", run.stdout)
    assert bucket.delete in run.stdout
    assert "as others may need them" in run.stdout
    assert "but what stays on purpose" in run.stdout


def test_labels_are_those_that_the_program_gives(deploy: Deploy) -> None:
    """What the audit looks for."""
    assert marks.KEPT_LABEL == KEPT_LABEL
    labels = deploy("dev", {"llm-endpoint:keepWeights": "true"}).one("Bucket").inputs["labels"]
    assert labels == {LABEL: "dev", KEPT_LABEL: "true"}


# What cannot be known


LACKING = {"google_roles": ["roles/compute.viewer", "roles/serviceusage.serviceUsageAdmin"]}
UNKNOWNS: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("the person may not see secrets", LACKING, "secrets", "secretmanager.secrets.list"),
    ("the person may not see Cloud Run", LACKING, "Cloud Run jobs", "run.locations.list"),
    ("the person may not see roles", LACKING, "roles of service accounts", "getIamPolicy"),
    ("the region is closed", {"closed_locations": [REGION]}, "Cloud Run jobs", f"/{REGION}"),
    ("nobody pays", {"unbilled_projects": [PROJECT]}, "instances", "billing"),
    ("the login is no longer good", {"google_refresh_tokens": []}, "networks", "login"),
    (
        "the token may not see DNS records",
        {"cloudflare_permissions": ["Cloudflare Tunnel Read"]},
        f"DNS records of zone {ZONE}",
        "10000",
    ),
)
"""What is the matter, what that is to the accounts, a list that does not come, and why."""


@pytest.mark.parametrize(("accounts", "name", "because"), [it[1:] for it in UNKNOWNS])
@pytest.mark.usefixtures("consoles")
def test_what_cannot_be_asked_is_not_said_to_be_empty(
    world: Session, accounts: dict[str, Any], name: str, because: str
) -> None:
    """It says what, why, and what to do; and it is no success."""
    with changed(world, **accounts):
        found = look(world)

    (unknown,) = [it for it in found.unknown if it.name.endswith(f": {name}")]
    assert because in unknown.detail
    assert unknown.next_step
    assert not found.ok


@pytest.mark.usefixtures("consoles")
def test_a_token_that_is_no_longer_good_is_told_once(world: Session) -> None:
    """Though five lists do not come."""
    run = command(world, CLOUDFLARE_API_TOKEN="no-more")

    assert run.returncode == 1, run.stdout
    assert len(re.findall("^cannot know", run.stdout, re.M)) == 5
    assert run.stdout.count("because the token may not look: Authentication error (10000)") == 1
    assert "5 lists that did not come" in run.stdout
    assert "Nothing of it is left" not in run.stdout
    assert "Traceback" not in run.stdout + run.stderr


def test_an_api_that_is_off_may_hide_something(world: Session, consoles: Consoles) -> None:
    """But no build runs where Cloud Build is off, as in most stacks."""
    for service in ("secretmanager", "cloudbuild"):
        consoles.console("DELETE", google.API, f"{PROJECT}/{service}.googleapis.com")
    try:
        found = look(world)
    finally:
        switch_on(consoles, "secretmanager")
        switch_on(consoles, "cloudbuild")

    assert [it.name for it in found.unknown] == [f"Google ({PROJECT}): secrets"]
    assert "services enable secretmanager.googleapis.com" in found.unknown[0].next_step
    assert not found.ok


def test_without_the_state_nobody_is_told_to_delete_anything(
    world: Session, consoles: Consoles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was found may all be the stack's own."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with planted(consoles, PLANTED[0]):
        found = audit.audit(stack_file.read("dev").settings, token(world))

    assert [it.verdict for it in found.judged if not it.thing.stays] == ["found"]
    assert [it.name for it in found.unknown] == ["Pulumi's state"]
    assert not found.ok


def test_a_name_cannot_write_on_the_terminal(world: Session, consoles: Consoles) -> None:
    """Whoever may name something in the account may name it as they like."""
    (ours,) = [it for it in PLANTED if it.kind == "service token"]
    named = ours._replace(body=ours.body | {"name": "llm-dev: \x1b[2J\nok"})
    with planted(consoles, named):
        run = command(world)

    assert "llm-dev: ?[2J?ok" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--stack", "nothing"], "There is no Pulumi.nothing.yaml"), (["x"], "")],
)
def test_a_mistake_in_the_call_is_2(
    world: Session, consoles: Consoles, arguments: list[str], says: str
) -> None:
    """Nothing was looked for, so nothing is said to be left or not."""
    run = command(world, *arguments)

    assert (run.returncode, run.stdout) == (2, "")
    assert says in run.stderr


# What the state says


def exported(*resources: dict[str, Any], **more: Any) -> State:
    """A state with these, as Pulumi exports one."""
    return state.parsed({"deployment": {"resources": resources, **more}})


def thing_of(type: str, id: str, of: str = "", stays: str = "") -> Thing:
    """Something that was found."""
    return Thing("kind", id.rpartition("/")[2], "somewhere", id, "delete it", type, of, stays)


GROUP_ID = f"regions/{REGION}/instanceGroupManagers/llm-dev-group-1a2b3c4"
GROUP = {"type": google.GROUP, "id": f"projects/{PROJECT}/{GROUP_ID}"}


def test_what_a_group_of_the_stack_has_made_is_the_stacks() -> None:
    """A machine goes with its group, and a disk with its machine."""
    machine = thing_of("", f"zones/{REGION}-a/instances/llm-dev-x7k2", of=GROUP_ID)
    disk = thing_of("", f"zones/{REGION}-a/disks/llm-dev-x7k2", of=machine.id)
    lost = thing_of("", f"zones/{REGION}-a/disks/llm-dev-9999")
    things = [thing_of(google.GROUP, GROUP_ID), machine, disk, lost]

    verdicts = [it.verdict for it in audit.judge(things, exported(GROUP), gone=False)]

    assert verdicts == [*["in the state"] * 3, "left over"]


def test_the_same_name_elsewhere_is_left_over() -> None:
    """A stack that has moved to another region may have forgotten something in the old one."""
    there = {"type": google.REPOSITORY, "id": f"{RUN_PLACE}/repositories/llm-dev-docker-hub"}
    found = [
        thing_of(google.REPOSITORY, f"locations/{region}/repositories/llm-dev-docker-hub")
        for region in ("europe-west4", REGION)
    ]

    verdicts = [it.verdict for it in audit.judge(found, exported(there), gone=False)]

    assert verdicts == ["in the state", "left over"]


def test_after_a_destroy_that_broke_off_the_state_is_no_excuse() -> None:
    """With --gone, what is in the state is left over, but for what stays on purpose."""
    tunnel = {"type": cloudflare.TUNNEL, "id": "t", "protect": True}
    found = [
        thing_of(google.GROUP, GROUP_ID),
        thing_of(google.API, "a", stays="others"),
        thing_of(cloudflare.TUNNEL, "t"),
    ]
    known = exported(GROUP, {"type": google.API, "id": f"{PROJECT}/a"}, tunnel)

    judged = [*audit.judge(found, known, gone=True)]

    assert [it.verdict for it in judged] == ["left over", "stays", "stays"]
    assert judged[0].thing.delete == "pulumi destroy"
    assert "config set protect false" in judged[2].thing.delete


@pytest.mark.parametrize(
    ("prints", "because"),
    [
        ("exit 1", "exit status 1"),
        ("echo 'error: passphrase must be set' >&2; exit 255", "passphrase must be set"),
        ("echo Welcome", "something else"),
        ("echo '{}'", "something else"),
    ],
)
def test_a_state_that_cannot_be_read_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prints: str, because: str
) -> None:
    """It is not taken for an empty one."""
    cli = tmp_path / "pulumi"
    cli.write_text(f"#!/bin/sh\n{prints}\n")
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(UnknownError, match=because) as raised:
        state.read("dev")
    assert "pulumi stack export --stack dev" in raised.value.next_step


def test_a_stack_that_was_removed_has_no_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And one that was destroyed has an empty one."""
    cli = tmp_path / "pulumi"
    known: list[State] = []
    for script in (
        """echo "error: no stack named 'dev' found" >&2; exit 6""",
        """echo '{"version": 3, "deployment": {}}'""",
    ):
        cli.write_text(f"#!/bin/sh\n{script}\n")
        cli.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        known.append(state.read("dev"))

    assert [(it.known, dict(it.protected)) for it in known] == [(False, {}), (True, {})]


def test_what_no_cloud_has_is_missing() -> None:
    """Somebody deleted it by hand; that is no failure of the audit's."""
    known = exported(GROUP, {"type": "command:local:Command", "id": "x"})

    (judged,) = audit.missing([], known)

    assert (judged.verdict, judged.thing.id) == ("missing", GROUP_ID)
    assert audit.Audit([judged], [], known).ok


def test_a_command_that_was_killed_is_told() -> None:
    """What it was creating may be there, and its repair comes first."""
    assert exported(pending_operations=[{"type": "creating"}]).interrupted
    assert not exported(pending_operations=[{"type": "updating"}]).interrupted


def test_it_looks_where_the_state_says_that_something_is() -> None:
    """Though the configuration says another place by now."""
    network = {
        "type": google.NETWORK,
        "id": "projects/old-project/global/networks/n",
        "outputs": {"project": "old-project", "secret": {"ciphertext": "x"}},
    }
    token = {"type": cloudflare.TUNNEL, "id": "t", "outputs": {"accountId": "f" * 32}}
    known = exported(network, token)

    with audit.listings(stack_file.read("dev").settings, "", known) as wanted:
        names = [it.name for it in wanted]

    for place in (PROJECT, "old-project"):
        assert f"Google ({place}): networks" in names
    for place in (ACCOUNT, "f" * 32):
        assert f"Cloudflare ({place}): tunnels" in names
    assert len(names) == len(set(names))


def test_a_list_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of another shape is not understood, and that is told."""
    one = thing_of(google.GROUP, GROUP_ID)

    def broken() -> Iterator[Thing]:
        yield one
        raise KeyError("items")

    seen = thing.look([thing.Listing("a", lambda: [one]), thing.Listing("b", broken)])

    assert seen.things == [one]
    assert [(type(it), it.name) for it in seen.unknown] == [(Finding, "b")]


# What is looked for

CHANGES: tuple[dict[str, str], ...] = (
    {},
    {"llm-endpoint:weights": "image", "llm-endpoint:model": "Qwen/Qwen3-4B"},
    {"llm-endpoint:allowedEmails": '["a@example.org"]'},
    {"llm-endpoint:huggingFaceToken": f"hf_{'x' * 34}", "llm-endpoint:weights": "hub"},
)
ELSEWHERE = {"command:local:Command"}
"""Types that are in no cloud."""


@pytest.mark.parametrize("stack", STACKS)
def test_every_type_of_an_inventory_is_looked_for(stack: str) -> None:
    """By itself, or it ends with what it lies in."""
    inventory = yaml.safe_load((ROOT / "tests" / "inventories" / f"{stack}.yaml").read_text())
    types = {entry.partition(" ")[0] for entry in inventory} - {"outputs"} - ELSEWHERE
    goes_with = {**google.GO_WITH, **cloudflare.GO_WITH}

    assert types
    assert types - audit.LOOKED_FOR - goes_with.keys() == set()
    assert set(goes_with.values()) <= audit.LOOKED_FOR


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_everything_that_a_stack_makes_is_known_by_its_name(
    deploy: Deploy, stack: str, changes: dict[str, str]
) -> None:
    """Whatever Pulumi draws at random for it, and of whichever stack's it is not."""
    ours, theirs = Marks(stack), Marks(f"{stack}-2")
    named = {"repositoryId", "secretId", "accountId"}
    for it in deploy(stack, changes).resources:
        if it.type in marks.OWN_NAMES:
            (name,) = (it.inputs[key] for key in named & it.inputs.keys())
            assert ours.named(it.type, name), f"{it.type} {name}"
            assert not theirs.named(it.type, name)
        elif it.type in marks.DRAWN_NAMES:
            # A tunnel has its network's name, which the recording engine makes up.
            tunnel = it.type == cloudflare.TUNNEL
            logical = it.name.replace("-tunnel", "-vpc") if tunnel else it.name
            name = f"{logical}-1a2b3c4"
            assert ours.named(it.type, name), f"{it.type} {name}"
            assert not theirs.named(it.type, name)
        elif it.type in (cloudflare.APPLICATION, cloudflare.POLICY, cloudflare.SERVICE_TOKEN):
            assert ours.titled(it.inputs["name"]), it.name
            assert not theirs.titled(it.inputs["name"])
        if it.type == google.GROUP:
            assert ours.machine(f"{it.inputs['baseInstanceName']}-x7k2")


def test_of_two_stacks_that_would_give_a_name_the_longer_one_has_it() -> None:
    """dev's connector on Cloud Run, or the group of a stack called dev-connector."""
    name = "llm-dev-connector-group-1a2b3c4"

    assert Marks("dev").named(google.GROUP, name)
    assert Marks("dev-connector").named(google.GROUP, name)
    assert not Marks("dev", ["dev", "dev-connector"]).named(google.GROUP, name)


def test_what_the_roles_of_the_readme_allow_suffices(world: Session, consoles: Consoles) -> None:
    """Whoever deploys can audit."""
    readme = (ROOT / "README.md").read_text()
    table = re.findall(r"^\| `(roles/[\w.]+)` \|", readme, re.M)
    builds = "roles/cloudbuild.builds.editor"  # where Cloud Build is on, which it is here
    assert builds in readme
    with changed(world, google_roles=[*table, builds]):
        assert look(world).unknown == []
