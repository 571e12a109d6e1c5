"""Cloud Storage over real HTTP: objects come whole, can be read in parts, and only by who may."""

import hashlib
from collections.abc import Generator
from pathlib import Path

import pytest
import requests

from rehearsal import audit
from rehearsal.google import buckets, identity, storage
from rehearsal.google.identity import CLOUD_PLATFORM
from rehearsal.session import Session
from rehearsal.world import World
from tests.clouds import BUCKET, MACHINE, PROJECT, Clouds, clouds

API = "https://storage.googleapis.com/storage/v1"
UPLOAD = f"https://storage.googleapis.com/upload/storage/v1/b/{BUCKET}/o"
QUANTUM = storage.QUANTUM


@pytest.fixture
def faults() -> frozenset[str]:
    return frozenset()


@pytest.fixture
def cloud(tmp_path: Path, faults: frozenset[str]) -> Generator[Clouds]:
    with clouds(tmp_path, faults=faults) as cloud:
        yield cloud


class Client(requests.Session):
    """A machine that may do what `role` allows on the bucket; `None` sends no token."""

    def __init__(self, cloud: Clouds, role: str | None = "roles/storage.objectUser") -> None:
        super().__init__()
        self.trust_env = False
        self.headers["Connection"] = "close"  # of ours nothing is open when the clouds end
        self.proxies = {"https": cloud.environment["HTTPS_PROXY"]}
        self.verify = cloud.environment["REQUESTS_CA_BUNDLE"]
        if role is not None:
            cloud.allow(role)

    def signed(self, cloud: Clouds) -> "Client":
        """The same with an access token."""
        # Minted here, for the store belongs to the clouds' thread.
        caller = identity.Caller(MACHINE, frozenset({CLOUD_PLATFORM}))
        token, _ = cloud.identity.mint_for(caller)
        self.headers["Authorization"] = f"Bearer {token}"
        return self


@pytest.fixture
def client(cloud: Clouds) -> Generator[Client]:
    with Client(cloud).signed(cloud) as client:
        yield client


def put(client: Client, name: str, content: bytes) -> requests.Response:
    """Upload in one request."""
    return client.post(UPLOAD, params={"uploadType": "media", "name": name}, data=content)


def begin(client: Client, name: str) -> str:
    """The address of a new resumable upload."""
    about = {"name": name, "metadata": {"hash": "sha256:1"}, "contentType": "text/plain"}
    answer = client.post(UPLOAD, params={"uploadType": "resumable"}, json=about)
    assert answer.status_code == 200
    return answer.headers["Location"]


def send(
    client: Client, address: str, content: bytes, start: int, total: int | str
) -> requests.Response:
    """One part of a resumable upload."""
    end = start + len(content) - 1
    said = f"bytes {start}-{end}/{total}" if content else f"bytes */{total}"
    return client.put(address, data=content, headers={"Content-Range": said}, allow_redirects=False)


def test_an_object_comes_back_whole_in_part_and_as_a_file(cloud: Clouds, client: Client) -> None:
    """By the JSON API, by its plain address, and in the bucket's folder on disk."""
    about = put(client, "a b/ü.txt", b"0123456789").json()
    quoted = "a%20b%2F%C3%BC.txt"

    assert about["size"] == "10"
    assert about["md5Hash"] == "eB5eJF1ptWaXm4bijSPyxw=="
    for address in (
        f"{API}/b/{BUCKET}/o/{quoted}?alt=media",
        f"https://storage.googleapis.com/{BUCKET}/a%20b/%C3%BC.txt",
    ):
        whole = client.get(address)
        part = client.get(address, headers={"Range": "bytes=4-6"})
        beyond = client.get(address, headers={"Range": "bytes=10-"})
        assert (whole.status_code, whole.content) == (200, b"0123456789")
        assert (part.status_code, part.content) == (206, b"456")
        assert part.headers["Content-Range"] == "bytes 4-6/10"
        assert beyond.status_code == 416
    assert client.get(f"{API}/b/{BUCKET}/o/{quoted}").json() == about
    file = cloud.world.directory / "buckets" / BUCKET / "a b" / "ü.txt"
    assert file.read_bytes() == b"0123456789"

    assert client.delete(f"{API}/b/{BUCKET}/o/{quoted}").status_code == 204
    assert client.delete(f"{API}/b/{BUCKET}/o/{quoted}").status_code == 404
    assert not file.parent.exists()


