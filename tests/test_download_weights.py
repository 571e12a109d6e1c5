"""The job that fills a bucket: over real HTTP, from the hub's stand-in into Cloud Storage's."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from rehearsal.google import buckets
from scripts import download_weights
from scripts.download_weights import (
    STATUS,
    File,
    Hub,
    Ollama,
    StagingError,
    choose,
    chunks,
    pause,
    send,
)
from tests.clouds import BUCKET, HUB_TOKEN, Clouds, Seen, clouds

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "download_weights.py"
MODEL = "Qwen/Qwen3-8B"  # four files of weights
SMALL = "Qwen/Qwen3-0.6B"
GATED = "meta-llama/Llama-3.1-8B-Instruct"
HUB, CDN = "huggingface.co", "cas-bridge.xethub.hf.co"
SHARDS = {f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)}
NEEDED = {
    *("chat_template.jinja", "config.json", "generation_config.json", "merges.txt"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json"),
}
HASTY = "from scripts import download_weights as it; it.PAUSE_S = 0; it.CHUNK = 2**18; it.main()"
"""The script without pauses, and with files of two pieces."""


@pytest.fixture
def faults() -> frozenset[str]:
    return frozenset()


@pytest.fixture
def speed() -> float:
    return 1e6


@pytest.fixture
def cloud(tmp_path: Path, faults: frozenset[str], speed: float) -> Generator[Clouds]:
    with clouds(tmp_path, speed, faults) as cloud:
        cloud.allow("roles/storage.objectUser")
        yield cloud


def environment(cloud: Clouds, token: str | None, changes: dict[str, str]) -> dict[str, str]:
    """What the job's container has."""
    path = cloud.world.directory / "hub-token"
    if token:
        path.write_text(token + "\n")
    return {
        **cloud.environment,
        "SOURCE": "hub",
        "MODEL": MODEL,
        "REVISION": "main",
        "HF_ENDPOINT": f"https://{HUB}",
        "HF_TOKEN_PATH": str(path),
        "BUCKET": BUCKET,
        **changes,
    }


