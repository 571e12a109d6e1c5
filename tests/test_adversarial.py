"""Whatever stands in a configuration: it is planned as it is meant, or refused in words.

tests/count_adversarial.py runs the same configurations and counts them.
"""

import asyncio
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from components import engine
from components.engine import EngineContainer
from components.settings import Settings
from components.stack_rules import GOOGLES_VARIABLES
from tests.adversarial import (
    CANARY,
    CONFIGURATIONS,
    KINDS,
    METACHARACTERS,
    PLAIN,
    PRIVATE,
    Configuration,
    Outcome,
    known_keys,
    plan,
)
from tests.conftest import Declared, Deployment
from tests.guest import STARTUP_SCRIPT

EXAMPLES = 700
"""Some come up twice."""
LONGEST_REFUSAL = 60_000
METADATA_VALUE, METADATA = 256 * 1024, 512 * 1024
"""Bytes that Google takes (docs.cloud.google.com/compute/docs/metadata/setting-custom-metadata)."""

NAMES = {
    # What Google and Cloudflare say of names that the program makes up itself; of the others,
    # which Pulumi completes by a hyphen and seven characters, the same must hold of the whole.
    "accountId": "[a-z][a-z0-9-]{4,28}[a-z0-9]",
    "repositoryId": "[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
    "secretId": "[A-Za-z0-9_-]{1,255}",
    "baseInstanceName": "[a-z]([a-z0-9-]{0,56}[a-z0-9])?",
}
AUTONAMED = {
    "Service": 49,
    "Job": 49,
    "Bucket": 63,
    "Network": 63,
    "Subnetwork": 63,
    "Router": 63,
    "RouterNat": 63,
    "Firewall": 63,
    "HealthCheck": 63,
    "RegionInstanceTemplate": 63,
    "RegionInstanceGroupManager": 63,
}
"""Characters that a name may have, by type of resource of Google's."""
SUFFIX = "-1a2b3c4"
SHELL_LINE = re.compile(
    r"\.venv/bin/python -m scripts\.[a-z_]+( --[a-z]+)?|echo '[A-Za-z0-9 .,:;()-]+'"
)
SSH = re.compile(
    r"gcloud compute ssh --tunnel-through-iap \$\(gcloud compute instance-groups managed"
    r" list-instances [a-z0-9-]+ --project=[a-z0-9-]+ --region=[a-z0-9-]+ --limit=1 --uri\)"
)


Outcomes = list[tuple[Configuration, Outcome]]


def examine(folder: Path) -> Outcomes:
    """Hold every configuration to the promise; what became of each. AssertionError otherwise."""
    outcomes: Outcomes = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,  # the same ones everywhere, every time
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(CONFIGURATIONS)
    def check(given_: Configuration) -> None:
        outcome = plan(given_)
        outcomes.append((given_, outcome))
        if outcome.settings and outcome.deployment:
            is_planned_as_meant(outcome.settings, outcome.deployment, folder)
        else:
            says_what_to_do(given_, outcome.refusal)
        assert not Path(CANARY).exists(), "something that was injected ran"

    check()
    return outcomes


def test_no_key_is_left_out() -> None:
    """Whoever adds a key says what is right for it, and it is tried with all that is wrong."""
    assert PLAIN.keys() == known_keys()


def test_any_configuration_is_planned_as_it_is_meant_or_refused_in_words(tmp_path: Path) -> None:
    """At least 500 of them, of every kind; nothing in them reaches a shell, a unit, or a name."""
    asyncio.set_event_loop(asyncio.new_event_loop())  # as the SDK wants one

    outcomes = examine(tmp_path)

    planned = [it for it, outcome in outcomes if outcome.deployment]
    assert len({(it.stack, it.changes) for it, _ in outcomes}) >= 500
    assert 80 <= len(planned) <= len(outcomes) - 300
    hostile = [it for it in planned if it.kinds - {"right values"}]
    assert len(hostile) >= 30, "hardly anything hostile came as far as the plan"
    assert {kind for it, _ in outcomes for kind in it.kinds} == set(KINDS)


# --- refusals -----------------------------------------------------------------------------------


