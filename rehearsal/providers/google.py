"""The gcp package: Google Cloud's resource types, one row each, and its rules."""

import asyncio
import ipaddress
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pulumi.runtime.rpc import UNKNOWN

from rehearsal.errors import CloudError, OperationFailed
from rehearsal.google import boot_images, project
from rehearsal.google.boot_images import IMAGE
from rehearsal.google.images import family_exists
from rehearsal.google.project import disabled, enabled
from rehearsal.google.single_instances import DISK
from rehearsal.providers import cloud_run, project_rules, storage
from rehearsal.providers.checks import between, cidr, not_played, one_of, texts
from rehearsal.providers.iam import ACCOUNT, iam_member
from rehearsal.providers.outages import Patience, Refusal
from rehearsal.providers.resource import (
    Life,
    Operation,
    Package,
    Reference,
    ResourceType,
    fill,
    find,
    plain,
)
from rehearsal.providers.schema import Failure, Schema, as_array, as_object
from rehearsal.store import Body
from rehearsal.world import World

SERVICE = project.SERVICE
REPOSITORY = "gcp:artifactregistry/repository:Repository"
SECRET = "gcp:secretmanager/secret:Secret"  # noqa: S105 a type token
SECRET_VERSION = "gcp:secretmanager/secretVersion:SecretVersion"  # noqa: S105 a type token
NETWORK = "gcp:compute/network:Network"
SUBNETWORK = "gcp:compute/subnetwork:Subnetwork"
ROUTER = "gcp:compute/router:Router"
HEALTH_CHECKS = (
    "gcp:compute/healthCheck:HealthCheck",
    "gcp:compute/regionHealthCheck:RegionHealthCheck",
)
TEMPLATE = "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"
GROUP = "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager"

DESTROYED = "google:destroyed_secret_version"
"""What is left of a destroyed secret version: its number, which is never given again."""

REPLACES: dict[str, list[str]] = json.loads((Path(__file__).parent / "facts.json").read_text())
"""Type -> property paths whose change replaces; read off the running plugin near 10.2.0."""

DEFAULT_ZONES = {"us-east1": "bcd", "europe-west1": "bcd"}
"""Letters of the three zones that a regional group uses by itself, where they are not a, b, c."""


def now() -> str:
    """The time as Google writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def number() -> str:
    """A numeric id as Google gives them."""
    return str(10**18 + secrets.randbelow(9 * 10**18))


# What the plugin refuses at preview


def allows_or_denies(body: Body) -> Iterator[Failure]:
    """A firewall rule says one of allow and deny."""
    said = [name for name in ("allows", "denies") if body.get(name)]
    if not said:
        yield Failure("", "one of `allow,deny` must be specified")
    if len(said) > 1:
        yield Failure("", "only one of `allow,deny` can be specified, but both were specified")


name_of_compute = texts("name", "(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)")


# What the services refuse during up


def known_api(operation: Operation, body: Body) -> None:
    """Only services that exist can be enabled."""
    if body["service"] not in project.KNOWN:
        message = f"Not found or permission denied for service(s): {body['service']}."
        raise CloudError(403, message, "forbidden")


def remote_configured(operation: Operation, body: Body) -> None:
    """A remote repository needs to know what it is remote of."""
    if body["mode"] == "REMOTE_REPOSITORY" and not body.get("remoteRepositoryConfig"):
        message = "remote_repository_config is required for REMOTE_REPOSITORY repositories."
        raise CloudError(400, message, "invalid")


def separate_range(operation: Operation, body: Body) -> None:
    """Subnets of one network do not overlap."""
    wanted = ipaddress.ip_network(body["ipCidrRange"])
    for id, other in operation.world.store.all(SUBNETWORK).items():
        same = other["network"] == body["network"] and id != body.get("id")
        if same and wanted.overlaps(ipaddress.ip_network(other["ipCidrRange"])):
            message = (
                f"Invalid IPCidrRange: {wanted} conflicts with existing subnetwork"
                f" '{other['name']}' in region '{other['region']}'."
            )
            raise CloudError(400, message, "invalid")


def sound_health_check(operation: Operation, body: Body) -> None:
    """A check ends before the next begins."""
    if body["timeoutSec"] > body["checkIntervalSec"]:
        message = (
            f"Invalid value for field 'resource.timeoutSec': '{body['timeoutSec']}'. TimeoutSec"
            f" should be less than checkIntervalSec {body['checkIntervalSec']}."
        )
        raise CloudError(400, message, "invalid")


def known_image(operation: Operation, body: Body) -> None:
    """The plugin looks a family of boot images up; one of the user's own is taken at its word."""
    for disk in as_array(body["disks"]):
        image = plain(disk.get("sourceImage") or "")
        match = re.fullmatch(r"projects/([^/]+)/global/images/family/(.+)", image)
        if not match or match[1] in operation.world.accounts.projects:
            continue
        if not family_exists(match[1], match[2]):
            raise ValueError(
                f"error resolving image name '{image}': Could not find image or family {match[2]}"
            )


