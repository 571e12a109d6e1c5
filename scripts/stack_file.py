"""A stack's settings from its files, as the program would get them, without the Pulumi engine."""

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple, cast

import pulumi
import yaml

from components.problem import NAMESPACE, key
from components.settings import Settings

ROOT = Path(__file__).parents[1]

UNSEEN = "0" * 40
"""Stands for a secret's value, which is encrypted in the file: it has the form of one."""


class StackFileError(Exception):
    """A stack's file is not there, is no YAML, or cannot work; the message says what to do."""


class Stack(NamedTuple):
    """What the files say."""

    settings: Settings
    has_token: bool
    """Whether a Hugging Face token is configured."""


CONFIG_FILE = "PULUMI_OPTION_CONFIG_FILE"
"""Where a stack's file lies, if not here: the environment's word for --config-file of `pulumi`."""
NAMED = re.compile(r"Pulumi\.([^.]+)\.yaml")


def names() -> list[str]:
    """The stacks that have a file here."""
    return sorted(path.name.split(".")[1] for path in ROOT.glob("Pulumi.*.yaml"))


def _file(stack: str) -> Path:
    """The stack's file: where the environment says, as for `pulumi`, or else here."""
    path = Path(os.environ.get(CONFIG_FILE, ""))
    named = NAMED.fullmatch(path.name)
    elsewhere = path.is_file() and (named is None or named[1] == stack)
    return path if elsewhere else ROOT / f"Pulumi.{stack}.yaml"


def read(stack: str) -> Stack:
    """The settings of a stack. Raises StackFileError."""
    file = _file(stack)
    if not file.is_file():
        raise StackFileError(
            f"There is no Pulumi.{stack}.yaml.\n  expected: one of {', '.join(names())}\n"
            f"  next: pulumi stack init {stack}, then set what Pulumi.yaml declares"
        )
    declared = _config(ROOT / "Pulumi.yaml").items()
    defaults = {name: item["default"] for name, item in declared if "default" in item}
    # A key without a namespace is the project's own, for the CLI as for us.
    own = _config(file)
    given = {
        name if ":" in name else f"{NAMESPACE}:{name}": value
        # YAML takes 1 and yes for something else than text.
        for name, value in ((str(key), value) for key, value in (*defaults.items(), *own.items()))
    }
    secret = {
        name for name, value in given.items() if isinstance(value, dict) and "secure" in value
    }
    config = {name: _text(value) for name, value in given.items()} | {key("stack"): stack}
    # The file may not have it yet, and nothing here needs it: the environment may.
    config.setdefault("cloudflare:apiToken", UNSEEN)
    try:
        settings = Settings.parse(config, secret | {"cloudflare:apiToken"})
    except pulumi.RunError as error:
        raise StackFileError(re.sub("; nothing was changed", "", str(error)).strip()) from None
    return Stack(settings, has_token=bool(config.get(f"{NAMESPACE}:huggingFaceToken")))


def _config(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise StackFileError(f"{path.name} cannot be read: {reason}") from None
    if not isinstance(found, dict):
        raise StackFileError(f"{path.name} is no stack's file: it must have a `config:`")
    config: object = cast("dict[str, object]", found).get("config") or {}
    if not isinstance(config, dict):
        raise StackFileError(f"{path.name}: `config:` must list keys and values")
    return cast("dict[str, Any]", config)


def _text(value: object) -> str:
    """A value as the engine hands it over; a secret's is not looked at."""
    if isinstance(value, dict) and "secure" in value:
        return UNSEEN
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)
