"""What Google must grant before a stack can come up: access, payment, APIs, permissions, places."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import requests
from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request

from components import catalogue
from components.google_apis import called, used_later
from components.hardware import CONNECTOR
from components.settings import Settings
from scripts import google_api
from scripts.checks import permissions
from scripts.checks.check import Check, FailsError, Shared, UnknownError
from scripts.checks.sessions import Sessions
from scripts.google_api import GoogleError

RETRIES = 2
PAGES = 200
"""Pages of a list that are read at most."""

ASKED = (
    *("serviceusage", "cloudresourcemanager", "cloudbilling", "compute", "run"),
    *("cloudquotas", "orgpolicy"),
)
"""The APIs without which there is nothing to be known; `up` switches on what else it needs."""

LOW = 0.4
"""Obtainability below which Google calls it unlikely to get a Spot machine
(docs.cloud.google.com/compute/docs/instances/view-vm-availability)."""


class Google:
    """Google's APIs, called for one project by threads side by side.

    Calls count to that project (X-Goog-User-Project): a person's login has none of its own, and
    some APIs want one.
    """

    def __init__(self, project: str) -> None:
        self.project = project
        self._shared = Shared()
        self._sessions = Sessions(self._session)

    def _session(self) -> requests.Session:
        http = google_api.session(RETRIES, self.credentials())
        http.headers["X-Goog-User-Project"] = self.project
        return http

    def close(self) -> None:
        """Close every connection."""
        self._sessions.close()

    def credentials(self) -> Credentials:
        """Whoever deploys, with a token that is good. Raises FailsError or UnknownError."""
        return self._shared.once("credentials", self._log_in)

    def _log_in(self) -> Credentials:
        try:
            found = google_api.credentials()
        except GoogleError as error:
            raise FailsError(error.message, error.next_step) from None
        with requests.Session() as http:
            try:
                found.refresh(Request(http))  # pyright: ignore[reportUnknownMemberType]  # untyped
            except RefreshError as error:
                if "invalid_grant" in str(error):
                    message = "Google does not take the login any more: it has expired, or ended"
                    raise FailsError(message, google_api.LOG_IN) from None
                because = "Google's login service gives no token for the login"
                raise UnknownError(because, google_api.LOG_IN) from None
            except Exception as error:  # google-auth trips over what is not Google's answer
                because = f"Google's login service does not answer ({type(error).__name__})"
                raise UnknownError(because, google_api.CHECK_NETWORK) from None
        return found

    def ask(
        self,
        service: str,
        path: str,
        *,
        body: Any = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Any:
        """The answer of GET, or with a body of POST. GoogleError when Google refuses."""
        try:
            http = self._sessions.mine()
        except FailsError:
            because = "there is no login (see: Google: credentials)"
            raise UnknownError(because, google_api.LOG_IN) from None
        url = f"{google_api.base(service)}/{path}"
        method = "GET" if body is None else "POST"
        return google_api.call(http, method, url, body=body, parameters=parameters)

    def get(self, service: str, path: str, **parameters: Any) -> Any:
        """The answer, shared by all who ask for the same. UnknownError when Google refuses."""
        key = f"{service} {path} {parameters}"
        return self._shared.once(
            key, lambda: known(lambda: self.ask(service, path, parameters=parameters))
        )

    def answered(self, service: str, path: str, *, body: Any) -> Any:
        """What a POST that changes nothing is answered. UnknownError when Google refuses."""
        return known(lambda: self.ask(service, path, body=body))

    def items(self, service: str, path: str, key: str, **parameters: Any) -> list[Any]:
        """All items of a list, page by page, shared as `get` does."""
        return [
            it for page in self.pages(service, path, **parameters) for it in page.get(key) or ()
        ]

    def pages(self, service: str, path: str, **parameters: Any) -> Iterator[Any]:
        """All pages of a list. UnknownError where it is not whole."""
        token = ""
        for _ in range(PAGES):
            more = {"pageToken": token} if token else {}
            answer = self.get(service, path, **parameters, **more)
            if missing := answer.get("unreachable"):
                because = f"Google cannot tell of {', '.join(map(str, missing))}"
                raise UnknownError(because, "try again in some minutes")
            yield answer
            token = answer.get("nextPageToken", "")
            if not token:
                return
        because = f"{service}.googleapis.com has more than {PAGES} pages of it"
        raise UnknownError(because, "look in Google's console")


def known(ask: Callable[[], Any]) -> Any:
    """What Google answers; its refusal means that there is nothing to be known."""
    try:
        return ask()
    except GoogleError as error:
        raise UnknownError(error.message, error.next_step, error.reasons) from None


def is_there(ask: Callable[[], Any]) -> bool:
    """Whether Compute Engine has what is asked for. UnknownError when it says neither."""
    try:
        return bool(ask()["selfLink"])
    except GoogleError as error:
        if error.status == 404 and error.reasons:  # else it is not Google that says so
            return False
        raise UnknownError(error.message, error.next_step) from None


def checks(google: Google, settings: Settings) -> Iterator[Check]:
    """All of them but the quotas, which are many."""
    yield Check("Google: credentials", lambda: credentials(google))
    yield Check("Google: project", lambda: project(google))
    yield Check("Google: billing", lambda: billing(google))
    yield Check("Google: APIs", lambda: apis(google, settings))
    yield Check("Google: permissions", lambda: allowed(google, settings))
    for policy in policies(settings):
        yield Check(f"Google: policy {policy.constraint}", lambda it=policy: obey(google, it))
    yield Check("Google: boot image", lambda: boot_image(google, _image(settings)))
    if settings.platform == "vm":
        for zone in settings.zones:
            name = f"Google: {settings.machine_type} in {zone}"
            yield Check(name, lambda it=zone: offered(google, settings, it))
        if settings.provisioning == "spot":
            yield Check("Google: Spot machines to be had", lambda: obtainable(google, settings))


def credentials(google: Google) -> str:
    """Somebody is logged in."""
    found = google.credentials()
    return str(getattr(found, "service_account_email", "") or "logged in")


def project(google: Google) -> str:
    """The project is there, and whoever deploys may use it."""
    try:
        found = google.ask("cloudresourcemanager", f"v3/projects/{google.project}")
    except GoogleError as error:
        denied = {"USER_PROJECT_DENIED", "CONSUMER_INVALID", "PERMISSION_DENIED", "NOT_FOUND"}
        if error.reasons & denied and "SERVICE_DISABLED" not in error.reasons:
            raise FailsError(
                error.message,
                f"is {google.project} its id (gcloud projects list)? Then let an Owner give you"
                " roles/serviceusage.serviceUsageAdmin and roles/resourcemanager.projectIamAdmin",
            ) from None
        raise UnknownError(error.message, error.next_step) from None
    state = found["state"]
    if state != "ACTIVE":
        raise FailsError(
            f"it is {state}",
            f"gcloud projects undelete {google.project}, or another gcp:project",
        )
    return f"{found['projectId']} ({found['name'].rpartition('/')[2]})"


def billing(google: Google) -> str:
    """Somebody pays."""
    found = google.get("cloudbilling", f"v1/projects/{google.project}/billingInfo")
    if found["projectId"] and not found.get("billingEnabled"):
        page = f"https://console.cloud.google.com/billing/linkedaccount?project={google.project}"
        raise FailsError("no billing account pays for the project", f"link one: {page}")
    return found["billingAccountName"]


def apis(google: Google, settings: Settings) -> str:
    """What the checks ask is on; what else `up` needs it switches on."""
    build = settings.weights == "image"
    ours = (*called(build=build), *used_later(build=build))
    wanted = list(dict.fromkeys((*ASKED, *ours)))
    place = f"projects/{google.project}/services"
    names = [f"{place}/{service}.googleapis.com" for service in wanted]
    try:
        answer = google.ask("serviceusage", f"v1/{place}:batchGet", parameters={"names": names})
    except GoogleError as error:
        if "SERVICE_DISABLED" in error.reasons:
            raise FailsError(error.message, _enable(google, ["serviceusage"])) from None
        raise UnknownError(error.message, error.next_step) from None
    states = {
        it["name"].rpartition("/")[2].partition(".")[0]: it["state"] for it in answer["services"]
    }
    off = [service for service in wanted if states[service] != "ENABLED"]
    if needed := [service for service in off if service in ASKED]:
        raise FailsError(
            f"off: {', '.join(needed)}; without them, quota and more cannot be told",
            _enable(google, needed),
        )
    return f"on; up switches on: {', '.join(off)}" if off else "on"


def _enable(google: Google, services: list[str]) -> str:
    names = " ".join(f"{service}.googleapis.com" for service in services)
    return f"gcloud services enable {names} --project={google.project}"


def allowed(google: Google, settings: Settings) -> str:
    """Whoever deploys may do all that `up` does."""
    wanted = permissions.of(settings)
    path = f"v3/projects/{google.project}:testIamPermissions"
    held: set[str] = set()
    for start in range(0, len(wanted), permissions.MOST):
        asked = wanted[start : start + permissions.MOST]
        answer = known(
            lambda some=asked: google.ask("cloudresourcemanager", path, body={"permissions": some})
        )
        held |= set(answer["permissions"])  # who may ask may do something
    if missing := [it for it in wanted if it not in held]:
        roles = permissions.roles_with(missing)
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if missing[4:] else "")
        raise FailsError(
            f"missing: {shown}",
            f"let an Owner of {google.project} give you {', '.join(roles)}",
        )
    return f"all {len(wanted)}"


# Policies


def _never(value: str) -> bool:
    return False


class Policy(NamedTuple):
    """A constraint of an organisation's that can forbid a part of a stack."""

    constraint: str
    values: tuple[str, ...]
    """What the stack uses, in the words in which a policy may list it; empty for a constraint that
    is enforced or not."""
    forbids: str
    """What of the stack it forbids."""
    instead: str
    """What to do, besides asking whoever looks after the organisation."""
    broad: Callable[[str], bool] = _never
    """Whether a value that a policy lists may mean what the stack uses, in words of its own."""
    perhaps: bool = False
    """Nobody has written down that it forbids it; only that it may."""