MODELS = ("STANDARD", "SPOT", "FLEX_START", "RESERVATION_BOUND")


def sound_scheduling(operation: Operation, body: Body) -> None:
    """How a VM may be provisioned, and what that forbids."""
    says = as_object(body.get("scheduling"))
    model = says.get("provisioningModel", "STANDARD")
    short = model in ("SPOT", "FLEX_START")
    gpu = body["machineType"].startswith(("a2-", "a3-", "a4-", "g2-", "g4-")) or body.get(
        "guestAccelerators"
    )
    rules = (
        (model not in MODELS, f"Invalid value for field 'provisioningModel': '{model}'."),
        (
            short and says.get("automaticRestart", True),
            f"Scheduling must have automaticRestart be false when provisioningModel is {model}.",
        ),
        (
            model == "SPOT" and not says.get("preemptible"),
            "Scheduling must have preemptible be true when provisioningModel is SPOT.",
        ),
        (
            model == "FLEX_START" and not says.get("maxRunDuration"),
            "Scheduling must have maxRunDuration when provisioningModel is FLEX_START.",
        ),
        (
            model == "FLEX_START" and says.get("instanceTerminationAction") != "DELETE",
            "Scheduling must have instanceTerminationAction DELETE when provisioningModel is"
            " FLEX_START.",
        ),
        (
            says.get("instanceTerminationAction")
            and not (short or says.get("maxRunDuration") or says.get("terminationTime")),
            "Instance termination action is only supported for Spot VMs and VMs with a limited"
            " run time.",
        ),
        (
            gpu and says.get("onHostMaintenance") != "TERMINATE",
            "Instances with guest accelerators do not support live migration.",
        ),
    )
    for broken, message in rules:
        if broken:
            raise CloudError(400, message, "badRequest")


def zones(body: Body) -> list[str]:
    """The zones of a regional group."""
    letters = DEFAULT_ZONES.get(body["region"], "abc")
    return body.get("distributionPolicyZones") or [f"{body['region']}-{each}" for each in letters]


def sound_group(operation: Operation, body: Body) -> None:
    """A regional group's rules about its zones and updates."""
    region, own = body["region"], zones(body)
    update = as_object(body.get("updatePolicy"))
    surge, unavailable = update.get("maxSurgeFixed"), update.get("maxUnavailableFixed")
    spread = body.get("distributionPolicyTargetShape", "EVEN")
    rules = [
        (
            any(not zone.startswith(f"{region}-") for zone in own),
            "Invalid value for field 'resource.distributionPolicy.zones': zones must be in"
            f" {region}.",
        ),
        (
            surge == 0 and unavailable == 0,
            "maxSurge and maxUnavailable cannot both be 0.",
        ),
        (
            spread != "EVEN" and update.get("instanceRedistributionType", "PROACTIVE") != "NONE",
            f"Instance redistribution type must be NONE when the target shape is {spread}.",
        ),
    ]
    for name, value in (("maxSurge", surge), ("maxUnavailable", unavailable)):
        message = (
            f"Invalid value for field 'resource.updatePolicy.{name}.fixed': '{value}'. Fixed {name}"
            f" for regional managed instance group has to be either 0 or at least equal to the"
            f" number of zones ({len(own)})."
        )
        rules.append((bool(value) and value < len(own), message))
    for broken, message in rules:
        if broken:
            raise CloudError(400, message, "invalid")


# What the services make at creation


def account_outputs(operation: Operation, body: Body) -> Body:
    """E-mail address and names of a service account."""
    email = f"{body['accountId']}@{body['project']}.iam.gserviceaccount.com"
    return {
        "email": email,
        "member": f"serviceAccount:{email}",
        "name": f"projects/{body['project']}/serviceAccounts/{email}",
        "uniqueId": number(),
    }


