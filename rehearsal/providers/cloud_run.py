"""Cloud Run's rows: services and jobs, what the plugin refuses, and what the service refuses."""

import asyncio
import hashlib
import re
import uuid
from collections.abc import Iterator
from typing import Any

from pulumi.runtime.rpc import UNKNOWN

from rehearsal.errors import CloudError, OperationFailed
from rehearsal.google import quotas
from rehearsal.google.cloud_run import EXECUTION, INSTANCE, JOB, REVISION, SERVICE, gpus
from rehearsal.google.cloud_run.workload import DEFAULT_PORT
from rehearsal.providers.checks import texts
from rehearsal.providers.iam import ACCOUNT, iam_member
from rehearsal.providers.resource import (
    Life,
    Operation,
    PluginCheck,
    Reference,
    ResourceType,
    fill,
    within,
)
from rehearsal.providers.schema import Failure, as_array, as_object, join
from rehearsal.store import Body

SERVICE_MEMBER = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
JOB_MEMBER = "gcp:cloudrunv2/jobIamMember:JobIamMember"
API = "run.googleapis.com"
CALL = Life("Cloud Run call", "Cloud Run call", "Cloud Run call")
DURATION = r"[0-9]+(?:\.[0-9]{1,9})?s"
LATEST = {"percent": 100, "type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"}

REGION_CODES = {
    **{"asia-east1": "de", "asia-northeast1": "an", "asia-south1": "el", "asia-south2": "em"},
    **{"asia-southeast1": "as", "europe-west1": "ew", "europe-west2": "nw", "europe-west3": "ey"},
    **{"europe-west4": "ez", "us-central1": "uc", "us-east1": "ue", "us-east4": "uk"},
    **{"us-west1": "uw"},
}
"""U: how the older form of a service's address abbreviates its region; others are made up."""

# What is played

CONTAINER = (
    *("args", "commands", "envs", "image", "livenessProbe.failureThreshold"),
    *("livenessProbe.httpGet", "livenessProbe.initialDelaySeconds", "livenessProbe.periodSeconds"),
    *("livenessProbe.tcpSocket", "livenessProbe.timeoutSeconds", "name", "ports", "resources"),
    *("startupProbe.failureThreshold", "startupProbe.httpGet", "startupProbe.initialDelaySeconds"),
    *("startupProbe.periodSeconds", "startupProbe.tcpSocket", "startupProbe.timeoutSeconds"),
    *("volumeMounts.mountPath", "volumeMounts.name"),
)
TEMPLATE = (
    *("annotations", "executionEnvironment", "gpuZonalRedundancyDisabled", "labels"),
    *("nodeSelector.accelerator", "serviceAccount", "timeout", "volumes.gcs.bucket"),
    *("volumes.gcs.readOnly", "volumes.name", "volumes.secret"),
    *(f"containers.{each}" for each in CONTAINER),
)
WHOLE = (
    *("annotations", "client", "clientVersion", "deletionPolicy", "deletionProtection"),
    *("labels", "launchStage", "location", "name", "project"),
)
OF_SERVICE = (
    *(*WHOLE, "description", "ingress", "invokerIamDisabled"),
    *("scaling.maxInstanceCount", "scaling.minInstanceCount", "traffics"),
    *("template.maxInstanceRequestConcurrency", "template.scaling.maxInstanceCount"),
    *("template.scaling.minInstanceCount", *(f"template.{each}" for each in TEMPLATE)),
)
OF_JOB = (
    *(*WHOLE, "template.annotations", "template.labels", "template.parallelism"),
    *("template.taskCount", "template.template.maxRetries"),
    *(f"template.template.{each}" for each in TEMPLATE),
)


def only(*played: str) -> PluginCheck:
    """What is set beyond these property paths would matter in life, and nothing plays it here."""

    def check(body: Body) -> Iterator[Failure]:
        for path in leaves(body, ""):
            if not any(within(path, each) for each in played):
                yield Failure(path, f"the rehearsal does not play {path}: leave it out")

    return check


def leaves(value: Any, path: str) -> Iterator[str]:
    """The path of everything that is set: no flag that is off, no empty text, no zero.

    What is not known yet is looked at when it is.
    """
    if isinstance(value, dict):
        for key, each in as_object(value).items():
            yield from leaves(each, join(path, key))
    elif isinstance(value, list):
        for each in as_array(value):
            yield from leaves(each, path)
    elif value and value != UNKNOWN:
        yield path


