"""Who calls and what they may do: service accounts' access tokens, and IAM from its bindings."""

import base64
import binascii
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

from rehearsal.errors import CloudError
from rehearsal.store import Store

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
TOKEN_LIFETIME_S = 3600
"""Of this machine's time, not the cloud's: what uses a token here is not compressed either."""

SEE_JOBS = frozenset(
    f"run.{noun}.{verb}"
    for noun in ("executions", "jobs", "operations", "tasks")
    for verb in ("get", "list")
)
RUN_JOBS = SEE_JOBS | {"run.executions.cancel", "run.jobs.run"}

ROLES: dict[str, frozenset[str]] = {
    "roles/secretmanager.secretAccessor": frozenset({"secretmanager.versions.access"}),
    "roles/secretmanager.admin": frozenset({"secretmanager.versions.access"}),
    "roles/artifactregistry.reader": frozenset({"artifactregistry.repositories.downloadArtifacts"}),
    "roles/artifactregistry.writer": frozenset({"artifactregistry.repositories.downloadArtifacts"}),
    "roles/artifactregistry.admin": frozenset({"artifactregistry.repositories.downloadArtifacts"}),
    # Editors pull images but do not read secrets: that is so in life.
    "roles/editor": frozenset({"artifactregistry.repositories.downloadArtifacts", *RUN_JOBS}),
    "roles/owner": frozenset(
        {
            "artifactregistry.repositories.downloadArtifacts",
            "run.routes.invoke",
            "secretmanager.versions.access",
            *RUN_JOBS,
        }
    ),
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
    """A service account that showed a valid token, and the scopes of that token."""

    email: str
    scopes: frozenset[str]
    agent_of: str = ""
    """Project in which this is a service of Google's own, which needs no binding there."""


class Identity:
    """Mints access tokens and recognises them again. Tokens end with the daemon, as machines do."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tokens: dict[str, tuple[Caller, float]] = {}

    def mint(self, email: str, scopes: Iterable[str]) -> tuple[str, int]:
        """A new access token and its lifetime in seconds. CloudError 404 for an unknown account."""
        if not self._exists(email):
            raise CloudError(404, f"Service account {email} does not exist.", "NOT_FOUND")
        token = "ya29." + secrets.token_urlsafe(96)
        caller = Caller(email, frozenset(scopes))
        self._tokens[token] = (caller, time.monotonic() + TOKEN_LIFETIME_S)
        return token, TOKEN_LIFETIME_S - 1

    def caller(self, authorization: str | None) -> Caller:
        """Whoever an Authorization header names. CloudError 401 when it names nobody.

        `Bearer TOKEN`, or `Basic` with user `oauth2accesstoken`, as `docker login` sends it.
        """
        if not authorization:
            raise CloudError(401, _MISSING, "UNAUTHENTICATED")
        known, expiry = self._tokens.get(_token(authorization), (None, 0.0))
        if known is None or time.monotonic() > expiry or not self._exists(known.email):
            raise CloudError(401, _INVALID, "UNAUTHENTICATED")
        return known

    def allowed(self, caller: Caller, permission: str, resource: str) -> bool:
        """Whether a binding gives the permission on `resource`, such as `projects/P/secrets/S`."""
        if caller.agent_of and resource.startswith(f"projects/{caller.agent_of}/"):
            return True
        members = {f"serviceAccount:{caller.email}", "allAuthenticatedUsers", "allUsers"}
        for type, place in BINDINGS.items():
            for body in self._store.all(type).values():
                if body["member"] not in members or body.get("condition"):
                    continue  # conditions are absent on purpose: nothing here uses one
                if permission not in ROLES.get(body["role"], ()):
                    continue
                if f"{resource}/".startswith(place.format_map(body) + "/"):
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
