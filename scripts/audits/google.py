"""What Google Cloud has of a stack, in the order in which it can be deleted."""

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from components.google_apis import CALLED, CALLED_TO_BUILD, USED_LATER
from scripts.audits.marks import Marks, is_kept
from scripts.audits.state import key
from scripts.audits.thing import Listing, Thing
from scripts.checks.check import UnknownError
from scripts.checks.google import Google
from scripts.cloud_build import RUNNING

Row = Mapping[str, Any]

GROUP = "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager"
TEMPLATE = "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"
IMAGE = "gcp:compute/image:Image"
HEALTH_CHECK = "gcp:compute/healthCheck:HealthCheck"
FIREWALL = "gcp:compute/firewall:Firewall"
NAT = "gcp:compute/routerNat:RouterNat"
ROUTER = "gcp:compute/router:Router"
SUBNET = "gcp:compute/subnetwork:Subnetwork"
NETWORK = "gcp:compute/network:Network"
JOB = "gcp:cloudrunv2/job:Job"
SERVICE = "gcp:cloudrunv2/service:Service"
REPOSITORY = "gcp:artifactregistry/repository:Repository"
SECRET = "gcp:secretmanager/secret:Secret"  # noqa: S105 - a type's name
BUCKET = "gcp:storage/bucket:Bucket"
ACCOUNT = "gcp:serviceaccount/account:Account"
ROLE = "gcp:projects/iAMMember:IAMMember"
API = "gcp:projects/service:Service"

GO_WITH: Mapping[str, str] = {
    "gcp:artifactregistry/repositoryIamMember:RepositoryIamMember": REPOSITORY,
    "gcp:secretmanager/secretIamMember:SecretIamMember": SECRET,
    "gcp:secretmanager/secretVersion:SecretVersion": SECRET,
    "gcp:storage/bucketIAMMember:BucketIAMMember": BUCKET,
}
"""Type -> the type in which it lies, and with which it ends: there is no other place for it."""

NOTHING_THERE = "NO_RESULTS_ON_PAGE"
"""The warning of an aggregated list that hides nothing
(cloud.google.com/compute/docs/reference/rest/v1/instances/aggregatedList)."""
CLOSED = "LOCATION_POLICY_VIOLATED"
"""Why Google refuses a location for which a project must be admitted, such as me-central2
(github.com/firezone/firezone/pull/7711)."""
MOST_ACCOUNTS = 100
"""Service accounts on a page
(cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts/list)."""
KEPT = "keepWeights: it is to outlive its stack"
CREATED_BY = "created-by"
"""Metadata key in which a group writes its own name into its machines
(docs.cloud.google.com/compute/docs/instance-groups/getting-info-about-migs)."""


class Noun(NamedTuple):
    """A collection of Compute Engine's."""

    kind: str
    type: str
    collection: str
    gcloud: str
    globally: bool = False
    """There is no list of all regions and zones at once, because there is nothing in them."""


MACHINES, DISKS, ADDRESSES = "instances", "disks", "addresses"
NOUNS = (
    Noun("group of machines", GROUP, "instanceGroupManagers", "instance-groups managed"),
    Noun("machine", "", MACHINES, "instances"),
    Noun("disk", "", DISKS, "disks"),
    Noun("instance template", TEMPLATE, "instanceTemplates", "instance-templates"),
    Noun("boot image", IMAGE, "images", "images", globally=True),
    Noun("health check", HEALTH_CHECK, "healthChecks", "health-checks"),
    Noun("firewall rule", FIREWALL, "firewalls", "firewall-rules", globally=True),
    Noun("address", "", ADDRESSES, "addresses"),
    Noun("router", ROUTER, "routers", "routers"),
    Noun("subnet", SUBNET, "subnetworks", "networks subnets"),
    Noun("VPC network", NETWORK, "networks", "networks", globally=True),
)
GLOBAL_FLAG = ("addresses", "healthChecks")
"""Collections of which gcloud wants to be told that a thing is in no region."""