def one_container(path: str) -> PluginCheck:
    """Sidecars are not played."""

    def check(body: Body) -> Iterator[Failure]:
        if len(as_array(_at(body, path).get("containers"))) > 1:
            yield Failure(path, "the rehearsal does not play sidecars: declare one container")

    return check


def account_named(path: str) -> PluginCheck:
    """The default service account is not played."""

    def check(body: Body) -> Iterator[Failure]:
        if not _at(body, path).get("serviceAccount"):
            yield Failure(
                path,
                "the rehearsal does not play the default service account, an editor of the whole"
                " project: set serviceAccount",
            )

    return check


def all_to_latest(body: Body) -> Iterator[Failure]:
    """Traffic goes to the newest revision."""
    if as_array(body.get("traffics")) not in ([], [LATEST]):
        reason = "the rehearsal plays traffic to the latest revision only: leave traffics out"
        yield Failure("traffics", reason)


def _at(body: Body, path: str) -> Body:
    for key in path.split("."):
        body = as_object(body.get(key))
    return body


# What the service refuses


def service_name(operation: Operation, body: Body) -> None:
    """Names end up in addresses."""
    if not re.fullmatch(r"[a-z](?:[-a-z0-9]{0,47}[a-z0-9])?", body["name"]):
        message = (
            f"Violation in CreateServiceRequest.service_id: {body['name']}: the name must use only"
            " lowercase alphanumeric characters and dashes, must begin with a letter and cannot"
            " end with a dash, and must be less than 50 characters."
        )
        raise refused(message)


def sound_service(operation: Operation, body: Body) -> None:
    """Everything about a service that Google finds out when it takes it on."""
    template: Body = body["template"]
    container: Body = template["containers"][0]
    sound_container(template, "template")
    timeout = float(str(template["timeout"]).rstrip("s"))
    if not 0 < timeout <= 3600:
        raise refused(f"template.timeout: must be between 1s and 3600s, got {template['timeout']}.")
    sound_probe(as_object(container.get("startupProbe")), "startup_probe", 240)
    sound_probe(as_object(container.get("livenessProbe")), "liveness_probe", 3600)
    scaling = as_object(template.get("scaling"))
    limits = (
        scaling.get("maxInstanceCount"),
        as_object(body.get("scaling")).get("maxInstanceCount"),
    )
    most = min((it for it in limits if it), default=100)
    if (scaling.get("minInstanceCount") or 0) > most:
        raise refused("template.scaling: min_instance_count cannot exceed max_instance_count.")
    if gpus.gpu_of(template):
        if as_object(container.get("resources")).get("cpuIdle"):
            raise refused(
                "template.containers[0].resources.cpu_idle: must be false, as GPUs need CPU that is"
                " always allocated."
            )
        sound_gpu(operation, body, template, most, "template.scaling.max_instance_count")
    allocated(operation, body, container, most)


def allocated(operation: Operation, body: Body, container: Body, most: int) -> None:
    """CPUs and memory of all instances that a service may grow to."""
    limits = as_object(as_object(container.get("resources")).get("limits"))
    sums = (
        ("CpuAllocPerProjectRegion", "CPU", int(cpus(limits.get("cpu", "1")) * 1000)),
        ("MemAllocPerProjectRegion", "memory", int(gib(limits.get("memory", "512Mi")) * 2**30)),
    )
    for quota, noun, one in sums:
        owner, region = body["project"], body["location"]
        taken = int(quotas.used(operation.world, quota, owner, region))
        allowed = quotas.limit(operation.world, quota) - taken
        if most * one > allowed:
            raise refused(
                f"template.scaling.max_instance_count: Max instances must be set to"
                f" {allowed // one} or fewer in order to set the requested total {noun}.\n"
                f"Quota violated:\n  {quota} requested: {most * one} allowed: {allowed}"
            )


def sound_job(operation: Operation, body: Body) -> None:
    """Everything about a job that Google finds out when it takes it on."""
    whole: Body = body["template"]
    task: Body = whole["template"]
    sound_container(task, "template.template")
    timeout = float(str(task["timeout"]).rstrip("s"))
    if not 0 < timeout <= 168 * 3600:
        raise refused("template.template.timeout: must be between 1s and 168 hours.")
    if not 0 <= int(task["maxRetries"]) <= 10:
        raise refused("template.template.max_retries: must be between 0 and 10.")
    if gpus.gpu_of(task):
        at_once = int(whole.get("parallelism") or 0) or int(whole["taskCount"])
        sound_gpu(operation, body, task, at_once, "template.parallelism")