def repository_outputs(operation: Operation, body: Body) -> Body:
    """Name and address of a repository."""
    host = f"{body['location']}-{body['format'].lower()}.pkg.dev"
    return {
        "name": body["repositoryId"],
        "registryUri": f"{host}/{body['project']}/{body['repositoryId']}",
    }


def secret_outputs(operation: Operation, body: Body) -> Body:
    """A secret's name carries the project's number."""
    numbered = operation.world.accounts.projects[body["project"]]
    return {"name": f"projects/{numbered}/secrets/{body['secretId']}"}


def version_outputs(operation: Operation, body: Body) -> Body:
    """The next number, and the name it makes."""
    store = operation.world.store
    secret = store.get(SECRET, body["secret"]) or {}
    known = [*store.all(SECRET_VERSION).values(), *store.all(DESTROYED).values()]
    used = [int(each["version"]) for each in known if each["secret"] == body["secret"]]
    version = str(max(used, default=0) + 1)
    return {"version": version, "name": f"{secret['name']}/versions/{version}"}


def subnetwork_outputs(operation: Operation, body: Body) -> Body:
    """A subnet's gateway is its first address."""
    return {"gatewayAddress": str(ipaddress.ip_network(body["ipCidrRange"])[1])}


def template_outputs(operation: Operation, body: Body) -> Body:
    """A template named by prefix alone gets the time as the rest."""
    stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S%f") + "000001"
    return {"name": f"{body.get('namePrefix', 'terraform-')}{stamp}"}


def group_outputs(operation: Operation, body: Body) -> Body:
    """Zones and the instance group behind the manager."""
    region = f"projects/{body['project']}/regions/{body['region']}"
    return {
        "distributionPolicyZones": zones(body),
        "instanceGroup": f"{LINK}{region}/instanceGroups/{body['name']}",
    }


# What deletion does besides


async def leave_enabled(operation: Operation, id: str, body: Body) -> None:
    """An API stays enabled unless `disableOnDestroy` says otherwise."""
    if body.get("disableOnDestroy"):
        operation.world.store.delete(SERVICE, id)


async def delete_secret(operation: Operation, id: str, body: Body) -> None:
    """All versions go with a secret, and who may read it; under protection nothing does."""
    if body.get("deletionProtection"):
        raise ValueError(
            "cannot destroy secret without setting deletion_protection=false and running"
            " `pulumi up`"
        )
    store = operation.world.store
    for token in (SECRET_VERSION, DESTROYED, "gcp:secretmanager/secretIamMember:SecretIamMember"):
        for dependent, its in store.all(token).items():
            if id in (its.get("secret"), its.get("secretId")):
                store.delete(token, dependent)
    store.delete(SECRET, id)


async def destroy_version(operation: Operation, id: str, body: Body) -> None:
    """A destroyed version keeps its number."""
    store = operation.world.store
    if store.get(SECRET, body["secret"]):
        store.put(DESTROYED, id, {"secret": body["secret"], "version": body["version"]})
    store.delete(SECRET_VERSION, id)


def one_source(body: Body) -> Iterator[Failure]:
    """An image is made of one thing."""
    sources = [key for key in ("rawDisk", "sourceDisk", "sourceImage", "sourceSnapshot")]
    if len([key for key in sources if body.get(key)]) > 1:
        yield Failure("", f"only one of `{','.join(sources)}` can be specified")


def image_outputs(operation: Operation, body: Body) -> Body:
    """Size, and where it lies: that of its disk unless the program says."""
    disk = find(operation.world, Reference((DISK,)), body["sourceDisk"], body)
    gigabytes = int(disk[1]["sizeGb"]) if disk else 0
    return {"archiveSizeBytes": gigabytes * 10**8, "diskSizeGb": gigabytes}


def fill_image(operation: Operation, body: Body) -> None:
    """What is on the disk is on the image."""
    disk = find(operation.world, Reference((DISK,)), body["sourceDisk"], body)
    if disk:
        boot_images.take(operation.world, body["id"], disk[0])


async def delete_image(operation: Operation, id: str, body: Body) -> None:
    """Machines that boot from it later will not find it; those that did have disks of their own."""
    operation.world.store.delete(IMAGE, id)
    boot_images.drop(operation.world, id)


