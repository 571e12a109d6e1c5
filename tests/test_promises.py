"""What the README promises, asked of what the program declares."""

import json
import math
import re
from typing import Any

import pytest

from components import catalogue
from components.network import subnet_range
from rehearsal import figures
from tests.conftest import MASKED, TUNNEL_TOKEN, Declared, Deploy, Deployment
from tests.stack_config import API_TOKEN

STACKS = pytest.mark.parametrize("stack", ["dev", "prod"])
HUB = {"llm-endpoint:weights": "hub"}
HUGGING_FACE = {"llm-endpoint:huggingFaceToken": "hf_planted-token-0123456789"}
PEOPLE_AND_PROGRAMS = {
    "llm-endpoint:consumers": '["app", "batch"]',
    "llm-endpoint:allowedEmails": '["ada@example.org"]',
    "llm-endpoint:allowedEmailDomains": '["example.net"]',
}


def text(value: Any) -> str:
    """Everything in a value, for looking for what must not be there."""
    return json.dumps(value, default=str)


def metadata(deployment: Deployment) -> dict[str, str]:
    """What the machine is told."""
    return deployment.one("RegionInstanceTemplate").inputs["metadata"]


def by_name(deployment: Deployment) -> dict[str, Declared]:
    """Resources by type and name."""
    return {f"{item.type} {item.name}": item for item in deployment.resources}


# --- nobody gets in but through Access ----------------------------------------------------------


@STACKS
def test_the_machine_has_no_public_address(deploy: Deploy, stack: str) -> None:
    """The tunnel is the only way in."""
    interfaces = deploy(stack).one("RegionInstanceTemplate").inputs["networkInterfaces"]

    assert interfaces
    assert not any("accessConfigs" in interface for interface in interfaces)


@STACKS
def test_only_googles_own_systems_pass_the_firewall(deploy: Deploy, stack: str) -> None:
    """Health checkers reach the engine's port, Identity-Aware Proxy reaches SSH; nothing else."""
    admitted = [
        (sources, protocol["protocol"], port)
        for rule in deploy(stack).of("Firewall")
        for protocol in rule.inputs["allows"]
        for port in protocol["ports"]
        if (sources := tuple(rule.inputs["sourceRanges"]))
    ]

    assert sorted(admitted) == [
        (("35.191.0.0/16", "130.211.0.0/22"), "tcp", "8000"),
        (("35.235.240.0/20",), "tcp", "22"),
    ]


@STACKS
def test_every_path_to_the_engine_demands_the_token_of_this_application(
    deploy: Deploy, stack: str
) -> None:
    """cloudflared itself turns away what Access did not let through, whatever happens to Access."""
    deployment = deploy(stack)
    *to_engine, last = deployment.one("ZeroTrustTunnelCloudflaredConfig").inputs["config"][
        "ingresses"
    ]

    assert last == {"service": "http_status:404"}
    assert to_engine
    for rule in to_engine:
        assert rule["originRequest"]["access"] == {
            "required": True,
            "teamName": "example",
            "audTags": ["an-aud"],
        }
    assert "ZeroTrustAccessApplication" in deployment.waits_for(deployment.one("DnsRecord"))


@pytest.mark.parametrize(
    "path",
    ["/", "/metrics", "/invocations", "/pause", "/v1/load_lora_adapter", "/health", "/docs"],
)
def test_only_the_api_is_public(deploy: Deploy, path: str) -> None:
    """What vLLM answers besides the OpenAI API has no rule that leads to it."""
    rules = deploy("dev").one("ZeroTrustTunnelCloudflaredConfig").inputs["config"]["ingresses"]

    open_to = [rule["path"] for rule in rules if "path" in rule]
    assert not any(re.search(pattern, path) for pattern in open_to)
    assert any(re.search(pattern, "/v1/chat/completions") for pattern in open_to)


@STACKS
def test_the_whole_hostname_is_behind_access(deploy: Deploy, stack: str) -> None:
    """The application covers the name in DNS, and programs get 401, not a login page."""
    deployment = deploy(stack)
    application = deployment.one("ZeroTrustAccessApplication").inputs

    assert application["domain"] == deployment.one("DnsRecord").inputs["name"]
    assert application["serviceAuth401Redirect"] is True
    assert deployment.one("DnsRecord").inputs["proxied"] is True


