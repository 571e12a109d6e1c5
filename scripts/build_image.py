"""Build an image that has a model's weights in it, with Cloud Build; `pulumi up` runs this.

Prints the image by its digest on standard output and nothing else there, for it is the resource's
output; how it goes is told on standard error. The image's tag is made of all that goes into it,
so that an image that is there already is not built again. A build of it that runs already, of an
`up` that was killed, is waited for. A build that this has started does not outlive it: see
scripts/cancel_when_gone.py. Exits 1 when there is no image in the end.

Environment:
  PROJECT, REGION     where to build
  REPOSITORY, NAME    what to call it: REGION-docker.pkg.dev/PROJECT/REPOSITORY, and a name in that
  ENGINE, BASE_IMAGE  whose Dockerfile in model-image/ (vllm or ollama); the engine's image in full
  SOURCE, MODEL       hub or ollama, whose name of the model this is
  REVISION            for the hub: commit, tag or branch; empty takes the newest
  HF_ENDPOINT         for the hub: its address
  SERVICE_ACCOUNT     who builds: projects/PROJECT/serviceAccounts/EMAIL. It needs to write to the
                      repository and to logs, to read the base image, and the secret if there is one
  TOKEN_SECRET        full name of the version of the secret that holds the hub's token, or empty
  HF_TOKEN            the token itself, to look at the hub from here; or empty
"""

import hashlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import requests

from components.model_source import DEPLOYED_TAG, LARGEST_IMAGE_GB
from scripts import cloud_build
from scripts.cancel_when_gone import Interrupted, watched
from scripts.cloud_build import Build, Log
from scripts.download_weights import Plan, Source, StagingError, fetch, source_of
from scripts.google_api import TIMEOUT, GoogleError, refusal, session
from scripts.stage_weights import interrupt

FILES = Path(__file__).with_name("model-image")

GB = 10**9
BUILDER = "gcr.io/cloud-builders/docker"
TIMEOUT_S, TIMEOUT_S_PER_GB = 3600, 300
"""Of a build. The machine is the default one, with two CPUs: in some regions some projects have no
more than five (https://cloud.google.com/build/quotas). One of them compresses the layers."""

POLL_S = 3.0
"""Cloud Logging answers a project sixty times a minute: https://cloud.google.com/logging/quotas."""
SILENCE_S = 15.0
"""After so long without a line of the log, where it stands is said again."""
PATIENCE_S = 300.0
"""A role granted a moment ago has not reached every service; and a network may fail for so long."""
PAUSE_S = 20.0
LAST_LINES = 15
"""Of a failed build's log."""
SETTLING_S = 10.0
"""The last lines of a log come later than the news that the build has ended."""

NOISE = re.compile(r"#\d+ (sha256:|extracting sha256:|transferring|resolve |[\d.]+ Hint: )")
"""BuildKit's lines about each of a hundred layers; advice of the hub's client about other tools."""
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
DENIED = re.compile(r"PermissionDenied|permission.*denied|denied.*permission|act as service", re.I)
MEDIA_TYPES = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
BUCKET = "pulumi config set weights bucket"

Tell = Callable[[str], None]


class ImageError(Exception):
    """There will be no image; the message says why and what to do."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(f"{message}\n  next: {next_step}")


class Denied(ImageError):
    """A role is missing, or has not arrived yet."""


@dataclass(frozen=True)
class Order:
    """What is to be built, of what, and by whom."""

    project: str
    region: str
    image: str
    """Without a tag."""
    engine: str
    base_image: str
    source: Source
    """Where the model comes from."""
    model: str
    revision: str
    """Commit, tag or branch; never empty."""
    hub: str
    service_account: str
    token_secret: str

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Self:
        """As the environment has it. KeyError when something is missing."""
        revision = env["REVISION"] or "main"
        return cls(
            project=env["PROJECT"],
            region=env["REGION"],
            image=f"{env['REPOSITORY']}/{env['NAME']}",
            engine=env["ENGINE"],
            base_image=env["BASE_IMAGE"],
            source=source_of({**env, "REVISION": revision}, env.get("HF_TOKEN", "")),
            model=env["MODEL"],
            revision=revision,
            hub=env["HF_ENDPOINT"].rstrip("/"),
            service_account=env["SERVICE_ACCOUNT"],
            token_secret=env["TOKEN_SECRET"],
        )

    @property
    def dockerfile(self) -> str:
        """The text of the engine's Dockerfile."""
        return (FILES / f"{self.engine}.Dockerfile").read_text()


