"""What stands for Cloud Build, its docker and a repository of our own: what they do and refuse."""

import json
import re
from collections.abc import Generator
from typing import Any

import pytest

from rehearsal.google import cloud_build
from rehearsal.google.identity import ACCOUNT
from rehearsal.google.image_store import REPOSITORY
from rehearsal.google.project import SERVICE
from rehearsal.machines import image_files
from rehearsal.store import Body
from tests.builder import HOST, IMAGE, MODELS, PLACE, SECRET, STAGER, Project
from tests.clouds import PROJECT

pytestmark = pytest.mark.rehearsal

BUILDS = f"https://{cloud_build.HOST}/v1/{PLACE}/builds"
LOGS = "https://logging.googleapis.com/v2/entries:list"
STRANGER = f"stranger@{PROJECT}.iam.gserviceaccount.com"
BASE = f"{HOST}/{PROJECT}/docker-hub/vllm/vllm-openai:v0.33.0"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Generator[Project]:
    project = Project(tmp_path_factory.mktemp("project"))
    project.call(lambda: project.world.store.put(ACCOUNT, STRANGER, {"email": STRANGER}))
    yield project
    project.close()


def build(script: str = "#!/bin/sh\nprintf '%s|' \"$A\" $0\n", **changes: Any) -> Body:
    """A build that says something."""
    step = {"name": cloud_build.BUILDER, "script": script} | changes.pop("step", {})
    whole = {
        "steps": [step],
        "serviceAccount": f"projects/{PROJECT}/serviceAccounts/{STAGER}",
        "options": {"logging": "CLOUD_LOGGING_ONLY"},
    }
    return whole | changes


def outcome(project: Project, body: Body) -> tuple[Body, str]:
    """How a build ended, and its log."""
    answer = project.api("POST", BUILDS, json=body).json()
    name = answer["metadata"]["build"]["name"]
    url = f"https://{cloud_build.HOST}/v1/{name}"
    project.until(lambda: project.api("GET", url).json()["status"] in cloud_build.ENDED)
    wanted = f'resource.type="build" AND resource.labels.build_id="{name.rpartition("/")[2]}"'
    question = {"resourceNames": [f"projects/{PROJECT}"], "filter": wanted, "pageSize": 1000}
    entries = project.api("POST", LOGS, json=question).json().get("entries", [])
    return project.api("GET", url).json(), "\n".join(it["textPayload"] for it in entries)


# --- Cloud Build ----------------------------------------------------------------------------------


def test_a_step_runs_its_script_with_substitutions_in_its_environment_only(
    project: Project,
) -> None:
    """`$$` is a dollar, `$PROJECT_ID` the project; the script's own dollars are the shell's."""
    step = {"env": ["A=$$HOME of ${PROJECT_ID}"]}

    done, log = outcome(project, build(step=step))

    assert done["status"] == "SUCCESS"
    assert f"$HOME of {PROJECT}|/workspace/script|" in log


