"""What a model's own files say of it: from the Hugging Face hub, or from a folder."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from components.models import Model, UnknownShape

HUB = "https://huggingface.co"
CONFIG, INDEX = "config.json", "model.safetensors.index.json"
CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 20.0
RETRIES = Retry(
    total=3,
    read=1,
    backoff_factor=0.5,  # 0, 1 and 2 seconds
    status_forcelist=(429, 500, 502, 503, 504),
    respect_retry_after_header=False,  # the hub names minutes
    raise_on_status=False,
)
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
WEIGHTS = re.compile(r"[^/]+\.safetensors")
"""Files of weights at the top of a repository; copies for other engines lie in folders."""
COPY = re.compile(r"consolidated.*")
"""Mistral's second copy of the same weights."""


class Trouble(Exception):
    """Why there is nothing to say of a model, and what to do about it."""


def token() -> str:
    """The hub's token as its library finds it: HF_TOKEN, else a file; empty where there is none."""
    if found := os.environ.get("HF_TOKEN", "").strip():
        return found
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    with suppress(OSError, UnicodeDecodeError):
        return Path(os.environ.get("HF_TOKEN_PATH") or home / "token").read_text().strip()
    return ""


def read(name: str, hub: str = HUB) -> Model:
    """The model of that name on the hub, or in that folder. Raises Trouble."""
    if Path(name).is_dir():
        return _from_folder(Path(name))
    if not NAME.fullmatch(name):
        raise Trouble(
            f"{name!r} is neither a model on Hugging Face (ORGANISATION/NAME) nor a folder."
        )
    with _Hub(name, hub.rstrip("/")) as repository:
        config = repository.file(CONFIG)
        if config is None:
            raise Trouble(
                f"{name} has no {CONFIG}, which vLLM wants. Are its weights for another engine,"
                f" such as GGUF? See {repository.page}/tree/main."
            )
        index, about = repository.file(INDEX), repository.about()
        weights = _total(index) or _sum(about)
        if not weights:
            raise Trouble(
                f"{name} has no weights as safetensors, or does not say how large they are."
                f" See {repository.page}/tree/main."
            )
        return _model(name, config, weights, gated=bool(about.get("gated")))


def _model(name: str, config: Mapping[str, Any], weights: int, *, gated: bool) -> Model:
    try:
        return Model.from_config(name, config, weights, gated=gated)
    except UnknownShape as error:
        raise Trouble(
            f"{name}'s {CONFIG} is of a shape that is not known here: {error}. vLLM may serve it"
            " all the same; `pulumi up` does not stop a model that it does not know."
        ) from error


def _total(index: Mapping[str, Any] | None) -> int:
    """Bytes of all weights, as the index of several files has them; 0 where it has not."""
    metadata = (index or {}).get("metadata")
    total = cast("Mapping[str, Any]", metadata).get("total_size") if _is_object(metadata) else None
    return int(total) if isinstance(total, int | float) and total > 0 else 0


def _sum(about: Mapping[str, Any]) -> int:
    """Bytes of all files of weights, as the hub lists them."""
    listed: Any = about.get("siblings")
    files = cast("list[Any]", listed) if isinstance(listed, list) else []
    sizes = {str(file.get("rfilename")): file.get("size") for file in files if _is_object(file)}
    return sum(
        size
        for path, size in sizes.items()
        if WEIGHTS.fullmatch(path) and not COPY.match(path) and isinstance(size, int)
    )


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


# --- a folder -------------------------------------------------------------------------------------


def _from_folder(folder: Path) -> Model:
    config = _parse(folder / CONFIG)
    if config is None:
        raise Trouble(f"{folder} has no {CONFIG}: is it a model's folder?")
    files = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    weights = _total(_parse(folder / INDEX)) or _sum(
        {"siblings": [{"rfilename": name, "size": size} for name, size in files.items()]}
    )
    if not weights:
        raise Trouble(f"{folder} has neither {INDEX} nor a file of safetensors.")
    return _model(folder.resolve().name, config, weights, gated=False)


def _parse(path: Path) -> Mapping[str, Any] | None:
    try:
        found: object = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Trouble(f"{path} cannot be read as JSON ({error}): download it again.") from error
    if not _is_object(found):
        raise Trouble(f"{path} is not a JSON object: download it again.")
    return cast("Mapping[str, Any]", found)