async def delete_group(operation: Operation, id: str, body: Body) -> None:
    """A group is gone when its instances are; the plugin waits for that."""
    store = operation.world.store
    store.delete(GROUP, id)
    while any(  # noqa: ASYNC110 the plugin polls too
        instance["group"] == id for instance in store.all("google:instance").values()
    ):
        await asyncio.sleep(0.1)


# The rows

LINK = "https://www.googleapis.com/compute/v1/"
COMPUTE = Life("compute operation", "compute operation", "compute operation")
QUICK = Life("Google call", "Google call", "Google call")

network = Reference((NETWORK,))


def compute(token: str, id: str, **more: Any) -> ResourceType:
    """A row of Compute Engine, where most things are alike."""
    more.setdefault("life", COMPUTE)
    more.setdefault("configured", ("region",) if "{region}" in id else ())
    checks = more.pop("preview", ())
    return ResourceType(
        token=token,
        id=id,
        api="compute.googleapis.com",
        autoname=("name", 63),
        preview=(name_of_compute, *checks),
        conflict=("The resource '{id}' already exists", "alreadyExists"),
        **more,
    )


HEALTH_CHECK: dict[str, Any] = {
    "defaults": {
        "checkIntervalSec": 5,
        "timeoutSec": 5,
        "healthyThreshold": 2,
        "unhealthyThreshold": 2,
        "httpHealthCheck": {"proxyHeader": "NONE", "requestPath": "/"},
    },
    "outputs": {"logConfig": {"enable": False}},
    "service": (sound_health_check,),
}

