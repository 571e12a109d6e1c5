"""The preflight finds what would stop a deployment, says what to do, and is never sure wrongly."""

import json
import re
import socketserver
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from components.preflight import CHECKED
from rehearsal.cloudflare import APPLICATION, DNS_RECORD, SERVICE_TOKEN, TUNNEL
from rehearsal.google.apis.cloud_quotas import PREFERENCE
from rehearsal.google.identity import ROLES
from rehearsal.google.metadata import INSTANCE
from rehearsal.providers.project_rules import OWNERS
from scripts import preflight
from scripts.checks import check, permissions
from scripts.checks.check import Check, Finding, UnknownError
from scripts.checks.cloudflare import API, PERMISSIONS, Permission
from scripts.checks.google import ASKED
from scripts.preflight import Secrets
from tests.clouds import HUB_TOKEN
from tests.conftest import ROOT, Deploy
from tests.preflight_world import (
    ACCOUNT,
    ASKED_APIS,
    PORTAL,
    PROJECT,
    REGION,
    SECRETS,
    ZONE,
    Here,
    running,
    settings_of,
)
from tests.stack_config import API_TOKEN, STACKS

README = (ROOT / "README.md").read_text()
OWN_ROLES = sorted({row.role for row in permissions.rows()})
EXTRA_ROLES = ["roles/cloudquotas.viewer", "roles/compute.viewer", "roles/orgpolicy.policyViewer"]