def says_what_to_do(given_: Configuration, refusal: str) -> None:
    """Every problem has a key, a value, an expectation and a next step, and all can be printed."""
    first, *problems = refusal.rstrip("\n").split("\n\n  ")
    assert first == "This stack's configuration cannot work; nothing was changed."
    assert problems
    assert len(refusal) < LONGEST_REFUSAL
    assert not re.search(r"[^\n -\U0010ffff]|[\x7f-\x9f\u2028\u202e]", refusal), "drives a terminal"
    for problem in problems:
        found = re.fullmatch(r"(.+?): (.+)\n    expected: (.+)\n    next: (.+)", problem)
        assert found, problem
        name, _, _, following = found.groups()
        about = {it.partition("[")[0] for it in name.split(" and ")[0].split(", ")}
        others = [it for it in given_.values if it not in known_keys()]
        assert about & known_keys() or others, f"about {name}, which nobody has changed"
        assert not any(it in following for it in METACHARACTERS), "a command with an injection"
        for command in re.findall(r"pulumi config (?:set|rm) [^,;]+", following):
            shlex.split(command)  # it can be typed as it stands
    assert PRIVATE not in refusal.replace(f"'llm-endpoint:{PRIVATE}'", "")
    assert "Traceback" not in refusal


# --- plans --------------------------------------------------------------------------------------


def is_planned_as_meant(settings_: Settings, deployment: Deployment, folder: Path) -> None:
    """What is declared has the values where they belong, whole, and nowhere else."""
    for resource in deployment.resources:
        has_a_name_that_the_clouds_take(resource)
        for key in ("create", "update", "delete"):
            if line := resource.received.get(key) if resource.type.endswith(":Command") else None:
                assert SHELL_LINE.fullmatch(line), f"{resource.name} runs {line}"
    assert "\0" not in json.dumps([it.received for it in deployment.resources], default=str)
    leads_to_the_engine_only(settings_, deployment)
    tells_machines_what_was_meant(settings_, deployment, folder)
    assert SSH.fullmatch(deployment.outputs["sshCommand"])
    assert re.fullmatch(r"https://[A-Za-z0-9%/;=?_.:~-]+", deployment.outputs["logsUrl"])


def has_a_name_that_the_clouds_take(resource: Declared) -> None:
    """Names and labels follow the services' rules, whatever the stack and its consumers are."""
    kind = resource.type.rpartition(":")[2]
    assert re.fullmatch("[A-Za-z0-9-]{1,80}", resource.name), resource.name
    for key, pattern in NAMES.items():
        if key in resource.received and resource.type.startswith("gcp:"):
            assert re.fullmatch(pattern, resource.received[key]), resource.received[key]
    if resource.type.startswith("gcp:") and kind in AUTONAMED and "name" not in resource.received:
        whole = resource.name + SUFFIX
        assert re.fullmatch("[a-z][a-z0-9-]+", whole)
        assert len(whole) <= AUTONAMED[kind] or resource.type.startswith("gcp:projects"), whole
    labels: dict[str, str] = resource.received.get("labels") or {}
    for key, value in labels.items():
        assert re.fullmatch("[a-z0-9_-]{1,63}", key)
        assert re.fullmatch("[a-z0-9_-]{0,63}", value)


def leads_to_the_engine_only(settings_: Settings, deployment: Deployment) -> None:
    """The tunnel's rules are for the host name, the engine's own paths, and one origin."""
    chosen = engine.engine(settings_.engine)
    rules = deployment.one("ZeroTrustTunnelCloudflaredConfig").received["config"]["ingresses"]
    *to_engine, last = rules
    assert last == {"service": "http_status:404"}
    assert [rule["path"] for rule in to_engine] == [*chosen.PUBLIC_PATHS]
    assert {rule["hostname"] for rule in to_engine} == {settings_.hostname}
    origin = f"http://127.0.0.1:{chosen.PORT}"
    if settings_.platform == "cloud-run":
        origin = deployment.one("Service", package="cloudrunv2").received.get("uri", origin)
        assert all(rule["service"].startswith("https://llm-service-") for rule in to_engine)
    else:
        assert {rule["service"] for rule in to_engine} == {origin}
    assert all(rule["originRequest"]["access"]["required"] for rule in to_engine)