def test_listings_come_by_prefix_and_in_pages(client: Client) -> None:
    """Whoever follows `nextPageToken` sees every object once."""
    for name in ("b/2", "a/1", "b/1", "b/3", "c"):
        put(client, name, b"")
    address, seen, token = f"{API}/b/{BUCKET}/o", list[str](), ""

    while True:
        page = client.get(
            address, params={"prefix": "b/", "maxResults": "2", "pageToken": token}
        ).json()
        seen += [it["name"] for it in page["items"]]
        token = page.get("nextPageToken", "")
        if not token:
            break

    assert seen == ["b/1", "b/2", "b/3"]
    assert len(client.get(address).json()["items"]) == 5


def test_an_upload_in_parts_is_no_object_before_its_end(client: Client) -> None:
    """It answers 308 with what it has, and 200 with the object for the last part."""
    content = bytes(range(256)) * 3000
    address, total = begin(client, "model"), len(content)

    first = send(client, address, content[: 2 * QUANTUM], 0, total)
    asked = send(client, address, b"", 0, "*")
    missing = client.get(f"{API}/b/{BUCKET}/o/model")
    last = send(client, address, content[2 * QUANTUM :], 2 * QUANTUM, total)

    assert (first.status_code, first.headers["Range"]) == (308, f"bytes=0-{2 * QUANTUM - 1}")
    assert (asked.status_code, asked.headers["Range"]) == (308, first.headers["Range"])
    assert missing.status_code == 404
    assert last.status_code == 200
    assert last.json()["metadata"] == {"hash": "sha256:1"}
    assert last.json()["contentType"] == "text/plain"
    assert send(client, address, b"", 0, "*").json() == last.json()
    stored = client.get(f"{API}/b/{BUCKET}/o/model", params={"alt": "media"}).content
    assert hashlib.sha256(stored).digest() == hashlib.sha256(content).digest()


def test_parts_are_whole_quanta(client: Client) -> None:
    """A smaller part is refused; of a larger one the odd bytes are not kept."""
    address = begin(client, "model")

    small = send(client, address, b"x" * 1000, 0, 10**6)
    odd = send(client, address, b"x" * (QUANTUM + 1000), 0, 10**6)
    gap = send(client, address, b"x" * QUANTUM, 2 * QUANTUM, 10**6)

    assert small.status_code == 400
    assert "equal or greater than 262144" in small.json()["error"]["message"]
    assert odd.headers["Range"] == f"bytes=0-{QUANTUM - 1}"
    assert gap.status_code == 400


def test_a_cancelled_upload_leaves_nothing(cloud: Clouds, client: Client) -> None:
    """DELETE answers 499; neither object nor part is left."""
    address = begin(client, "model")
    send(client, address, b"x" * QUANTUM, 0, 10**6)

    assert client.delete(address).status_code == 499
    assert send(client, address, b"", 0, "*").status_code == 404
    assert not any((cloud.world.directory / "uploads").iterdir())