def test_only_those_who_are_configured_may_call(deploy: Deploy) -> None:
    """Every consumer has a token of its own; people come in by address or domain; no one else."""
    deployment = deploy("dev", PEOPLE_AND_PROGRAMS)
    policies = {
        policy.inputs["decision"]: policy.inputs["includes"]
        for policy in deployment.of("ZeroTrustAccessPolicy")
    }

    assert policies == {
        "non_identity": [
            {"serviceToken": {"tokenId": "llm-dev-consumer-app-id"}},
            {"serviceToken": {"tokenId": "llm-dev-consumer-batch-id"}},
            {"serviceToken": {"tokenId": "llm-dev-probe-id"}},
        ],
        "allow": [
            {"email": {"email": "ada@example.org"}},
            {"emailDomain": {"domain": "example.net"}},
        ],
    }
    assert set(deployment.outputs["clientIds"]) == {"app", "batch"}


def test_a_new_consumer_touches_no_machine(deploy: Deploy) -> None:
    """One more name in the configuration is one more token, admitted by the same policy."""
    before = by_name(deploy("dev", {"llm-endpoint:consumers": '["app"]'}))
    after = by_name(deploy("dev", {"llm-endpoint:consumers": '["another", "app"]'}))

    (created,) = after.keys() - before.keys()
    changed = {name for name in before if before[name].inputs != after[name].inputs}
    assert created.endswith("ZeroTrustAccessServiceToken llm-dev-consumer-another")
    assert {name.partition(" ")[0].rpartition(":")[2] for name in changed} == {
        "ZeroTrustAccessPolicy"
    }


# --- secrets ------------------------------------------------------------------------------------


def test_no_secret_stands_anywhere_in_clear(deploy: Deploy) -> None:
    """Every secret is marked as one wherever it goes, so that state and output show none."""
    deployment = deploy("dev", HUGGING_FACE)
    plain = text([resource.inputs for resource in deployment.resources]) + text(deployment.outputs)

    for secret in (*HUGGING_FACE.values(), API_TOKEN, TUNNEL_TOKEN, "a-client-secret"):
        assert secret not in plain
    assert plain.count(MASKED) >= 5
    assert deployment.outputs["clientSecrets"] == MASKED


def test_the_machine_is_told_where_secrets_are_not_what_they_are(deploy: Deploy) -> None:
    """Metadata holds names of secret versions; nothing in it needs to be hidden."""
    told = metadata(deploy("dev", HUB | HUGGING_FACE))

    assert MASKED not in text(told)
    assert told["tunnel-token-secret"].startswith("projects/")
    assert told["hugging-face-token-secret"].startswith("projects/")


def test_an_open_model_needs_no_token(deploy: Deploy) -> None:
    """Without a Hugging Face token there is no secret for it, and the machine asks for none."""
    deployment = deploy("dev")

    assert "hugging-face-token-secret" not in metadata(deployment)
    assert [secret.inputs["secretId"] for secret in deployment.of("Secret")] == [
        "llm-dev-tunnel-token"
    ]


def grants(deployment: Deployment, account: str) -> list[tuple[str, str]]:
    """What a service account may do: the type of the resource, and the role on it."""
    member = f"serviceAccount:{account}@example-project.iam.gserviceaccount.com"
    return sorted(
        (item.type.rpartition(":")[2], item.inputs["role"])
        for item in deployment.resources
        if item.type.lower().endswith("iammember") and item.inputs["member"] == member
    )


def test_each_role_is_granted_where_it_belongs(deploy: Deploy) -> None:
    """The machine writes logs and metrics, pulls from one repository, reads its own secrets."""
    deployment = deploy("dev", HUB | HUGGING_FACE)

    assert grants(deployment, "llm-dev-machine") == [
        ("IAMMember", "roles/logging.logWriter"),
        ("IAMMember", "roles/monitoring.metricWriter"),
        ("RepositoryIamMember", "roles/artifactregistry.reader"),
        ("SecretIamMember", "roles/secretmanager.secretAccessor"),
        ("SecretIamMember", "roles/secretmanager.secretAccessor"),
    ]