RESERVED = ("PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION")
"""Variables that Cloud Run sets itself and refuses to take
(docs.cloud.google.com/run/docs/configuring/services/environment-variables, "Reserved names";
DefangLabs/pulumi-defang#342). The words of the refusal are ours."""


def sound_container(template: Body, path: str) -> None:
    """CPU, memory, variables, volumes."""
    container: Body = template["containers"][0]
    limits = as_object(as_object(container.get("resources")).get("limits"))
    cpu, memory = cpus(limits.get("cpu", "1")), gib(limits.get("memory", "512Mi"))
    lowest, highest = memory_range(cpu)
    where = f"{path}.containers[0]"
    if not lowest <= memory <= highest:
        raise refused(
            f"{where}.resources.limits.memory: Invalid value specified for container memory. For"
            f" {cpu:.1f} CPU, memory must be between {lowest:g}Gi and {highest:g}Gi inclusive."
        )
    for variable in as_array(container.get("envs")):
        if variable["name"] in RESERVED:
            raise refused(f"{where}.env: The env name '{variable['name']}' is reserved.")
    volumes = {it["name"]: it for it in as_array(template.get("volumes"))}
    for index, mount in enumerate(as_array(container.get("volumeMounts"))):
        if mount["name"] not in volumes:
            place = f"{where}.volume_mounts[{index}].name"
            raise refused(f"{place}: Volume '{mount['name']}' not found.")
    gen1 = template.get("executionEnvironment") == "EXECUTION_ENVIRONMENT_GEN1"
    if gen1 and (gpus.gpu_of(template) or any("gcs" in it for it in volumes.values())):
        raise refused(f"{path}.execution_environment: must be EXECUTION_ENVIRONMENT_GEN2.")


def sound_probe(probe: Body, name: str, longest: int) -> None:
    """A probe's times (docs.cloud.google.com/run/docs/configuring/healthchecks)."""
    where = f"template.containers[0].{name}"
    period, timeout = probe.get("periodSeconds") or 10, probe.get("timeoutSeconds") or 1
    if not 1 <= period <= longest:
        raise refused(f"{where}.period_seconds: must be between 1 and {longest}, got {period}.")
    if timeout > period:
        raise refused(f"{where}.timeout_seconds: must not exceed period_seconds ({period}).")
    if (probe.get("initialDelaySeconds") or 0) > longest:
        raise refused(f"{where}.initial_delay_seconds: must be between 0 and {longest}.")


def sound_gpu(operation: Operation, body: Body, template: Body, most: int, place: str) -> None:
    """What a GPU needs beside it, where it is, and how many of it a project may have."""
    name, region = gpus.gpu_of(template), body["location"]
    gpu = gpus.GPUS.get(name)
    if gpu is None:
        known = ", ".join(gpus.GPUS)
        raise refused(f"node_selector.accelerator: Unsupported GPU '{name}'; there are {known}.")
    if region not in gpu.regions:
        offered = ", ".join(sorted(gpu.regions))
        raise refused(
            f"node_selector.accelerator: GPU '{name}' is not available in {region}; it is in"
            f" {offered}."
        )
    limits = as_object(as_object(template["containers"][0].get("resources")).get("limits"))
    if str(limits.get("nvidia.com/gpu", "")) != "1":
        raise refused("containers[0].resources.limits: nvidia.com/gpu must be 1.")
    if (
        cpus(limits.get("cpu", "1")) < gpu.least_cpu
        or gib(limits.get("memory", "512Mi")) < gpu.least_memory_gib
    ):
        raise refused(
            f"containers[0].resources.limits: GPU '{name}' needs at least {gpu.least_cpu} CPU and"
            f" {gpu.least_memory_gib}Gi of memory."
        )
    redundancy = gpus.redundant(template)
    quota = gpus.quota_name(gpu, redundancy)
    allowed = quotas.limit(operation.world, quota) // gpu.units
    terms = f"with{'' if redundancy else 'out'} zonal redundancy"
    if allowed == 0:
        raise refused(
            f"{place}: You do not have quota for using GPUs {terms}. Learn more about GPU zonal"
            " redundancy: g.co/cloudrun/gpu-redundancy-help\n\nTo request quota:"
            " g.co/cloudrun/gpu-quota"
        )
    if most > allowed:
        raise refused(
            f"{place}: Max instances must be set to {allowed} or fewer in order to set GPU"
            " requirements.\nTo request quota: g.co/cloudrun/gpu-quota\nQuota violated:\n "
            f" {quota} requested: {most * gpu.units} allowed:"
            f" {allowed * gpu.units}"
        )


