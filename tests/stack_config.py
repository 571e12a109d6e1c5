"""A stack's configuration as the engine hands it to the program: text, lists as JSON."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from components.problem import key

ROOT = Path(__file__).parents[1]

STACKS = sorted(path.name.split(".")[1] for path in ROOT.glob("Pulumi.*.yaml"))
"""The committed examples."""

API_TOKEN = "cloudflare-api-token-of-forty-characters-"
"""Has the form of Cloudflare's, and is none."""

SECRET_KEYS = frozenset({"cloudflare:apiToken", "llm-endpoint:huggingFaceToken"})


@cache
def _config(file: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / file).read_text())["config"]


def declared() -> dict[str, dict[str, Any]]:
    """What Pulumi.yaml declares, by key."""
    config = _config("Pulumi.yaml")
    return {f"llm-endpoint:{name}": declaration for name, declaration in config.items()}


def configuration(stack: str = "dev", changes: dict[str, str] | None = None) -> dict[str, str]:
    """The defaults, a committed stack's values over them, and `changes` over those."""
    defaults = {name: item["default"] for name, item in declared().items() if "default" in item}
    values = _config(f"Pulumi.{stack}.yaml")
    config = {name: _text(value) for name, value in (defaults | values).items()}
    given = {key("stack"): stack, "cloudflare:apiToken": API_TOKEN}
    return config | given | (changes or {})


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | bool) else str(value)