def test_who_serves_the_weights_cannot_change_them(deploy: Deploy) -> None:
    """The hub's token is read by what fetches the weights; the machine has no use for it."""
    deployment = deploy("dev", HUGGING_FACE)

    assert grants(deployment, "llm-dev-stager") == [
        ("BucketIAMMember", "roles/storage.objectUser"),
        ("SecretIamMember", "roles/secretmanager.secretAccessor"),
    ]
    assert grants(deployment, "llm-dev-machine") == [
        ("BucketIAMMember", "roles/storage.objectViewer"),
        ("IAMMember", "roles/logging.logWriter"),
        ("IAMMember", "roles/monitoring.metricWriter"),
        ("RepositoryIamMember", "roles/artifactregistry.reader"),
        ("SecretIamMember", "roles/secretmanager.secretAccessor"),
    ]


def test_nobody_outside_reads_the_bucket(deploy: Deploy) -> None:
    """No access lists, no public objects, and nothing of it left when the stack goes."""
    bucket = deploy("dev").one("Bucket").inputs

    assert bucket["uniformBucketLevelAccess"]
    assert bucket["publicAccessPrevention"] == "enforced"
    assert bucket["forceDestroy"]


def test_another_model_has_another_bucket(deploy: Deploy) -> None:
    """So the old weights go only when the machines have changed over."""
    before = deploy("dev").one("Bucket")
    after = deploy("dev", {"llm-endpoint:model": "Qwen/Qwen3-8B"}).one("Bucket")
    of_a_commit = deploy("dev", {"llm-endpoint:modelRevision": "abc123"}).one("Bucket")
    same = deploy("dev", {"llm-endpoint:maxModelLen": "4096"}).one("Bucket")

    assert len({before.urn, after.urn, of_a_commit.urn}) == 3
    assert same.urn == before.urn


# --- order --------------------------------------------------------------------------------------


def test_what_a_machine_needs_is_there_before_it_boots(deploy: Deploy) -> None:
    """No first boot fails for want of a role, a secret, a way out or a tunnel to open."""
    deployment = deploy("dev", HUGGING_FACE)

    assert deployment.waits_for(deployment.one("RegionInstanceGroupManager")) >= {
        "BucketIAMMember",
        "Firewall",
        "HealthCheck",
        "Repository",
        "RepositoryIamMember",
        "RouterNat",
        "SecretIamMember",
        "SecretVersion",
        "Service",
        "ZeroTrustTunnelCloudflared",
    }


def test_the_weights_are_there_before_a_gpu_is_paid_for(deploy: Deploy) -> None:
    """The group of GPU machines waits until every file is staged."""
    deployment = deploy("dev")
    (staged,) = (item for item in deployment.of("Command") if "stage_weights" in text(item.inputs))

    assert staged.urn in deployment.all_before(deployment.one("RegionInstanceGroupManager"))


def test_nothing_slow_waits_for_what_it_does_not_need(deploy: Deploy) -> None:
    """Access and its tokens are made while Google makes the network; DNS waits for no machine."""
    deployment = deploy("dev")

    assert not deployment.waits_for(deployment.one("ZeroTrustAccessApplication")) & {
        "Service",
        "Network",
    }
    assert "RegionInstanceTemplate" not in deployment.waits_for(deployment.one("DnsRecord"))


def test_machines_go_before_the_tunnel_that_they_hold_open(deploy: Deploy) -> None:
    """On destroy: machines, lingering connections, the tunnel, and a look whether it is gone."""
    deployment = deploy("dev")
    clearing, looking = (item for item in deployment.of("Command") if "delete" in item.inputs)
    if not clearing.name.endswith("-disconnection"):
        clearing, looking = looking, clearing
    tunnel = deployment.one("ZeroTrustTunnelCloudflared")
    group = deployment.one("RegionInstanceGroupManager")
    by_urn = {item.urn: item for item in deployment.resources}

    def reaches(start: Declared, goal: str) -> bool:
        return start.urn == goal or any(
            reaches(by_urn[urn], goal) for urn in start.depends_on if urn in by_urn
        )

    assert reaches(group, clearing.urn)
    assert reaches(clearing, tunnel.urn)
    assert reaches(tunnel, looking.urn)
    for command in (clearing, looking):
        assert command.inputs["environment"] == MASKED
        assert command.received["environment"]["CLOUDFLARE_API_TOKEN"] == API_TOKEN


