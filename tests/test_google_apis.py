"""The rehearsal's Google APIs: they tell what the providers made, and say no in Google's words."""

from collections.abc import Generator
from typing import Any

import pytest
import requests

from scripts import google_api
from tests.clouds import NUMBER
from tests.preflight_world import ASKED_APIS, PROJECT, REGION, Here, running

COMPUTE = f"https://compute.googleapis.com/compute/v1/projects/{PROJECT}"
MANAGER = f"https://cloudresourcemanager.googleapis.com/v3/projects/{PROJECT}"
QUOTAS = (
    f"https://cloudquotas.googleapis.com/v1/projects/{PROJECT}/locations/global/services"
    "/compute.googleapis.com/quotaInfos"
)
PLACE = {"project": PROJECT, "region": REGION}
REGIONAL = f"projects/{PROJECT}/regions/{REGION}"


@pytest.fixture(name="world", scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Generator[Here]:
    with running(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(name="here")
def _here(world: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    world.begin()
    return world


@pytest.fixture(name="person")
def _person(here: Here) -> Generator[requests.Session]:
    """The rehearsing person, whose calls count to their project."""
    with google_api.session() as http:
        http.headers["X-Goog-User-Project"] = PROJECT
        yield http


def error(answer: requests.Response) -> tuple[int, str, str]:
    """Status, and Google's long and short words for it."""
    said: dict[str, Any] = answer.json()["error"]
    return said["code"], said["status"], said["details"][0]["reason"]


def test_who_shows_no_token_is_nobody(here: Here) -> None:
    """401, as everywhere at Google."""
    answer = requests.get(COMPUTE, timeout=10)

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, 401)


def test_an_api_that_is_off_says_so(here: Here, person: requests.Session) -> None:
    """With the reason that clients look for, in the new spelling and in the old one."""
    here.own(google_apis=[it for it in ASKED_APIS if not it.startswith("compute.")])

    answer = person.get(COMPUTE, timeout=10)

    assert error(answer) == (403, "PERMISSION_DENIED", "SERVICE_DISABLED")
    assert answer.json()["error"]["errors"][0]["reason"] == "accessNotConfigured"
    assert f"in project {NUMBER} before or it is disabled" in answer.json()["error"]["message"]


def test_some_apis_want_to_know_which_project_a_person_calls_for(
    here: Here, person: requests.Session
) -> None:
    """Others take the project whose resources are meant."""
    del person.headers["X-Goog-User-Project"]

    assert person.get(COMPUTE, timeout=10).ok
    assert error(person.get(MANAGER, timeout=10)) == (403, "PERMISSION_DENIED", "SERVICE_DISABLED")


def test_calls_count_to_a_project_that_one_may_use(here: Here, person: requests.Session) -> None:
    """Not to somebody else's."""
    person.headers["X-Goog-User-Project"] = "others"

    assert error(person.get(COMPUTE, timeout=10))[2] == "USER_PROJECT_DENIED"


def test_a_role_gives_what_it_gives(here: Here) -> None:
    """A viewer of machines sees the region, and no policy."""
    here.own(google_roles=["roles/compute.viewer", "roles/serviceusage.serviceUsageAdmin"])
    with google_api.session() as viewer:
        viewer.headers["X-Goog-User-Project"] = PROJECT

        assert viewer.get(f"{COMPUTE}/regions/{REGION}", timeout=10).ok
        denied = viewer.post(f"{MANAGER}:getIamPolicy", json={}, timeout=10)
        assert error(denied) == (403, "PERMISSION_DENIED", "IAM_PERMISSION_DENIED")
        asked = {"permissions": ["compute.regions.get", "compute.networks.create"]}
        held = viewer.post(f"{MANAGER}:testIamPermissions", json=asked, timeout=10).json()
        assert held == {"permissions": ["compute.regions.get"]}


def test_lists_come_in_pages(here: Here, person: requests.Session) -> None:
    """All of a list, each once, whatever the page's size."""
    names = [f"vpc-{number}" for number in range(5)]
    for name in names:
        id = f"projects/{PROJECT}/global/networks/{name}"
        here.store.put("gcp:compute/network:Network", id, {"project": PROJECT, "name": name})
    seen: list[str] = []
    token = ""
    while True:
        asked = {"maxResults": 2, "pageToken": token}
        page = person.get(f"{COMPUTE}/global/networks", params=asked, timeout=10).json()
        seen += [it["name"] for it in page["items"]]
        token = page.get("nextPageToken")
        if not token:
            break

    assert seen == names


@pytest.mark.parametrize("token", ["1", "x", "-1", "99999"])
def test_a_page_that_there_is_not_is_refused(
    here: Here, person: requests.Session, token: str
) -> None:
    """A token is the service's own word, and nothing to be made up."""
    id = f"projects/{PROJECT}/global/networks/vpc"
    here.store.put("gcp:compute/network:Network", id, {"project": PROJECT, "name": "vpc"})

    for path in ("global/networks", "aggregated/routers"):
        answer = person.get(f"{COMPUTE}/{path}", params={"pageToken": token}, timeout=10)
        assert (answer.status_code, answer.json()["error"]["errors"][0]["reason"]) == (
            400,
            "invalid",
        )


def test_aggregated_lists_come_in_pages_of_all_scopes(here: Here, person: requests.Session) -> None:
    """Scopes that have nothing on a page say so; what is only global has no such list."""
    regions = ["us-central1", "europe-west4", "asia-east1"]
    for region in regions:
        id = f"projects/{PROJECT}/regions/{region}/routers/r"
        body = {"project": PROJECT, "name": f"r-{region}", "region": region}
        here.store.put("gcp:compute/router:Router", id, body)
    nat = {"project": PROJECT, "name": "n", "router": "r-asia-east1", "region": "asia-east1"}
    here.store.put("gcp:compute/routerNat:RouterNat", "nat", nat)
    seen: dict[str, Any] = {}
    token = ""
    while True:
        asked = {"maxResults": 2, "pageToken": token}
        page = person.get(f"{COMPUTE}/aggregated/routers", params=asked, timeout=10).json()
        for scope, found in page["items"].items():
            assert ("routers" in found) != (
                found.get("warning", {}).get("code") == "NO_RESULTS_ON_PAGE"
            )
            for it in found.get("routers", ()):
                seen[scope] = it
        token = page.get("nextPageToken")
        if not token:
            break

    assert set(seen) == {f"regions/{region}" for region in regions}
    assert [it["name"] for it in seen["regions/asia-east1"]["nats"]] == ["n"]
    assert person.get(f"{COMPUTE}/aggregated/networks", timeout=10).status_code == 404


def test_a_deleted_account_keeps_its_roles(here: Here, person: requests.Session) -> None:
    """Under a name that no new account of the same address has."""
    email = f"a@{PROJECT}.iam.gserviceaccount.com"
    member = f"serviceAccount:{email}"
    row = {"project": PROJECT, "role": "roles/viewer", "member": member}
    here.store.put("gcp:projects/iAMMember:IAMMember", "m", row)
    account = {"project": PROJECT, "email": email, "name": "a"}

    def members() -> list[str]:
        policy = person.post(f"{MANAGER}:getIamPolicy", json={}, timeout=10).json()
        return next(it["members"] for it in policy["bindings"] if it["role"] == "roles/viewer")

    (gone,) = members()
    here.store.put("gcp:serviceaccount/account:Account", email, account)

    assert gone.startswith(f"deleted:{member}?uid=")
    assert members() == [member]


def test_locations_are_listed_to_who_may_see_them(here: Here) -> None:
    """And are more than the one that a stack is in."""
    on = ["artifactregistry.googleapis.com"]
    url = f"https://artifactregistry.googleapis.com/v1/projects/{PROJECT}/locations"
    found: dict[str, requests.Response] = {}
    for role in ("roles/artifactregistry.admin", "roles/compute.viewer"):
        roles = [role, "roles/serviceusage.serviceUsageAdmin"]
        here.own(google_apis=[*ASKED_APIS, *on], google_roles=roles)
        with google_api.session() as http:
            http.headers["X-Goog-User-Project"] = PROJECT
            found[role] = http.get(url, timeout=10)
            closed = http.get(f"{url}/me-central2/repositories", timeout=10)

    allowed, denied = found.values()
    places = {it["locationId"] for it in allowed.json()["locations"]}
    assert {REGION, "europe-west4", "me-central2"} <= places
    assert error(denied)[2] == error(closed)[2] == "IAM_PERMISSION_DENIED"


def test_a_location_that_is_listed_may_be_closed(here: Here, person: requests.Session) -> None:
    """Google admits projects to some on demand."""
    here.own(google_apis=[*ASKED_APIS, "artifactregistry.googleapis.com"])
    place = f"projects/{PROJECT}/locations/me-central2"

    answer = person.get(
        f"https://artifactregistry.googleapis.com/v1/{place}/repositories", timeout=10
    )

    assert error(answer) == (403, "PERMISSION_DENIED", "LOCATION_POLICY_VIOLATED")


@pytest.mark.parametrize(
    ("type", "body", "url", "key"),
    [
        (
            "gcp:compute/router:Router",
            {"name": "r"},
            f"{COMPUTE}/regions/{REGION}/routers",
            "items",
        ),
        (
            "gcp:compute/subnetwork:Subnetwork",
            {"name": "s", "ipCidrRange": "10.0.0.0/24"},
            f"{COMPUTE}/regions/{REGION}/subnetworks",
            "items",
        ),
        ("gcp:compute/firewall:Firewall", {"name": "f"}, f"{COMPUTE}/global/firewalls", "items"),
        (
            "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager",
            {"name": "g", "targetSize": 1},
            f"{COMPUTE}/regions/{REGION}/instanceGroupManagers",
            "items",
        ),
        (
            "gcp:compute/healthCheck:HealthCheck",
            {"name": "h"},
            f"{COMPUTE}/global/healthChecks",
            "items",
        ),
        (
            "gcp:serviceaccount/account:Account",
            {"name": "a", "email": "a@b"},
            f"https://iam.googleapis.com/v1/projects/{PROJECT}/serviceAccounts",
            "accounts",
        ),
    ],
)
def test_what_the_providers_made_is_listed(
    here: Here, person: requests.Session, type: str, body: dict[str, Any], url: str, key: str
) -> None:
    """Under its name; another project's is not."""
    here.own(google_apis=[*ASKED_APIS, "iam.googleapis.com"])
    here.store.put(type, f"{REGIONAL}/{body['name']}", PLACE | body)
    here.store.put(type, "elsewhere", PLACE | body | {"project": "others", "name": "other"})

    listed = person.get(url, timeout=10).json()[key]

    assert [it["name"] for it in listed] == [body["name"]]


def test_a_limit_of_nothing_is_left_out(here: Here, person: requests.Session) -> None:
    """As JSON of Google's leaves out every 0."""
    here.own(quotas={"NVIDIA_L4_GPUS": 0})

    info = person.get(f"{QUOTAS}/NVIDIA-L4-GPUS-per-project-region", timeout=10).json()

    assert {tuple(it["details"]) for it in info["dimensionsInfos"]} == {()}
