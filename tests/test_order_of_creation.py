"""Nothing on the way to the machine's creation waits for what the boot does not need."""

import re

import pytest

from scripts.critical_path import critical_path
from tests import creation
from tests.conftest import Deploy

BOOT_NEEDS = {
    "artifactregistry|cloudresourcemanager|compute|iam|run|secretmanager|storage": "an API",
    "cloudbuild|logging": "the same, where an image is built",
    "vpc|subnet": "where it is",
    "router|nat": "its way to Cloudflare",
    "account": "who it is",
    "docker-hub(-reader)?": "its images",
    "tunnel|tunnel-token-(secret|version|reader)|disconnection": "what its tunnel is opened with",
    "tunnel-gone": "nothing is done when it is created",
    "hugging-face-token-(secret|version|reader)": "what opens a gated model",
    "weights-[0-9a-f]{8}(-object(Viewer|User))?|stager|staging|staged": "weights in a bucket",
    "models(-reader|-writer)?|base-reader|build-logs|image": "an image with weights in it",
    "model": "the hub has the model",
    "health|health-checks": "its group repairs what fails its health check",
    "template": "what it is",
    "outage|move": "people are told before it goes down",
}
"""Names of what may come before the group of machines, and why."""

VARIANTS = {
    "bucket": {"llm-endpoint:huggingFaceToken": "hf_a_token"},
    "hub": {"llm-endpoint:weights": "hub", "llm-endpoint:huggingFaceToken": "hf_a_token"},
    "image": {"llm-endpoint:weights": "image"},
}


@pytest.mark.parametrize("weights", VARIANTS)
def test_the_machine_waits_only_for_what_its_boot_needs(deploy: Deploy, weights: str) -> None:
    """Access, DNS, policies, SSH, and the roles to write logs are made beside it."""
    needs = creation.needs(deploy("dev", VARIANTS[weights]))
    before, todo = set[str](), ["group"]
    while todo:
        new = needs[todo.pop()] - before
        before |= new
        todo += new

    assert [it for it in sorted(before) if not re.fullmatch("|".join(BOOT_NEEDS), it)] == []


@pytest.mark.parametrize(
    ("weights", "chain"),
    [
        # Two chains are equally long: by the subnet and the template, and by the way out.
        ("hub", "vpc (subnet template|router nat) group"),
        ("bucket", "(account|stager) (docker-hub-reader|weights-\\S+) staging staged group"),
    ],
)
def test_the_longest_chain_is_as_short_as_it_can_be(
    deploy: Deploy, weights: str, chain: str
) -> None:
    """What takes longest on the way to the machine, by the figures: an API, then this."""
    deployment = deploy("dev", VARIANTS[weights])
    seconds, needs = creation.seconds(deployment), creation.needs(deployment)

    path = critical_path(seconds, needs, "group")

    assert re.fullmatch(chain, " ".join(path[1:]))


def test_the_template_is_ready_while_weights_are_staged(deploy: Deploy) -> None:
    """It needs to know where they will be; its group waits until they are there."""
    needs = creation.needs(deploy("dev"))

    assert "staged" in needs["group"]
    assert "staged" not in needs["template"]
    assert "nat" not in needs["template"]


@pytest.mark.parametrize("weights", VARIANTS)
@pytest.mark.parametrize(("cores", "at_most"), [(2, 1.35), (4, 1.1)])
def test_few_cores_hardly_delay_the_machine(
    deploy: Deploy, weights: str, cores: int, at_most: float
) -> None:
    """Pulumi makes four resources a core at a time: what the machine needs goes first."""
    deployment = deploy("dev", VARIANTS[weights])
    seconds, needs = creation.seconds(deployment), creation.needs(deployment)
    path_s = sum(seconds[name] for name in critical_path(seconds, needs, "group"))

    done = creation.scheduled(seconds, needs, at_once=4 * cores)

    assert done["group"] <= at_most * path_s


def test_a_critical_path_is_the_longest_chain() -> None:
    """By what takes how long and what waits for what; not by how many there are."""
    seconds = {"a": 5.0, "b": 1.0, "c": 1.0, "d": 1.0, "end": 2.0}
    needs = {"c": {"b"}, "d": {"c"}, "end": {"a", "d"}}

    assert critical_path(seconds, needs, "end") == ["a", "end"]
    assert critical_path(seconds | {"c": 6.0}, needs, "end") == ["b", "c", "d", "end"]
    assert critical_path({}, {}, "alone") == ["alone"]