def probes(deployment: Deployment) -> list[Declared]:
    """What `pulumi up` waits for last."""
    return [item for item in deployment.of("Command") if "wait_until_ready" in text(item.inputs)]


def test_up_ends_when_the_new_machines_answer(deploy: Deploy) -> None:
    """The probe comes after the group and the name, and waits for this very revision."""
    deployment = deploy("dev")
    (probe,) = probes(deployment)

    assert deployment.waits_for(probe) >= {"RegionInstanceGroupManager", "DnsRecord"}
    revision = metadata(deployment)["revision"]
    assert probe.received["environment"]["ENDPOINT_REVISION"] == revision
    assert f"--fingerprint-value={revision}" in metadata(deployment)["engine-args"].split("\n")


def test_waiting_can_be_left_out(deploy: Deploy) -> None:
    """`waitUntilReady: false` lets `pulumi up` end when everything is declared."""
    assert not probes(deploy("dev", {"llm-endpoint:waitUntilReady": "false"}))


# --- changes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"llm-endpoint:model": "Qwen/Qwen3-8B"},
        {"llm-endpoint:engineVersion": "0.33.1"},
        {"llm-endpoint:bootDiskGb": "200"},
        {"llm-endpoint:provisioning": "standard"},
        HUB | HUGGING_FACE,
        HUB,
    ],
    ids=lambda change: next(iter(change)).partition(":")[2],
)
def test_a_changed_machine_has_a_new_revision(deploy: Deploy, change: dict[str, str]) -> None:
    """Whatever makes another machine is told apart by the probe."""
    assert metadata(deploy("dev"))["revision"] != metadata(deploy("dev", change))["revision"]


@pytest.mark.parametrize(
    "change",
    [
        {"llm-endpoint:replicas": "2"},
        {"llm-endpoint:rollout": "manual"},
        {"llm-endpoint:protect": "true"},
        {"llm-endpoint:hostname": "other.example.com"},
    ],
    ids=lambda change: next(iter(change)).partition(":")[2],
)
def test_what_makes_no_other_machine_replaces_none(deploy: Deploy, change: dict[str, str]) -> None:
    """Running machines are left alone by what does not concern them."""
    before, after = deploy("dev"), deploy("dev", change)

    assert metadata(before) == metadata(after)


ROLLOUTS = {
    "replace": ("PROACTIVE", 0, 3),
    "surge": ("PROACTIVE", 3, 0),
    "manual": ("OPPORTUNISTIC", 0, 3),
}


@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_a_rollout_is_one_that_a_regional_group_accepts(deploy: Deploy, rollout: str) -> None:
    """Surge and outage are 0 or the number of zones, and never both 0."""
    group = deploy("dev", {"llm-endpoint:rollout": rollout}).one("RegionInstanceGroupManager")
    policy = group.inputs["updatePolicy"]

    assert len(group.inputs["distributionPolicyZones"]) == 3
    assert (
        policy["type"],
        policy["maxSurgeFixed"],
        policy["maxUnavailableFixed"],
    ) == ROLLOUTS[rollout]


@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_an_outage_is_announced_before_it_begins(deploy: Deploy, rollout: str) -> None:
    """What takes machines away, old ones first, is announced before the group hears of it."""
    changes = {"llm-endpoint:rollout": rollout}
    before = deploy("dev", changes)
    new_model = deploy("dev", changes | {"llm-endpoint:model": "Qwen/Qwen3-8B"})
    new_zones = deploy("dev", changes | {"llm-endpoint:zones": '["us-central1-a"]'})

    def announced(after: Deployment) -> list[str]:
        """What is said on the way from `before` to `after`; nothing of it when created."""
        group = after.one("RegionInstanceGroupManager")
        commands = {
            item.urn: item
            for item in after.of("Command")
            if item.urn in group.depends_on and "stage_weights" not in text(item.inputs)
        }
        assert not any("create" in item.inputs for item in commands.values())
        unchanged = [item.inputs for item in before.of("Command")]
        return [
            item.inputs["update"]
            for item in commands.values()
            if item.inputs not in unchanged and "update" in item.inputs
        ]

    assert len(announced(new_model)) == (1 if rollout == "replace" else 0)
    assert any("zones change" in text and "DOWN" in text for text in announced(new_zones))
    assert not announced(before)
    for text_ in (*announced(new_model), *announced(new_zones)):
        assert re.search(r"\d+( to \d+)? minutes", text_), "nobody knows how long to wait"