ROWS: tuple[ResourceType, ...] = (
    ResourceType(
        token=SERVICE,
        id="{project}/{service}",
        life=Life("enable API", "Google call", "Google call"),
        defaults={"disableOnDestroy": False},
        service=(known_api,),
        deleting=leave_enabled,
    ),
    ResourceType(
        token=ACCOUNT,
        id="{name}",
        api="iam.googleapis.com",
        life=Life("service account", "Google call", "Google call"),
        autoname=("accountId", 30),
        outputs={"disabled": False},
        conflict=(
            "Service account {accountId} already exists within project {project}.",
            "alreadyExists",
        ),
        preview=(texts("accountId", "[a-z](?:[-a-z0-9]{4,28}[a-z0-9])"),),
        computed=account_outputs,
    ),
    iam_member(
        "gcp:projects/iAMMember:IAMMember",
        "{project}/{role}/{member}",
        api="cloudresourcemanager.googleapis.com",
    ),
    iam_member(
        "gcp:serviceaccount/iAMMember:IAMMember",
        "{serviceAccountId}/{role}/{member}",
        api="iam.googleapis.com",
        references={"serviceAccountId": Reference((ACCOUNT,), deletion="cascades")},
    ),
    ResourceType(
        token=REPOSITORY,
        id="projects/{project}/locations/{location}/repositories/{repositoryId}",
        api="artifactregistry.googleapis.com",
        life=COMPUTE,
        defaults={"mode": "STANDARD_REPOSITORY"},
        outputs={
            "cleanupPolicyDryRun": False,
            "vulnerabilityScanningConfig": {"enablementState": "SCANNING_DISABLED"},
        },
        conflict=("the repository already exists", "alreadyExists"),
        service=(remote_configured,),
        computed=repository_outputs,
    ),
    iam_member(
        "gcp:artifactregistry/repositoryIamMember:RepositoryIamMember",
        "{repository}/{role}/{member}",
        api="artifactregistry.googleapis.com",
        references={"repository": Reference((REPOSITORY,), deletion="cascades")},
    ),
    ResourceType(
        token=SECRET,
        id="projects/{project}/secrets/{secretId}",
        api="secretmanager.googleapis.com",
        life=QUICK,
        autoname=("secretId", 255),
        outputs={"deletionProtection": False},
        conflict=("Secret [{name}] already exists.", "alreadyExists"),
        preview=(texts("secretId", "[a-zA-Z0-9_-]{1,255}"),),
        computed=secret_outputs,
        deleting=delete_secret,
    ),
    ResourceType(
        token=SECRET_VERSION,
        id="{name}",
        api="secretmanager.googleapis.com",
        life=QUICK,
        defaults={"enabled": True},
        outputs={"isSecretDataBase64": False, "secretDataWoVersion": 0},
        references={
            "secret": Reference(
                (SECRET,),
                deletion="cascades",
                missing=(404, "Secret [{value}] not found.", "notFound"),
            )
        },
        computed=version_outputs,
        deleting=destroy_version,
    ),
    iam_member(
        "gcp:secretmanager/secretIamMember:SecretIamMember",
        "{secretId}/{role}/{member}",
        api="secretmanager.googleapis.com",
        references={
            "secretId": Reference((SECRET,), keys=("secretId", "name"), deletion="cascades")
        },
    ),
    compute(
        NETWORK,
        "projects/{project}/global/networks/{name}",
        defaults={
            "autoCreateSubnetworks": True,
            "networkFirewallPolicyEnforcementOrder": "AFTER_CLASSIC_FIREWALL",
        },
        outputs={
            "bgpAlwaysCompareMed": False,
            "bgpBestPathSelectionMode": "LEGACY",
            "deleteBgpAlwaysCompareMed": False,
            "deleteDefaultRoutesOnCreate": False,
            "enableUlaInternalIpv6": False,
            "mtu": 1460,
            "routingMode": "REGIONAL",
        },
    ),
    compute(
        SUBNETWORK,
        "projects/{project}/regions/{region}/subnetworks/{name}",
        references={"network": network},
        outputs={
            "allowSubnetCidrRoutesOverlap": False,
            "privateIpGoogleAccess": False,
            "privateIpv6GoogleAccess": "DISABLE_GOOGLE_ACCESS",
            "purpose": "PRIVATE",
            "stackType": "IPV4_ONLY",
            "state": "READY",
        },
        preview=(cidr("ipCidrRange"),),
        service=(separate_range,),
        computed=subnetwork_outputs,
    ),
    compute(
        ROUTER,
        "projects/{project}/regions/{region}/routers/{name}",
        references={"network": network},
        outputs={"encryptedInterconnectRouter": False},
    ),
    compute(
        "gcp:compute/routerNat:RouterNat",
        "{project}/{region}/{router}/{name}",
        references={"router": Reference((ROUTER,), deletion="cascades", linked=False)},
        defaults={
            "icmpIdleTimeoutSec": 30,
            "tcpEstablishedIdleTimeoutSec": 1200,
            "tcpTimeWaitTimeoutSec": 120,
            "tcpTransitoryIdleTimeoutSec": 30,
            "type": "PUBLIC",
            "udpIdleTimeoutSec": 30,
        },
        outputs={
            "enableDynamicPortAllocation": False,
            "enableEndpointIndependentMapping": False,
            "endpointTypes": ["ENDPOINT_TYPE_VM"],
            "minPortsPerVm": 64,
        },
    ),
    compute(
        "gcp:compute/firewall:Firewall",
        "projects/{project}/global/firewalls/{name}",
        references={"network": network},
        defaults={"priority": 1000},
        outputs={"direction": "INGRESS", "disabled": False},
        preview=(allows_or_denies,),
    ),
    compute(HEALTH_CHECKS[0], "projects/{project}/global/healthChecks/{name}", **HEALTH_CHECK),
    compute(
        HEALTH_CHECKS[1], "projects/{project}/regions/{region}/healthChecks/{name}", **HEALTH_CHECK
    ),
    compute(
        TEMPLATE,
        "projects/{project}/regions/{region}/instanceTemplates/{name}",
        references={
            "networkInterfaces[].network": network,
            "networkInterfaces[].subnetwork": Reference((SUBNETWORK,)),
        },
        defaults={"canIpForward": False, "scheduling": {"automaticRestart": True}},
        service=(known_image, sound_scheduling),
        computed=template_outputs,
    ),
    compute(
        IMAGE,
        "projects/{project}/global/images/{name}",
        references={"sourceDisk": Reference((DISK,), deletion="allowed")},
        preview=(one_source,),
        life=Life("image create", "compute operation", "compute operation"),
        computed=image_outputs,
        created=fill_image,
        deleting=delete_image,
    ),
    compute(
        GROUP,
        "projects/{project}/regions/{region}/instanceGroupManagers/{name}",
        references={
            "versions[].instanceTemplate": Reference((TEMPLATE,)),
            "autoHealingPolicies.healthCheck": Reference(HEALTH_CHECKS),
        },
        defaults={
            "listManagedInstancesResults": "PAGELESS",
            "updatePolicy": {"replacementMethod": "SUBSTITUTE"},
            "waitForInstances": False,
            "waitForInstancesStatus": "STABLE",
        },
        outputs={
            "distributionPolicyTargetShape": "EVEN",
            "instanceLifecyclePolicy": {
                "defaultActionOnFailure": "REPAIR",
                "forceUpdateOnRepair": "NO",
            },
            "standbyPolicy": {"initialDelaySec": 0, "mode": "MANUAL"},
            "targetSize": 0,
            "targetStoppedSize": 0,
            "targetSuspendedSize": 0,
            "updatePolicy": {
                "instanceRedistributionType": "PROACTIVE",
                "maxSurgePercent": 0,
                "maxUnavailablePercent": 0,
                "minReadySec": 0,
            },
        },
        preview=(
            texts("baseInstanceName", "[a-z](?:[-a-z0-9]{0,56}[a-z0-9])?"),
            between("autoHealingPolicies", "initialDelaySec", 0, 3600),
            one_of("updatePolicy.type", "OPPORTUNISTIC", "PROACTIVE"),
            one_of("updatePolicy.minimalAction", "REFRESH", "RESTART", "REPLACE"),
            one_of("updatePolicy.replacementMethod", "RECREATE", "SUBSTITUTE"),
            one_of("updatePolicy.instanceRedistributionType", "PROACTIVE", "NONE"),
            between("updatePolicy", "minReadySec", 0, 3600),
            one_of("instanceLifecyclePolicy.forceUpdateOnRepair", "YES", "NO"),
            one_of("distributionPolicyTargetShape", "EVEN", "BALANCED", "ANY", "ANY_SINGLE_ZONE"),
            not_played("waitForInstances", True, "check readiness from outside"),
        ),
        service=(sound_group,),
        computed=group_outputs,
        deleting=delete_group,
        remembered=True,
    ),
    *cloud_run.ROWS,
    *storage.ROWS,
)