def policies(settings: Settings) -> Iterator[Policy]:
    """Those that concern a stack (cloud.google.com/resource-manager/docs/organization-policy)."""
    region = settings.region
    places = (region, f"in:{region}-locations", f"in:{_continent(region)}-locations")
    yield Policy(
        "gcp.resourceLocations",
        places,
        f"resources in {region}",
        "set another gcp:region",
        broad=partial(_may_hold, region),
    )
    yield Policy(
        "iam.disableServiceAccountCreation", (), "the accounts that the machines run as", ""
    )
    owner = f"projects/{_image(settings).split('/')[1]}"
    instead = "set bootImage to an image of an allowed project" if settings.platform == "vm" else ""
    values = (owner, f"is:{owner}", f"under:{owner}")
    yield Policy("compute.trustedImageProjects", values, f"boot images of {owner}", instead)
    # A machine without an address of its own reaches nobody without it.
    mine = f"projects/{settings.project}"
    yield Policy(
        "compute.restrictCloudNATUsage",
        (mine, f"is:{mine}", f"under:{mine}"),
        "Cloud NAT",
        "",
        broad=_is_above_projects,
    )
    # Cloud Composer's machines, which log in the same way, are refused with it
    # (docs.cloud.google.com/composer/docs/composer-1/known-issues).
    yield Policy(
        "compute.disableSerialPortLogging", (), "logs by the serial port", "", perhaps=True
    )
    if settings.platform == "cloud-run":
        values = ("internal", "is:internal")
        yield Policy(
            "run.allowedIngress", values, "a service with internal ingress", "platform: vm"
        )


