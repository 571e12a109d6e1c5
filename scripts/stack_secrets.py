"""A stack's secrets for scripts that a person runs: from the environment, or its configuration."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PULUMI_TIMEOUT_S = 15.0

CLOUDFLARE_TOKEN = "cloudflare:apiToken"  # noqa: S105 - a key's name
HUGGING_FACE_TOKEN = "llm-endpoint:huggingFaceToken"  # noqa: S105 - a key's name
VARIABLES: Mapping[str, str] = {
    CLOUDFLARE_TOKEN: "CLOUDFLARE_API_TOKEN",
    HUGGING_FACE_TOKEN: "HF_TOKEN",
}
"""Configuration key -> the environment variable that comes before it."""


def decrypted(stack: str, *keys: str) -> dict[str, str]:
    """What the stack's configuration says, decrypted by `pulumi`; empty where it says nothing.

    Nothing is asked of anybody: who must be asked for a passphrase has no value here.
    """
    if not shutil.which("pulumi"):
        return dict.fromkeys(keys, "")
    running = {
        key: subprocess.Popen(  # noqa: S603 - fixed words
            ["pulumi", "config", "get", key, "--stack", stack],  # noqa: S607 - the user's own
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for key in keys
    }
    return {key: _output(process) for key, process in running.items()}


def _output(process: subprocess.Popen[str]) -> str:
    """What it printed; nothing where it failed, or waits for somebody."""
    try:
        printed, _ = process.communicate(timeout=PULUMI_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return ""
    return printed.strip() if process.returncode == 0 else ""
