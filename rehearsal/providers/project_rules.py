"""What a project refuses whatever the resource: for want of a permission or of quota, by policy."""

from rehearsal.errors import CloudError
from rehearsal.google import org_policies, project, quotas
from rehearsal.google.identity import granted
from rehearsal.providers.resource import Operation, ResourceType
from rehearsal.store import Body

OWNERS = {
    "gcp:projects/service:Service": "serviceusage.services.enable",
    "gcp:projects/iAMMember:IAMMember": "resourcemanager.projects.setIamPolicy",
    "gcp:serviceaccount/account:Account": "iam.serviceAccounts.create",
    "gcp:serviceaccount/iAMMember:IAMMember": "iam.serviceAccounts.setIamPolicy",
    "gcp:artifactregistry/repository:Repository": "artifactregistry.repositories.create",
    "gcp:artifactregistry/repositoryIamMember:RepositoryIamMember": (
        "artifactregistry.repositories.setIamPolicy"
    ),
    "gcp:secretmanager/secret:Secret": "secretmanager.secrets.create",
    "gcp:secretmanager/secretVersion:SecretVersion": "secretmanager.versions.add",
    "gcp:secretmanager/secretIamMember:SecretIamMember": "secretmanager.secrets.setIamPolicy",
    "gcp:storage/bucket:Bucket": "storage.buckets.create",
    "gcp:storage/bucketIAMMember:BucketIAMMember": "storage.buckets.setIamPolicy",
    "gcp:storage/bucketObject:BucketObject": "storage.objects.create",
    "gcp:cloudrunv2/service:Service": "run.services.create",
    "gcp:cloudrunv2/serviceIamMember:ServiceIamMember": "run.services.setIamPolicy",
    "gcp:cloudrunv2/job:Job": "run.jobs.create",
    "gcp:cloudrunv2/jobIamMember:JobIamMember": "run.jobs.setIamPolicy",
    "gcp:compute/network:Network": "compute.networks.create",
    "gcp:compute/subnetwork:Subnetwork": "compute.subnetworks.create",
    "gcp:compute/router:Router": "compute.routers.create",
    "gcp:compute/routerNat:RouterNat": "compute.routers.update",
    "gcp:compute/firewall:Firewall": "compute.firewalls.create",
    "gcp:compute/healthCheck:HealthCheck": "compute.healthChecks.create",
    "gcp:compute/regionHealthCheck:RegionHealthCheck": "compute.healthChecks.create",
    "gcp:compute/image:Image": "compute.images.create",
    "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate": "compute.instanceTemplates.create",
    "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager": (
        "compute.instanceGroupManagers.create"
    ),
}
"""Type -> the permission that making one takes."""

RUN_AS = {
    "gcp:cloudrunv2/job:Job",
    "gcp:cloudrunv2/service:Service",
    "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate",
}
"""What runs as a service account, which its maker must be allowed to act as."""
ACT_AS = "iam.serviceAccounts.actAs"

COUNTED = {
    "gcp:compute/network:Network": "NETWORKS",
    "gcp:compute/subnetwork:Subnetwork": "SUBNETWORKS",
    "gcp:compute/router:Router": "ROUTERS",
    "gcp:compute/firewall:Firewall": "FIREWALLS",
}
"""Type -> the quota in which one counts."""


def permitted(operation: Operation, body: Body) -> None:
    """Whoever deploys must be allowed to."""
    may = granted(operation.world.accounts.google_roles)
    needed = [OWNERS[operation.type]] if operation.type in OWNERS else []
    needed += [ACT_AS] if operation.type in RUN_AS else []
    for permission in needed:
        if permission not in may:
            where = f"projects/{_project(operation, body)}"
            message = (
                f"Permission '{permission}' denied on resource '{where}' (or it may not exist)."
            )
            raise CloudError(403, message, "forbidden")


def billed(operation: Operation, body: Body) -> None:
    """Some APIs are switched on only where somebody pays."""
    accounts = operation.world.accounts
    owner = _project(operation, body)
    if body["service"] in project.BILLED and owner in accounts.unbilled_projects:
        message = (
            f"Billing account for project '{accounts.projects[owner]}' is not found. Billing must"
            f" be enabled for activation of service(s) '{body['service']}' to proceed."
        )
        raise CloudError(400, message, "failedPrecondition")


def within_quota(operation: Operation, body: Body) -> None:
    """There is a limit to the number of networks and the like."""
    name = COUNTED[operation.type]
    owner, region = _project(operation, body), body.get("region", "")
    new = "id" not in body
    if new and (message := quotas.refusal(operation.world, name, owner, region, 1)):
        raise CloudError(403, message, "quotaExceeded")


def not_forbidden(operation: Operation, body: Body) -> None:
    """The organisation's policies hold for everybody."""
    place = body.get("region") or body.get("location") or ""
    nat = operation.type == "gcp:compute/routerNat:RouterNat"
    forbidden = (
        ("gcp.resourceLocations", place.lower()),
        ("iam.disableServiceAccountCreation", "new account" if _is_account(operation) else ""),
        ("compute.restrictCloudNATUsage", f"projects/{_project(operation, body)}" if nat else ""),
    )
    for constraint, value in forbidden:
        if value and not org_policies.allows(operation.world, constraint, value):
            where = f"projects/{_project(operation, body)}"
            message = (
                f"Constraint constraints/{constraint} violated for {where}: {value} is not allowed."
            )
            raise CloudError(412, message, "conditionNotMet")


def of(row: ResourceType) -> tuple[object, ...]:
    """The rules that hold for a type."""
    counted = [within_quota] if row.token in COUNTED else []
    paid = [billed] if row.token == project.SERVICE else []
    return (permitted, not_forbidden, *counted, *paid)


def _project(operation: Operation, body: Body) -> str:
    return body.get("project") or operation.config.get("project") or ""


def _is_account(operation: Operation) -> bool:
    return operation.type == "gcp:serviceaccount/account:Account"
