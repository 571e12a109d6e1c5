"""Fill a bucket with a model's files; runs in a Cloud Run job, before any GPU is paid for.

It has Python's standard library and nothing else, no disk, and the job's own identity. A file goes
as a stream from where it comes from into the bucket, and appears there only when its hash is right.
What is there already is left alone, so that another run goes on where one has ended.

Environment:
  SOURCE             hub (Hugging Face, or a mirror), or ollama (registry.ollama.ai, hf.co)
  MODEL              organisation/name, or Ollama's name
  REVISION           for the hub: commit, tag or branch; empty for the newest
  HF_ENDPOINT        for the hub: its address
  BUCKET             its root becomes the model's folder, or Ollama's store
  HF_TOKEN_PATH      file with the hub's token, if there is one; TOKEN_PATH unless it is set
  GCE_METADATA_HOST  the metadata server, where it is not Google's

`.staging.json` in the bucket tells how it stands: `state` (running, done, failed), the job's
`execution`, `commit`, `files` and `bytes` (`done`, `total`), `error`, `next`.

Exits 1 when it failed.
"""

import hashlib
import http.client
import itertools
import json
import os
import queue
import re
import signal
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urljoin, urlsplit

STATUS = ".staging.json"
TOKEN_PATH = "/run/secrets/hugging-face-token"  # noqa: S105 no token
STORAGE = "https://storage.googleapis.com"
BYTES = "application/octet-stream"
CHUNK = 32 * 2**20
"""Bytes of each file in memory. Cloud Storage takes multiples of 256 KiB."""
AT_ONCE = 4
"""Files."""
TIMEOUT_S = 60.0
ATTEMPTS = 8
"""So often something is tried that brings nothing: over a good minute."""
PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
ROLE_PATIENCE_S = 300.0
"""A role granted a moment ago has not reached every service."""
REPORT_S = 5.0
RETRIED = (None, 408, 429, 500, 502, 503, 504)
"""HTTP statuses, and None where no answer came."""
NETWORK = (OSError, http.client.HTTPException)
"""What goes wrong between machines; HTTPError, an answer of 4xx or 5xx, is an OSError."""

Answer = tuple[http.client.HTTPMessage, bytes]
T = TypeVar("T")


class StagingError(Exception):
    """It cannot go on; the message says why, `next_step` what a person can do."""

    def __init__(self, message: str, next_step: str = "pulumi up, which goes on from here") -> None:
        super().__init__(message)
        self.next_step = next_step


class File(NamedTuple):
    """A file to be staged; `name` is the one in the bucket."""

    name: str
    url: str
    size: int
    digest: str
    """`sha256:HEX`, or `git:HEX`, the SHA-1 of git's header and the content."""


class Plan(NamedTuple):
    """What the bucket shall hold; `last` is written when all files are there."""

    commit: str
    files: list[File]
    last: dict[str, bytes]


# --- HTTP -----------------------------------------------------------------------------------------


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and gives the token to no other host: signed links refuse it."""

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
    ) -> Any:
        """The request that follows, or None."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            following.remove_header("Authorization")
        return following


OPENER = urllib.request.build_opener(Redirects)


def send(
    method: str, url: str, headers: dict[str, str], body: bytes | None = None
) -> http.client.HTTPResponse:
    """One request. HTTPError for 4xx, 5xx, and 3xx that lead nowhere."""
    request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310 no file
    return OPENER.open(request, timeout=TIMEOUT_S)


def status(error: Exception) -> int | None:
    """The HTTP status of an error, None where there was no answer."""
    return error.code if isinstance(error, urllib.error.HTTPError) else None


def reason(error: Exception) -> str:
    """An error in a few words; never an address, which may be a signed link."""
    return f"HTTP {status(error)}" if status(error) else f"{getattr(error, 'reason', error)!s}"


def pause(attempt: int, error: Exception) -> None:
    """Wait before the next attempt, longer each time, or for as long as the server asks."""
    seconds = PAUSE_S * 2 ** min(attempt, 10)
    if isinstance(error, urllib.error.HTTPError):
        # The hub: `RateLimit: "resolvers";r=0;t=55`
        asked = f"{error.headers['Retry-After']} {error.headers['RateLimit']}"
        if found := re.search(r"^(\d+) |;r=0;t=(\d+)", asked):
            seconds = float(found[1] or found[2])
    time.sleep(min(seconds, LONGEST_PAUSE_S))