def refused(message: str) -> CloudError:
    """400."""
    return CloudError(400, message, "badRequest")


def cpus(text: Any) -> float:
    """vCPUs of a limit: `4` or `500m`."""
    written = str(text)
    return float(written[:-1]) / 1000 if written.endswith("m") else float(written)


def gib(text: Any) -> float:
    """GiB of a limit: `16Gi`, `512Mi`, `2G`."""
    match = re.fullmatch(r"([\d.]+)([kMG]?)(i?)", str(text))
    if not match:
        raise refused(f"resources.limits.memory: '{text}' is no amount of memory.")
    power = " kMG".index(match[2] or " ")
    return float(match[1]) * (1024 if match[3] else 1000) ** power / 2**30


def memory_range(cpu: float) -> tuple[float, float]:
    """GiB that an instance with so many CPUs may have
    (docs.cloud.google.com/run/docs/configuring/services/memory-limits)."""
    steps = ((1, 0.125, 4), (2, 0.125, 8), (4, 2, 16), (6, 4, 24), (8, 4, 32))
    most = next(((low, high) for cores, low, high in steps if cpu <= cores), None)
    return most or (16, 176)  # more than eight only come with an RTX PRO 6000


# What the service answers


def complete_service(body: Body) -> None:
    """Defaults inside a service's only container."""
    for container in map(as_object, as_array(_at(body, "template").get("containers"))):
        container.setdefault("ports", {})
        fill(container, {"ports": {"containerPort": DEFAULT_PORT, "name": "http1"}})
        port = as_object(container["ports"]).get("containerPort")
        probe = {"failureThreshold": 1, "periodSeconds": 240, "timeoutSeconds": 240}
        container.setdefault("startupProbe", probe | {"tcpSocket": {"port": port}})
        complete_resources(container, cpu_idle="resources" not in container)


def complete_job(body: Body) -> None:
    """Defaults inside a job's only container."""
    for container in map(as_object, as_array(_at(body, "template.template").get("containers"))):
        complete_resources(container, cpu_idle=None)


def complete_resources(container: Body, cpu_idle: bool | None) -> None:
    """CPU and memory that an instance gets where nobody asks for other."""
    limits = {"cpu": "1000m", "memory": "512Mi"}
    told = {} if cpu_idle is None else {"cpuIdle": cpu_idle, "startupCpuBoost": False}
    container.setdefault("resources", {})
    fill(container, {"resources": {"limits": limits, **told}})
    fill(as_object(container["resources"]), {"limits": limits}, whole=True)


def service_outputs(operation: Operation, body: Body) -> Body:
    """Addresses of a service: by its project's number, and the older one."""
    number = operation.world.accounts.projects[body["project"]]
    region, name = body["location"], body["name"]
    digest = hashlib.sha256(f"{number}/{region}".encode()).hexdigest()
    letters = "".join(chr(ord("a") + int(digit, 16)) for digit in digest)
    older = f"https://{name}-{letters[:10]}-{REGION_CODES.get(region, letters[-2:])}.a.run.app"
    urls = [f"https://{name}-{number}.{region}.run.app", older]
    return {"urls": urls, "uri": older} | new_outputs()


def new_outputs(*_: Any) -> Body:
    """What a new service or job has of a generation."""
    return {
        "uid": str(uuid.uuid4()),
        "generation": "1",
        "observedGeneration": "",
        "reconciling": True,
        "conditions": [],
        "terminalConditions": [],
    }


def next_generation(operation: Operation, old: Body, new: Body) -> None:
    """An update is worked on again."""
    new["generation"] = str(int(old["generation"]) + 1)
    new["reconciling"] = True


# Waiting


