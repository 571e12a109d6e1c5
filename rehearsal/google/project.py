"""A project of the rehearsing person's: which APIs are on in it, and whether somebody pays."""

from rehearsal.google.images import PUBLIC_IMAGES
from rehearsal.world import World

SERVICE = "gcp:projects/service:Service"

TITLES = {
    "artifactregistry.googleapis.com": "Artifact Registry API",
    "cloudbilling.googleapis.com": "Cloud Billing API",
    "cloudbuild.googleapis.com": "Cloud Build API",
    "cloudquotas.googleapis.com": "Cloud Quotas API",
    "cloudresourcemanager.googleapis.com": "Cloud Resource Manager API",
    "compute.googleapis.com": "Compute Engine API",
    "iam.googleapis.com": "Identity and Access Management (IAM) API",
    "logging.googleapis.com": "Cloud Logging API",
    "orgpolicy.googleapis.com": "Organization Policy API",
    "run.googleapis.com": "Cloud Run Admin API",
    "secretmanager.googleapis.com": "Secret Manager API",
    "serviceusage.googleapis.com": "Service Usage API",
}
"""What Google calls the APIs that somebody here calls."""
OTHERS = "iap monitoring oslogin cloudscheduler storage iamcredentials pubsub"
KNOWN = TITLES.keys() | {f"{name}.googleapis.com" for name in OTHERS.split()}
"""The APIs that exist."""
BILLED = frozenset(
    f"{name}.googleapis.com"
    for name in ("artifactregistry", "cloudbuild", "compute", "run", "secretmanager")
)
"""Those that are switched on only in a project with billing."""


def enabled(world: World, project: str, api: str) -> bool:
    """Whether an API (`compute.googleapis.com`) is on in a project."""
    on = world.store.get(SERVICE, f"{project}/{api}") is not None
    return on or api in world.accounts.google_apis


def disabled(api: str, number: str) -> str:
    """How Google says that an API is off."""
    url = f"https://console.developers.google.com/apis/api/{api}/overview?project={number}"
    return (
        f"{TITLES[api]} has not been used in project {number} before or it is"
        f" disabled. Enable it by visiting {url} then retry. If you enabled this API"
        " recently, wait a few minutes for the action to propagate to our systems and"
        " retry."
    )


def unbilled(number: str) -> str:
    """How Google says that nobody pays."""
    return (
        "This API method requires billing to be enabled. Please enable billing on project"
        f" #{number} by visiting https://console.developers.google.com/billing/enable?project="
        f"{number} then retry. If you enabled billing for this project recently, wait a few minutes"
        " for the action to propagate to our systems and retry."
    )


def id_of(world: World, project: str) -> str:
    """A project's id, which is also named by its number."""
    numbers = world.accounts.projects.items()
    return next((id for id, number in numbers if number == project), project)


def public(project: str) -> bool:
    """Whether everybody may read what is in a project: Google's own, with boot images."""
    return project in PUBLIC_IMAGES