def listings(google: Google, marks: Marks, regions: Collection[str]) -> Iterator[Listing]:
    """Everywhere that something of a stack may be, in one project.

    `regions` are those that the stack is known to be in. Builds are looked for there, all else
    wherever it may be.
    """
    name = f"Google ({google.project})"
    run = RunThings(google, marks, regions)
    yield Listing(f"{name}: Cloud Run services", run.services)
    yield Listing(f"{name}: Cloud Run jobs", run.jobs)
    yield Listing(f"{name}: Cloud Build", lambda: builds(google, marks, sorted(regions)))
    compute = ComputeThings(google, marks)
    for noun in NOUNS:
        label = f"{name}: {noun.collection}"
        yield Listing(label, lambda it=noun: compute.look(it))
    yield Listing(f"{name}: repositories of images", lambda: repositories(google, marks, regions))
    yield Listing(f"{name}: secrets", lambda: secrets(google, marks))
    yield Listing(f"{name}: buckets", lambda: buckets(google, marks))
    yield Listing(f"{name}: roles of service accounts", lambda: roles(google, marks))
    yield Listing(f"{name}: service accounts", lambda: accounts(google, marks))
    yield Listing(f"{name}: APIs", lambda: apis(google))


def gcloud(project: str, *words: str) -> str:
    """A command that deletes something."""
    return shlex.join(["gcloud", *words, f"--project={project}"])


def last(link: str) -> str:
    """The name at the end of a link."""
    return link.rpartition("/")[2]


# Compute Engine


class ComputeThings:
    """What Compute Engine has of a stack."""

    def __init__(self, google: Google, marks: Marks) -> None:
        self._google = google
        self._marks = marks

    def look(self, noun: Noun) -> Iterator[Thing]:
        """The stack's things of a collection, in every region and zone."""
        for row in self._rows(noun):
            if self._own(noun, row):
                if noun.type == ROUTER:
                    yield from self._nats(row)
                yield self._thing(noun, row)

    def _rows(self, noun: Noun) -> Iterator[Row]:
        place = f"compute/v1/projects/{self._google.project}"
        if noun.globally:
            yield from self._google.items("compute", f"{place}/global/{noun.collection}", "items")
            return
        path = f"{place}/aggregated/{noun.collection}"
        for page in self._google.pages("compute", path):
            scopes: Mapping[str, Row] = page.get("items") or {}
            for scope, found in scopes.items():
                warning: Mapping[str, str] = found.get("warning") or {}
                if warning.get("code", NOTHING_THERE) != NOTHING_THERE:
                    because = f"Google says {warning['code']} of {last(scope)}"
                    raise UnknownError(because, "try again in some minutes")
                yield from found.get(noun.collection) or ()

    def _own(self, noun: Noun, row: Row) -> bool:
        name: str = row["name"]
        label = self._marks.labelled(row)
        if label is not None:
            return label
        if noun.collection == ADDRESSES:  # Cloud NAT takes them for itself
            users: list[str] = row.get("users") or []
            return any(self._marks.named(ROUTER, last(it)) for it in users)
        if noun.collection in (MACHINES, DISKS):
            return self._marks.machine(name)
        # What lies in the stack's network stands in the way of its deletion, whatever its name.
        inside = "network" in row and self._marks.named(NETWORK, last(row["network"]))
        return inside or self._marks.named(noun.type, name)

    def _thing(self, noun: Noun, row: Row) -> Thing:
        project = self._google.project
        id = link_key(row["selfLink"])
        scope, _, place = id.rpartition("/")[0].rpartition("/")[0].partition("/")
        flag = [f"--{scope[:-1]}={place}"] if place else []
        if not place and noun.collection in GLOBAL_FLAG:
            flag = ["--global"]
        return Thing(
            noun.kind,
            row["name"],
            f"{project}, {place or 'global'}",
            id,
            gcloud(project, "compute", *noun.gcloud.split(), "delete", row["name"], *flag),
            noun.type,
            of=_made_for(noun, row),
        )

    def _nats(self, router: Row) -> Iterator[Thing]:
        project, region = self._google.project, last(router["region"])
        for nat in router.get("nats") or ():
            where = [f"--router={router['name']}", f"--region={region}"]
            yield Thing(
                "Cloud NAT",
                nat["name"],
                f"{project}, {region}",
                f"{region}/{router['name']}/{nat['name']}",
                gcloud(project, "compute", "routers", "nats", "delete", nat["name"], *where),
                NAT,
            )