CONTINENTS = {"eu": "europe", "us": "northamerica"}
"""Words in names of groups of locations -> the continent's; others are the same."""


def _continent(place: str) -> str:
    return place.partition("-")[0]


def _is_above_projects(value: str) -> bool:
    return value.startswith(("under:folders/", "under:organizations/"))


def _may_hold(region: str, group: str) -> bool:
    """Whether a group of locations (`in:eu-locations`) may have the region in it.

    Those of another continent have not, and neither has another region.
    """
    name = group.removeprefix("in:").removesuffix("-locations")
    if not group.startswith("in:") or name[-1:].isdigit():
        return False
    here, there = (CONTINENTS.get(it, it) for it in (_continent(region), _continent(name)))
    known = {_continent(it) for it in catalogue.regions()} | {"eu", "africa"}
    return there == here or _continent(name) not in known


def obey(google: Google, policy: Policy) -> str:
    """The organisation allows it."""
    path = f"v2/projects/{google.project}/policies/{policy.constraint}:getEffectivePolicy"
    answer = google.get("orgpolicy", path)
    rules = [rule for rule in answer["spec"].get("rules") or () if not rule.get("condition")]
    page = f"https://console.cloud.google.com/iam-admin/orgpolicies?project={google.project}"
    ask = f"ask whoever looks after the organisation for an exception: {page}"
    verdicts = {_forbids(rule, policy) for rule in rules}
    if True in verdicts and not policy.perhaps:
        raise FailsError(
            f"the organisation forbids {policy.forbids}",
            f"{policy.instead}, or {ask}" if policy.instead else ask,
        )
    if verdicts - {False}:
        because = f"the organisation may forbid {policy.forbids} with it"
        raise UnknownError(because, f"look: {page}")
    return "allowed"