def test_the_length_of_an_outage_is_the_sum_of_what_a_new_machine_goes_through(
    deploy: Deploy,
) -> None:
    """By the rehearsal's figures, to the minute; of an unknown model, the least."""

    def announced(changes: dict[str, str]) -> str:
        """What is said of the length."""
        outage = by_name(deploy("dev", changes))["command:local:Command llm-dev-outage"]
        found = re.search(r"DOWN from now .* in (.* minutes( or more)?) ", outage.inputs["update"])
        assert found
        return found[1]

    machine = ("VM delete", "VM create", "VM boot", "pull vllm/vllm-openai")
    engine = ("vLLM start", "torch.compile", "CUDA graphs")
    drain_s = 20
    least_s = drain_s + sum(map(figures.seconds, (*machine, *engine)))
    by_gigabyte = {
        "bucket": ("weights stream, 1 GB",),
        "hub": ("weights download, 1 GB", "weights load, 1 GB"),
    }
    for weights, parts in by_gigabyte.items():
        seconds = least_s + 16.4 * sum(map(figures.seconds, parts))
        said = announced({"llm-endpoint:model": "Qwen/Qwen3-8B", "llm-endpoint:weights": weights})
        minutes = int(said.removeprefix("about ").removesuffix(" minutes"))
        assert abs(minutes * 60 - seconds) <= 60, f"{said}, and it is {seconds:.0f} s"
    unknown = announced({"llm-endpoint:model": "our-team/our-own-model"})
    assert unknown == f"{math.ceil(least_s / 60)} minutes or more"


def test_another_engine_on_machines_is_announced(deploy: Deploy) -> None:
    """It listens elsewhere, so old machines are led past; a service changes over in silence."""
    ollama = {"llm-endpoint:engine": "ollama", "llm-endpoint:model": "qwen3:8b"}
    for stack, said in (("dev", True), ("cloud-run", False)):
        name = f"command:local:Command llm-{stack}-switch"
        before, after = by_name(deploy(stack))[name], by_name(deploy(stack, ollama))[name]
        assert "DOWN" in after.inputs["update"]
        assert (before.inputs != after.inputs) == said


def test_machines_out_of_date_are_announced_when_they_begin_to_be_replaced(deploy: Deploy) -> None:
    """From `manual` to `replace`, what was put off until now happens."""
    manual = deploy("dev", {"llm-endpoint:rollout": "manual"}).of("Command")
    replace = deploy("dev", {"llm-endpoint:rollout": "replace"}).of("Command")

    changed = [item for item in replace if item.inputs not in [it.inputs for it in manual]]
    assert any("DOWN" in item.inputs.get("update", "") for item in changed)
    assert {item.urn for item in changed} <= {item.urn for item in manual}, "created: silent"


def test_a_repaired_machine_does_not_ask_for_what_is_gone(deploy: Deploy) -> None:
    """Under `manual`, too, it comes back from the newest template, with the newest secrets."""
    group = deploy("dev", {"llm-endpoint:rollout": "manual"}).one("RegionInstanceGroupManager")

    assert group.inputs["instanceLifecyclePolicy"]["forceUpdateOnRepair"] == "YES"


PROVISIONING = {
    "spot": ("SPOT", False, "STOP"),
    "standard": ("STANDARD", True, None),
    "flex-start": ("FLEX_START", False, "DELETE"),
}


def test_a_stack_can_move_to_any_region() -> None:
    """Its subnets of two regions stand in one VPC for a while: no two ranges are the same."""
    ranges = {subnet_range(region) for region in catalogue.regions()}

    assert len(ranges) == len(catalogue.regions())