def patiently(what: str, attempt: Callable[[], T]) -> T:
    """The result of `attempt`, tried again while the network or a server fails."""
    for count in itertools.count():
        try:
            return attempt()
        except NETWORK as error:
            if status(error) not in RETRIED:
                raise
            if count == ATTEMPTS:
                raise StagingError(f"{what}: {reason(error)}, {count} times in a row") from None
            say(f"{what}: {reason(error)}, trying again")
            pause(count, error)
    raise AssertionError


def fetch(source: "Source", url: str) -> Answer:
    """A small file of a source's. StagingError when it is refused."""

    def once() -> Answer:
        with send("GET", url, source.headers) as answer:
            return answer.headers, answer.read()

    try:
        return patiently(urlsplit(url).netloc, once)
    except urllib.error.HTTPError as error:
        raise source.refusal(error.code, error.headers.get("X-Error-Code", "")) from None


def say(line: str) -> None:
    """A line in the log, at once."""
    print(line, flush=True)


# --- Cloud Storage (https://cloud.google.com/storage/docs/performing-resumable-uploads) -----------


class Bucket:
    """A bucket, by the JSON API."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._objects = f"{STORAGE}/storage/v1/b/{name}/o"
        self._uploads = f"{STORAGE}/upload/storage/v1/b/{name}/o?uploadType="

    def contents(self) -> dict[str, dict[str, Any]]:
        """What is there: descriptions by name."""
        found: dict[str, dict[str, Any]] = {}
        page = ""
        while True:
            answer = json.loads(
                self._call("GET", f"{self._objects}?pageToken={quote(page, '')}")[1]
            )
            found |= {it["name"]: it for it in answer.get("items", ())}
            page = answer.get("nextPageToken", "")
            if not page:
                return found

    def read(self, name: str) -> bytes | None:
        """An object's content, None when there is none."""
        try:
            return self._call("GET", f"{self._objects}/{quote(name, '')}?alt=media")[1]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a small object."""
        headers = {"Content-Type": "application/json"}
        self._call("POST", f"{self._uploads}media&name={quote(name, '')}", headers, content)

    def delete(self, name: str) -> None:
        """Delete an object."""
        self._call("DELETE", f"{self._objects}/{quote(name, '')}")

    def begin(self, file: File) -> str:
        """The address of a new upload, which is all that one needs to go on with it."""
        about = json.dumps({"name": file.name, "metadata": {"hash": file.digest}}).encode()
        headers = {
            "Content-Type": "application/json",
            "X-Upload-Content-Type": BYTES,
            "X-Upload-Content-Length": str(file.size),
        }
        return self._call("POST", f"{self._uploads}resumable", headers, about)[0]["Location"]

    def put(self, address: str, chunk: bytes, start: int, total: int) -> None:
        """Store a part of an upload; what has not arrived is sent again."""
        kept, end, failures = start, start + len(chunk), 0
        while True:
            before = kept
            try:
                kept = stored(address, chunk[kept - start :], kept, total)
            except NETWORK as error:
                if status(error) not in RETRIED:
                    raise
                say(f"upload: {reason(error)}, going on")
                pause(failures, error)
                kept = patiently("upload", lambda: stored(address, b"", None, total))
            if kept >= end:
                return
            failures = 0 if kept > before else failures + 1
            if failures == ATTEMPTS or kept < start:
                raise StagingError(f"Cloud Storage has {kept} of {end} bytes and takes no more")

    def _call(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Headers and body of an answer, also while the job's role is on its way."""
        deadline = time.monotonic() + ROLE_PATIENCE_S

        def once() -> Answer:
            signed = {"Authorization": f"Bearer {machine_token()}"} | (headers or {})
            with send(method, url, signed, body) as answer:
                return answer.headers, answer.read()

        for count in itertools.count():
            try:
                return patiently("Cloud Storage", once)
            except urllib.error.HTTPError as error:
                if error.code != 403 or time.monotonic() > deadline:
                    raise
                say("Cloud Storage: HTTP 403; a new role takes a moment, trying again")
                pause(count, error)
        raise AssertionError


