"""What the Hugging Face hub must grant: the token, the model, its licence, its size."""

from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from components.models import models
from components.settings import Settings
from scripts import hugging_face
from scripts.checks.check import Check, FailsError, Shared, UnknownError, sendable

TIMEOUT = (hugging_face.CONNECT_TIMEOUT, hugging_face.READ_TIMEOUT)
TOKENS = f"{hugging_face.HUB}/settings/tokens"
SET_TOKEN = "pulumi config set --secret huggingFaceToken"  # noqa: S105 a command
TOLERANCE = 0.05
"""By how much a model may differ from the catalogue's size."""
CONTAINERS_GB = 40
"""System and containers on the boot disk, next to the weights."""


class Hub:
    """The hub, or a mirror."""

    def __init__(self, address: str, token: str) -> None:
        self.address = address.rstrip("/")
        self.token = token
        self._shared = Shared()

    def ask(self, path: str) -> tuple[int, str, Any]:
        """Status, the hub's word for an error, and JSON. UnknownError when it is not the hub's."""
        return self._shared.once(path, lambda: self._ask(path))

    def _ask(self, path: str) -> tuple[int, str, Any]:
        if self.token and not sendable(self.token):
            raise UnknownError("the token cannot be one (see: Hugging Face: token)", SET_TOKEN)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        with requests.Session() as http:
            http.mount("https://", HTTPAdapter(max_retries=hugging_face.RETRIES))
            try:
                answer = http.get(f"{self.address}/{path}", headers=headers, timeout=TIMEOUT)
                found: Any = answer.json()
            except requests.exceptions.JSONDecodeError:
                because = f"{self.address} answers something that is not JSON"
                raise UnknownError(because, "is there a proxy on the way?") from None
            except requests.RequestException as error:
                because = f"no answer from {self.address} ({type(error).__name__})"
                step = "check the network of this machine, then try again"
                raise UnknownError(because, step) from None
        if answer.status_code == 429 or answer.status_code >= 500:
            because = f"{self.address} answers HTTP {answer.status_code}"
            raise UnknownError(because, f"try again; its state: {hugging_face.STATUS}")
        return answer.status_code, answer.headers.get("X-Error-Code", ""), found


def checks(hub: Hub, settings: Settings) -> Iterator[Check]:
    """All of them."""
    if hub.token:
        yield Check("Hugging Face: token", lambda: token(hub))
    yield Check("Hugging Face: model", lambda: model(hub, settings))
    yield Check("Hugging Face: licence", lambda: licence(hub, settings))
    yield Check("Hugging Face: size", lambda: size(hub, settings))


def token(hub: Hub) -> str:
    """The hub knows the token."""
    if not sendable(hub.token):
        raise FailsError("it has spaces or characters that no token has", f"again: {SET_TOKEN}")
    status, _, found = hub.ask("api/whoami-v2")
    if status == 401 and isinstance(found["error"], str):
        raise FailsError(
            "the hub does not take it", f"make a new one ({TOKENS}), then: {SET_TOKEN}"
        )
    return f"of {found['name']}"


def _about(hub: Hub, settings: Settings) -> dict[str, Any]:
    """What the hub says of the model at its revision. UnknownError when it says nothing."""
    status, code, found = _answer(hub, settings)
    if status != 200:
        because = f"there is no answer about the model (HTTP {status} {code}; see: model)"
        raise UnknownError(because, "see: Hugging Face: model")
    return found


def _answer(hub: Hub, settings: Settings) -> tuple[int, str, Any]:
    revision = settings.model_revision or "main"
    return hub.ask(f"api/models/{settings.model}/revision/{revision}?blobs=true")


def model(hub: Hub, settings: Settings) -> str:
    """The model is there, at its revision."""
    status, code, found = _answer(hub, settings)
    name, revision = settings.model, settings.model_revision or "main"
    if code == "RevisionNotFound":
        raise FailsError(
            f"{name} has no revision {revision}",
            f"look: {hub.address}/{name}/commits/main, then: pulumi config set modelRevision"
            " COMMIT",
        )
    if code == "RepoNotFound":
        search = f"{hub.address}/models?search={name.rpartition('/')[2]}"
        private = "" if hub.token else f"; a private one wants a token: {SET_TOKEN}"
        raise FailsError(f"the hub has no model {name}", f"look it up: {search}{private}")
    if status in (401, 403):
        raise UnknownError("the hub does not take the token", "see: Hugging Face: token")
    commit = str(found["sha"])
    if revision == commit:
        return f"{name} at {commit[:7]}"
    return f"{name} at {revision}, now {commit[:7]}; to pin it: modelRevision {commit}"


def licence(hub: Hub, settings: Settings) -> str:
    """Whoever owns the token may have the files."""
    about = _about(hub, settings)
    if not about["gated"]:
        return "open"
    revision = settings.model_revision or "main"
    status, code, _ = hub.ask(f"{settings.model}/resolve/{revision}/{hugging_face.CONFIG}")
    page = f"{hub.address}/{settings.model}"
    if code == "GatedRepo":
        step = f"accept its licence on {page}"
        if hub.token:
            step += f", as the token's owner, and let the token read gated models ({TOKENS})"
        else:
            step += f", make a token ({TOKENS}), then: {SET_TOKEN}"
        raise FailsError(f"{settings.model} is gated, and you have not been let in", step)
    if status != 200:
        raise UnknownError(f"the hub answers HTTP {status} {code}", f"look: {page}")
    return "accepted"


def size(hub: Hub, settings: Settings) -> str:
    """The weights are as large as was reckoned with, and find room."""
    about = _about(hub, settings)
    files = {str(it["rfilename"]): it.get("size") for it in about["siblings"]}
    weights = sum(
        size
        for path, size in files.items()
        if isinstance(size, int)
        and hugging_face.WEIGHTS.fullmatch(path)
        and not hugging_face.COPY.match(path)
    )
    if not weights:
        raise UnknownError(
            "the hub does not say how large its weights are",
            f"look: {hub.address}/{settings.model}",
        )
    expected = models().get(settings.model)
    if expected and abs(weights - expected.weights) > TOLERANCE * expected.weights:
        raise FailsError(
            f"{weights / 1e9:.1f} GB, not {expected.weights / 1e9:.1f} as components/models.csv has"
            " it: whether it fits the GPU was reckoned with that",
            "correct the line there, or set modelRevision to the commit that was meant",
        )
    return room(settings, weights)


def room(settings: Settings, weights: int) -> str:
    """Weights of so many bytes find room on the machine that fetches them itself."""
    gigabytes = weights / 1e9
    needed = CONTAINERS_GB + gigabytes * 1.1
    own_disk = settings.platform == "vm" and settings.weights != "bucket"
    if own_disk and needed > settings.boot_disk_gb:
        raise FailsError(
            f"{gigabytes:.1f} GB, which with system and containers do not fit the boot disk of"
            f" {settings.boot_disk_gb} GB",
            f"pulumi config set bootDiskGb {round(needed / 50 + 0.5) * 50}; or weights bucket",
        )
    return f"{gigabytes:.1f} GB"
