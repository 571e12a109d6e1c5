"""Images with a model in them: what is built, when, of what; and where the hub's token is not."""

import json
import os
import re
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from components.model_source import DEPLOYED_TAG
from rehearsal import leaks
from scripts.build_image import ImageError, Order, arguments, build_of, check_size, submission, tag
from scripts.download_weights import File, Plan
from scripts.google_api import GoogleError
from tests.builder import HOST, IMAGE, PROJECT, ROOT, SECRET, Project
from tests.clouds import HUB_TOKEN

pytestmark = pytest.mark.rehearsal

GATED = "google/gemma-3-1b-it"
WITH_TOKEN = {
    "MODEL": GATED,
    "TOKEN_SECRET": f"{SECRET}/versions/1",
    "HF_TOKEN": HUB_TOKEN,
}
OLLAMA = {
    "ENGINE": "ollama",
    "SOURCE": "ollama",
    "BASE_IMAGE": f"{HOST}/{PROJECT}/docker-hub/ollama/ollama:0.32.15",
    "MODEL": "qwen3:0.6b",
}
NO_SUCH_BASE = f"{HOST}/{PROJECT}/docker-hub/vllm/vllm-openai:v9.9.9"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Generator[Project]:
    project = Project(tmp_path_factory.mktemp("project"))
    yield project
    project.close()


@pytest.fixture(scope="module")
def vllm(project: Project) -> str:
    """An image of a gated model, by its digest."""
    return project.image(**WITH_TOKEN)


@pytest.fixture(scope="module")
def ollama(project: Project) -> str:
    """An image for Ollama, by its digest."""
    return project.image(**OLLAMA)


def running(project: Project, before: int) -> bool:
    """Whether a build beyond the first so many has begun to work."""
    return any(it["status"] == "WORKING" for it in project.builds()[before:])


def downloads() -> Iterator[Path]:
    """The processes, of all on this machine, that fetch weights for a build."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes()
            if b"huggingface_hub" in words and b"download" in words:
                yield path


# --- what is built, and when ----------------------------------------------------------------------


def test_the_image_by_its_digest_is_all_that_it_prints(project: Project, vllm: str) -> None:
    """Standard output is the resource's output; a second `up` finds the same without a build."""
    builds = len(project.builds())

    again = project.run(**WITH_TOKEN)

    assert re.fullmatch(rf"{IMAGE}@sha256:[0-9a-f]{{64}}", vllm)
    assert again.stdout == f"{vllm}\n"
    assert "is there already" in again.stderr
    assert len(project.builds()) == builds


@pytest.mark.parametrize(
    "change",
    [
        {"BASE_IMAGE": f"{HOST}/{PROJECT}/docker-hub/vllm/vllm-openai:v0.32.0"},
        {"REVISION": "v1"},
        {"MODEL": "Qwen/Qwen3-0.6B"},
    ],
)
def test_another_engine_revision_or_model_is_built_again(
    project: Project, vllm: str, change: dict[str, str]
) -> None:
    """What goes into the image decides, and nothing else."""
    builds = len(project.builds())

    other = project.image(**WITH_TOKEN | change)

    assert other != vllm
    assert len(project.builds()) == builds + 1


def test_what_machines_run_is_tagged_so_that_no_clean_up_takes_it(
    project: Project, vllm: str
) -> None:
    """Back to an older image, it is not among the newest any more; the repository keeps the tag."""
    newer = project.image(**WITH_TOKEN | {"REVISION": "v1"})
    assert project.digest(DEPLOYED_TAG) == newer.partition("@")[2]

    project.run(**WITH_TOKEN)

    assert project.digest(DEPLOYED_TAG) == vllm.partition("@")[2]


def test_another_dockerfile_is_another_image_and_another_mirror_is_not() -> None:
    """The tag stands for the content; where the content came from is no part of it."""
    empty = ("PROJECT", "REGION", "REPOSITORY", "NAME", "SERVICE_ACCOUNT", "TOKEN_SECRET")
    what = {"ENGINE": "vllm", "SOURCE": "hub", "MODEL": "m", "REVISION": "", "BASE_IMAGE": "b"}
    mirror = {"HF_ENDPOINT": "https://mirror.example.com/"}
    order = Order.read(dict.fromkeys(empty, "") | what | mirror)
    given = arguments(order, Plan("c", [File("config.json", "https://a", 1, "git:0")], {}))

    assert "HF_ENDPOINT" not in given
    assert (
        "HF_ENDPOINT=https://mirror.example.com"
        in build_of(order, given, "r:t", 1)["steps"][0]["env"]
    )
    assert tag("FROM x", given) != tag("FROM y", given)
    assert tag("FROM x", given) == tag("FROM x", dict(reversed(given.items())))


def test_nobody_waits_in_silence(project: Project, vllm: str) -> None:
    """The log comes as it is written; when it is silent, where the build stands is said again."""
    built = project.told[vllm]

    assert "FROM" in built
    assert "hf download" in built
    assert "still at: " in built
    assert "Pushing" in built
    assert "https://console.cloud.google.com/cloud-build/builds" in built