def tells_machines_what_was_meant(
    settings_: Settings, deployment: Deployment, folder: Path
) -> None:
    """The engine gets its arguments and its environment to the last byte."""
    metadata: dict[str, str] = deployment.one("RegionInstanceTemplate").received["metadata"]
    sizes = [len(value.encode()) for value in metadata.values()]
    assert max(sizes) <= METADATA_VALUE
    assert sum(sizes) <= METADATA
    assert metadata["startup-script"] == STARTUP_SCRIPT.read_text(), "units are in it"
    args, env = [*settings_.engine_args], settings_.environment
    if settings_.platform == "cloud-run":
        service = deployment.one("Service", package="cloudrunv2").received["template"]
        (container,) = service["containers"]
        given_args, given_env = (
            container["args"],
            {it["name"]: it["value"] for it in container["envs"]},
        )
        assert not any(map(GOOGLES_VARIABLES.fullmatch, given_env))
        assert container.get("image", "").count(" ") == 0
    else:
        given_args, given_env = read_by_the_machine(metadata, folder)
    assert given_args == [*meant(settings_, given_args).args]
    assert given_args[len(given_args) - len(args) :] == args
    assert given_env.items() >= env.items()


def meant(settings_: Settings, given_args: list[str]) -> EngineContainer:
    """The container as the engine's own function describes it; what is made up is taken over."""
    revision = next(
        (
            found[1]
            for arg in given_args
            if (found := re.fullmatch("(?:--fingerprint-value=|revision-)([0-9a-f]+)", arg))
        ),
        "",
    )
    weights = given_args[0] if given_args[0].startswith("gs://") else "an-image"
    return engine.containers(settings_, token=False)("registry", weights, revision)


START = re.search(r"<<'START'\n(.*?)^START$", STARTUP_SCRIPT.read_text(), re.DOTALL | re.MULTILINE)
FOLDER = "/run/llm-endpoint/llm-endpoint-engine"
DOCKER = """#!/bin/bash
printf '%s\\0' "$@"
"""


def read_by_the_machine(metadata: dict[str, str], folder: Path) -> tuple[list[str], dict[str, str]]:
    """What docker is told by the script's own start of the engine: arguments and environment."""
    assert START
    assert START[1].count(FOLDER) == 1
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    # An image with the weights in it is built when the stack goes up: nobody has told its name.
    known = {"engine-image": "an-image"} | metadata
    for file in ("image", "args", "env", "script"):
        value = known[f"engine-{file}"]
        (folder / file).write_bytes(value.encode())
        if file == "script" and not value:
            (folder / file).unlink()
    ran = subprocess.run(
        ["bash", "-c", START[1].replace(FOLDER, str(folder))],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    told = ran.stdout.decode().split("\0")[:-1]
    image = told.index(known["engine-image"])
    args = told[image + 1 :]
    if "--entrypoint" in told[:image]:
        assert args.pop(0) == "/run/engine-script"
    assert not any("\n" in it for it in told)
    return args, dict(docker_reads(metadata["engine-env"]))


def docker_reads(text: str) -> Iterator[tuple[str, str]]:
    """An environment file as docker reads one (pkg/kvfile of docker/cli): a variable a line."""
    for line in text.split("\n"):
        assert len(line.encode()) < 64 * 1024
        name, equals, value = line.lstrip(" \t").partition("=")
        assert equals
        assert re.fullmatch(r"[^\s#]\S*", name)
        yield name, value.removesuffix("\r")


# --- the unit files -----------------------------------------------------------------------------


def test_no_unit_has_anything_of_the_metadata_in_it() -> None:
    """The two unit files stand in the script, quoted, with no specifier and no variable."""
    script = STARTUP_SCRIPT.read_text()
    units = re.findall(r"<<'UNIT'\n(.*?)^UNIT$", script, re.DOTALL | re.MULTILINE)
    assert len(units) == 2
    assert not re.findall(r"<<-?\s*[A-Za-z]", script), "an unquoted here-document"
    for unit in units:
        sections = re.findall(r"^\[(\w+)\]$", unit, re.MULTILINE)
        assert sections == ["Unit", "Service"]
        lines = [it for it in unit.splitlines() if it and it[0] not in "#["]
        assert all(re.fullmatch(r"[A-Z][A-Za-z]+=[^%$`\\]+", line) for line in lines), unit


@pytest.mark.parametrize("text", ["a\nb=c", "=x", "A B=1", "#A=1"])
def test_a_bad_environment_would_be_noticed(text: str) -> None:
    """The reader that these tests trust refuses what docker refuses."""
    with pytest.raises(AssertionError):
        dict(docker_reads(text))