async def settle(operation: Operation, id: str) -> None:
    """Wait until Cloud Run has done what was asked. OperationFailed when it could not."""
    store = operation.world.store
    while (body := store.get(operation.type, id)) and body["reconciling"]:  # noqa: ASYNC110 the plugin polls too
        await asyncio.sleep(0.05)
    for condition in (body or {}).get("terminalConditions", []):
        if condition["state"] == "CONDITION_FAILED":
            raise OperationFailed(condition["code"], condition["message"], id, body or {})


async def delete_service(operation: Operation, id: str, body: Body) -> None:
    """Unless it is protected, with its instances and revisions."""
    await delete(operation, id, body, "service", SERVICE_MEMBER)


async def delete_job(operation: Operation, id: str, body: Body) -> None:
    """Unless it is protected, with its executions."""
    await delete(operation, id, body, "job", JOB_MEMBER)


async def delete(operation: Operation, id: str, body: Body, noun: str, members: str) -> None:
    """Delete a service or job; return when all that ran for it has ended."""
    if body.get("deletionProtection"):
        raise ValueError(
            f"cannot destroy {noun} without setting deletion_protection=false and running"
            " `pulumi up`"
        )
    store = operation.world.store
    for dependent, its in store.all(members).items():
        if its["name"] == id:
            store.delete(members, dependent)
    store.delete(operation.type, id)
    while any(  # noqa: ASYNC110 the plugin polls too
        id == row.get("owner", row.get("service")) or name.startswith(f"{id}/")
        for type in (INSTANCE, REVISION, EXECUTION)
        for name, row in store.all(type).items()
    ):
        await asyncio.sleep(0.05)


# The rows

ID = "projects/{project}/locations/{location}"

account = Reference(
    (ACCOUNT,),
    keys=("email",),
    deletion="allowed",
    linked=False,
    missing=(
        403,
        "Permission 'iam.serviceaccounts.actAs' denied on service account {value} (or it may not"
        " exist).",
        "forbidden",
    ),
)

ROWS: tuple[ResourceType, ...] = (
    ResourceType(
        token=SERVICE,
        id=f"{ID}/services/{{name}}",
        api=API,
        life=CALL,
        autoname=("name", 63),
        defaults={"deletionProtection": True},
        outputs={
            "defaultUriDisabled": False,
            "iapEnabled": False,
            "ingress": "INGRESS_TRAFFIC_ALL",
            "invokerIamDisabled": False,
            "launchStage": "GA",
            "template": {
                "healthCheckDisabled": False,
                "maxInstanceRequestConcurrency": 80,
                "sessionAffinity": False,
                "timeout": "300s",
            },
            "trafficStatuses": [LATEST],
            "traffics": [LATEST],
        },
        answered=complete_service,
        references={"template.serviceAccount": account},
        conflict=("Resource '{name}' already exists.", "alreadyExists"),
        preview=(
            texts("template.timeout", DURATION),
            only(*OF_SERVICE),
            one_container("template"),
            account_named("template"),
            all_to_latest,
        ),
        service=(service_name, sound_service),
        computed=service_outputs,
        updated=next_generation,
        settled=settle,
        deleting=delete_service,
    ),
    iam_member(
        SERVICE_MEMBER,
        "{name}/{role}/{member}",
        api=API,
        references={"name": Reference((SERVICE,), deletion="cascades")},
    ),
    ResourceType(
        token=JOB,
        id=f"{ID}/jobs/{{name}}",
        api=API,
        life=CALL,
        autoname=("name", 63),
        defaults={"deletionProtection": True},
        outputs={
            "executionCount": 0,
            "launchStage": "GA",
            "template": {
                "taskCount": 1,
                "template": {
                    "executionEnvironment": "EXECUTION_ENVIRONMENT_GEN2",
                    "gpuZonalRedundancyDisabled": False,
                    "maxRetries": 3,
                    "timeout": "600s",
                },
            },
        },
        answered=complete_job,
        references={"template.template.serviceAccount": account},
        conflict=("Resource '{name}' already exists.", "alreadyExists"),
        preview=(
            texts("template.template.timeout", DURATION),
            only(*OF_JOB),
            one_container("template.template"),
            account_named("template.template"),
        ),
        service=(sound_job,),
        computed=new_outputs,
        updated=next_generation,
        settled=settle,
        deleting=delete_job,
    ),
    iam_member(
        JOB_MEMBER,
        "{name}/{role}/{member}",
        api=API,
        references={"name": Reference((JOB,), deletion="cascades")},
    ),
)