def health_check_type(operation: Operation, row: ResourceType, body: Body) -> str:
    """HTTP for `httpHealthCheck`, and so on."""
    return next((key[:-11].upper() for key in body if key.endswith("HealthCheck")), "")


def fingerprint(operation: Operation, row: ResourceType, body: Body) -> str:
    """Changes with every update."""
    return secrets.token_urlsafe(9)


def time(operation: Operation, row: ResourceType, body: Body) -> str:
    """The time of the operation."""
    return now()


def numeric(operation: Operation, row: ResourceType, body: Body) -> str:
    """A number that nothing else has."""
    return number()


def counted(operation: Operation, row: ResourceType, body: Body) -> int:
    """A number that Pulumi knows as a number: too large for exactness, so rounded as in life."""
    return 10**18


def self_link(operation: Operation, row: ResourceType, body: Body) -> str:
    """The resource's address in the API."""
    return LINK + row.id.format_map(body)


def get_project(world: World, config: Mapping[str, str], arguments: Body) -> Body:
    """`gcp.organizations.getProject`."""
    project = arguments.get("projectId") or config.get("project", "")
    if project not in world.accounts.projects:
        raise CloudError(403, f"The caller does not have permission on {project}", "forbidden")
    return {
        "id": f"projects/{project}",
        "projectId": project,
        "name": project,
        "number": world.accounts.projects[project],
    }


def get_client_config(world: World, config: Mapping[str, str], arguments: Body) -> Body:
    """`gcp.organizations.getClientConfig`, without an access token: there is none here."""
    return {key: config.get(key, "") for key in ("project", "region", "zone")} | {"id": "client"}


PATIENCE = Patience(attempts=1000, seconds=1200)
"""Most resources may take 20 minutes (resource_compute_network.go and others, `Timeouts`)."""
REFUSALS: dict[str, Refusal] = {
    "unauthenticated": (
        401,
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login"
        " cookie or other valid authentication credential. See"
        " https://developers.google.com/identity/sign-in/web/devconsole-project.",
        "authError",
    ),
    "denied": (403, "Required permission to {verb} {type} was denied.", "forbidden"),
    "unpropagated": (
        403,
        "The API has not been used in this project before or it is disabled. If you enabled this"
        " API recently, wait a few minutes for the action to propagate to our systems and retry.",
        "accessNotConfigured",
    ),
    "taken": (409, "The resource already exists", "alreadyExists"),
    "held": (
        400,
        "The {type} resource is already being used by another one",
        "resourceInUseByAnotherResource",
    ),
    "throttled": (
        429,
        "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of the service.",
        "rateLimitExceeded",
    ),
    "broken": (503, "The service is currently unavailable.", "backendError"),
}