def stored(address: str, content: bytes, start: int | None, total: int) -> int:
    """How many bytes of an upload are kept after a PUT; without a `start` it only asks."""
    span = "*" if start is None else f"{start}-{start + len(content) - 1}"
    whole = start == 0 and len(content) == total
    try:
        headers = {} if whole else {"Content-Range": f"bytes {span}/{total}"}
        send("PUT", address, {"Content-Type": BYTES} | headers, content).close()
    except urllib.error.HTTPError as error:
        if error.code != 308:
            raise
        kept = re.fullmatch(r"bytes=0-(\d+)", error.headers.get("Range", ""))
        return int(kept[1]) + 1 if kept else 0
    return total


def machine_token() -> str:
    """An access token of the job's identity; the metadata server keeps it until it expires."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
    with send("GET", url, {"Metadata-Flavor": "Google"}) as answer:
        return json.load(answer)["access_token"]


# --- Hugging Face ---------------------------------------------------------------------------------

NEEDED = re.compile(
    r"[^/]+\.(json|jinja|model|py|tiktoken|txt|vocab)"
    # More templates, and the pooling of models that make embeddings.
    r"|additional_chat_templates/[^/]+\.jinja|\d+_\w+/config\.json"
)
"""What engines read beside the weights: configuration, tokenizer, templates, code."""
INDEX = ".index.json"
WEIGHTS = ("model.safetensors", "consolidated.safetensors", "*.safetensors", "pytorch_model.bin")
"""Names of weights, in the order in which engines want them; what comes later is a duplicate."""


@dataclass(frozen=True)
class Hub:
    """A model on Hugging Face, or on a mirror of it."""

    endpoint: str
    model: str
    revision: str
    token: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries: the token, if there is one."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def about(self) -> str:
        """The address whose answer tells which commit the revision means now."""
        return f"{self.endpoint}/api/models/{self.model}/revision/{quote(self.revision, '')}"

    def commit(self, answer: bytes) -> str:
        """The commit, of such an answer."""
        return json.loads(answer)["sha"]

    def sample(self, commit: str) -> str:
        """A small file that most models have; who may not have the others is refused it, too."""
        return f"{self.endpoint}/{self.model}/resolve/{commit}/config.json"

    def plan(self) -> Plan:
        """What of the repository an engine needs, at the commit that the revision means now."""
        commit = self.commit(fetch(self, self.about)[1])
        here = f"{self.endpoint}/{self.model}/resolve/{commit}/"
        listed: dict[str, dict[str, Any]] = {}
        url = f"{self.endpoint}/api/models/{self.model}/tree/{commit}?recursive=true"
        while url:
            headers, raw = fetch(self, url)
            listed |= {it["path"]: it for it in json.loads(raw) if it["type"] == "file"}
            following = re.search(r'<([^>]+)>; rel="next"', headers.get("Link", ""))
            url = urljoin(url, following[1]) if following else ""

        def weights_of(index: str) -> Iterable[str]:
            return json.loads(fetch(self, here + quote(index))[1])["weight_map"].values()

        files = [
            File(path, here + quote(path), listed[path]["size"], digest_of(listed[path]))
            for path in choose(listed, weights_of)
        ]
        return Plan(commit, files, {})

    def refusal(self, status: int, code: str) -> StagingError:
        """What an answer of 4xx means, for who wants to go on; `code` is its X-Error-Code."""
        page = f"{self.endpoint}/{self.model}"
        token = "pulumi config set --secret huggingFaceToken"  # noqa: S105 no token
        if code == "GatedRepo" and self.token:
            text = f"{self.model} is gated, and the token's owner has not accepted its licence"
            return StagingError(text, f"accept it at {page}, then pulumi up")
        if code == "GatedRepo":
            text = f"{self.model} is gated, and there is no Hugging Face token"
            return StagingError(text, f"accept its licence at {page}, then {token}")
        if code == "RevisionNotFound":
            text = f"{self.model} has no revision {self.revision}"
            return StagingError(text, f"pulumi config set modelRevision COMMIT, see {page}/commits")
        if status == 401 and self.token and code != "RepoNotFound":
            text = "Hugging Face does not know the token"
            return StagingError(text, f"make one at {self.endpoint}/settings/tokens, then {token}")
        if status in (401, 404):
            text = f"there is no model {self.model} at {self.endpoint}, or it is private"
            return StagingError(text, f"compare the name; for a private model {token}")
        text = f"{self.endpoint} refuses {self.model} (HTTP {status} {code})".replace(" )", ")")
        return StagingError(text, f"see {page} with the token's account")


def digest_of(entry: dict[str, Any]) -> str:
    """The hash in an entry of the listing: of the file where it is a large one, else git's."""
    return f"sha256:{entry['lfs']['oid']}" if entry.get("lfs") else f"git:{entry['oid']}"


