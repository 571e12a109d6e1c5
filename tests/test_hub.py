"""Where models come from, over real HTTP: repositories, hashes that fit, and what goes wrong."""

import hashlib
import json
import struct
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import requests

from rehearsal.hub import site
from tests.clouds import HUB_TOKEN, Clouds, clouds

HUB = "https://huggingface.co"
MODEL = "Qwen/Qwen3-8B"  # four files of weights
SMALL = "Qwen/Qwen3-0.6B"
GATED = "meta-llama/Llama-3.1-8B-Instruct"
WEIGHTS = f"{HUB}/{MODEL}/resolve/main/model-00001-of-00004.safetensors"


@pytest.fixture
def faults() -> frozenset[str]:
    return frozenset()


@pytest.fixture
def cloud(tmp_path: Path, faults: frozenset[str]) -> Generator[Clouds]:
    with clouds(tmp_path, faults=faults) as cloud:
        yield cloud


@pytest.fixture
def client(cloud: Clouds) -> Generator[requests.Session]:
    with requests.Session() as client:
        client.trust_env = False
        client.headers["Connection"] = "close"
        client.proxies = {"https": cloud.environment["HTTPS_PROXY"]}
        client.verify = cloud.environment["REQUESTS_CA_BUNDLE"]
        yield client


def tree(client: requests.Session, model: str, revision: str = "main") -> dict[str, Any]:
    """Files of a repository by path, all pages."""
    url, files = f"{HUB}/api/models/{model}/tree/{revision}?recursive=true", dict[str, Any]()
    while url:
        answer = client.get(url)
        files |= {it["path"]: it for it in answer.json() if it["type"] == "file"}
        url = answer.links.get("next", {}).get("url", "")
    return files


def test_every_file_is_what_the_listing_says(client: requests.Session) -> None:
    """Size and hash of the bytes: git's for small files, SHA-256 for large ones."""
    commit = client.get(f"{HUB}/api/models/{MODEL}/revision/main").json()["sha"]
    files = tree(client, MODEL, commit)

    for path, about in files.items():
        answer = client.get(f"{HUB}/{MODEL}/resolve/{commit}/{path}")
        content = answer.content
        assert len(content) == about["size"]
        if "lfs" in about:
            assert hashlib.sha256(content).hexdigest() == about["lfs"]["oid"]
            assert [it.status_code for it in answer.history] == [302]
            linked = answer.history[0].headers
            assert linked["X-Linked-Etag"] == f'"{about["lfs"]["oid"]}"'
            assert linked["X-Repo-Commit"] == commit
        else:
            named = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324
            assert named == about["oid"]
            assert answer.headers["X-Repo-Commit"] == commit