def _forbids(rule: Mapping[str, Any], policy: Policy) -> bool | None:
    """Whether it does; None where it lists something whose meaning is not known here."""
    listed: Mapping[str, Any] = rule.get("values") or {}
    allowed, denied = set(listed.get("allowedValues") or ()), set(listed.get("deniedValues") or ())
    ours = set(policy.values)
    if not ours:
        return bool(rule.get("enforce"))
    if rule.get("denyAll") or denied & ours:
        return True
    if allowed and not allowed & ours:
        return None if any(map(policy.broad, allowed)) else True
    return None if any(map(policy.broad, denied)) else False


# Machines


def offered(google: Google, settings: Settings, zone: str) -> str:
    """The zone has the GPU and the machine type."""
    place = f"compute/v1/projects/{google.project}/zones/{zone}"
    for noun, name in (("acceleratorTypes", settings.gpu), ("machineTypes", settings.machine_type)):
        if not is_there(lambda it=f"{place}/{noun}/{name}": google.ask("compute", it)):
            others = [it for it in settings.zones if it != zone]
            use = "".join(
                f"pulumi config set --path 'zones[{index}]' {other}; "
                for index, other in enumerate(others)
            )
            raise FailsError(
                f"Google has no {name} for this project there",
                f"{use}or another gcp:region: ./scripts/advise {settings.model}",
            )
    return f"with {settings.gpu}"


def _image(settings: Settings) -> str:
    """What machines boot from; on Cloud Run that is the connector."""
    return settings.base_boot_image if settings.platform == "vm" else CONNECTOR.boot_image


def boot_image(google: Google, image: str) -> str:
    """The image, or its family, exists."""
    if is_there(lambda: google.ask("compute", f"compute/v1/{image}")):
        return image.rpartition("/")[2]
    owner = image.split("/")[1]
    raise FailsError(
        f"there is no {image}",
        f"gcloud compute images list --no-standard-images --project={owner}, then set bootImage",
    )


def obtainable(google: Google, settings: Settings) -> str:
    """A Spot machine is not unlikely to be had, in at least one of the zones."""
    scores = {zone: _score(google, settings, zone) for zone in settings.zones}
    ranked = sorted(scores, key=lambda zone: (-scores[zone], zone))
    told = ", ".join(f"{zone} {scores[zone]:.1f}" for zone in ranked)
    if scores[ranked[0]] < LOW:
        raise FailsError(
            f"unlikely now, of 1.0: {told}",
            "pulumi config set provisioning standard; or another gcp:region or gpu:"
            f" ./scripts/advise {settings.model}; or later",
        )
    return f"of 1.0: {told}"


def _score(google: Google, settings: Settings, zone: str) -> float:
    """How likely so many machines are to be had in a zone, 0 to 1."""
    selection: dict[str, Any] = {"machineTypes": [settings.machine_type]}
    if settings.machine.attached:
        link = f"projects/{google.project}/zones/{zone}/acceleratorTypes/{settings.gpu}"
        count = settings.gpu_count
        selection["guestAccelerators"] = [{"acceleratorType": link, "acceleratorCount": count}]
    body = {
        "instanceProperties": {"scheduling": {"provisioningModel": "SPOT"}},
        "instanceFlexibilityPolicy": {"instanceSelections": {"machines": selection}},
        "size": settings.replicas,
        "distributionPolicy": {"zones": [{"zone": f"zones/{zone}"}], "targetShape": "ANY"},
    }
    path = f"compute/beta/projects/{google.project}/regions/{settings.region}/advice/capacity"
    answer = known(lambda: google.ask("compute", path, body=body))
    return float(answer["recommendations"][0]["scores"]["obtainability"])