# --- the hub --------------------------------------------------------------------------------------


class _Hub:
    """A model's repository on the hub."""

    def __init__(self, name: str, hub: str) -> None:
        self._name = name
        self._hub = hub
        self.page = f"{hub}/{name}"
        # In clear it travels no further than this machine.
        near = re.match(r"http://(127\.0\.0\.1|localhost|\[::1\])[:/]", f"{hub}/")
        self._token = token() if near or hub.startswith("https://") else ""
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
        if not re.fullmatch("[!-~]*", self._token):
            raise Trouble(
                "The token in HF_TOKEN, or in its file, has characters that no token has."
            )
        if self._token:
            self._session.headers["Authorization"] = f"Bearer {self._token}"

    def __enter__(self) -> "_Hub":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def file(self, path: str) -> Mapping[str, Any] | None:
        """A JSON file of the repository; None where it has none of that name."""
        return self._get(f"{self._hub}/{self._name}/resolve/main/{path}")

    def about(self) -> Mapping[str, Any]:
        """What the hub says of the repository, and of its files' sizes."""
        return self._get(f"{self._hub}/api/models/{self._name}?blobs=true") or {}

    def _get(self, url: str) -> Mapping[str, Any] | None:
        try:
            answer = self._session.get(url, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise Trouble(
                    f"{self._hub} does not answer as a site with https does: is there a proxy that"
                    " wants a login? Open the address in a browser."
                ) from error
            raise Trouble(
                f"{self._hub} shows no certificate that this machine trusts: does a proxy open the"
                " traffic? Name its authority in REQUESTS_CA_BUNDLE."
            ) from error
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
        ) as error:
            raise Trouble(f"{self._hub} is no address of a hub, such as {HUB}.") from error
        except (
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        ) as error:
            raise self._broken(url) from error
        except requests.RequestException as error:
            raise Trouble(
                f"{self._hub} does not answer ({type(error).__name__}). Is there a network, and"
                " does it want a proxy (HTTPS_PROXY)? A folder with the model's config.json and"
                " safetensors index does as well: ./scripts/advise FOLDER."
            ) from error
        if answer.status_code == 200:
            return self._object(url, answer)
        code = answer.headers.get("X-Error-Code", "")
        if answer.status_code == 404 and code == "EntryNotFound":
            return None
        raise Trouble(self._refused(answer.status_code, code))

    def _object(self, url: str, answer: requests.Response) -> Mapping[str, Any]:
        try:
            found: object = answer.json()
        except ValueError as error:
            start = answer.content[:200].lstrip().lower()
            if start.startswith((b"<!doctype", b"<html")):
                raise Trouble(
                    f"{url} answers with a web page instead of JSON: is there a proxy that wants a"
                    " login? Open the address in a browser."
                ) from error
            raise self._broken(url) from error
        if not _is_object(found):
            raise self._broken(url)
        return cast("Mapping[str, Any]", found)

    def _broken(self, url: str) -> Trouble:
        return Trouble(f"What {url} answers breaks off, or is not what the hub sends. Try again.")

    def _refused(self, status: int, code: str) -> str:
        tokens = f"{HUB}/settings/tokens"
        if code == "GatedRepo" and self._token:
            return (
                f"{self._name} is gated, and the account of your token has not been let in: accept"
                f" the licence on {self.page}, and see that the token may read gated models"
                f" ({tokens})."
            )
        if code == "GatedRepo":
            return (
                f"{self._name} is gated: accept its licence on {self.page}, make a token on"
                f" {tokens}, and put it into HF_TOKEN or ~/.cache/huggingface/token."
            )
        if code == "RepoNotFound" or status == 404:
            search = f"{self._hub}/models?search={self._name.rpartition('/')[2]}"
            private = "" if self._token else ", or it is private and wants a token in HF_TOKEN"
            return f"The hub has no model {self._name}{private}. Look it up: {search}"
        if status in (401, 403):
            return f"The hub does not take your token: look at it on {tokens}."
        if status == 429:
            return (
                "The hub wants fewer requests from this address (429): wait some minutes, or give"
                " it a token in HF_TOKEN."
            )
        return f"The hub answers {status} for {self._name}. Try again; its state: {STATUS}"


STATUS = "https://status.huggingface.co"