def choose(paths: Iterable[str], weights_of: Callable[[str], Iterable[str]]) -> list[str]:
    """Those files of a repository that an engine needs, in order.

    Weights are one set: the files that an index lists, or those of one name. None lie in folders.
    StagingError where there are none, or where one is missing.
    """
    here, weights = set(paths), set[str]()
    for name in WEIGHTS:
        if weights:
            break
        weights = {it for it in here if fnmatchcase(it, name) and "/" not in it}
        if name + INDEX in here:
            weights = {name + INDEX, *weights_of(name + INDEX)}
    if not weights:
        text = "the repository has no weights that vLLM loads: neither .safetensors nor .bin"
        raise StagingError(text, "set another model; for .gguf files engine ollama")
    if weights - here:
        text = f"the repository's index lists {min(weights - here)}, which is not there"
        raise StagingError(text, "set another model, or another modelRevision")
    return sorted(weights | {it for it in here if NEEDED.fullmatch(it) and not it.endswith(INDEX)})


# --- Ollama ---------------------------------------------------------------------------------------

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class Ollama:
    """A model by Ollama's name, in the layout of its store (its manifest/paths.go)."""

    model: str

    @property
    def headers(self) -> dict[str, str]:
        """What its registry wants to be asked."""
        return {"Accept": MANIFEST}

    @property
    def name(self) -> tuple[str, str, str, str]:
        """Host, namespace, model and tag, as types/model/name.go parses them."""
        rest, colon, tag = self.model.rpartition(":")
        if not colon or "/" in tag:
            rest, tag = self.model, "latest"
        parts = rest.rsplit("/", 2)
        host, namespace, model = ["registry.ollama.ai", "library"][: 3 - len(parts)] + parts
        return host, namespace, model, tag

    @property
    def about(self) -> str:
        """The manifest."""
        host, namespace, model, tag = self.name
        return f"https://{host}/v2/{namespace}/{model}/manifests/{tag}"

    def commit(self, answer: bytes) -> str:
        """The manifest's digest, which Ollama shows as the model's id."""
        return hashlib.sha256(answer).hexdigest()

    def sample(self, commit: str) -> str:
        """The manifest: there are open models only."""
        return self.about

    def plan(self) -> Plan:
        """Its blobs, and in the end the manifest that lists them."""
        raw = fetch(self, self.about)[1]
        manifest = json.loads(raw)
        base = self.about.rpartition("/manifests/")[0]
        files = {
            it["digest"]: File(
                f"blobs/{it['digest'].replace(':', '-')}",
                f"{base}/blobs/{it['digest']}",
                it["size"],
                it["digest"],
            )
            for it in (*manifest["layers"], manifest["config"])
        }
        path = "/".join(("manifests", *self.name))
        return Plan(self.commit(raw), [*files.values()], {path: raw})

    def refusal(self, status: int, code: str) -> StagingError:
        """What an answer of 4xx means, for who wants to go on."""
        host, namespace, model, tag = self.name
        page = f"https://{host}/{namespace}/{model}"
        if host == "registry.ollama.ai":
            page = f"https://ollama.com/{namespace}/{model}"
        if status == 404:
            return StagingError(f"{host} has no model {namespace}/{model}:{tag}", f"see {page}")
        text = f"{host} refuses {namespace}/{model} (HTTP {status}): it has open models only"
        return StagingError(text, f"see {page}")