@pytest.mark.parametrize("faults", [frozenset({"upload-breaks-off:1"})])
def test_an_upload_that_breaks_off_can_be_gone_on_with(client: Client) -> None:
    """The fault: a part's connection ends, and half of it has been kept."""
    content = bytes(range(256)) * 4096
    address, total = begin(client, "model"), len(content)

    with pytest.raises(requests.ConnectionError):
        send(client, address, content, 0, total)
    kept = send(client, address, b"", 0, "*").headers["Range"]
    start = int(kept.partition("-")[2]) + 1
    done = send(client, address, content[start:], start, total)

    assert 0 < start < total
    assert done.json()["size"] == str(total)


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("roles/storage.objectUser", {"get", "list", "create", "delete"}),
        ("roles/storage.objectViewer", {"get", "list"}),
        ("roles/storage.objectCreator", {"create"}),
        ("roles/logging.viewer", set[str]()),
    ],
)
def test_a_role_gives_what_it_gives_in_life(cloud: Clouds, role: str, may: set[str]) -> None:
    """Whoever lacks a permission reads which, and for what."""
    (cloud.world.directory / "buckets" / BUCKET).mkdir(parents=True)
    about = {"bucket": BUCKET, "name": "there", "etag": "", "generation": "1", "size": "1"}
    about |= {"md5Hash": "", "contentType": "text/plain"}
    cloud.store.put(buckets.OBJECT, f"b/{BUCKET}/o/there", about)
    (cloud.world.directory / "buckets" / BUCKET / "there").write_text("x")
    with Client(cloud, role).signed(cloud) as client:
        answers = {
            "get": client.get(f"{API}/b/{BUCKET}/o/there?alt=media"),
            "list": client.get(f"{API}/b/{BUCKET}/o"),
            "create": put(client, "new", b"x"),
            "delete": client.delete(f"{API}/b/{BUCKET}/o/there"),
        }

    assert {name for name, answer in answers.items() if answer.ok} == may
    for name in answers.keys() - may:
        error = answers[name].json()["error"]
        assert (answers[name].status_code, error["code"]) == (403, 403)
        assert f"Permission 'storage.objects.{name}' denied" in error["message"]


def test_an_object_is_written_over_only_by_who_may_delete(cloud: Clouds, client: Client) -> None:
    """Replacing takes the old one away."""
    put(client, "there", b"old")
    cloud.forbid("roles/storage.objectUser")
    with Client(cloud, "roles/storage.objectCreator").signed(cloud) as creator:
        refused = put(creator, "there", b"new")

    assert refused.status_code == 403
    assert "storage.objects.delete" in refused.json()["error"]["message"]


def test_strangers_are_told_apart(cloud: Clouds) -> None:
    """No token, a wrong one, and a bucket that there is not."""
    address = f"{API}/b/{BUCKET}/o/x"
    with Client(cloud, None) as client:
        anonymous = client.get(address)
        wrong = client.get(address, headers={"Authorization": "Bearer ya29.x"})
        plain = client.get(f"https://storage.googleapis.com/{BUCKET}/x")
        nowhere = client.signed(cloud).get(f"{API}/b/no-such-bucket/o/x")

    assert anonymous.status_code == 401
    assert "Anonymous caller does not have" in anonymous.json()["error"]["message"]
    assert wrong.json()["error"]["message"] == "Invalid Credentials"
    assert (plain.status_code, "<Code>AccessDenied</Code>" in plain.text) == (401, True)
    assert nowhere.status_code == 404


@pytest.mark.parametrize("name", ["../../ca-key.pem", "/etc/passwd", "a//b", "a/../b", "a/", "."])
def test_a_name_never_leaves_the_buckets_folder(cloud: Clouds, client: Client, name: str) -> None:
    """Names that are no relative paths are refused, with the reason."""
    answer = put(client, name, b"x")

    assert answer.status_code == 400
    assert "keeps objects as files" in answer.json()["error"]["message"]
    assert cloud.store.all(buckets.OBJECT) == {}


def test_what_lies_in_a_bucket_counts_as_left_over(tmp_path: Path) -> None:
    """The audit names buckets and every object in them, once no stack stands."""
    session = Session(tmp_path)
    world = World(session.world)
    world.store.put(buckets.BUCKET, BUCKET, {"name": BUCKET, "project": PROJECT})
    part = tmp_path / "part"
    part.write_bytes(b"x")
    buckets.put(world, BUCKET, "model.safetensors", part, {})
    world.store.close()

    assert audit.leftovers(session) == [
        f"gcp:storage/bucket:Bucket {BUCKET}",
        f"google:storage_object b/{BUCKET}/o/model.safetensors",
    ]
