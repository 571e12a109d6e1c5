"""Files of scripts/ that run elsewhere, as they are."""

from functools import cache
from pathlib import Path

PYTHON_IMAGE = "library/python:3.13.9-slim"
"""Runs scripts/download_weights.py, which needs nothing else."""
SCRIPTS = Path(__file__).parents[1] / "scripts"


@cache
def script(name: str) -> str:
    """The text of one of them."""
    return (SCRIPTS / name).read_text()