def start(cloud: Clouds, token: str | None = None, **changes: str) -> subprocess.Popen[str]:
    """The job, at work."""
    return subprocess.Popen(
        [sys.executable, "-c", HASTY],
        cwd=ROOT,
        env=environment(cloud, token, changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stage(cloud: Clouds, token: str | None = None, **changes: str) -> tuple[int, str]:
    """Exit status and log of the job."""
    with start(cloud, token, **changes) as process:
        log, _ = process.communicate(timeout=60)
    return process.returncode, log


def told(cloud: Clouds) -> dict[str, Any]:
    """What .staging.json says."""
    return json.loads(cloud.objects()[STATUS])


def downloads(cloud: Clouds) -> list[Seen]:
    """Requests for large files, until now."""
    return [it for it in cloud.requests if it.host == CDN]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


# --- What is staged -------------------------------------------------------------------------------


def test_the_bucket_gets_what_an_engine_needs_and_no_duplicates(cloud: Clouds) -> None:
    """The file runs as it is; weights once, no README, and hashes as the hub lists them."""
    done = subprocess.run(
        [sys.executable, SCRIPT],
        env=environment(cloud, None, {}),
        capture_output=True,
        text=True,
        timeout=60,
    )

    objects = cloud.objects()
    assert (done.returncode, done.stderr) == (0, "")
    assert objects.keys() == {STATUS, "model.safetensors.index.json", *SHARDS, *NEEDED}
    for about in cloud.store.all(buckets.OBJECT).values():
        if about["name"] in SHARDS:
            digest = hashlib.sha256(objects[about["name"]]).hexdigest()
            assert about["metadata"] == {"hash": f"sha256:{digest}"}
            assert about["contentType"] == "application/octet-stream"
    status = told(cloud)
    assert status["state"] == "done"
    assert status["files"] == {"done": 12, "total": 12}
    size = sum(len(content) for name, content in objects.items() if name != STATUS)
    assert status["bytes"] == {"done": size, "total": size}
    assert f"commit {status['commit']}: 12 of 12 files, 1.3 of 1.3 MB, verified" in done.stdout


def test_a_staged_commit_is_not_staged_again(cloud: Clouds) -> None:
    """The second run asks which commit it is, and returns."""
    stage(cloud)
    before = len(cloud.requests)

    status, log = stage(cloud)

    assert (status, "is staged already" in log) == (0, True)
    asked = {(it.host, it.method) for it in cloud.requests[before:]}
    assert asked == {("storage.googleapis.com", "GET"), (HUB, "GET")}


def test_another_revision_replaces_what_differs_and_removes_the_rest(cloud: Clouds) -> None:
    """Weights that are the same stay where they are; files of nothing else are left."""
    stage(cloud, MODEL=SMALL)
    stage(cloud, REVISION="v1")
    first, commit, before = cloud.objects(), told(cloud)["commit"], len(downloads(cloud))

    status, log = stage(cloud)

    second = cloud.objects()
    assert status == 0
    assert "model.safetensors" not in first
    assert second.keys() == first.keys()
    assert second["tokenizer_config.json"] != first["tokenizer_config.json"]
    assert told(cloud)["commit"] != commit
    assert downloads(cloud)[before:] == []
    assert "11 of 12 files, 1.3 of 1.3 MB are there already" in log


def test_no_revision_means_the_newest(cloud: Clouds) -> None:
    """What `modelRevision` is by default."""
    stage(cloud, MODEL=SMALL)

    assert "is staged already" in stage(cloud, MODEL=SMALL, REVISION="")[1]


def test_a_commit_is_resolved_before_anything_is_loaded(cloud: Clouds) -> None:
    """A branch that moves meanwhile does not mix two versions: files are asked for by commit."""
    stage(cloud)

    commit = told(cloud)["commit"]
    asked = [it.path for it in cloud.requests if "/resolve/" in it.path]
    assert len(asked) >= 12
    assert all(f"/resolve/{commit}/" in path for path in asked)


# --- What breaks off ------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [frozenset({"hub-breaks-off:2", "hub-busy:2"})])
def test_a_download_that_breaks_off_twice_goes_on_where_it_stopped(cloud: Clouds) -> None:
    """With a Range, and with the right hash in the end."""
    status, log = stage(cloud)

    ranges = [it.headers["Range"] for it in downloads(cloud) if "Range" in it.headers]
    assert (status, told(cloud)["state"]) == (0, "done")
    assert log.count("the connection ended after 163") == 2
    assert len(ranges) == 2
    assert all(int(it.removeprefix("bytes=").rstrip("-")) > 100_000 for it in ranges)
    assert log.count("HTTP 429, trying again") == 2


@pytest.mark.parametrize("faults", [frozenset({"upload-breaks-off:3"})])
def test_an_upload_that_breaks_off_is_gone_on_with(cloud: Clouds) -> None:
    """It asks what has been kept, and sends the rest; nothing is downloaded twice for it."""
    status, log = stage(cloud)

    assert (status, told(cloud)["state"]) == (0, "done")
    assert log.count("going on") == 3
    assert len(downloads(cloud)) == 5  # four files of weights and the tokenizer


@pytest.mark.parametrize("faults", [frozenset({"hub-breaks-off:100"})])
def test_a_hub_that_always_breaks_off_is_given_up(cloud: Clouds) -> None:
    """After some attempts that brought nothing; the error names the file."""
    status, _ = stage(cloud, MODEL=SMALL)

    assert status == 1
    assert told(cloud)["state"] == "failed"
    assert "the connection ended, 8 times in a row" in told(cloud)["error"]
    assert "pulumi up" in told(cloud)["next"]


@pytest.mark.parametrize("speed", [200.0])
def test_a_job_killed_in_the_middle_is_gone_on_with_by_the_next(cloud: Clouds) -> None:
    """What was whole is not loaded again; what was not is no object."""

    def whole() -> set[str]:
        return {name for name in cloud.objects() if name.startswith("model-")}

    large = "Qwen/Qwen3-32B"  # fourteen files of weights, four at once
    for _ in range(2):
        before = whole()
        with start(cloud, MODEL=large) as process:
            wait_until(lambda before=before: whole() > before)
            process.kill()
    there = {hashlib.sha256(cloud.objects()[name]).hexdigest() for name in whole()}
    loaded = len(downloads(cloud))
    assert told(cloud)["state"] == "running"

    status, _ = stage(cloud, MODEL=large)

    again = {it.path.strip("/").partition("?")[0] for it in downloads(cloud)[loaded:]}
    assert (status, told(cloud)["state"]) == (0, "done")
    assert len(whole()) == 14
    assert again
    assert not again & there


@pytest.mark.parametrize("speed", [1.0])
def test_a_job_that_is_stopped_says_so(cloud: Clouds) -> None:
    """Cloud Run sends SIGTERM and waits ten seconds; it ends at once, and the bucket knows."""
    with subprocess.Popen(
        [sys.executable, SCRIPT],
        env=environment(cloud, None, {}),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: bool(downloads(cloud)))
        process.terminate()
        log, _ = process.communicate(timeout=10)

    assert process.returncode == 1
    assert "the job was stopped" in log
    assert (told(cloud)["state"], told(cloud)["error"]) == ("failed", "the job was stopped")
    assert not SHARDS & cloud.objects().keys()


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [frozenset({"hub-wrong-byte:1"})])
def test_a_wrong_byte_is_an_error_that_names_the_file(cloud: Clouds) -> None:
    """The file never exists in the bucket under its name; the next run gets it right."""
    status, log = stage(cloud, MODEL=SMALL)
    error = told(cloud)["error"]
    bad = error.partition(":")[0]

    assert status == 1
    assert bad in {"model.safetensors", "tokenizer.json"}
    assert "its sha256 hash is " in error
    assert f"llm-endpoint error: {error}; next: " in log
    assert bad not in cloud.objects()
    assert [it.path for it in cloud.requests if it.method == "DELETE"]
    assert stage(cloud, MODEL=SMALL)[0] == 0
    assert told(cloud)["state"] == "done"
    assert "error" not in told(cloud)


@pytest.mark.parametrize(
    ("token", "changes", "error", "step"),
    [
        (
            None,
            {"MODEL": GATED},
            f"{GATED} is gated, and there is no Hugging Face token",
            f"accept its licence at https://{HUB}/{GATED}, then pulumi config set --secret"
            " huggingFaceToken",
        ),
        (
            "hf_of_another_world",
            {"MODEL": GATED},
            "Hugging Face does not know the token",
            f"make one at https://{HUB}/settings/tokens, then pulumi config set --secret"
            " huggingFaceToken",
        ),
        (
            None,
            {"MODEL": "nobody/nothing"},
            f"there is no model nobody/nothing at https://{HUB}, or it is private",
            "compare the name; for a private model pulumi config set --secret huggingFaceToken",
        ),
        (
            HUB_TOKEN,
            {"MODEL": "nobody/nothing"},
            f"there is no model nobody/nothing at https://{HUB}, or it is private",
            "compare the name; for a private model pulumi config set --secret huggingFaceToken",
        ),
        (
            None,
            {"REVISION": "no-such-branch"},
            f"{MODEL} has no revision no-such-branch",
            f"pulumi config set modelRevision COMMIT, see https://{HUB}/{MODEL}/commits",
        ),
        (
            None,
            {"SOURCE": "ollama", "MODEL": "no-such-model"},
            "registry.ollama.ai has no model library/no-such-model:latest",
            "see https://ollama.com/library/no-such-model",
        ),
    ],
)
def test_a_model_that_cannot_be_had_is_told_in_a_line_with_the_next_step(
    cloud: Clouds, token: str | None, changes: dict[str, str], error: str, step: str
) -> None:
    """In the log, in the bucket, and without a traceback."""
    status, log = stage(cloud, token, **changes)

    assert (status, told(cloud)["state"]) == (1, "failed")
    assert (told(cloud)["error"], told(cloud)["next"]) == (error, step)
    assert log.splitlines()[-1] == f"llm-endpoint error: {error}; next: {step}"
    assert "Traceback" not in log


@pytest.mark.parametrize("faults", [frozenset({"hub-licence"})])
def test_a_licence_that_was_not_accepted_names_the_page(cloud: Clouds) -> None:
    """The token is right; its owner has to visit the model's page."""
    status, _ = stage(cloud, HUB_TOKEN, MODEL=GATED)

    assert status == 1
    assert "the token's owner has not accepted its licence" in told(cloud)["error"]
    assert told(cloud)["next"] == f"accept it at https://{HUB}/{GATED}, then pulumi up"


def test_the_token_opens_a_gated_model_and_appears_nowhere(cloud: Clouds) -> None:
    """Not in the log, an object, an argument, nor at the hosts to which the hub points."""
    status, log = stage(cloud, HUB_TOKEN, MODEL=GATED)

    assert (status, told(cloud)["state"]) == (0, "done")
    assert HUB_TOKEN not in log
    assert all(HUB_TOKEN.encode() not in content for content in cloud.objects().values())
    assert HUB_TOKEN not in json.dumps(cloud.store.all(buckets.OBJECT))
    holders = {it.host for it in cloud.requests if HUB_TOKEN in str(it)}
    assert holders == {HUB}
    assert not any("Authorization" in it.headers for it in downloads(cloud))
    assert HUB_TOKEN not in repr(Hub("e", "m", "r", HUB_TOKEN))


def test_a_role_that_is_on_its_way_is_waited_for(cloud: Clouds) -> None:
    """A grant takes minutes to reach Cloud Storage; the job does not fail for it."""
    cloud.forbid("roles/storage.objectUser")
    with start(cloud, MODEL=SMALL) as process:
        wait_until(lambda: bool(cloud.requests))
        cloud.allow("roles/storage.objectUser")
        log, _ = process.communicate(timeout=30)

    assert process.returncode == 0
    assert "HTTP 403; a new role takes a moment, trying again" in log


def test_a_bucket_that_is_not_there_is_named(cloud: Clouds) -> None:
    """Nothing can be told in it, so the log has to do."""
    status, log = stage(cloud, BUCKET="no-such-bucket")

    assert status == 1
    assert "Cloud Storage refuses the bucket no-such-bucket: HTTP 404; next: pulumi up" in log
    assert "Traceback" not in log


# --- Ollama ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("qwen3:8b", "registry.ollama.ai/library/qwen3/8b"),
        ("llama3.2", "registry.ollama.ai/library/llama3.2/latest"),
        ("hf.co/Qwen/Qwen3-4B-GGUF:Q8_0", "hf.co/Qwen/Qwen3-4B-GGUF/Q8_0"),
    ],
)
def test_ollamas_store_is_laid_out_as_ollama_keeps_it(cloud: Clouds, model: str, path: str) -> None:
    """The manifest as it was served, and beside it every blob that it lists, by its digest."""
    status, _ = stage(cloud, SOURCE="ollama", MODEL=model)

    objects = cloud.objects()
    raw = objects.pop(f"manifests/{path}")
    manifest = json.loads(raw)
    listed = {it["digest"].replace(":", "-") for it in (*manifest["layers"], manifest["config"])}
    assert (status, told(cloud)["commit"]) == (0, hashlib.sha256(raw).hexdigest())
    assert objects.keys() == {STATUS, *(f"blobs/{it}" for it in listed)}
    for name in listed:
        digest = hashlib.sha256(objects[f"blobs/{name}"]).hexdigest()
        assert name == f"sha256-{digest}"