def test_a_step_that_fails_fails_the_build(project: Project) -> None:
    """With its exit code."""
    done, log = outcome(project, build("echo to the log; exit 3"))

    assert done["status"] == "FAILURE"
    assert done["failureInfo"]["type"] == "USER_BUILD_STEP"
    assert "step exited with non-zero status: 3" in done["statusDetail"]
    assert "to the log" in log


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (build(source={"storageSource": {}}), "Unknown name \"source\" at 'build'"),
        (build(options={}), "CLOUD_LOGGING_ONLY / NONE"),
        (build(step={"args": ["x"]}), "Unknown name \"args\" at 'build.steps[0]'"),
        (build(step={"name": "ubuntu"}), "with a script only"),
        (build(step={"env": ["A=$HOME"]}), '"HOME" is not a valid built-in substitution'),
        (build(step={"secretEnv": ["A"]}), "'A' is not both available and used"),
        (build(timeout="25h"), "invalid timeout"),
        (build(tags=["a b"]), "invalid build tag"),
        (build(serviceAccount=f"projects/{PROJECT}/serviceAccounts/nobody"), "act as service"),
    ],
)
def test_builds_are_refused_as_cloud_build_refuses_them(
    project: Project, body: Body, said: str
) -> None:
    """And what is not played is refused, too."""
    answer = project.api("POST", BUILDS, json=body)

    assert answer.status_code in (400, 403)
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("POST", BUILDS, build()),
        ("GET", BUILDS, None),
        ("GET", f"{BUILDS}/x", None),
        ("POST", f"{BUILDS}/x:cancel", {}),
        ("POST", LOGS, {"resourceNames": [f"projects/{PROJECT}"]}),
    ],
)
def test_strangers_neither_build_nor_look(
    project: Project, method: str, url: str, body: Body | None
) -> None:
    """Everything takes a permission."""
    answer = project.api(method, url, STRANGER, json=body)

    assert (answer.status_code, answer.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


def test_who_may_build_may_not_do_it_as_anybody(project: Project) -> None:
    """To run a build as an account takes a role on that account, besides."""
    store = project.world.store
    kind, member = "gcp:projects/iAMMember:IAMMember", f"serviceAccount:{STRANGER}"
    role = {"role": "roles/cloudbuild.builds.editor", "member": member, "project": PROJECT}
    project.call(lambda: store.put(kind, "builds", role))

    refused = project.api("POST", BUILDS, STRANGER, json=build())
    project.call(lambda: store.put(kind, "act", role | {"role": "roles/iam.serviceAccountUser"}))
    taken = project.api("POST", BUILDS, STRANGER, json=build())

    for id in ("builds", "act"):
        project.call(lambda id=id: store.delete(kind, id))
    assert "does not have permission to act as service account" in refused.text
    assert taken.status_code == 200


def test_without_the_api_there_is_no_cloud_build(project: Project) -> None:
    """The refusal says which API, in the form that clients look for."""
    store, id = project.world.store, f"{PROJECT}/{cloud_build.HOST}"
    project.call(lambda: store.delete(SERVICE, id))
    refused = project.api("GET", BUILDS)
    project.call(lambda: store.put(SERVICE, id, {"service": cloud_build.HOST}))

    assert refused.json()["error"]["details"][0]["reason"] == "SERVICE_DISABLED"


def test_a_build_is_cancelled_once(project: Project) -> None:
    """It is found by its tag meanwhile, and its machine ends with it."""
    answer = project.api("POST", BUILDS, json=build("sleep 1000", tags=["slow"])).json()
    name = answer["metadata"]["build"]["name"]
    url = f"https://{cloud_build.HOST}/v1/{name}"
    project.until(lambda: project.api("GET", url).json()["status"] == "WORKING")

    found = project.api("GET", BUILDS, params={"filter": 'tags="slow"'}).json()["builds"]
    cancelled = project.api("POST", f"{url}:cancel", json={})
    again = project.api("POST", f"{url}:cancel", json={})

    assert [it["name"] for it in found] == [name]
    assert cancelled.json()["status"] == "CANCELLED"
    assert again.json()["error"]["status"] == "FAILED_PRECONDITION"


def test_a_secret_is_the_steps_alone(project: Project) -> None:
    """Its value is in the step's environment, and nowhere in the API."""
    secret = {"versionName": f"{SECRET}/versions/1", "env": "TOKEN"}
    body = build(
        'printf %s "$TOKEN" | wc -c',
        step={"secretEnv": ["TOKEN"]},
        availableSecrets={"secretManager": [secret]},
    )

    done, log = outcome(project, body)

    assert done["status"] == "SUCCESS"
    assert re.search(r"^37$", log, re.M)


# --- docker build ---------------------------------------------------------------------------------


def docker_build(project: Project, dockerfile: str, options: str = "") -> tuple[Body, str]:
    """How a build of a Dockerfile ends, and its log."""
    command = f"DOCKER_BUILDKIT=1 docker build --tag={IMAGE}:t {options} -"
    script = f"#!/bin/bash\n{command} <<'.'\n{dockerfile}\n.\n"
    return outcome(project, build(script, images=[f"{IMAGE}:t"]))


@pytest.mark.parametrize(
    ("dockerfile", "said"),
    [
        (f"FROM {BASE}\nCOPY . /x", "the rehearsal does not play COPY"),
        (f"FROM {BASE}\nRUN --mount=type=cache,target=/x true", "does not play RUN --mount"),
        (f"FROM {BASE}\nFROM {BASE}", "builds of one stage only"),
        ("ENV A=1", "no build stage in current context"),
        (f"FROM {BASE}\nRUN echo said; exit 4", "did not complete successfully: exit code: 4"),
        (f"FROM {BASE}\nRUN touch /etc/x", "Read-only file system"),
        (f"FROM {BASE}\nRUN touch /x\nRUN rm /x", "cannot take x out of an earlier layer"),
        (f"FROM {HOST}/{PROJECT}/docker-hub/vllm/vllm-openai:no", "manifest unknown"),
    ],
)
def test_a_dockerfile_fails_where_docker_fails(
    project: Project, dockerfile: str, said: str
) -> None:
    """And where the rehearsal does not know what docker would do."""
    done, log = docker_build(project, dockerfile)

    assert done["status"] == "FAILURE"
    assert said in log


def test_secrets_need_buildkit(project: Project) -> None:
    """The docker of Cloud Build is old enough to have to be told."""
    dockerfile = f"FROM {BASE}\nRUN --mount=type=secret,id=a true"

    done, log = outcome(
        project, build(f"#!/bin/bash\ndocker build --tag=t - <<'.'\n{dockerfile}\n.\n")
    )

    assert done["status"] == "FAILURE"
    assert "requires BuildKit" in log


def test_layers_hold_what_each_command_changed(project: Project) -> None:
    """A secret that was mounted is in none; what was declared and how is in the configuration."""
    dockerfile = f"""ARG BASE
FROM {BASE}
# A comment.
ARG WHAT=first
ENV KEPT=${{WHAT}} ALSO="two words"
RUN --mount=type=secret,id=it cp /run/secrets/it /dev/null && mkdir -p /new/folder \\
    # another comment
 && echo $WHAT > /new/file && ln -s file /new/link
RUN cat /new/file > /new/copy; ls /run/secrets || true"""

    done, log = docker_build(project, dockerfile, "--build-arg=WHAT=given --secret=id=it,env=HOME")

    assert done["status"] == "SUCCESS", log
    layers = dict(project.layers(f"{IMAGE}@{done['results']['images'][0]['digest']}"))
    config = json.loads(layers.pop("config"))
    manifest = json.loads(layers.pop("manifest"))
    assert len(manifest["layers"]) == 3
    assert layers["new/file"] == layers["new/copy"] == b"given\n"
    assert layers["new/link"] == b"file"
    assert not [name for name in layers if not name.startswith("new")]
    assert config["config"]["Env"] == ["KEPT=given", "ALSO=two words"]
    assert "RUN |1 WHAT=given /bin/sh -c cp /run/secrets/it" in config["history"][1]["created_by"]


# --- the repository -------------------------------------------------------------------------------


def push(project: Project, method: str, path: str, email: str = STAGER, **options: Any) -> int:
    """The status of a request to the repository."""
    url = f"https://{HOST}/v2/{PROJECT}/{path}"
    return project.api(method, url, email, **options).status_code


def test_a_repository_takes_what_is_whole(project: Project) -> None:
    """A blob is what its digest says, and a manifest lists what is there."""
    uploads, content = "models/x/blobs/uploads/", b"bytes"
    digest = image_files.digest(content)
    other = {"digest": image_files.digest(b"others")}
    manifest = {"config": {"digest": digest}, "layers": [other]}

    assert push(project, "POST", uploads) == 202
    assert push(project, "PUT", f"{uploads}1", params=other, data=content) == 400
    assert push(project, "PUT", f"{uploads}1", params={"digest": digest}, data=content) == 201
    assert push(project, "HEAD", f"models/x/blobs/{digest}") == 200
    assert push(project, "PUT", "models/x/manifests/t", json=manifest) == 400


def test_who_may_only_read_pushes_nothing(project: Project) -> None:
    """And nobody pushes to Docker Hub's mirror."""
    assert push(project, "POST", "docker-hub/x/blobs/uploads/", "") == 405
    project.revoke("push")
    refused = push(project, "POST", "models/x/blobs/uploads/")
    project.grant("push")
    assert refused == 403


def test_images_go_with_their_repository(project: Project) -> None:
    """One of the same name begins empty."""
    digest = image_files.digest(b"bytes")
    push(project, "PUT", "models/x/blobs/uploads/1", params={"digest": digest}, data=b"bytes")

    project.call(lambda: project.world.store.delete(REPOSITORY, MODELS))
    project.call(lambda: project.world.store.put(REPOSITORY, MODELS, {}))

    assert push(project, "GET", f"models/x/blobs/{digest}") == 404