@pytest.mark.parametrize("provisioning", PROVISIONING)
def test_terms_are_spelled_out_as_google_takes_them(deploy: Deploy, provisioning: str) -> None:
    """Nothing is left to the plugin's defaults, some of which Google refuses."""
    hours = "24" if provisioning == "flex-start" else "0"
    deployment = deploy(
        "dev",
        {"llm-endpoint:provisioning": provisioning, "llm-endpoint:maxRunHours": hours},
    )
    scheduling = deployment.one("RegionInstanceTemplate").inputs["scheduling"]

    assert scheduling["onHostMaintenance"] == "TERMINATE"
    assert (
        scheduling["provisioningModel"],
        scheduling["automaticRestart"],
        scheduling.get("instanceTerminationAction"),
    ) == PROVISIONING[provisioning]
    assert scheduling.get("maxRunDuration") == (
        {"seconds": 86400} if provisioning == "flex-start" else None
    )


def test_a_gpu_that_no_machine_type_brings_is_asked_for(deploy: Deploy) -> None:
    """A T4 is attached to an N1 machine; an L4 comes with its own."""
    with_t4 = deploy("dev", {"llm-endpoint:gpu": "nvidia-tesla-t4"}).one("RegionInstanceTemplate")

    assert with_t4.inputs["guestAccelerators"] == [{"type": "nvidia-tesla-t4", "count": 1}]
    assert not deploy("dev").one("RegionInstanceTemplate").inputs.get("guestAccelerators")


# --- neighbours, protection, operation ----------------------------------------------------------


def test_what_clients_depend_on_is_protected_and_nothing_else(deploy: Deploy) -> None:
    """`protect: true` guards what clients would miss; machines stay replaceable."""
    protected = [
        item.type.rpartition(":")[2]
        for item in deploy("prod", HUGGING_FACE).resources
        if item.protect
    ]

    assert sorted(protected) == [
        "DnsRecord",
        "Secret",
        "Secret",
        "ZeroTrustAccessApplication",
        *["ZeroTrustAccessServiceToken"] * 3,
        "ZeroTrustTunnelCloudflared",
    ]
    assert not any(item.protect for item in deploy("dev").resources)


def test_two_stacks_share_a_project_without_a_clash(deploy: Deploy) -> None:
    """Every name that the clouds would not let two stacks both have contains the stack's."""
    keys = ("name", "secretId", "repositoryId", "accountId", "baseInstanceName")

    def names(stack: str) -> set[str]:
        return {
            item.inputs[key]
            for item in deploy(stack).resources
            for key in keys
            if key in item.inputs
        }

    shared = {"0123456789abcdef" * 2, "llm-vpc-1a2b3c4"}  # an account; drawn at random in life
    assert names("dev") & names("prod") == shared


@STACKS
def test_shared_apis_stay_on(deploy: Deploy, stack: str) -> None:
    """Destroying a stack switches no API off under what else uses the project."""
    services = deploy(stack).of("Service")

    assert services
    assert all(service.inputs["disableOnDestroy"] is False for service in services)


@STACKS
def test_what_can_carry_a_label_carries_the_stacks(deploy: Deploy, stack: str) -> None:
    """Costs and leftovers can be traced to the stack."""
    deployment = deploy(stack)
    labelled = [
        *deployment.of("Secret"),
        deployment.one("Repository"),
        deployment.one("RegionInstanceTemplate"),
    ]

    assert all(item.inputs["labels"] == {"llm-endpoint-stack": stack} for item in labelled)


@STACKS
def test_a_machine_is_hardened_and_its_log_kept(deploy: Deploy, stack: str) -> None:
    """Nobody logs in by a key left in the project, and lines reach Cloud Logging with no agent."""
    told = metadata(deploy(stack))

    assert told["enable-oslogin"] == told["block-project-ssh-keys"] == "TRUE"
    assert told["serial-port-logging-enable"] == "TRUE"


