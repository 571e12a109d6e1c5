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

SEE_OBJECTS = frozenset({"storage.objects.get", "storage.objects.list"})
USE_OBJECTS = SEE_OBJECTS | {"storage.objects.create", "storage.objects.delete"}
USE_BUCKETS = USE_OBJECTS | {"storage.buckets.get"}

SEE_JOBS = frozenset(
    f"run.{noun}.{verb}"
    for noun in ("executions", "jobs", "operations", "tasks")
    for verb in ("get", "list")
)
RUN_JOBS = SEE_JOBS | {"run.executions.cancel", "run.jobs.run"}

PULL = frozenset({"artifactregistry.repositories.downloadArtifacts"})
PUSH = PULL | {"artifactregistry.repositories.uploadArtifacts"}

BUILD = frozenset(f"cloudbuild.builds.{verb}" for verb in ("create", "get", "list", "update"))
ACT_AS = frozenset({"iam.serviceAccounts.actAs"})
SEE_LOGS = frozenset({"logging.logEntries.list"})
WRITE_LOGS = frozenset({"logging.logEntries.create"})

ROLES: dict[str, frozenset[str]] = {
    "roles/secretmanager.secretAccessor": frozenset({"secretmanager.versions.access"}),
    "roles/secretmanager.admin": frozenset({"secretmanager.versions.access"}),
    "roles/artifactregistry.reader": PULL,
    "roles/artifactregistry.writer": PUSH,
    "roles/artifactregistry.admin": PUSH,
    "roles/cloudbuild.builds.editor": BUILD,
    "roles/iam.serviceAccountUser": ACT_AS,
    "roles/logging.logWriter": WRITE_LOGS,
    "roles/logging.viewer": SEE_LOGS,
    # Editors pull images but do not read secrets: that is so in life.
    # To buckets both come by the legacy roles that each bucket gives them when it is made.
    "roles/editor": frozenset().union(
        PUSH, BUILD, ACT_AS, SEE_LOGS, WRITE_LOGS, RUN_JOBS, USE_BUCKETS
    ),
    "roles/owner": frozenset(
        {
            "run.routes.invoke",
            "secretmanager.versions.access",
            *(*PUSH, *BUILD, *ACT_AS, *SEE_LOGS, *WRITE_LOGS, *RUN_JOBS, *USE_BUCKETS),
        }
    ),
    "roles/storage.admin": USE_BUCKETS,
    "roles/storage.objectAdmin": USE_OBJECTS,
    "roles/storage.objectCreator": frozenset({"storage.objects.create"}),
    "roles/storage.objectUser": USE_OBJECTS,
    "roles/storage.objectViewer": SEE_OBJECTS,
    "roles/run.admin": frozenset({"run.routes.invoke", *RUN_JOBS}),
    "roles/run.developer": RUN_JOBS,
    "roles/run.invoker": frozenset({"run.jobs.run", "run.routes.invoke"}),
    "roles/run.viewer": SEE_JOBS,
}
"""Role -> those of its permissions that something here asks for. Others grant nothing here."""

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
    """Projects in which everything is allowed: a person's, a service's; None for an account."""


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
        """Whether the caller owns the project, or a binding gives the permission on a resource.

        One is named as `projects/P/secrets/S`; where the name does not say what it lies in
        (`b/BUCKET`), that comes as another.
        """
        places = tuple(f"{resource}/" for resource in resources)
        owned = tuple(f"projects/{project}/" for project in caller.owns or ())
        if any(place.startswith(owned) for place in places):
            return True
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
