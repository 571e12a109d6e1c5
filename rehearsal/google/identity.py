"""Who calls and what they may do: access tokens, and IAM from its bindings."""

import base64
import binascii
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

from rehearsal.errors import CloudError
from rehearsal.store import Store

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
TOKEN_PREFIX = "ya29."  # noqa: S105 how every access token of Google's begins
TOKEN_LIFETIME_S = 3600
"""Of this machine's time, not the cloud's: what uses a token here is not compressed either."""


def _all(service: str, nouns: str, verbs: str = "create delete get list update") -> frozenset[str]:
    """Permissions `service.noun.verb`."""
    return frozenset(f"{service}.{noun}.{verb}" for noun in nouns.split() for verb in verbs.split())


POLICY = "getIamPolicy setIamPolicy"

SEE_PROJECT = frozenset({"resourcemanager.projects.get"})
SEE_OBJECTS = _all("storage", "objects", "get list")
USE_OBJECTS = SEE_OBJECTS | _all("storage", "objects", "create delete")
USE_BUCKETS = USE_OBJECTS | {"storage.buckets.get"}
MANAGE_BUCKETS = USE_BUCKETS | _all("storage", "buckets", f"create delete list update {POLICY}")

SEE_JOBS = _all("run", "executions jobs operations services tasks", "get list") | {
    "run.locations.list"
}
RUN_JOBS = SEE_JOBS | {"run.executions.cancel", "run.jobs.run"}
MANAGE_RUN = RUN_JOBS | _all("run", "jobs services", f"create delete update {POLICY}")

PULL = frozenset({"artifactregistry.repositories.downloadArtifacts"})
PUSH = PULL | {"artifactregistry.repositories.uploadArtifacts"}
MANAGE_REPOSITORIES = (
    PUSH
    | _all("artifactregistry", "repositories", f"create delete get list update {POLICY}")
    | _all("artifactregistry", "locations", "get list")
)

BUILD = _all("cloudbuild", "builds", "create get list update")
ACT_AS = frozenset({"iam.serviceAccounts.actAs"})
MANAGE_ACCOUNTS = _all("iam", "serviceAccounts", f"create delete get list update {POLICY}")
SEE_LOGS = frozenset({"logging.logEntries.list"})
WRITE_LOGS = frozenset({"logging.logEntries.create"})

READ_SECRETS = frozenset({"secretmanager.versions.access"})
MANAGE_SECRETS = (
    READ_SECRETS
    | _all("secretmanager", "secrets", f"create delete get list update {POLICY}")
    | _all("secretmanager", "versions", "add destroy disable enable get list")
)

SEE_APIS = _all("serviceusage", "services", "get list use")
MANAGE_APIS = SEE_APIS | _all("serviceusage", "services", "disable enable")
SEE_POLICIES = frozenset({"orgpolicy.policy.get"})
SEE_QUOTA = frozenset({"cloudquotas.quotas.get"})
ASK_FOR_QUOTA = SEE_QUOTA | {"cloudquotas.quotas.update"}

_PLACES = "acceleratorTypes machineTypes regions zones"
_NETWORKING = "addresses healthChecks networks routers subnetworks"
_MACHINES = "disks images instanceGroupManagers instanceTemplates instances"
SEE_COMPUTE = _all(
    "compute", f"{_PLACES} {_NETWORKING} {_MACHINES} firewalls projects", "get list"
) | {
    *("compute.advice.capacity", "compute.images.getFromFamily"),
    "compute.instances.getGuestAttributes",
}
MANAGE_MACHINES = (
    _all("compute", _MACHINES)
    | _all("compute", f"{_PLACES} addresses networks projects subnetworks", "get list")
    | {
        *("compute.disks.use", "compute.healthChecks.useReadOnly"),
        *("compute.images.getFromFamily", "compute.images.useReadOnly"),
        *("compute.images.setLabels", "compute.disks.useReadOnly"),
        *("compute.instanceTemplates.useReadOnly", "compute.instances.setMetadata"),
        *("compute.instances.getGuestAttributes", "compute.instances.getSerialPortOutput"),
        *("compute.disks.setLabels", "compute.instances.setDiskAutoDelete"),
        "compute.zoneOperations.get",
        *("compute.instances.setLabels", "compute.instances.setServiceAccount"),
        *("compute.instances.setTags", "compute.networks.use", "compute.subnetworks.use"),
        "compute.instanceGroups.create",
        "compute.instanceGroups.delete",
        "compute.instanceGroups.use",
    }
)
MANAGE_NETWORKS = (
    _all("compute", _NETWORKING)
    | _all("compute", "firewalls regions projects zones", "get list")
    | {
        *("compute.healthChecks.use", "compute.healthChecks.useReadOnly"),
        *("compute.networks.updatePolicy", "compute.networks.use", "compute.routers.use"),
        "compute.subnetworks.use",
    }
)
MANAGE_FIREWALLS = _all("compute", "firewalls") | {
    *("compute.networks.get", "compute.networks.list", "compute.networks.updatePolicy"),
    "compute.projects.get",
}