# --- what goes in ---------------------------------------------------------------------------------


def look_up(source: Source) -> Plan:
    """What the model consists of. StagingError when this token cannot have it."""
    plan = source.plan()
    # The hub shows everybody what a gated model consists of, and gives the files to some.
    fetch(source, source.sample(plan.commit))
    return plan


def size(source: Source, plan: Plan) -> int:
    """Bytes of the model: of its files or, where an index counts more, of the weights in them."""
    index = [file for file in plan.files if file.name.endswith(".index.json")]
    told: dict[str, Any] = json.loads(fetch(source, index[0].url)[1]) if index else {}
    weights: int = told.get("metadata", {}).get("total_size", 0)
    return max(weights, sum(file.size for file in plan.files))


def check_size(model: str, bytes_: int) -> None:
    """ImageError for a model that is better kept elsewhere."""
    if bytes_ > LARGEST_IMAGE_GB * GB:
        raise ImageError(
            f"{model} has {bytes_ / GB:.1f} GB, and an image is for models up to"
            f" {LARGEST_IMAGE_GB} GB: Google advises Cloud Storage for larger ones"
            " (https://cloud.google.com/run/docs/configuring/jobs/gpu-best-practices)",
            f"{BUCKET}, from which the engine streams them",
        )


def arguments(order: Order, plan: Plan) -> dict[str, str]:
    """The variables of the Dockerfile."""
    given = {"BASE_IMAGE": order.base_image, "MODEL": order.model, "COMMIT": plan.commit}
    if plan.last:  # Ollama's: it finds the files by the manifest
        (manifest,) = plan.last
        return given | {"MANIFEST": manifest.removeprefix("manifests/")}
    return given | {
        "REVISION": order.revision,
        "FILES": "\n".join(file.name for file in plan.files),
    }


def tag(dockerfile: str, given: Mapping[str, str]) -> str:
    """The image's tag: the same for the same content, of which the hub's address is no part."""
    content = json.dumps([dockerfile, sorted(given.items())])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def build_of(order: Order, given: Mapping[str, str], image: str, bytes_: int) -> Build:
    """The build as Cloud Build takes it.

    `script` is run as it is: "scripts don't directly support substitutions", while in `env` every
    dollar would begin one (https://cloud.google.com/build/docs/configuring-builds/run-bash-scripts,
    .../substitute-variable-values). The secret is an environment variable of the step alone
    (.../securing-builds/use-secrets).
    """
    given = {**given, "HF_ENDPOINT": order.hub}
    env = {
        "IMAGE": image,
        "DOCKERFILE": order.dockerfile,
        "BUILD_ARGS": " ".join(given),
        **given,
    }
    step: dict[str, Any] = {
        "id": "build",
        "name": BUILDER,
        "script": (FILES / "build.sh").read_text(),
        "env": [f"{name}={value.replace('$', '$$')}" for name, value in env.items()],
    }
    build: Build = {
        "steps": [step],
        "images": [image],
        "serviceAccount": order.service_account,
        "options": {"logging": "CLOUD_LOGGING_ONLY"},
        "timeout": f"{TIMEOUT_S + TIMEOUT_S_PER_GB * bytes_ // GB}s",
        "tags": ["llm-endpoint", image.rpartition(":")[2]],
    }
    if order.token_secret:
        step["secretEnv"] = ["HF_TOKEN"]
        secret = {"versionName": order.token_secret, "env": "HF_TOKEN"}
        build["availableSecrets"] = {"secretManager": [secret]}
    return build