Source = Hub | Ollama

# --- Staging --------------------------------------------------------------------------------------


def amount(files: Mapping[str, int], size: Mapping[str, int]) -> str:
    """How much is there, for people."""
    unit, name = (1e9, "GB") if size["total"] >= 1e9 else (1e6, "MB")
    told = f"{size['done'] / unit:.1f} of {size['total'] / unit:.1f} {name}"
    return f"{files['done']} of {files['total']} files, {told}"


class Count:
    """How much of a plan is in the bucket; several threads count."""

    def __init__(self, plan: Plan) -> None:
        sizes = [*(it.size for it in plan.files), *map(len, plan.last.values())]
        self.files = {"done": 0, "total": len(sizes)}
        self.bytes = {"done": 0, "total": sum(sizes)}
        self._lock = threading.Lock()

    def add(self, size: int, *, whole: bool) -> None:
        """So many bytes more; whether a file is `whole` with them."""
        with self._lock:
            self.bytes["done"] += size
            self.files["done"] += whole

    def __str__(self) -> str:
        return amount(self.files, self.bytes)


def chunks(source: Source, file: File) -> Iterator[bytes]:
    """A file in pieces of CHUNK bytes, the last one shorter; goes on where a connection ended."""
    piece, position, failures = bytearray(), 0, 0
    while position < file.size:
        before = position
        try:
            with download(source, file, position) as answer:
                while data := answer.read1(min(CHUNK - len(piece), file.size - position)):
                    piece += data
                    position += len(data)
                    if len(piece) == CHUNK and position < file.size:
                        yield bytes(piece)
                        piece.clear()
            if position < file.size:
                raise ConnectionError("the connection ended")
        except NETWORK as error:
            failures = 1 if position > before else failures + 1
            if failures == ATTEMPTS:
                raise StagingError(
                    f"{file.name}: {reason(error)}, {failures} times in a row"
                ) from None
            say(f"{file.name}: {reason(error)} after {position} bytes, going on")
            pause(failures - 1, error)
    yield bytes(piece)


def download(source: Source, file: File, position: int) -> http.client.HTTPResponse:
    """A file's answer, from `position` on. StagingError when it is refused."""
    headers = source.headers | ({"Range": f"bytes={position}-"} if position else {})
    try:
        answer = send("GET", file.url, headers)
    except urllib.error.HTTPError as error:
        if error.code in RETRIED:
            raise
        raise source.refusal(error.code, error.headers.get("X-Error-Code", "")) from None
    missing = position if answer.status == 200 else 0  # it does not know ranges
    while missing and (data := answer.read(min(CHUNK, missing))):
        missing -= len(data)
    return answer


def transfer(source: Source, bucket: Bucket, file: File, count: Count) -> None:
    """Stage a file. The last piece, which makes it an object, goes only if the hash is right."""
    kind, _, wanted = file.digest.partition(":")
    header = b"blob %d\0" % file.size if kind == "git" else b""
    seen = hashlib.new("sha1" if kind == "git" else kind, header, usedforsecurity=False)
    address, start = bucket.begin(file), 0
    for chunk in chunks(source, file):
        seen.update(chunk)
        end = start + len(chunk)
        if end == file.size and seen.hexdigest() != wanted:
            with suppress(*NETWORK):
                send("DELETE", address, {})
            text = f"{file.name}: its {kind} hash is {seen.hexdigest()}, and should be {wanted}"
            raise StagingError(
                text, "pulumi up loads the file again; if it happens twice, tell its host"
            )
        bucket.put(address, chunk, start, file.size)
        count.add(len(chunk), whole=end == file.size)
        start = end


def stage(source: Source, bucket: Bucket, files: list[File], count: Count) -> Iterator[None]:
    """Stage some files at once; yields now and then, and ends when all are there."""
    todo: queue.SimpleQueue[File] = queue.SimpleQueue()
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    for file in files:
        todo.put(file)

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                file = todo.get_nowait()
                try:
                    transfer(source, bucket, file, count)
                    ended.put(None)
                except Exception as error:  # whatever it is ends the whole
                    ended.put(error)

    for _ in range(AT_ONCE):
        threading.Thread(target=work, daemon=True).start()
    missing = len(files)
    while missing:
        with suppress(queue.Empty):
            if error := ended.get(timeout=REPORT_S):
                raise error
            missing -= 1
        yield