def link_key(link: str) -> str:
    """A link's end, from the place on: `regions/R/routers/N`."""
    return re.sub(r"^.*?projects/[^/]+/", "", link)


def _made_for(noun: Noun, row: Row) -> str:
    """Id of what a machine, a disk or an address goes with, if it goes with anything."""
    if noun.collection == MACHINES:
        metadata: Mapping[str, list[Mapping[str, str]]] = row.get("metadata") or {}
        items = metadata.get("items") or []
        groups = [it.get("value", "") for it in items if it["key"] == CREATED_BY]
        return link_key(groups[0]) if groups else ""
    users: list[str] = row.get("users") or []
    return link_key(users[0]) if noun.collection in (DISKS, ADDRESSES) and users else ""


# Cloud Run, Cloud Build, Artifact Registry: by location


def locations(google: Google, service: str) -> list[str]:
    """Every location that an API has."""
    path = f"v1/projects/{google.project}/locations"
    found = [it["locationId"] for it in google.items(service, path, "locations")]
    if not found:
        raise UnknownError(f"{service}.googleapis.com lists no location", "try again")
    return found


def everywhere(
    google: Google, service: str, path: str, noun: str, own: Collection[str]
) -> Iterator[Row]:
    """The items of a list in every location, `path` with the location in it.

    A location may be listed, and not be open to the project; then there is nothing in it, unless
    it is one of the stack's own.
    """
    for place in locations(google, service):
        try:
            yield from google.items(service, path.format(location=place), noun)
        except UnknownError as error:
            if CLOSED not in error.reasons or place in own:
                raise


class RunThings:
    """What Cloud Run has of a stack. Its lists know one location at a time
    (cloud.google.com/run/docs/reference/rest/v2/projects.locations.services/list)."""

    def __init__(self, google: Google, marks: Marks, regions: Collection[str]) -> None:
        self._google = google
        self._marks = marks
        self._regions = regions

    def services(self) -> Iterator[Thing]:
        """Services."""
        for row in self._rows("services"):
            if self._marks.own(SERVICE, last(row["name"]), row):
                yield self._thing("Cloud Run service", SERVICE, row, ["services"])

    def jobs(self) -> Iterator[Thing]:
        """Jobs, and before each what of it is running."""
        for row in self._rows("jobs"):
            if self._marks.own(JOB, last(row["name"]), row):
                for run in self._google.items("run", f"v2/{row['name']}/executions", "executions"):
                    if not run.get("completionTime"):
                        words = ["jobs", "executions"]
                        of = key(JOB, row["name"])
                        yield self._thing("running execution", "", run, words, of, verb="cancel")
                yield self._thing("Cloud Run job", JOB, row, ["jobs"])

    def _rows(self, noun: str) -> Iterator[Row]:
        path = f"v2/projects/{self._google.project}/locations/{{location}}/{noun}"
        yield from everywhere(self._google, "run", path, noun, self._regions)

    def _thing(
        self, kind: str, type: str, row: Row, words: list[str], of: str = "", verb: str = "delete"
    ) -> Thing:
        project, name = self._google.project, last(row["name"])
        region = row["name"].split("/")[3]
        command = gcloud(project, "run", *words, verb, name, f"--region={region}")
        id = key(JOB, row["name"])
        return Thing(kind, name, f"{project}, {region}", id, command, type, of=of)


def builds(google: Google, marks: Marks, regions: Iterable[str]) -> Iterator[Thing]:
    """Builds that run; of those that have ended Cloud Build keeps a record, which costs nothing."""
    if "cloudbuild.googleapis.com" not in enabled(google):
        return  # then none runs
    for region in regions:
        path = f"v1/projects/{google.project}/locations/{region}/builds"
        for row in google.items("cloudbuild", path, "builds", filter='tags="llm-endpoint"'):
            email = last(row.get("serviceAccount", ""))
            if row["status"] in RUNNING and marks.named(ACCOUNT, email.partition("@")[0]):
                command = gcloud(
                    google.project, "builds", "cancel", row["id"], f"--region={region}"
                )
                id = f"locations/{region}/builds/{row['id']}"
                where = f"{google.project}, {region}"
                yield Thing("running build", row["id"], where, id, command)