@pytest.mark.parametrize("faults", [frozenset({"hub-wrong-byte"})])
def test_no_manifest_lists_a_blob_that_is_not_there(cloud: Clouds) -> None:
    """Ollama would take the model for complete."""
    status, _ = stage(cloud, SOURCE="ollama", MODEL="qwen3:8b")

    assert status == 1
    assert not any(name.startswith("manifests/") for name in cloud.objects())


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("m", ("registry.ollama.ai", "library", "m", "latest")),
        ("m:1b", ("registry.ollama.ai", "library", "m", "1b")),
        ("me/m:1b", ("registry.ollama.ai", "me", "m", "1b")),
        ("h/me/m", ("h", "me", "m", "latest")),
        ("localhost:5000/me/m", ("localhost:5000", "me", "m", "latest")),
    ],
)
def test_ollamas_names_are_filled_in_as_ollama_does(model: str, parts: tuple[str, ...]) -> None:
    """types/model/name.go."""
    assert Ollama(model).name == parts


# --- The parts ------------------------------------------------------------------------------------

TOKENIZER = ["config.json", "tokenizer.json"]


@pytest.mark.parametrize(
    ("paths", "index", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5"], [], ["model.safetensors"]),
        (
            ["consolidated.safetensors", "model-1.safetensors", "model.safetensors.index.json"],
            ["model-1.safetensors"],
            ["model-1.safetensors", "model.safetensors.index.json"],
        ),
        (
            ["consolidated-1.safetensors", "consolidated.safetensors.index.json", "params.json"],
            ["consolidated-1.safetensors"],
            [
                "consolidated-1.safetensors",
                "consolidated.safetensors.index.json",
                "params.json",
            ],
        ),
        (["odd-name.safetensors", "pytorch_model.bin"], [], ["odd-name.safetensors"]),
        (
            ["pytorch_model-1.bin", "pytorch_model.bin.index.json", "training_args.bin"],
            ["pytorch_model-1.bin"],
            ["pytorch_model-1.bin", "pytorch_model.bin.index.json"],
        ),
        (
            ["model.safetensors", "pytorch_model.bin.index.json", "model-Q4.gguf", "LICENSE"],
            [],
            ["model.safetensors"],
        ),
        (
            ["model.safetensors", "original/model.safetensors", "metal/model.bin", "a/b.json"],
            [],
            ["model.safetensors"],
        ),
        (
            [
                "model.safetensors",
                "1_Pooling/config.json",
                "modules.json",
                "2_Dense/model.safetensors",
            ],
            [],
            ["1_Pooling/config.json", "model.safetensors", "modules.json"],
        ),
        (
            ["model.safetensors", "tokenizer.model", "merges.txt", "modeling_x.py", "README.md"],
            [],
            ["merges.txt", "model.safetensors", "modeling_x.py", "tokenizer.model"],
        ),
    ],
)
def test_one_set_of_weights_is_chosen(
    paths: list[str], index: list[str], chosen: list[str]
) -> None:
    """vLLM's streamer loads every .safetensors file of a bucket: a duplicate would break it."""
    assert choose([*paths, *TOKENIZER], lambda _: index) == sorted([*chosen, *TOKENIZER])


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["model-Q4.gguf", "config.json"], "no weights that vLLM loads"),
        (["original/model.safetensors"], "no weights that vLLM loads"),
        (["model.safetensors.index.json"], "lists gone.safetensors, which is not there"),
    ],
)
def test_a_repository_without_weights_is_refused(paths: list[str], said: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(StagingError, match=said):
        choose(paths, lambda _: ["gone.safetensors"])


class Server(ThreadingHTTPServer):
    """Answers with what `answers` says of a path: status, headers, body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        self.tokens: dict[str, str | None] = {}
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.tokens[self.path] = self.headers["Authorization"]
        status, headers, body = self.server.answers[self.path].pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_token_follows_a_redirect_on_its_own_host_only() -> None:
    """A renamed repository is on the same host; signed links lead elsewhere."""
    with Server() as here, Server() as there:
        here.answers["/old"] = [(307, {"Location": "/new"}, b"")]
        here.answers["/new"] = [(302, {"Location": f"{there.url}/bytes"}, b"")]
        there.answers["/bytes"] = [(200, {}, b"x")]

        with send("GET", f"{here.url}/old", {"Authorization": "Bearer t"}) as answer:
            assert answer.read() == b"x"

    assert here.tokens == {"/old": "Bearer t", "/new": "Bearer t"}
    assert there.tokens == {"/bytes": None}


def test_a_host_that_knows_no_ranges_is_read_from_the_start_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was there already is passed over."""
    monkeypatch.setattr(download_weights, "PAUSE_S", 0)
    content = bytes(range(256)) * 10
    length = {"Content-Length": str(len(content))}
    with Server() as server:
        server.answers["/f"] = [(200, length, content[:1000]), (200, length, content)]
        file = File("f", f"{server.url}/f", len(content), "sha256:0")

        assert b"".join(chunks(Ollama("m"), file)) == content


def test_an_empty_file_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """One piece of no bytes, and no request."""
    assert list(chunks(Ollama("m"), File("f", "http://127.0.0.1:1/", 0, "sha256:0"))) == [b""]


def test_it_can_be_passed_as_text() -> None:
    """Cloud Run takes at most 32768 characters as the value of a variable."""
    assert len(SCRIPT.read_text()) < 32768


@pytest.mark.parametrize(
    ("headers", "attempt", "seconds"),
    [
        ({}, 0, 0.5),
        ({}, 3, 4),
        ({}, 99, 60),
        ({"Retry-After": "7"}, 0, 7),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 0, 55),
        ({"RateLimit": '"resolvers";r=0;t=280'}, 0, 60),
        ({"RateLimit": '"resolvers";r=5;t=280'}, 0, 0.5),
    ],
)
def test_it_waits_longer_each_time_or_as_long_as_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], attempt: int, seconds: float
) -> None:
    """Within a minute; the hub asks in its own way."""
    slept: list[float] = []
    monkeypatch.setattr(download_weights.time, "sleep", slept.append)
    message = Message()
    for name, value in headers.items():
        message[name] = value

    with HTTPError("https://h/", 429, "Too Many Requests", message, None) as error:
        pause(attempt, error)

    assert slept == [seconds]