@STACKS
def test_a_broken_machine_is_replaced_but_not_while_it_loads(deploy: Deploy, stack: str) -> None:
    """The health check waits as long as `up` does."""
    deployment = deploy(stack)
    healing = deployment.one("RegionInstanceGroupManager").inputs["autoHealingPolicies"]
    check = deployment.one("HealthCheck").inputs

    assert healing["initialDelaySec"] == 30 * 60
    assert check["timeoutSec"] <= check["checkIntervalSec"]
    assert check["httpHealthCheck"] == {"port": 8000, "requestPath": "/health"}


def test_outputs_are_a_contract(deploy: Deploy) -> None:
    """Other teams' stacks read these names."""
    outputs = deploy("dev").outputs

    assert set(outputs) == {
        "baseUrl",
        "model",
        "contextLength",
        "clientIds",
        "clientSecrets",
        "sshCommand",
        "logsUrl",
        "consoleUrl",
        "cost",
    }
    assert outputs["baseUrl"] == "https://llm-dev.example.com/v1"
    assert outputs["model"] == "Qwen/Qwen3-4B"
    assert outputs["contextLength"] == 8192


# --- the platform cloud-run ---------------------------------------------------------------------


def test_a_gpu_service_has_no_public_way_in(deploy: Deploy) -> None:
    """Only this project's own networks reach it, and no subnet of the stack holds it back."""
    service = deploy("cloud-run").one("Service", package="cloudrunv2").inputs

    assert service["ingress"] == "INGRESS_TRAFFIC_INTERNAL_ONLY"
    assert "vpcAccess" not in service["template"]


def test_the_connector_leads_to_the_service_and_runs_nothing_else(deploy: Deploy) -> None:
    """It has no GPU and no address; the tunnel sends the name that Google's front end knows."""
    deployment = deploy("cloud-run")
    template = deployment.one("RegionInstanceTemplate").inputs
    (*rules, _) = deployment.one("ZeroTrustTunnelCloudflaredConfig").inputs["config"]["ingresses"]

    assert template["machineType"] == "e2-micro"
    assert "guestAccelerators" not in template
    assert not any(key.startswith("engine-") for key in template["metadata"])
    assert not any("accessConfigs" in nic for nic in template["networkInterfaces"])
    for rule in rules:
        assert rule["service"] == "https://" + rule["originRequest"]["httpHostHeader"]
        assert rule["originRequest"]["access"]["required"]