EDIT = frozenset[str]().union(
    *(PUSH, BUILD, ACT_AS, SEE_LOGS, WRITE_LOGS, RUN_JOBS, USE_BUCKETS, SEE_COMPUTE),
    *(MANAGE_MACHINES, MANAGE_NETWORKS, MANAGE_FIREWALLS, MANAGE_APIS, SEE_PROJECT, SEE_POLICIES),
    *(ASK_FOR_QUOTA, MANAGE_REPOSITORIES, MANAGE_RUN, MANAGE_SECRETS, MANAGE_ACCOUNTS),
) - {
    *READ_SECRETS,
    *_all("artifactregistry", "repositories", "setIamPolicy"),
    *_all("iam", "serviceAccounts", "setIamPolicy"),
    *_all("run", "jobs services", "setIamPolicy"),
    *_all("secretmanager", "secrets", "setIamPolicy"),
}
"""Editors pull images but neither read secrets nor let others in: that is so in life. To buckets
they come by the legacy roles that each bucket gives them when it is made."""

ROLES: dict[str, frozenset[str]] = {
    "roles/artifactregistry.admin": MANAGE_REPOSITORIES,
    "roles/artifactregistry.reader": PULL,
    "roles/artifactregistry.writer": PUSH,
    "roles/cloudbuild.builds.editor": BUILD,
    "roles/cloudquotas.admin": ASK_FOR_QUOTA,
    "roles/cloudquotas.viewer": SEE_QUOTA,
    "roles/compute.instanceAdmin.v1": MANAGE_MACHINES,
    "roles/compute.networkAdmin": MANAGE_NETWORKS,
    "roles/compute.securityAdmin": MANAGE_FIREWALLS,
    "roles/compute.viewer": SEE_COMPUTE,
    "roles/editor": EDIT,
    "roles/iam.serviceAccountAdmin": MANAGE_ACCOUNTS | SEE_PROJECT,
    "roles/iam.serviceAccountUser": ACT_AS | _all("iam", "serviceAccounts", "get list"),
    "roles/logging.logWriter": WRITE_LOGS,
    "roles/logging.viewer": SEE_LOGS,
    "roles/orgpolicy.policyViewer": SEE_POLICIES,
    "roles/owner": EDIT
    | MANAGE_SECRETS
    | MANAGE_REPOSITORIES
    | MANAGE_ACCOUNTS
    | MANAGE_RUN
    | MANAGE_BUCKETS
    | _all("resourcemanager", "projects", POLICY)
    | {"run.routes.invoke"},
    "roles/resourcemanager.projectIamAdmin": SEE_PROJECT
    | _all("resourcemanager", "projects", POLICY),
    "roles/run.admin": MANAGE_RUN | {"run.routes.invoke"},
    "roles/run.developer": RUN_JOBS,
    "roles/run.invoker": frozenset({"run.jobs.run", "run.routes.invoke"}),
    "roles/run.viewer": SEE_JOBS,
    "roles/secretmanager.admin": MANAGE_SECRETS,
    "roles/secretmanager.secretAccessor": READ_SECRETS,
    "roles/serviceusage.serviceUsageAdmin": MANAGE_APIS,
    "roles/storage.admin": MANAGE_BUCKETS,
    "roles/storage.objectAdmin": USE_OBJECTS,
    "roles/storage.objectCreator": frozenset({"storage.objects.create"}),
    "roles/storage.objectUser": USE_OBJECTS,
    "roles/storage.objectViewer": SEE_OBJECTS,
}
"""Role -> those of its permissions that something here asks for. Others grant nothing here."""


def granted(roles: Iterable[str]) -> frozenset[str]:
    """What somebody with these roles may do, as far as somebody here asks."""
    return frozenset[str]().union(*(ROLES.get(role, ()) for role in roles))