def test_weights_are_whole_files_of_their_format(client: requests.Session) -> None:
    """The index names every file, and each holds the tensors that its head lists."""
    index = client.get(f"{HUB}/{MODEL}/resolve/main/model.safetensors.index.json").json()
    files = sorted(set(index["weight_map"].values()))
    content = client.get(f"{HUB}/{MODEL}/resolve/main/{files[0]}").content
    (length,) = struct.unpack("<Q", content[:8])
    head = json.loads(content[8 : 8 + length])

    assert files == [f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    assert index["metadata"]["total_size"] == pytest.approx(16.4e9, rel=0.01)
    for name, tensor in head.items():
        assert index["weight_map"][name] == files[0]
        assert tensor["data_offsets"][1] == len(content) - 8 - length


def test_a_small_model_has_one_file_and_no_index(client: requests.Session) -> None:
    """As the hub's libraries write it."""
    files = tree(client, SMALL)

    assert "model.safetensors" in files
    assert "model.safetensors.index.json" not in files


def test_a_long_listing_comes_in_pages(
    client: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows the links sees every file."""
    whole = tree(client, MODEL)
    monkeypatch.setattr(site, "PAGE", 3)

    assert tree(client, MODEL) == whole


def test_a_download_goes_on_where_it_stopped(client: requests.Session) -> None:
    """Large files come in ranges, small ones only whole."""
    whole = client.get(WEIGHTS).content

    rest = client.get(WEIGHTS, headers={"Range": "bytes=1000-"})
    beyond = client.get(WEIGHTS, headers={"Range": f"bytes={len(whole)}-"})

    assert (rest.status_code, rest.content) == (206, whole[1000:])
    assert rest.headers["Content-Range"] == f"bytes 1000-{len(whole) - 1}/{len(whole)}"
    assert beyond.status_code == 416


def test_the_hosts_of_large_files_want_a_signed_link_and_no_token(client: requests.Session) -> None:
    """A token that follows the redirect is refused, and so is a link of one's own."""
    link = client.get(WEIGHTS, allow_redirects=False).headers["Location"]

    assert client.get(link).status_code == 200
    assert client.get(link, headers={"Authorization": f"Bearer {HUB_TOKEN}"}).status_code == 400
    assert client.get(link.partition("?")[0]).status_code == 403


@pytest.mark.parametrize(
    ("path", "token", "status", "code"),
    [
        (f"{GATED}/resolve/main/config.json", None, 401, "GatedRepo"),
        (f"{GATED}/resolve/main/config.json", "hf_wrong", 401, None),
        (f"{GATED}/resolve/main/config.json", HUB_TOKEN, 200, None),
        (f"api/models/{GATED}", None, 200, None),
        (f"api/models/{GATED}/tree/main", None, 200, None),
        ("api/models/nobody/nothing", None, 401, "RepoNotFound"),
        ("api/models/nobody/nothing", HUB_TOKEN, 404, "RepoNotFound"),
        (f"api/models/{MODEL}/revision/no-such-branch", None, 404, "RevisionNotFound"),
        (f"api/models/{MODEL}/revision/{'a' * 40}", None, 200, None),
        (f"{MODEL}/resolve/main/no-such-file", None, 404, "EntryNotFound"),
    ],
)
def test_refusals_are_the_hubs(
    client: requests.Session, path: str, token: str | None, status: int, code: str | None
) -> None:
    """Status and X-Error-Code tell what is wrong; names of gated files are no secret."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    answer = client.get(f"{HUB}/{path}", headers=headers)

    assert (answer.status_code, answer.headers.get("X-Error-Code")) == (status, code)


@pytest.mark.parametrize("faults", [frozenset({"hub-licence"})])
def test_a_licence_that_was_not_accepted_is_a_403(client: requests.Session) -> None:
    """The fault: the token is right, its owner has not agreed to the terms."""
    url = f"{HUB}/{GATED}/resolve/main/config.json"

    answer = client.get(url, headers={"Authorization": f"Bearer {HUB_TOKEN}"})

    assert (answer.status_code, answer.headers["X-Error-Code"]) == (403, "GatedRepo")
    assert f"Visit {HUB}/{GATED} to ask for access." in answer.json()["error"]


@pytest.mark.parametrize("faults", [frozenset({"hub-breaks-off:1", "hub-busy:1"})])
def test_a_download_may_break_off(client: requests.Session) -> None:
    """The faults: a request too many, then half of a file; all is well the time after."""
    busy = client.get(WEIGHTS)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        client.get(WEIGHTS)

    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "1")
    assert client.get(WEIGHTS).status_code == 200


@pytest.mark.parametrize("faults", [frozenset({"hub-wrong-byte:1"})])
def test_a_byte_may_be_wrong(client: requests.Session) -> None:
    """The fault: the size is right, and the hash is not."""
    wrong, right = client.get(WEIGHTS).content, client.get(WEIGHTS).content

    assert len(wrong) == len(right)
    assert sum(a != b for a, b in zip(wrong, right, strict=True)) == 1


def test_a_model_takes_as_long_as_it_would_in_life(tmp_path: Path) -> None:
    """4.1 GB a file, 5 s a GB, a hundred times as fast; few bytes as there are."""
    with clouds(tmp_path, speed=100) as cloud, requests.Session() as client:
        client.trust_env = False
        client.headers["Connection"] = "close"
        client.proxies = {"https": cloud.environment["HTTPS_PROXY"]}
        client.verify = cloud.environment["REQUESTS_CA_BUNDLE"]
        start = time.monotonic()
        client.get(WEIGHTS)

        assert time.monotonic() - start >= 4.1 * 5 / 100


@pytest.mark.parametrize(
    ("host", "name", "tag", "size"),
    [
        ("registry.ollama.ai", "library/qwen3", "8b", "8B"),
        ("registry.ollama.ai", "library/llama3.2", "latest", "3B"),
        ("hf.co", "Qwen/Qwen3-4B-GGUF", "Q8_0", "4B"),
    ],
)
def test_ollamas_models_are_blobs_with_digests(
    client: requests.Session, host: str, name: str, tag: str, size: str
) -> None:
    """A manifest that Ollama understands; every layer is somewhere else, whole and in parts."""
    manifest = client.get(f"https://{host}/v2/{name}/manifests/{tag}").json()
    contents = dict[str, bytes]()
    for layer in [*manifest["layers"], manifest["config"]]:
        address = f"https://{host}/v2/{name}/blobs/{layer['digest']}"
        answer = client.get(address)
        part = client.get(address, headers={"Range": "bytes=1-"})
        assert [it.status_code for it in answer.history] == [307]
        assert f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == layer["digest"]
        assert len(answer.content) == layer["size"]
        assert (part.status_code, part.content) == (206, answer.content[1:])
        contents[layer["mediaType"]] = answer.content

    config = json.loads(contents[manifest["config"]["mediaType"]])
    assert config["model_type"] == size
    assert contents["application/vnd.ollama.image.model"].startswith(b"GGUF")


@pytest.mark.parametrize(
    "path",
    [
        "registry.ollama.ai/v2/library/no-such-model/manifests/latest",
        "registry.ollama.ai/v2/library/qwen3/manifests/huge",
        "hf.co/v2/nobody/nothing/manifests/latest",
        "registry.ollama.ai/v2/library/qwen3/blobs/sha256:00",
    ],
)
def test_what_ollamas_registries_do_not_have_is_a_404(client: requests.Session, path: str) -> None:
    """With the registry's own word."""
    answer = client.get(f"https://{path}")

    assert answer.status_code == 404
    assert answer.json()["errors"][0]["code"] == "MANIFEST_UNKNOWN"