def test_a_gpu_instance_is_what_cloud_run_demands(deploy: Deploy) -> None:
    """CPU and memory for the GPU, billed by the instance, minimum and maximum spelt out."""
    template = deploy("cloud-run").one("Service", package="cloudrunv2").inputs["template"]
    (container,) = template["containers"]

    assert container["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert container["resources"]["cpuIdle"] is False
    assert template["gpuZonalRedundancyDisabled"] is True
    assert template["scaling"] == {"minInstanceCount": 0, "maxInstanceCount": 1}
    assert template["executionEnvironment"] == "EXECUTION_ENVIRONMENT_GEN2"
    assert container["startupProbe"]["timeoutSeconds"] < container["startupProbe"]["periodSeconds"]


def test_a_protected_service_refuses_to_be_deleted(deploy: Deploy) -> None:
    """Google's own protection is on only where the stack asks for it: else destroy would fail."""
    on = deploy("cloud-run", {"llm-endpoint:protect": "true"})

    assert on.one("Service", package="cloudrunv2").inputs["deletionProtection"] is True
    off = deploy("cloud-run").one("Service", package="cloudrunv2").inputs
    assert off["deletionProtection"] is False
    assert deploy("cloud-run").one("Job").inputs["deletionProtection"] is False


def test_both_platforms_hand_on_the_same_outputs(deploy: Deploy) -> None:
    """Who consumes an endpoint need not know what it runs on."""
    assert deploy("cloud-run").outputs.keys() == deploy("dev").outputs.keys()


def test_an_instance_gets_as_long_to_start_as_its_model_needs(deploy: Deploy) -> None:
    """A broken small model is noticed soon; an unknown one gets all that Cloud Run allows."""

    def budget(changes: dict[str, str]) -> int:
        service = deploy("cloud-run", changes).one("Service", package="cloudrunv2")
        probe = service.inputs["template"]["containers"][0]["startupProbe"]
        return probe["periodSeconds"] * probe["failureThreshold"]

    small = budget({"llm-endpoint:model": "Qwen/Qwen3-0.6B"})
    larger = budget({"llm-endpoint:model": "Qwen/Qwen3-8B"})
    from_the_hub = budget(
        {
            "llm-endpoint:model": "Qwen/Qwen3-8B",
            "llm-endpoint:weights": "hub",
            "llm-endpoint:memoryGib": "32",
        }
    )
    unknown = budget({"llm-endpoint:model": "our-team/our-own-model"})

    assert 240 < small < larger < from_the_hub < unknown == 1800


# --- machines boot with nothing to fetch ------------------------------------------------------


def test_machines_boot_from_the_prepared_image(deploy: Deploy) -> None:
    """It is made of the tried image, with what this stack's machines run, and nothing secret."""
    deployment = deploy("dev", {"llm-endpoint:bootImage": "prepared", **HUGGING_FACE})
    (disk,) = deployment.one("RegionInstanceTemplate").inputs["disks"]
    prepared = next(it for it in deployment.of("Command") if it.name.endswith("-boot-disk"))

    assert disk["sourceImage"].endswith("/images/prepared")
    environment = prepared.inputs["environment"]
    told = metadata(deployment)
    assert environment["ENGINE_IMAGE"] == told["engine-image"]
    assert environment["CLOUDFLARED_IMAGE"] == told["cloudflared-image"]
    assert "family/common-cu129" in environment["BASE_IMAGE"]
    assert environment["WEIGHTS_BUCKET"] == ""
    assert MASKED not in text(prepared.inputs)
    assert "--load-format=runai_streamer" in told["engine-args"]


def test_weights_on_the_disk_are_read_from_there(deploy: Deploy) -> None:
    """They come from the bucket once they are there, and every machine checks them against it."""
    deployment = deploy("dev", {"llm-endpoint:bootImage": "prepared-with-weights"})
    prepared = next(it for it in deployment.of("Command") if it.name.endswith("-boot-disk"))
    told = metadata(deployment)

    assert prepared.inputs["environment"]["WEIGHTS_BUCKET"] == told["weights-bucket"] != ""
    assert told["engine-args"].startswith("/weights\n")
    assert "runai_streamer" not in told["engine-args"]
    before = {it.name for it in deployment.all_before(prepared).values()}
    assert "llm-dev-staged" in before


def test_an_image_of_ones_own_is_what_machines_boot_from(deploy: Deploy) -> None:
    """Or what theirs is made from."""
    own = "projects/a-project/global/images/family/ours"
    plain = deploy("dev", {"llm-endpoint:bootImage": own})
    (disk,) = plain.one("RegionInstanceTemplate").inputs["disks"]
    assert disk["sourceImage"] == own
    assert not [it for it in plain.of("Command") if "boot-disk" in it.name]

    keys = {"llm-endpoint:bootImage": "prepared", "llm-endpoint:preparedFrom": own}
    found = [it for it in deploy("dev", keys).of("Command") if it.name.endswith("-boot-disk")]
    assert [it.inputs["environment"]["BASE_IMAGE"] for it in found] == [own]


def test_a_kept_compile_cache_is_the_machines_own(deploy: Deploy) -> None:
    """What is in it is run: the machines alone may write there, and cannot write to the weights."""
    deployment = deploy("dev", {"llm-endpoint:compileCache": "bucket"})
    grants = [it for it in deployment.of("BucketIAMMember") if "compile-cache" in it.name]
    machine = deployment.one("RegionInstanceTemplate").inputs["serviceAccount"]["email"]

    assert [it.inputs["role"] for it in grants] == ["roles/storage.objectUser"]
    assert [it.inputs["member"] for it in grants] == [f"serviceAccount:{machine}"]
    assert metadata(deployment)["compile-cache-bucket"]
    assert "compile-cache-bucket" not in metadata(deploy("dev"))
    others = [it for it in deployment.of("BucketIAMMember") if it not in grants]
    written = [it.inputs["member"] for it in others if it.inputs["role"].endswith("objectUser")]
    assert f"serviceAccount:{machine}" not in written