def repositories(google: Google, marks: Marks, regions: Collection[str]) -> Iterator[Thing]:
    """Repositories, with every image in them."""
    path = f"v1/projects/{google.project}/locations/{{location}}/repositories"
    for row in everywhere(google, "artifactregistry", path, "repositories", regions):
        name, place = last(row["name"]), row["name"].split("/")[3]
        if marks.own(REPOSITORY, name, row):
            words = ["artifacts", "repositories", "delete", name, f"--location={place}"]
            yield Thing(
                "repository of images",
                name,
                f"{google.project}, {place}",
                key(REPOSITORY, row["name"]),
                gcloud(google.project, *words),
                REPOSITORY,
            )


# All else


def secrets(google: Google, marks: Marks) -> Iterator[Thing]:
    """Secrets, with their versions."""
    for row in google.items("secretmanager", f"v1/projects/{google.project}/secrets", "secrets"):
        name = last(row["name"])
        if marks.own(SECRET, name, row):
            command = gcloud(google.project, "secrets", "delete", name)
            where = f"{google.project}, global"
            yield Thing("secret", name, where, key(SECRET, row["name"]), command, SECRET)


def buckets(google: Google, marks: Marks) -> Iterator[Thing]:
    """Buckets, with what is in them."""
    for row in google.items("storage", "storage/v1/b", "items", project=google.project):
        if marks.own(BUCKET, row["name"], row):
            yield Thing(
                "bucket",
                row["name"],
                f"{google.project}, {row['location'].lower()}",
                row["name"],
                shlex.join(["gcloud", "storage", "rm", "--recursive", f"gs://{row['name']}"]),
                BUCKET,
                stays=KEPT if is_kept(row) else "",
            )


def accounts(google: Google, marks: Marks) -> Iterator[Thing]:
    """Service accounts."""
    path = f"v1/projects/{google.project}/serviceAccounts"
    for row in google.items("iam", path, "accounts", pageSize=MOST_ACCOUNTS):
        email: str = row["email"]
        if marks.named(ACCOUNT, email.partition("@")[0]):
            command = gcloud(google.project, "iam", "service-accounts", "delete", email)
            id = f"serviceAccounts/{email}"
            yield Thing("service account", email, f"{google.project}, global", id, command, ACCOUNT)


def roles(google: Google, marks: Marks) -> Iterator[Thing]:
    """Roles in the project of the stack's service accounts, those deleted included: there they
    stay until somebody takes them away
    (cloud.google.com/iam/docs/service-accounts-delete-undelete)."""
    path = f"v3/projects/{google.project}:getIamPolicy"
    policy = google.answered(
        "cloudresourcemanager", path, body={"options": {"requestedPolicyVersion": 3}}
    )
    for binding in policy.get("bindings") or ():
        for member in binding["members"]:
            email = member.removeprefix("deleted:").removeprefix("serviceAccount:")
            account, _, domain = email.partition("?")[0].partition("@")
            ours = domain == f"{google.project}.iam.gserviceaccount.com"
            if "serviceAccount:" not in member or not ours or not marks.named(ACCOUNT, account):
                continue
            words = ["projects", "remove-iam-policy-binding", google.project]
            words += [f"--member={member}", f"--role={binding['role']}"]
            words += ["--all"] if binding.get("condition") else ["--condition=None"]
            yield Thing(
                "role in the project",
                f"{binding['role']} of {member}",
                google.project,
                f"{binding['role']}/{member}",
                shlex.join(["gcloud", *words]),
                ROLE,
            )


def enabled(google: Google) -> list[str]:
    """Which of the APIs that a stack switches on are on."""
    wanted = dict.fromkeys((*CALLED, *CALLED_TO_BUILD, *USED_LATER))
    place = f"projects/{google.project}/services"
    names = [f"{place}/{service}.googleapis.com" for service in wanted]
    answer = google.get("serviceusage", f"v1/{place}:batchGet", names=names)
    return [last(it["name"]) for it in answer["services"] if it["state"] == "ENABLED"]


def apis(google: Google) -> Iterator[Thing]:
    """APIs that are on. Whether this stack switched them on nobody knows any more."""
    for service in enabled(google):
        command = gcloud(google.project, "services", "disable", service)
        because = "others may need it"
        yield Thing("API", service, google.project, service, command, API, stays=because)
