"""Where vLLM finds a model besides the hub: in a bucket, streamed, or in its own cache."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default"
STORAGE = "https://storage.googleapis.com/storage/v1/b"
TIMEOUT_S = 10


class NotThereError(Exception):
    """The model is not where it was looked for, in the words of what looked."""


def in_bucket(address: str) -> None:
    """Look at the model below `gs://BUCKET/...`, as the machine's own service account.

    Raises NotThereError.
    """
    bucket, _, prefix = address.removeprefix("gs://").partition("/")
    try:
        token: dict[str, Any] = requests.get(
            f"{METADATA}/token", headers={"Metadata-Flavor": "Google"}, timeout=TIMEOUT_S
        ).json()
        answer = requests.get(
            f"{STORAGE}/{quote(bucket, safe='')}/o",
            params={"prefix": prefix},
            headers={"Authorization": f"Bearer {token.get('access_token', '')}"},
            timeout=TIMEOUT_S,
        )
    except (requests.RequestException, ValueError) as error:
        raise NotThereError(f"google.auth.exceptions.TransportError: {error}") from error
    if answer.status_code != requests.codes.ok:
        message = answer.json().get("error", {}).get("message", answer.reason)
        kind = {403: "Forbidden", 404: "NotFound"}.get(answer.status_code, "GoogleAPICallError")
        raise NotThereError(
            f"google.api_core.exceptions.{kind}: {answer.status_code} GET {answer.url}: {message}"
        )
    names = {item["name"] for item in answer.json().get("items", [])}
    if f"{prefix}config.json" not in names:
        raise NotThereError(f"ValueError: no config.json at {address}")
    if not any(name.endswith(".safetensors") for name in names):
        raise NotThereError(
            f"RuntimeError: Cannot find any safetensors model weights with `{address}`"
        )


def in_folder(path: str) -> None:
    """Look at the model in a folder. Raises NotThereError."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise NotThereError(f"ValueError: no config.json at {path}")
    if not list(folder.glob("*.safetensors")):
        raise NotThereError(
            f"RuntimeError: Cannot find any safetensors model weights with `{path}`"
        )


def in_cache(model: str, revision: str) -> None:
    """Look at the model in the cache of the hub's library, by that library itself.

    Raises NotThereError.
    """
    # Reads the environment when it is loaded.
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            model, revision=revision, local_files_only=True, ignore_patterns="*"
        )
    except LocalEntryNotFoundError as error:
        raise NotThereError(f"huggingface_hub.errors.LocalEntryNotFoundError: {error}") from error
    if not list(Path(folder).glob("*.safetensors")):
        raise NotThereError(f"RuntimeError: Cannot find any model weights with `{model}`")


def offline() -> bool:
    """Whether the hub's library may not ask it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