BINDINGS = {
    "gcp:projects/iAMMember:IAMMember": "projects/{project}",
    "gcp:secretmanager/secretIamMember:SecretIamMember": "{secretId}",
    "gcp:artifactregistry/repositoryIamMember:RepositoryIamMember": "{repository}",
    "gcp:serviceaccount/iAMMember:IAMMember": "{serviceAccountId}",
    "gcp:storage/bucketIAMMember:BucketIAMMember": "{bucket}",
    "gcp:cloudrunv2/jobIamMember:JobIamMember": "{name}",
    "gcp:cloudrunv2/serviceIamMember:ServiceIamMember": "{name}",
}
"""Type of an IAM binding -> the resource it is attached to. It holds for that and all below it."""

ACCOUNT = "gcp:serviceaccount/account:Account"

_MISSING = (
    "Request is missing required authentication credential. Expected OAuth 2 access token, login "
    "cookie or other valid authentication credential. See "
    "https://developers.google.com/identity/sign-in/web/devconsole-project."
)
_INVALID = _MISSING.replace(
    "Request is missing required authentication credential",
    "Request had invalid authentication credentials",
)


@dataclass(frozen=True)
class Caller:
    """Whoever showed a valid token: a service account, or the person who rehearses.

    Or a service of Google's own, which shows none.
    """

    email: str
    scopes: frozenset[str]
    owns: frozenset[str] | None = None
    """Projects that are theirs: a person's, a service's; None for an account."""
    may: frozenset[str] | None = None
    """Permissions that they have in those projects; None for all."""


class Identity:
    """Mints access tokens and recognises them again. Tokens end with the daemon, as machines do."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tokens: dict[str, tuple[Caller, float]] = {}

    def mint(self, email: str, scopes: Iterable[str]) -> tuple[str, int]:
        """A new access token and its lifetime in seconds. CloudError 404 for an unknown account."""
        if not self._exists(email):
            raise CloudError(404, f"Service account {email} does not exist.", "NOT_FOUND")
        return self.mint_for(Caller(email, frozenset(scopes)))

    def mint_for(self, caller: Caller) -> tuple[str, int]:
        """The same for somebody who is known already."""
        token = TOKEN_PREFIX + secrets.token_urlsafe(96)
        self._tokens[token] = (caller, time.monotonic() + TOKEN_LIFETIME_S)
        return token, TOKEN_LIFETIME_S - 1

    def caller(self, authorization: str | None) -> Caller:
        """Whoever an Authorization header names. CloudError 401 when it names nobody.

        `Bearer TOKEN`, or `Basic` with user `oauth2accesstoken`, as `docker login` sends it.
        """
        if not authorization:
            raise CloudError(401, _MISSING, "UNAUTHENTICATED")
        known, expiry = self._tokens.get(_token(authorization), (None, 0.0))
        if known is None or time.monotonic() > expiry:
            raise CloudError(401, _INVALID, "UNAUTHENTICATED")
        if known.owns is None and not self._exists(known.email):
            raise CloudError(401, _INVALID, "UNAUTHENTICATED")
        return known

    def allowed(self, caller: Caller, permission: str, *resources: str) -> bool:
        """Whether a project is the caller's, or a binding gives the permission on a resource.

        One is named as `projects/P/secrets/S`; where the name does not say what it lies in
        (`b/BUCKET`), that comes as another.
        """
        places = tuple(f"{resource}/" for resource in resources)
        owned = tuple(f"projects/{project}/" for project in caller.owns or ())
        if any(place.startswith(owned) for place in places):
            return caller.may is None or permission in caller.may
        members = {f"serviceAccount:{caller.email}", "allAuthenticatedUsers", "allUsers"}
        for type, place in BINDINGS.items():
            for body in self._store.all(type).values():
                if body["member"] not in members or body.get("condition"):
                    continue  # conditions are absent on purpose: nothing here uses one
                if permission not in ROLES.get(body["role"], ()):
                    continue
                if any(it.startswith(place.format_map(body) + "/") for it in places):
                    return True
        return False

    def _exists(self, email: str) -> bool:
        accounts = self._store.all(ACCOUNT).values()
        return any(a["email"] == email and not a.get("disabled") for a in accounts)


def _token(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    try:
        user, _, password = base64.b64decode(value).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return password if user == "oauth2accesstoken" else ""