@pytest.fixture(name="world", scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Generator[Here]:
    with running(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(name="here")
def _here(world: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The world as it was at first, and this process's way into it."""
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    world.begin()
    return world


def said(findings: dict[str, Finding], verdict: str) -> list[str]:
    """The checks that came out so."""
    return sorted(name for name, it in findings.items() if it.verdict == verdict)


# What stops a deployment


class Situation(NamedTuple):
    """Something that would stop it, and what the preflight makes of that."""

    words: str
    check: str
    """The one that fails."""
    says: str
    """In its words, or in what to do next."""
    accounts: dict[str, Any] = {}  # noqa: RUF012 nobody changes it
    config: dict[str, str] = {}  # noqa: RUF012 nobody changes it
    stack: str = "dev"
    arrange: Callable[[Here], object] = lambda here: None
    secrets: Secrets = SECRETS


def without(role: str) -> dict[str, Any]:
    """Roles of somebody who has all that the README lists but one."""
    return {"google_roles": [it for it in [*OWN_ROLES, *EXTRA_ROLES] if it != role]}


def apis_without(service: str) -> dict[str, Any]:
    """All APIs that are asked are on, but one."""
    return {"google_apis": [it for it in ASKED_APIS if it != f"{service}.googleapis.com"]}


def token_without(name: str) -> dict[str, Any]:
    """An API token that may do all but one thing."""
    names = (
        *("Cloudflare Tunnel Edit", "Access: Apps and Policies Edit", "DNS Edit"),
        *("Access: Service Tokens Edit", "Zone Read"),
        "Access: Organizations, Identity Providers, and Groups Read",
    )
    kept = [it for it in names if it != f"{name} Edit"]
    return {"cloudflare_permissions": [*kept, f"{name} Read"]}


def policy(constraint: str, **rule: Any) -> dict[str, Any]:
    """An organisation with one policy."""
    return {"org_policies": {constraint: rule}}


def record(here: Here, content: str = "192.0.2.7", kind: str = "A") -> None:
    """A DNS record of the stack's host name."""
    row = {"zoneId": ZONE, "name": "llm-dev.example.com", "type": kind, "content": content}
    here.store.put(DNS_RECORD, "r" * 32, row)


def application(here: Here, name: str) -> None:
    """An Access application that guards the host name."""
    row = {"accountId": ACCOUNT, "name": name, "domain": "llm-dev.example.com"}
    here.store.put(APPLICATION, "an-application", row)


def fill_tokens(here: Here) -> None:
    """So many service tokens that one more has room."""
    for number in range(49):
        row = {"accountId": ACCOUNT, "name": f"other {number}", "clientId": "", "clientSecret": ""}
        here.store.put(SERVICE_TOKEN, f"token-{number}", row)


def lose_login(here: Here) -> None:
    """Nobody has logged in on this machine."""
    (here.directory / "application_default_credentials.json").unlink()


L4, SPOT_L4 = "NVIDIA_L4_GPUS", "PREEMPTIBLE_NVIDIA_L4_GPUS"
CLOUD_RUN_L4 = "NvidiaL4GpuAllocNoZonalRedundancyPerProjectRegion"
RTX = {"gpu": "nvidia-rtx-pro-6000", "provisioning": "standard"}
T4 = {"gpu": "nvidia-tesla-t4", "model": "Qwen/Qwen3-0.6B", "provisioning": "standard"}
NO_L4 = {"quotas": {SPOT_L4: 0, L4: 0}}
QUOTA, POLICY, MAY = "Google: quota", "Google: policy", "Cloudflare: token may edit"
ADMIN = "let an Owner of example-project give you roles"

SITUATIONS = (
    Situation(
        "nobody is logged in",
        "Google: credentials",
        "gcloud auth application-default login",
        arrange=lose_login,
    ),
    Situation(
        "the login was revoked",
        "Google: credentials",
        "has expired",
        {"google_refresh_tokens": ["another"]},
    ),
    Situation(
        "the project is somebody else's",
        "Google: project",
        "is example-project its id",
        {"projects": {"other": "1"}},
    ),
    Situation(
        "nobody pays",
        "Google: billing",
        "billing/linkedaccount?project=example-project",
        {"unbilled_projects": [PROJECT]},
    ),
    Situation(
        "Service Usage is off",
        "Google: APIs",
        "gcloud services enable serviceusage.googleapis.com",
        apis_without("serviceusage"),
    ),
    Situation(
        "Compute Engine is off",
        "Google: APIs",
        "gcloud services enable compute.googleapis.com",
        apis_without("compute"),
    ),
    Situation(
        "Cloud Quotas is off",
        "Google: APIs",
        "gcloud services enable cloudquotas.googleapis.com",
        apis_without("cloudquotas"),
    ),
    Situation(
        "no permission to make secrets",
        "Google: permissions",
        f"{ADMIN}/secretmanager.admin",
        without("roles/secretmanager.admin"),
    ),
    Situation(
        "no permission to run things as an account",
        "Google: permissions",
        f"{ADMIN}/iam.serviceAccountUser",
        without("roles/iam.serviceAccountUser"),
    ),
    Situation(
        "no permission to make firewall rules",
        "Google: permissions",
        f"{ADMIN}/compute.securityAdmin",
        without("roles/compute.securityAdmin"),
    ),
    Situation(
        "no quota for Spot GPUs, nor for others",
        f"{QUOTA} {SPOT_L4}, us-central1",
        "ask for 1 of PREEMPTIBLE-NVIDIA-L4-GPUS-per-project-region",
        NO_L4,
    ),
    Situation(
        "no quota for Spot GPUs of the newest kind, nor for others",
        f"{QUOTA} PREEMPTIBLE_NVIDIA_H100_GPUS, us-central1",
        "of GPUs of family NVIDIA_H100, which counts then: 1 needed, the limit is 0",
        {"quotas": {"PREEMPTIBLE_NVIDIA_H100_GPUS": 0, "NVIDIA_H100": 0}},
        {"gpu": "nvidia-h100-80gb"},
    ),
    Situation(
        "somebody else has the quota that counts for want of one for Spot",
        f"{QUOTA} {SPOT_L4}, us-central1",
        "1 needed, the limit is 1, 1 of it in use",
        {"quotas": {SPOT_L4: 0, L4: 1}, "quota_used": {L4: 1}},
    ),
    Situation(
        "no quota for GPUs on standard terms",
        f"{QUOTA} {L4}, us-central1",
        "ask for 1 of NVIDIA-L4-GPUS-per-project-region",
        {"quotas": {L4: 0}},
        {"provisioning": "standard"},
    ),
    Situation(
        "somebody else has the GPU quota",
        f"{QUOTA} {SPOT_L4}, us-central1",
        "ask for 2 of PREEMPTIBLE-NVIDIA-L4-GPUS",
        {"quotas": {SPOT_L4: 1}, "quota_used": {SPOT_L4: 1}},
    ),
    Situation(
        "quota for one GPU, and none for a new one beside it",
        f"{QUOTA} {SPOT_L4}, us-central1",
        "2 needed, the limit is 1, with a new machine beside an old one (rollout: surge)",
        {"quotas": {SPOT_L4: 1}},
        {"rollout": "surge"},
    ),
    Situation(
        "no quota for GPUs in all regions together",
        f"{QUOTA} GPUS_ALL_REGIONS, everywhere",
        "ask for 1 of GPUS-ALL-REGIONS-per-project",
        {"quotas": {"GPUS_ALL_REGIONS": 0}},
    ),
    Situation(
        "a GPU that is counted by family",
        f"{QUOTA} GPUs of family NVIDIA_RTX_PRO_6000, us-central1",
        "ask for 1 of GPUS-PER-GPU-FAMILY-per-project-region",
        {"quotas": {"NVIDIA_RTX_PRO_6000": 0}},
        RTX,
    ),
    Situation(
        "too few CPUs for a T4's machine",
        f"{QUOTA} CPUS, us-central1",
        "ask for 8 of CPUS-per-project-region",
        {"quotas": {"CPUS": 4}},
        T4,
    ),
    Situation(
        "too few CPUs for a T4's machine on Spot",
        f"{QUOTA} PREEMPTIBLE_CPUS, us-central1",
        "8 needed, the limit is 4",
        {"quotas": {"PREEMPTIBLE_CPUS": 4}},
        T4 | {"provisioning": "spot"},
    ),
    Situation(
        "too few CPUs in all regions together",
        f"{QUOTA} CPUS_ALL_REGIONS, everywhere",
        "ask for 8 of CPUS-ALL-REGIONS-per-project",
        {"quotas": {"CPUS_ALL_REGIONS": 4}},
        T4,
    ),
    Situation(
        "too little disk",
        f"{QUOTA} SSD_TOTAL_GB, us-central1",
        "ask for 550 of SSD-TOTAL-GB-per-project-region",
        {"quotas": {"SSD_TOTAL_GB": 500}, "quota_used": {"SSD_TOTAL_GB": 450}},
    ),
    Situation(
        "no network left",
        f"{QUOTA} NETWORKS, everywhere",
        "ask for 6 of NETWORKS-per-project",
        {"quotas": {"NETWORKS": 5}, "quota_used": {"NETWORKS": 5}},
    ),
    Situation(
        "no GPU in two zones on Cloud Run",
        f"{QUOTA} NvidiaL4GpuAllocPerProjectRegion, europe-west4",
        "ask for 2 of NvidiaL4GpuAllocPerProjectRegion",
        {"quotas": {"NvidiaL4GpuAllocPerProjectRegion": 0}},
        {"zonalRedundancy": "true"},
        stack="cloud-run",
    ),
    Situation(
        "no GPU on Cloud Run for as many as may be",
        f"{QUOTA} {CLOUD_RUN_L4}, europe-west4",
        f"ask for 4 of {CLOUD_RUN_L4}",
        {"quotas": {CLOUD_RUN_L4: 0}},
        {"maxInstances": "3"},
        stack="cloud-run",
    ),
    Situation(
        "one GPU on Cloud Run, and none for a new revision",
        f"{QUOTA} {CLOUD_RUN_L4}, europe-west4",
        "2 needed, the limit is 1",
        {"quotas": {CLOUD_RUN_L4: 1}},
        stack="cloud-run",
    ),
    Situation(
        "too few CPUs on Cloud Run",
        f"{QUOTA} CpuAllocPerProjectRegion, europe-west4",
        "8 vCPU needed, the limit is 4",
        {"quotas": {"CpuAllocPerProjectRegion": 4000}},
        stack="cloud-run",
    ),
    Situation(
        "too little memory on Cloud Run",
        f"{QUOTA} MemAllocPerProjectRegion, europe-west4",
        "32 GiB needed, the limit is 16",
        {"quotas": {"MemAllocPerProjectRegion": 16 * 2**30}},
        stack="cloud-run",
    ),
    Situation(
        "a zone without the GPU",
        "Google: g2-standard-8 in us-central1-b",
        "Google has no nvidia-l4",
        {"zones_without_gpus": ["us-central1-b"]},
    ),
    Situation(
        "Spot machines are not to be had",
        "Google: Spot machines to be had",
        "pulumi config set provisioning standard",
        {"obtainability": {f"us-central1-{letter}": 0.1 for letter in "abc"}},
    ),
    Situation(
        "the image family is gone",
        "Google: boot image",
        "gcloud compute images list",
        config={"bootImage": "projects/debian-cloud/global/images/family/gone"},
    ),
    Situation(
        "the organisation keeps out of the region",
        f"{POLICY} gcp.resourceLocations",
        "set another gcp:region",
        policy("gcp.resourceLocations", values={"allowedValues": ["in:eu-locations"]}),
    ),
    Situation(
        "the organisation distrusts the image",
        f"{POLICY} compute.trustedImageProjects",
        "set bootImage to an image of an allowed project",
        policy("compute.trustedImageProjects", values={"allowedValues": ["projects/ours"]}),
    ),
    Situation(
        "the organisation forbids Cloud NAT",
        f"{POLICY} compute.restrictCloudNATUsage",
        "forbids Cloud NAT",
        policy("compute.restrictCloudNATUsage", denyAll=True),
    ),
    Situation(
        "the organisation forbids service accounts",
        f"{POLICY} iam.disableServiceAccountCreation",
        "iam-admin/orgpolicies",
        policy("iam.disableServiceAccountCreation", enforce=True),
    ),
    Situation(
        "the organisation forbids internal ingress",
        f"{POLICY} run.allowedIngress",
        "platform: vm",
        policy("run.allowedIngress", values={"deniedValues": ["internal"]}),
        stack="cloud-run",
    ),
    Situation(
        "a token that Cloudflare does not know",
        "Cloudflare: token",
        "make a new one",
        {"cloudflare_tokens": []},
    ),
    Situation(
        "a token that was copied wrongly",
        "Cloudflare: token",
        "characters that no token has",
        secrets=Secrets("half a token…", HUB_TOKEN),
    ),
    Situation(
        "a hub's token that was copied wrongly",
        "Hugging Face: token",
        "characters that no token has",
        secrets=Secrets(API_TOKEN, "hf_half a token"),
    ),
    Situation(
        "a token that has expired",
        "Cloudflare: token",
        "it is expired",
        {"cloudflare_tokens": [], "cloudflare_expired_tokens": [API_TOKEN]},
    ),
    *(
        Situation(
            f"a token that may not edit {name}",
            f"{MAY} {name}",
            f"{name}: Edit to it",
            token_without(name),
        )
        for name in (
            "Cloudflare Tunnel",
            "Access: Apps and Policies",
            "Access: Service Tokens",
            "DNS",
        )
    ),
    Situation(
        "a zone that is not active yet",
        "Cloudflare: zone",
        "name servers",
        {"cloudflare_zone_status": {ZONE: "pending"}},
    ),
    Situation(
        "the id of another zone",
        "Cloudflare: zone",
        "set cloudflareZoneId",
        {"cloudflare_zones": {ZONE: "example.org"}},
    ),
    Situation(
        "the host name is taken", "Cloudflare: host name", "delete that record", arrange=record
    ),
    Situation(
        "the host name leads to another tunnel",
        "Cloudflare: host name",
        "is taken: CNAME",
        arrange=partial(record, content="another.cfargotunnel.com", kind="CNAME"),
    ),
    Situation(
        "another application guards the host name",
        "Cloudflare: Access application",
        "'wiki' guards llm-dev.example.com",
        arrange=partial(application, name="wiki"),
    ),
    Situation(
        "Zero Trust is not switched on",
        "Cloudflare: Access team",
        "one.dash.cloudflare.com",
        {"cloudflare_accounts": {ACCOUNT: ""}},
    ),
    Situation(
        "another team name",
        "Cloudflare: Access team",
        "pulumi config set accessTeamName acme",
        {"cloudflare_accounts": {ACCOUNT: "acme"}},
    ),
    Situation(
        "no service token left",
        "Cloudflare: service tokens",
        "has 49 others and may have 50",
        arrange=fill_tokens,
    ),
    Situation(
        "a token that the hub does not know",
        "Hugging Face: token",
        "huggingFaceToken",
        secrets=Secrets(API_TOKEN, "hf_a_token_of_long_ago"),
    ),
    Situation(
        "a model that is not there",
        "Hugging Face: model",
        "models?search=Qwen3-Nonesuch",
        config={"model": "Qwen/Qwen3-Nonesuch"},
    ),
    Situation(
        "a revision that is not there",
        "Hugging Face: model",
        "pulumi config set modelRevision",
        config={"modelRevision": "v9"},
    ),
    Situation(
        "a licence not accepted",
        "Hugging Face: licence",
        "accept its licence on https://huggingface.co/google/",
        {"hugging_face_refusals": ["google/gemma-3-4b-it"]},
        {"model": "google/gemma-3-4b-it"},
    ),
    Situation(
        "a gated model and no token",
        "Hugging Face: licence",
        "make a token",
        config={"model": "google/gemma-3-4b-it"},
        secrets=Secrets(API_TOKEN, ""),
    ),
    Situation(
        "weights that do not fit the disk",
        "Hugging Face: size",
        "pulumi config set bootDiskGb",
        config={"model": "Qwen/Qwen3-32B", "weights": "hub", "gpuCount": "8"},
    ),
    Situation(
        "weights larger than was reckoned with",
        "Hugging Face: size",
        "9.0 GB, not 8.0 as components/models.csv has it",
        {"hugging_face_sizes": {"Qwen/Qwen3-4B": 9_000_000_000}},
    ),
    Situation(
        "weights smaller than was reckoned with",
        "Hugging Face: size",
        "set modelRevision to the commit that was meant",
        {"hugging_face_sizes": {"Qwen/Qwen3-4B": 2_000_000_000}},
    ),
    Situation(
        "a version of the engine that does not exist",
        "Engine: image",
        "pulumi config set engineVersion",
        config={"engineVersion": "0.33.7"},
    ),
    Situation(
        "a version of cloudflared that does not exist",
        "Engine: cloudflared's image",
        "pulumi config set cloudflaredVersion",
        config={"cloudflaredVersion": "2026.8.9"},
    ),
    Situation(
        "a model that Ollama does not have",
        "Ollama: model",
        "https://ollama.com/library/qwen3/tags",
        config={"engine": "ollama", "model": "qwen3:nonesuch", "weights": "hub"},
    ),
)


@pytest.mark.parametrize("it", SITUATIONS, ids=lambda it: it.words.replace(" ", "-"))
def test_each_obstacle_is_found_and_nothing_else(here: Here, it: Situation) -> None:
    """One obstacle, one failed check, with what to do about it."""
    here.own(**it.accounts)
    it.arrange(here)

    found = here.look(it.stack, it.config, it.secrets)

    assert said(found, "fails") == [it.check]
    told = f"{found[it.check].detail}; next: {found[it.check].next_step}"
    assert it.says in told


def test_there_are_enough_situations() -> None:
    """Thirty of them at least, no two alike."""
    assert len({it.words for it in SITUATIONS}) == len(SITUATIONS) >= 30


# What does not


@pytest.mark.parametrize("stack", STACKS)
def test_a_healthy_stack_is_all_ok(here: Here, stack: str) -> None:
    """Every check of every committed stack, in a world that grants what it needs."""
    found = here.look(stack)

    assert said(found, "ok") == sorted(found)


def test_the_roles_of_the_readme_suffice(here: Here) -> None:
    """Whoever has those roles lacks nothing, neither to deploy nor to check."""
    listed = re.findall(r"`(roles/[\w.]+)`", section("Deploy it"))
    here.own(google_roles=[role for role in listed if role in {*OWN_ROLES, *EXTRA_ROLES}])

    found = here.look()

    assert said(found, "ok") == sorted(found)


@pytest.mark.parametrize(
    ("role", "unknown"),
    [
        ("roles/compute.viewer", "Google: Spot machines to be had"),
        ("roles/orgpolicy.policyViewer", POLICY),
    ],
)
def test_who_may_deploy_but_not_look_is_told_what_cannot_be_known(
    here: Here, role: str, unknown: str
) -> None:
    """No check fails for want of a role that only the preflight wants."""
    here.own(**without(role))

    found = here.look()

    assert said(found, "fails") == []
    assert (
        said(found, "cannot know") == [it for it in sorted(found) if it.startswith(unknown)] != []
    )


def test_a_name_is_free_or_the_stacks_own(here: Here) -> None:
    """A stack that is up passes its own preflight: its names and its quota are its own."""
    tunnel = {"accountId": ACCOUNT, "name": "llm-dev-vpc-1a2b3c4"}
    here.store.put(TUNNEL, "a-tunnel", tunnel)
    record(here, "a-tunnel.cfargotunnel.com", "CNAME")
    application(here, "llm-dev")
    here.store.put(INSTANCE, f"projects/{PROJECT}/zones/{REGION}-a/instances/llm-dev-1", machine())
    network = {"project": PROJECT, "name": "llm-dev-vpc-1a2b3c4"}
    here.store.put("gcp:compute/network:Network", "a-network", network)
    here.own(quotas={SPOT_L4: 1, "GPUS_ALL_REGIONS": 1, "SSD_TOTAL_GB": 150, "NETWORKS": 1})

    found = here.look()

    assert said(found, "ok") == sorted(found)
    assert found["Cloudflare: host name"].detail == "llm-dev.example.com is ours"


def test_spot_counts_as_others_do_where_nothing_is_set_aside_for_it(here: Here) -> None:
    """So Google counts: a project with one L4 has one on Spot as well, of the same quota."""
    here.own(quotas={SPOT_L4: 0, L4: 1})

    found = here.look()

    assert said(found, "ok") == sorted(found)
    assert found[f"{QUOTA} {SPOT_L4}, us-central1"].detail == f"1 of 1, of {L4}: there is no other"


@pytest.mark.parametrize("gpu", ["nvidia-l4", "nvidia-tesla-a100", "nvidia-h100-80gb"])
def test_few_cpus_do_not_fail_a_machine_that_needs_no_quota_for_them(here: Here, gpu: str) -> None:
    """Google asks for none; whether the limit for all regions counts it does not say."""
    here.own(quotas={"CPUS": 0, "CPUS_ALL_REGIONS": 2})

    found = here.look("dev", {"gpu": gpu})

    assert said(found, "fails") == []
    assert said(found, "cannot know") == [f"{QUOTA} CPUS_ALL_REGIONS, everywhere"]


LOCATIONS, NAT = "gcp.resourceLocations", "compute.restrictCloudNATUsage"


def lists(**values: str) -> dict[str, Any]:
    """A rule that lists one value as allowed, or as denied."""
    return {"values": {f"{key}Values": [value, "somewhere"] for key, value in values.items()}}


@pytest.mark.parametrize(
    ("stack", "constraint", "rule", "verdict"),
    [
        ("cloud-run", LOCATIONS, lists(allowed="in:eu-locations"), "cannot know"),
        ("cloud-run", LOCATIONS, lists(allowed="in:europe-west4-locations"), "ok"),
        ("cloud-run", LOCATIONS, lists(allowed="in:europe-west1-locations"), "fails"),
        ("cloud-run", LOCATIONS, lists(denied="in:eu-locations"), "cannot know"),
        ("dev", LOCATIONS, lists(allowed="in:low-carbon-locations"), "cannot know"),
        ("dev", LOCATIONS, lists(denied="in:eu-locations"), "ok"),
        ("dev", LOCATIONS, lists(allowed="in:us-locations"), "ok"),
        ("dev", LOCATIONS, lists(allowed="in:asia-locations"), "fails"),
        ("dev", NAT, lists(allowed="under:folders/1"), "cannot know"),
        ("dev", NAT, lists(allowed=f"under:projects/{PROJECT}"), "ok"),
        ("dev", "compute.disableSerialPortLogging", {"enforce": True}, "cannot know"),
    ],
)
def test_a_policy_is_read_as_far_as_its_words_are_known(
    here: Here, stack: str, constraint: str, rule: dict[str, Any], verdict: str
) -> None:
    """A group of locations that may have the region in it is no failure, and no permission."""
    here.own(**policy(constraint, **rule))

    found = here.look(stack)

    assert found[f"{POLICY} {constraint}"].verdict == verdict


def test_a_first_gpu_on_cloud_run_may_come_by_itself(here: Here) -> None:
    """Google gives a project three when it is the first time: no failure, and no promise."""
    here.own(quotas={CLOUD_RUN_L4: 0})

    found = here.look("cloud-run")

    assert said(found, "fails") == []
    (unknown,) = said(found, "cannot know")
    assert unknown == f"{QUOTA} {CLOUD_RUN_L4}, europe-west4"
    assert f"ask for 2 of {CLOUD_RUN_L4}" in found[unknown].next_step


def test_another_stacks_machine_is_not_ours(here: Here) -> None:
    """Its GPU is taken."""
    place = f"projects/{PROJECT}/zones/{REGION}-a/instances/llm-prod-1"
    here.store.put(INSTANCE, place, machine("prod"))
    here.own(quotas={SPOT_L4: 1})

    assert said(here.look(), "fails") == [f"{QUOTA} {SPOT_L4}, us-central1"]


def machine(stack: str = "dev") -> dict[str, Any]:
    """A Spot machine with an L4, of a stack."""
    return {
        "name": f"llm-{stack}-1",
        "project": PROJECT,
        "zone": f"{REGION}-a",
        "machineType": "g2-standard-8",
        "gpu": {"type": "nvidia-l4", "count": 1, "memoryGib": 24},
        "scheduling": {"provisioningModel": "SPOT"},
        "labels": {"llm-endpoint-stack": stack},
        "bootDiskGb": 100,
    }


def test_no_check_waits_for_many_answers_in_turn(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is fast however far the clouds are: at most six calls, one after the other."""
    calls = Counter[int]()
    send = requests.Session.send

    def counted(self: requests.Session, *arguments: Any, **more: Any) -> requests.Response:
        calls[threading.get_ident()] += 1
        return send(self, *arguments, **more)

    monkeypatch.setattr(requests.Session, "send", counted)
    here.look("prod")

    assert max(calls.values()) <= 6, calls


# What cannot be known

SPOILT: dict[str, dict[str, Any]] = {
    "a portal's page": {"status": 200, "text": PORTAL},
    "a portal's refusal": {"status": 403, "text": PORTAL},
    "a portal's not found": {"status": 404, "text": PORTAL},
    "nothing": {"status": 200, "text": ""},
    "servers that break down": {"status": 500, "text": "{}"},
    "JSON that breaks off": {"status": 200, "text": '{"success": true, "result": [{"na'},
    "another object": {"status": 200, "text": '{"hello": "world"}'},
    "an empty object": {"status": 200, "text": "{}"},
    "a list": {"status": 200, "text": "[1, 2]"},
    "null": {"status": 200, "text": "null"},
    "an error of nobody's": {"status": 404, "text": '{"error": "no"}'},
    "errors in another shape": {"status": 403, "text": '{"errors": "no", "error": {"code": 7}}'},
    "too many requests": {"status": 429, "text": "{}"},
}


@pytest.mark.parametrize("manner", SPOILT.values(), ids=SPOILT.keys())
def test_what_is_no_answer_is_no_verdict(
    here: Here, manner: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither ok nor failed, whatever stands in the way: because of what, and what to do."""
    quickly(monkeypatch)
    here.answer(**manner)

    found = here.look()

    assert said(found, "cannot know") == sorted(found)
    assert all(it.detail and it.next_step for it in found.values())


@pytest.mark.parametrize("manner", SPOILT.values(), ids=SPOILT.keys())
def test_what_is_no_answer_of_the_clouds_is_no_verdict(
    here: Here, manner: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with a login that is good, which lets Google's other services be asked."""
    quickly(monkeypatch)
    asked = [f"{name}.googleapis.com" for name in ASKED]
    here.answer(**manner, only=asked)

    found = here.look()

    google = {name: it for name, it in found.items() if name.startswith("Google: ")}
    assert said(google, "ok") == ["Google: credentials"]
    assert said(google, "fails") == []


@pytest.mark.parametrize(("status", "code"), [(404, 7000), (404, 7003), (400, 10000), (405, 10000)])
def test_a_question_that_went_astray_is_no_permission(here: Here, status: int, code: int) -> None:
    """Cloudflare has no such route, or turns the method away: of the token that says nothing."""
    errors = [{"code": code, "message": "PUT method not allowed"}]
    text = json.dumps({"success": False, "errors": errors, "messages": [], "result": None})
    here.answer(status=status, text=text, only=["api.cloudflare.com"])

    found = here.look()

    assert all(found[name].verdict != "ok" for name in found if name.startswith(MAY))


@pytest.mark.parametrize("permission", PERMISSIONS, ids=lambda it: it.name.replace(" ", "-"))
def test_a_permission_is_asked_after_with_the_method_that_changes_such_a_thing(
    here: Here, permission: Permission
) -> None:
    """With another one the API refuses even those who may."""
    with requests.Session() as http:
        http.headers["Authorization"] = f"Bearer {API_TOKEN}"
        url = f"{API}/{permission.path.format(account=ACCOUNT, zone=ZONE)}"
        answers = {
            method: http.request(method, url, json={}, timeout=10).status_code
            for method in ("PUT", "PATCH", "POST")
        }

    assert answers[permission.method] == 404
    assert answers["POST"] in (404, 405)
    if permission.name != "DNS":
        assert {answers["PUT"], answers["PATCH"]} == {404, 405}


def test_an_answer_that_breaks_off_is_no_verdict(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends in the middle of it."""
    quickly(monkeypatch)
    here.answer(cut=20)

    found = here.look()

    assert said(found, "cannot know") == sorted(found)


def test_without_a_network_nothing_is_known(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody at the proxy's port."""
    quickly(monkeypatch)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    found = here.look()

    assert said(found, "cannot know") == sorted(found)
    assert "network" in found["Cloudflare: zone"].next_step


@contextmanager
def hanging_up() -> Generator[str]:
    """A proxy, by its address, that answers everybody with a portal's page and hangs up."""

    class Portal(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            page = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{PORTAL}"
            self.request.sendall(page.encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Portal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("command", ["preflight --stack dev", "advise somebody/something-8B"])
def test_a_connection_that_is_closed_while_we_write_is_told(here: Here, command: str) -> None:
    """And does not end the command without a word, as SIGPIPE does."""
    with hanging_up() as portal:
        proxies = {name: portal for name in ("HTTPS_PROXY", "https_proxy")}
        done = here.command(of=command, **proxies)

    told = done.stdout + done.stderr
    assert done.returncode in (0, 1), told
    assert re.search("no answer from|does not answer as a site", told)


def test_a_reader_who_leaves_is_no_mistake(here: Here) -> None:
    """As in `./scripts/advise MODEL | head`: no traceback."""
    script = "scripts/advise Qwen/Qwen3-8B | true; echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)

    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


def test_who_answers_too_late_is_not_waited_for(here: Here) -> None:
    """After a while it is told what is known by then."""
    here.answer(delay_s=5, only=["api.cloudflare.com"])

    found = here.look(limit_s=2)

    late = [name for name in found if name.startswith("Cloudflare")]
    assert said(found, "cannot know") == sorted(late)
    assert "within 2 seconds" in found["Cloudflare: zone"].detail


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again without a pause."""

    def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr("urllib3.util.Retry.sleep", nothing)
    monkeypatch.setattr("google.auth._exponential_backoff.time.sleep", nothing)


def test_without_a_cloudflare_token_only_cloudflare_cannot_be_known(here: Here) -> None:
    """It says where to put it."""
    found = here.look(secrets=Secrets("", HUB_TOKEN))

    unknown = said(found, "cannot know")
    assert unknown == sorted(name for name in found if name.startswith("Cloudflare"))
    assert "CLOUDFLARE_API_TOKEN" in found["Cloudflare: token"].next_step


def test_a_token_that_may_not_look_is_no_failure(here: Here) -> None:
    """What only the preflight wants to see, the token need not show."""
    edits = ("Cloudflare Tunnel", "Access: Apps and Policies", "Access: Service Tokens", "DNS")
    here.own(cloudflare_permissions=[f"{name} Edit" for name in edits])

    found = here.look()

    assert said(found, "fails") == []
    assert said(found, "cannot know") == ["Cloudflare: Access team", "Cloudflare: zone"]


@pytest.mark.parametrize(
    ("variable", "value", "verdict", "says"),
    [
        ("REQUESTS_CA_BUNDLE", "/nonexistent", "cannot know", "REQUESTS_CA_BUNDLE"),
        ("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", "nonsense", "cannot know", "is no address"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "[]", "fails", "no such file"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "{", "fails", "not a valid json file"),
        ("GOOGLE_APPLICATION_CREDENTIALS", '{"type": "authorized_user"}', "fails", "Failed to"),
    ],
)
def test_an_environment_that_is_wrong_is_told(
    here: Here, tmp_path: Path, variable: str, value: str, verdict: str, says: str
) -> None:
    """By its name, without a traceback, and no check is ok that has not asked."""
    if variable == "GOOGLE_APPLICATION_CREDENTIALS":
        file = tmp_path / "credentials.json"
        file.write_text(value)
        value = str(file)

    done = here.command("--json", **{variable: value})

    assert done.stderr == ""
    found = [it for it in json.loads(done.stdout) if it["verdict"] == verdict]
    assert any(says in f"{it['detail']} {it['next']}" for it in found), found


def test_a_check_that_trips_is_not_ok() -> None:
    """Whatever a check stumbles over."""

    def trip() -> str:
        return dict[str, str]()["nothing"]

    def unknown() -> str:
        raise UnknownError("nobody knows", "wait")

    found = [check.look(Check("a", trip)), check.look(Check("b", unknown))]

    assert [it.verdict for it in found] == ["cannot know", "cannot know"]
    assert "KeyError" in found[0].detail


# The command


def test_the_command_says_that_all_is_ok(here: Here) -> None:
    """Status 0, a line a check, and no secret in any of them."""
    done = here.command()

    assert (done.returncode, done.stderr) == (0, "")
    assert "ok           Cloudflare: zone" in done.stdout
    assert re.search(r"Preflight of stack dev: \d+ ok, 0 fail, 0 cannot be known\.", done.stdout)
    assert API_TOKEN not in done.stdout
    assert HUB_TOKEN not in done.stdout


def test_a_failure_is_status_1_with_what_to_do(here: Here) -> None:
    """And briefly, only that."""
    here.own(unbilled_projects=[PROJECT])

    done = here.command("--brief")

    assert done.returncode == 1
    assert "fails        Google: billing" in done.stdout
    told = " ".join(done.stdout.split())
    assert "next: link one: https://console.cloud.google.com/billing/linkedaccount" in told
    assert "ok           " not in done.stdout


def test_what_has_one_cause_is_told_once(here: Here) -> None:
    """With nobody to pay, Compute Engine answers no question: one cause, one next step."""
    here.own(unbilled_projects=[PROJECT])

    told = " ".join(here.command("--brief").stdout.split())

    assert (
        "cannot know Google: Spot machines to be had; boot image; g2-standard-8 in us-cen" in told
    )
    assert told.count("because ") == 1
    assert told.count("next: ") == 2
    assert "next: link a billing account" in told


def test_what_cannot_be_known_fails_only_where_asked(here: Here) -> None:
    """CI may want to be strict."""
    here.answer(status=200, text=PORTAL, only=["huggingface.co"])

    assert here.command().returncode == 0
    assert here.command("--strict").returncode == 1


def test_json_is_a_list_of_findings(here: Here) -> None:
    """With the verdict, and the quota to ask for."""
    here.own(**NO_L4)

    done = here.command("--json")

    failed = [it for it in json.loads(done.stdout) if it["verdict"] == "fails"]
    assert [it["quota"] for it in failed] == [
        {
            "service": "compute.googleapis.com",
            "quota": "PREEMPTIBLE-NVIDIA-L4-GPUS-per-project-region",
            "dimensions": {"region": "us-central1"},
            "value": 1,
        }
    ]
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--stack", "nonesuch"), "There is no Pulumi.nonesuch.yaml"),
        (("--fix",), "--fix needs --email"),
        (("--nonesuch",), "unrecognized arguments"),
    ],
)
def test_a_mistake_in_the_call_is_status_2(
    here: Here, arguments: tuple[str, ...], says: str
) -> None:
    """And says what was expected."""
    done = here.command(*arguments)

    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_fix_asks_for_the_quota_after_a_yes(here: Here) -> None:
    """It shows what it will ask, and asks Google for nothing else."""
    here.own(**NO_L4)

    refused = here.command("--fix", "--email", "ops@example.com")
    assert "PREEMPTIBLE-NVIDIA-L4-GPUS-per-project-region (us-central1): 1" in refused.stdout
    assert "Nothing was asked." in refused.stdout
    assert here.store.all(PREFERENCE) == {}

    agreed = here.command("--fix", "--email", "ops@example.com", "--yes")
    assert "asked; Google answers by mail" in agreed.stdout
    (asked,) = here.store.all(PREFERENCE).values()
    assert asked["quotaConfig"]["preferredValue"] == "1"
    assert asked["dimensions"] == {"region": "us-central1"}

    again = here.command("--fix", "--email", "ops@example.com", "--yes")
    assert "asked already" in again.stdout
    assert len(here.store.all(PREFERENCE)) == 1


# Permissions


def section(title: str) -> str:
    """The text under a heading of the README, up to the next one of its level."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", README, re.M | re.S)
    assert found
    return found[2]


def short(type: str) -> str:
    """`compute.Network` of `gcp:compute/network:Network`."""
    return f"{type.partition(':')[2].partition('/')[0]}.{type.rpartition(':')[2]}"


def test_the_readme_lists_the_roles_of_the_table() -> None:
    """Each with the resources for which it is needed."""
    listed = re.findall(r"^\| `(roles/[\w.]+)` \| (.*) \|$", section("Deploy it"), re.M)

    expected: dict[str, list[str]] = {}
    for row in permissions.rows():
        if row.type:
            expected.setdefault(row.role, []).append(short(row.type))
    said = {role: sorted(re.findall(r"`([\w.]+)`", why)) for role, why in listed}
    assert said == {role: sorted(types) for role, types in expected.items()}


@pytest.mark.parametrize("weights", ["bucket", "image", "hub"])
@pytest.mark.parametrize("stack", ["dev", "cloud-run"])
def test_the_table_knows_what_a_stack_declares(deploy: Deploy, stack: str, weights: str) -> None:
    """The permissions that are asked after follow from the resources of the stack."""
    declared = {it.type for it in deploy(stack, {"llm-endpoint:weights": weights}).resources}

    known = permissions.types(settings_of(stack, {"weights": weights}))
    assert {it for it in declared if it.startswith("gcp:")} == known


def test_what_the_providers_demand_is_asked_after() -> None:
    """Nobody passes the preflight and is refused for want of a permission then."""
    table = {row.type: set[str]() for row in permissions.rows()}
    for row in permissions.rows():
        table[row.type] |= {*row.permissions}

    assert all(OWNERS[type] in table[type] for type in table if type)


def test_each_role_has_what_it_is_listed_for() -> None:
    """As far as the rehearsal's IAM knows Google's roles."""
    for row in permissions.rows():
        assert {*row.permissions} <= ROLES[row.role], row


# The gate


def test_everything_waits_for_the_preflight(deploy: Deploy) -> None:
    """No resource of either cloud is begun before it has passed, and no script is run."""
    stack = deploy("prod")
    gate = next(it for it in stack.resources if it.name.endswith("-preflight"))

    for resource in stack.resources:
        if resource is not gate and not resource.type.startswith("llm-endpoint:"):
            assert gate.urn in stack.all_before(resource), resource.name


def test_a_stack_without_the_gate_has_none_of_it(deploy: Deploy) -> None:
    """And creates the same resources otherwise."""
    without_gate = deploy("prod", {"llm-endpoint:preflight": "false"}).resources

    names = {it.name for it in without_gate}
    more = [it.name for it in deploy("prod").resources if it.name not in names]
    assert more == ["llm-prod-preflight"]


def test_the_gate_runs_again_for_what_it_looks_at_only(deploy: Deploy) -> None:
    """The end of protection must not wait for it; a new host name must."""

    def given(**changes: str) -> Any:
        keys = {f"llm-endpoint:{key}": value for key, value in changes.items()}
        found = deploy("prod", keys).resources
        return next(it.received for it in found if it.name.endswith("-preflight"))

    assert given(protect="false", maxModelLen="2048") == given()
    assert given(hostname="other.example.com") != given()


def test_the_gate_has_its_secrets_in_the_environment_only(deploy: Deploy) -> None:
    """Encrypted in the state; the command line and the settings have none."""
    gate = next(it for it in deploy("prod").resources if it.name.endswith("-preflight"))

    assert gate.inputs["environment"] == "[secret]"
    assert API_TOKEN not in gate.inputs["create"]


@pytest.mark.parametrize("it", SITUATIONS, ids=lambda it: it.words.replace(" ", "-"))
def test_the_gates_command_fails_and_says_why(
    here: Here,
    it: Situation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What `up` runs first ends with an error in each of them, so that nothing follows."""
    here.own(**it.accounts)
    it.arrange(here)
    settings = settings_of(it.stack, it.config)
    chosen = settings.model_dump_json(include=set(CHECKED))
    monkeypatch.setenv("PREFLIGHT_SETTINGS", chosen)
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", it.secrets.cloudflare)
    monkeypatch.setenv("HF_TOKEN", it.secrets.hugging_face)

    whole = here.look(it.stack, it.config, it.secrets)
    assert preflight.main(["--json"]) == 1
    told = {each["check"]: each["verdict"] for each in json.loads(capsys.readouterr().out)}
    assert told == {name: finding.verdict for name, finding in whole.items()}
    assert told[it.check] == "fails"