def missing_in(there: Mapping[str, Any], files: list[File], count: Count) -> list[File]:
    """The files that are not in the bucket yet, or not the right ones; the others are counted."""
    missing: list[File] = []
    for file in files:
        known = there.get(file.name, {})
        right = (str(file.size), {"hash": file.digest})
        if (known.get("size"), known.get("metadata")) == right:
            count.add(file.size, whole=True)
        else:
            missing.append(file)
    return missing


def fill(source: Source, bucket: Bucket, tell: Callable[..., None]) -> None:
    """Bring the bucket to what the source's plan says."""
    before = json.loads(bucket.read(STATUS) or b"{}")
    if before.get("state") != "done":  # a host that does not answer can keep this waiting
        tell(asking=urlsplit(source.about).netloc)
    plan = source.plan()
    if (before.get("state"), before.get("commit")) == ("done", plan.commit):
        say(f"commit {plan.commit} is staged already")
        return
    count = Count(plan)
    tell(commit=plan.commit, files=count.files, bytes=count.bytes)
    there = bucket.contents()
    missing = missing_in(there, plan.files, count)
    say(f"commit {plan.commit}: {count} are there already")
    reported = time.monotonic()
    for _ in stage(source, bucket, missing, count):
        if time.monotonic() - reported >= REPORT_S:
            reported = time.monotonic()
            say(f"{count}")
            tell()
    for name, content in plan.last.items():
        bucket.write(name, content)
        count.add(len(content), whole=True)
    for name in there.keys() - {STATUS, *plan.last, *(it.name for it in plan.files)}:
        say(f"removing {name}, which is of another revision")
        bucket.delete(name)
    tell(state="done")
    say(f"commit {plan.commit}: {count}, verified")


def run(source: Source, bucket: Bucket) -> None:
    """Fill the bucket, and tell in it how that goes."""
    told: dict[str, Any] = {"state": "running"}
    told["execution"] = os.environ.get("CLOUD_RUN_EXECUTION", "")

    def tell(**more: Any) -> None:
        told.update(more)
        bucket.write(STATUS, json.dumps(told).encode())

    try:
        fill(source, bucket, tell)
    except NETWORK as error:  # those of the source's hosts have been dealt with
        text = f"Cloud Storage refuses the bucket {bucket.name}: {reason(error)}"
        fail(StagingError(text, "pulumi up makes it, and gives the job its role"), tell)
    except StagingError as error:
        fail(error, tell)
    except Exception as error:
        traceback.print_exc()
        fail(StagingError(f"{type(error).__name__}: {error}", "see the job's log"), tell)


def fail(error: StagingError, tell: Callable[..., None]) -> None:
    """Say in the log and in the bucket why it ends, and end."""
    say(f"llm-endpoint error: {error}; next: {error.next_step}")
    with suppress(StagingError, *NETWORK):
        tell(state="failed", error=str(error), next=error.next_step)
    sys.exit(1)


def stopped(*_: Any) -> None:
    """Cloud Run ends a job with SIGTERM and, ten seconds later, by force."""
    raise StagingError("the job was stopped")


def source_of(env: Mapping[str, str], token: str) -> Source:
    """Where the environment says that the model comes from."""
    if env["SOURCE"] == "ollama":
        return Ollama(env["MODEL"])
    endpoint, revision = env["HF_ENDPOINT"].rstrip("/"), env["REVISION"] or "main"
    return Hub(endpoint, env["MODEL"], revision, token)


def main() -> None:
    """Stage what the environment names."""
    env = os.environ
    token = ""
    with suppress(FileNotFoundError):
        token = Path(env.get("HF_TOKEN_PATH", TOKEN_PATH)).read_text().strip()
    run(source_of(env, token), Bucket(env["BUCKET"]))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stopped)  # the first process of a container has no other way
    main()