# --- what is in it --------------------------------------------------------------------------------


def test_the_engine_serves_from_the_image_alone(project: Project, vllm: str) -> None:
    """On a machine that has the image and no way to the hub, vLLM answers; the weights are there
    once, in one format."""
    guest = project.guest(vllm)
    run = f"docker run --rm --network=host --gpus=all {vllm} {GATED} --port=8000"

    models = project.serves(guest, run, "http://127.0.0.1:8000/v1/models")

    assert json.loads(models)["data"][0]["id"] == GATED
    names = [name for name, _ in project.layers(vllm)]
    weights = [it for it in names if it.endswith((".safetensors", ".bin", ".pth", ".gguf"))]
    assert len(weights) == 1


def test_a_machine_that_pulls_the_image_finds_the_model_in_it(project: Project, vllm: str) -> None:
    """By its revision's name and its commit, in files that a read-only container cannot change."""
    guest = project.pulling_guest()
    look = (
        "cd $HF_HOME/hub/models--*; cat refs/main; echo; ls snapshots; echo $HF_HUB_OFFLINE;"
        " stat --dereference --format=%s snapshots/*/model.safetensors; touch new 2>&1 || true"
    )
    run = "docker run --rm --network=host --read-only --entrypoint=/bin/sh"

    project.must(guest, f"docker pull {vllm}")
    said = project.must(guest, f"{run} {vllm} -c '{look}'").splitlines()

    assert said[0] == said[1]
    assert said[2] == "1"
    assert int(said[3]) > 300_000
    assert "Read-only file system" in said[4]


def test_ollama_serves_from_the_image_alone(project: Project, ollama: str) -> None:
    """scripts/ollama.sh finds the store at /weights and pulls nothing."""
    guest = project.guest(ollama)
    script = (ROOT / "scripts" / "ollama.sh").read_bytes()
    project.do(guest.run("install", "-D", "/dev/stdin", "/var/lib/ollama.sh", stdin=script))
    run = (
        "docker run --rm --network=host --gpus=all --env=OLLAMA_HOST=127.0.0.1:11434"
        " --env=OLLAMA_KEEP_ALIVE=-1"
        f" --entrypoint=/bin/bash {ollama}"
        ' -c "$(cat /var/lib/ollama.sh)" ollama.sh qwen3:0.6b revision-1'
    )

    project.serves(guest, run, "http://127.0.0.1:11434/v1/models/revision-1")

    names = [name for name, _ in project.layers(ollama)]
    assert not [it for it in names if "id_ed25519" in it]


# --- the token ------------------------------------------------------------------------------------


def test_the_token_is_nowhere(project: Project, vllm: str) -> None:
    """Not in a layer, the configuration or the history, nor in what the build's API and log say,
    what the script says, or any file of the clouds but the vaults."""
    places = [(f"layer: {name}", content) for name, content in project.layers(vllm)]
    places += [("build", json.dumps(row).encode()) for row in project.builds()]
    places += [("output", project.told[vllm].encode())]
    places += [
        (str(path), path.read_bytes())
        for path in project.world.directory.rglob("*")
        if path.is_file() and path.name not in leaks.OWN_FILES and "/disk/" not in str(path)
    ]

    looked, found = leaks.search(places, {"token": HUB_TOKEN, "model": "num_hidden_layers"})

    assert [it for it in found if it.startswith("token")] == []
    assert any(it.startswith("model in layer") for it in found)  # it would have been seen
    assert looked > 20


def test_the_token_is_in_no_list_of_processes_and_in_no_commands_environment(
    project: Project,
) -> None:
    """While it is used, it is a file for the one command that mounts it."""
    process = project.start(**WITH_TOKEN | {"REVISION": "a" * 40})
    seen: set[str] = set()
    while process.poll() is None:
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                assert HUB_TOKEN.encode() not in (path / "cmdline").read_bytes()
        for path in downloads():
            with suppress(OSError):
                assert HUB_TOKEN.encode() not in (path / "environ").read_bytes()
                seen.add(path.name)
        time.sleep(0.01)

    out, err = process.communicate()

    assert out.startswith(IMAGE), err
    assert seen


# --- interrupted, joined --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_does_not_outlive_whoever_waits_for_it(
    project: Project, number: signal.Signals
) -> None:
    """Ctrl-C, an orderly end, and the kill that pulumi-command gives to its commands."""
    before = len(project.builds())
    process = project.start(MODEL="Qwen/Qwen3-1.7B", REVISION=f"{number:040x}")
    project.until(lambda: running(project, before))

    process.send_signal(number)
    out, _ = process.communicate(timeout=30)

    assert process.returncode != 0
    assert out == ""
    project.until(lambda: project.builds()[before]["status"] == "CANCELLED")