class Google(Package):
    """pulumi-gcp."""

    name = "gcp"
    patience = PATIENCE
    refusals = REFUSALS
    functions = {  # noqa: RUF012 as Package declares it
        "gcp:organizations/getProject:getProject": get_project,
        "gcp:organizations/getClientConfig:getClientConfig": get_client_config,
    }
    generated = {  # noqa: RUF012 as Package declares it
        "creationTimestamp": time,
        "createTime": time,
        "updateTime": time,
        "etag": fingerprint,
        "fingerprint": fingerprint,
        "metadataFingerprint": fingerprint,
        "tagsFingerprint": fingerprint,
        "networkId": numeric,
        "numericId": numeric,
        "subnetworkId": counted,
        "healthCheckId": counted,
        "instanceGroupManagerId": counted,
        "selfLink": self_link,
        "type": health_check_type,
    }
    volatile = frozenset({"etag", "fingerprint", "updateTime"})

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.rows = {
            row.token: replace(row, service=(*project_rules.of(row), *row.service)) for row in ROWS
        }

    def replaces(self, row: ResourceType) -> tuple[str, ...]:
        """Read off the running plugin."""
        return tuple(REPLACES[row.token])

    def words(self, error: CloudError, operation: Operation, verb: str, body: Body) -> str:
        """`Error creating Network: googleapi: Error 409: ..., alreadyExists`."""
        doing = {
            "create": "creating",
            "read": "reading",
            "update": "updating",
            "delete": "deleting",
        }
        noun = operation.type.split(":")[-1]
        what = f"Error {doing.get(verb, verb)} {noun}"
        said = f"googleapi: Error {error.code}: {error.message}, {error.reason}"
        where = f"{doing[verb]} {operation.urn}: " if verb in ("update", "delete") else ""
        if isinstance(error, OperationFailed) or error.reason in ("failed", "endless"):
            what = f"Error waiting to {verb} {noun}: Error waiting for {doing[verb].title()} {noun}"
            said = f"Error code {error.code}, message: {error.message}"
            where = f"{doing[verb]} {operation.urn}: "
        return f"{where}1 error occurred:\n\t* {what}: {said}\n\n"

    def authorise(self, operation: Operation, row: ResourceType, body: Body) -> None:
        """The project must be the caller's, and the API enabled in it."""
        owner = body.get("project") or operation.config.get("project")
        if not owner:
            raise ValueError("project: required field is not set")
        numbered = operation.world.accounts.projects.get(owner)
        if numbered is None:
            message = f"Permission denied on resource project {owner}."
            raise CloudError(403, message, "forbidden")
        if row.api and not enabled(operation.world, owner, row.api):
            message = disabled(row.api, numbered)
            raise CloudError(403, message, "accessNotConfigured")

    def absent(self, value: str) -> CloudError:
        """404, as Compute Engine says it."""
        return CloudError(404, f"The resource '{plain(value)}' was not found", "notFound")

    def in_use(self, row: ResourceType, id: str, by: str) -> CloudError:
        """400, as Compute Engine says it."""
        noun = row.token.split(":")[-1].removeprefix("Region")
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", noun).lower()
        message = f"The {kind} resource '{id}' is already being used by '{by}'"
        return CloudError(400, message, "resourceInUseByAnotherResource")

    def complete(self, operation: Operation, row: ResourceType, body: Body) -> None:
        """Project and labels follow from the provider's configuration."""
        outputs = self.schema.outputs[row.token]
        if "project" in outputs and "project" in operation.config:
            body.setdefault("project", operation.config["project"])
        if "location" in outputs and "region" in operation.config:
            body.setdefault("location", operation.config["region"])
        if "deletionPolicy" in outputs:
            fill(body, {"deletionPolicy": "DELETE"})
        if row.token == storage.BUCKET and body["location"] != UNKNOWN:
            body["location"] = body["location"].upper()
        if "effectiveLabels" in outputs and body.get("labels") != UNKNOWN:
            defaults = json.loads(operation.config.get("defaultLabels") or "{}")
            if operation.config.get("addPulumiAttributionLabel") != "false":
                defaults = {"goog-pulumi-provisioned": "true"} | defaults
            body["pulumiLabels"] = defaults | as_object(body.get("labels"))
            body["effectiveLabels"] = body["pulumiLabels"]
