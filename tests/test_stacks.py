"""What each committed stack declares, to be reviewed in the diff."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, Deploy, Deployment, mapped
from tests.conftest import deploy as run_program
from tests.stack_config import STACKS

INVENTORIES = Path(__file__).parent / "inventories"


def revisions(deployment: Deployment) -> set[str]:
    """The digests by which machines and instances are told apart."""
    texts = [str(dict(resource.inputs)) for resource in deployment.resources]
    return {found for text in texts for found in re.findall(r"\b[0-9a-f]{12}\b", text)}


def inventory(deployment: Deployment) -> dict[str, Any]:
    """Everything declared, and the names of what is handed on; scripts by their names."""
    stand_ins = {
        (ROOT / "scripts" / name).read_text(): f"(scripts/{name})"
        for name in ("startup.sh", "download_weights.py")
    } | dict.fromkeys(revisions(deployment), "(revision)")

    def shortened(value: Any) -> Any:
        for text, name in stand_ins.items():
            value = value.replace(text, name) if isinstance(value, str) else value
        return value

    listed: dict[str, Any] = {"outputs": sorted(deployment.outputs)}
    for resource in sorted(deployment.resources, key=lambda item: (item.type, item.name)):
        if not resource.type.startswith("llm-endpoint:"):
            entry = mapped(dict(resource.inputs), shortened)
            listed[f"{resource.type} {resource.name}"] = (
                {"(protected)": True, **entry} if resource.protect else entry
            )
    return listed


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_declares_its_inventory(
    deploy: Deploy, stack: str, request: pytest.FixtureRequest
) -> None:
    """What a stack declares changes only together with the inventory that people review."""
    file = INVENTORIES / f"{stack}.yaml"
    declared = inventory(deploy(stack))
    if request.config.getoption("--update-inventories"):
        file.write_text(yaml.safe_dump(declared, sort_keys=True, width=100))

    assert declared == yaml.safe_load(file.read_text()), (
        "review, then: .venv/bin/pytest tests/test_stacks.py --update-inventories"
    )


@pytest.mark.parametrize("stack", STACKS)
def test_the_same_configuration_declares_the_same(stack: str) -> None:
    """A second run finds nothing to do, because the program leaves nothing to chance."""
    assert inventory(run_program(stack)) == inventory(run_program(stack))