def test_a_build_that_runs_already_is_waited_for(project: Project) -> None:
    """A second `up` starts none of its own, and takes none away when it is interrupted."""
    before = len(project.builds())
    order = {"MODEL": "Qwen/Qwen3-1.7B", "REVISION": "b" * 40}
    first = project.start(**order)
    held: list[int] = []
    project.until(lambda: held.extend(int(it.name) for it in downloads()) or held)
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    second, third = project.start(**order), project.start(**order)
    assert third.stderr
    while "runs already" not in (line := third.stderr.readline()):
        assert line, "it did not wait"

    third.send_signal(signal.SIGINT)
    third.communicate(timeout=30)
    for pid in held:
        os.kill(pid, signal.SIGCONT)

    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert outputs[0] == outputs[1] != ""
    assert [it["status"] for it in project.builds()[before:]] == ["SUCCESS"]


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_failing_build_ends_with_what_its_log_said(project: Project) -> None:
    """And with the way to all of it, and with what to do."""
    failed = project.run(BASE_IMAGE=NO_SUCH_BASE)

    assert (failed.returncode, failed.stdout) == (1, "")
    end = failed.stderr[failed.stderr.index("The build of") :]
    assert "ended with FAILURE" in end
    assert 'Failed to fetch "v9.9.9"' in end
    assert "https://console.cloud.google.com/cloud-build/builds;region=us-central1/" in end
    assert "next: correct what the log names" in end


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("secret", "secretmanager.versions.access"),
        ("pull", "artifactregistry.repositories.downloadArtifacts"),
        ("push", "artifactregistry.repositories.uploadArtifacts"),
    ],
)
def test_a_role_that_is_missing_is_named(project: Project, role: str, said: str) -> None:
    """In Google's words, once it has had its time to arrive."""
    order = WITH_TOKEN | {"REVISION": f"{len(role):040x}"}
    project.revoke(role)
    try:
        failed = project.run(**order)
    finally:
        project.grant(role)

    assert failed.returncode == 1
    assert said in failed.stderr[failed.stderr.index("The build of") :]


def test_a_role_that_arrives_late_is_waited_for(project: Project) -> None:
    """A role granted a moment ago has not reached every service: no reason to fail."""
    project.revoke("secret")
    process = project.start(**WITH_TOKEN | {"REVISION": "c" * 40, "PATIENCE_S": "60"})
    assert process.stderr
    while "a new role takes a moment" not in (line := process.stderr.readline()):
        assert line, "it has given up"
    project.grant("secret")

    out, err = process.communicate(timeout=60)
    assert out.startswith(f"{IMAGE}@sha256:"), err


def test_a_build_without_a_log_says_why_it_has_none(project: Project) -> None:
    """An account that may not write logs builds all the same, and fails with a word about it."""
    project.revoke("log")
    try:
        failed = project.run(BASE_IMAGE=NO_SUCH_BASE)
    finally:
        project.grant("log")

    assert "roles/logging.logWriter" in failed.stderr


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"MODEL": GATED}, f"there is no Hugging Face token\n  next: accept its licence at https://huggingface.co/{GATED}"),
        ({"MODEL": GATED, "HF_TOKEN": "hf_of_nobody"}, "make one at https://huggingface.co/settings/tokens"),
        ({"MODEL": "Qwen/No-Such-Model"}, "there is no model Qwen/No-Such-Model"),
        ({"REVISION": "no-such-branch"}, "has no revision no-such-branch"),
        ({"MODEL": "Qwen/Qwen3-8B"}, "16.4 GB, and an image is for models up to 10 GB"),
        (OLLAMA | {"MODEL": "no-such-model"}, "no-such-model"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_at_once(
    project: Project, order: dict[str, str], said: str
) -> None:
    """Before a build begins, with the page to visit or the setting to change."""
    builds = len(project.builds())

    refused = project.run(**order)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert said in refused.stderr
    assert "next: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(project.builds()) == builds


def test_a_licence_that_was_not_accepted_is_named(tmp_path: Path) -> None:
    """The token is right, and its owner has not clicked."""
    project = Project(tmp_path, "hub-licence")
    refused = project.run(**WITH_TOKEN)
    project.close()

    assert f"accept it at https://huggingface.co/{GATED}, then pulumi up" in refused.stderr


def test_a_model_that_is_too_large_is_sent_to_a_bucket() -> None:
    """With the reason, and the setting."""
    check_size("org/small", 10**10)
    with pytest.raises(ImageError, match="next: pulumi config set weights bucket"):
        check_size("org/large", 10**10 + 1)


@pytest.mark.parametrize(
    ("message", "step"),
    [
        (
            "failed precondition: due to quota restrictions, cannot run builds in this region",
            "restricted_regions_for_some_projects",
        ),
        ("caller does not have permission to act as service account projects/p", "roles"),
    ],
)
def test_a_refusal_of_cloud_builds_comes_with_a_way_out(message: str, step: str) -> None:
    """Google's sentence, and what can be done about it."""
    refused = submission(GoogleError(message, 403, "ask for the roles that the README lists"))

    assert message in str(refused)
    assert step in str(refused)