# --- building -------------------------------------------------------------------------------------


def manifest(
    http: requests.Session, image: str, reference: str, new: requests.Response | None = None
) -> requests.Response:
    """An image's manifest by its tag or digest; with `new`, that is put there first.

    Answers 404 when there is none. GoogleError when the repository cannot be asked.
    """
    host, _, path = image.partition("/")
    url = f"https://{host}/v2/{path}/manifests/{reference}"
    try:
        if new is None:
            answer = http.get(url, headers={"Accept": MEDIA_TYPES}, timeout=TIMEOUT)
        else:
            kind = {"Content-Type": new.headers["Content-Type"]}
            answer = http.put(url, data=new.content, headers=kind, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise GoogleError(
            f"no answer from {host} ({type(error).__name__})", None, "pulumi up"
        ) from None
    if not answer.ok and answer.status_code != 404:
        raise refusal(answer)
    return answer


def found(http: requests.Session, image: str) -> str | None:
    """An image's digest, if it is in its repository. GoogleError when that cannot be seen."""
    name, _, tag = image.rpartition(":")
    answer = manifest(http, name, tag)
    return answer.headers["Docker-Content-Digest"] if answer.ok else None


def deploy(http: requests.Session, image: str, digest: str) -> None:
    """Tag the image that machines are about to run: the repository keeps it, however old it is."""
    manifest(http, image, DEPLOYED_TAG, manifest(http, image, digest))


def make(http: requests.Session, order: Order, tell: Tell) -> str:
    """The digest of the image, which is built if need be."""
    tell(f"looking at {order.model}")
    plan = look_up(order.source)
    bytes_ = size(order.source, plan)
    check_size(order.model, bytes_)
    given = arguments(order, plan)
    image = f"{order.image}:{tag(order.dockerfile, given)}"
    tell(f"{order.model} at {plan.commit[:12]}: {bytes_ / GB:.1f} GB in {len(plan.files)} files")
    if digest := found(http, image):
        tell(f"{image} is there already")
        return digest
    build = build_of(order, given, image, bytes_)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return run(http, order, build, tell)
        except Denied as error:
            if time.monotonic() > deadline:
                raise
            tell(f"{str(error).splitlines()[0]}; a new role takes a moment, trying again")
            time.sleep(PAUSE_S)


def run(http: requests.Session, order: Order, build: Build, tell: Tell) -> str:
    """Build, or wait for a build of the same; the digest. ImageError when it fails."""
    (image,) = build["images"]
    place = order.project, order.region
    for other in cloud_build.running(http, *place, tag=build["tags"][-1]):
        if other.get("images") == [image]:
            tell(f"waiting for a build of it that runs already: {other['logUrl']}")
            return ended(http, follow(http, other, tell), tell)
    with watched() as watch:
        try:
            started = cloud_build.submit(http, *place, build=build)
        except GoogleError as error:
            raise submission(error) from None
        watch(cloud_build.cancellation(started["name"]))
        tell(f"building {image}: {started['logUrl']}")
        try:
            return ended(http, follow(http, started, tell), tell)
        except Interrupted:
            tell("interrupted: the build is being cancelled")
            raise


def submission(error: GoogleError) -> Exception:
    """Why Cloud Build takes no build, with the step that helps."""
    if "quota restrictions" in error.message:
        return ImageError(
            error.message,
            f"use a region that is open to all projects, ask Google's support, or {BUCKET}"
            " (https://cloud.google.com/build/docs/locations#restricted_regions_for_some_projects)",
        )
    return Denied(error.message, error.next_step) if DENIED.search(error.message) else error


class Follower:
    """Tells what a build's log says, and where it stands when that is silent."""

    def __init__(self, http: requests.Session, build: Build, tell: Tell) -> None:
        self._log = Log(http, build)
        self._tell = tell
        self._told = time.monotonic()
        self._since = self._told
        self._last = ""
        self.lines: list[str] = []

    def read(self) -> bool:
        """Tell the news; whether there were any."""
        try:
            news = self._log.news()
        except GoogleError as error:
            news = []
            if not self._last:
                self.say(f"its log cannot be read: {error.message}")
        news = [COLOURS.sub("", line) for line in news]
        self.lines += news
        for line in news:
            if line.strip() and not NOISE.match(line):
                self._last, self._since = line, time.monotonic()
                self.say(f"| {line}")
        return bool(news)

    def say(self, text: str) -> None:
        """Tell something."""
        self._told = time.monotonic()
        self._tell(text)

    def remind(self, status: str) -> None:
        """Tell where it stands, if nothing has been told for a while."""
        if time.monotonic() - self._told < SILENCE_S:
            return
        at = f"still at: {self._last}" if self._last else f"the build is {status.lower()}"
        self.say(f"{at} (for {time.monotonic() - self._since:.0f} s)")


def follow(http: requests.Session, build: Build, tell: Tell) -> tuple[Build, list[str]]:
    """Wait until a build has ended, telling how it goes; how it ended, and its log."""
    follower = Follower(http, build, tell)
    answered = time.monotonic()
    while build["status"] in cloud_build.RUNNING:
        time.sleep(POLL_S)
        try:
            build = cloud_build.look(http, build["name"])
            answered = time.monotonic()
        except GoogleError as error:
            lost = error.status is None or error.status == 429 or error.status >= 500
            if not lost or time.monotonic() - answered > PATIENCE_S:
                raise
            follower.say(f"{error.message}; the build goes on")
        follower.read()
        follower.remind(build["status"])
    settled = time.monotonic() + SETTLING_S
    while build["status"] != "SUCCESS" and time.monotonic() < settled:
        time.sleep(POLL_S)
        if not follower.read() and any("ERROR" in line for line in follower.lines):
            break
    return build, follower.lines


def ended(http: requests.Session, outcome: tuple[Build, list[str]], tell: Tell) -> str:
    """The digest of what was built. ImageError when the build did not succeed."""
    build, lines = outcome
    (image,) = build["images"]
    if build["status"] == "SUCCESS":
        built = build.get("results", {}).get("images", ())
        digest = next((it["digest"] for it in built if it["name"] == image), None)
        tell(f"built {image}")
        return digest or found(http, image) or missing(image)
    failure: Mapping[str, str] = build.get("failureInfo", {})
    why = failure.get("detail") or build.get("statusDetail") or build["status"].lower()
    tail = "\n".join(f"    {line}" for line in kept(lines)[-LAST_LINES:])
    warnings = "".join(f"\n  {it['text']}" for it in build.get("warnings", ()))
    message = f"The build of {image} ended with {build['status']}: {why}{warnings}"
    message += f"\n  Its log ends:\n{tail}" if tail else ""
    message += f"\n  All of it: {build['logUrl']}"
    if DENIED.search(f"{why}\n{tail}"):
        raise Denied(message, "in a minute pulumi up; the roles of the account are in the message")
    if build["status"] == "CANCELLED":
        raise ImageError(message, "pulumi up")
    raise ImageError(message, f"correct what the log names, then pulumi up; or {BUCKET}")


def kept(lines: Iterable[str]) -> list[str]:
    """The lines of a log without noise."""
    return [line for line in lines if line.strip() and not NOISE.match(line)]


def missing(image: str) -> NoReturn:
    """A build has succeeded and left nothing."""
    raise ImageError(f"{image} was built, and is not in its repository", "pulumi up")


def main() -> int:
    """Build, and tell."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    start = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - start:5.0f} s  {text}", file=sys.stderr, flush=True)

    order = Order.read(os.environ)
    os.environ.pop("HF_TOKEN", None)  # nothing that this starts needs it
    try:
        with session() as http:
            digest = make(http, order, tell)
            deploy(http, order.image, digest)
            print(f"{order.image}@{digest}")
    except StagingError as error:
        print(f"{error}\n  next: {error.next_step}", file=sys.stderr)
    except (GoogleError, ImageError) as error:
        print(error, file=sys.stderr)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
