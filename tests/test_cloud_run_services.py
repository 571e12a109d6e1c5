"""Services of Cloud Run: what whoever deploys one, and whoever calls it, can rely on."""

import json
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from rehearsal.errors import CloudError, OperationFailed
from rehearsal.google.cloud_run import INSTANCE, REVISION, SERVICE, front_end, revision
from rehearsal.google.instance_groups import InstanceGroups
from rehearsal.google.instances import GROUP
from rehearsal.google.metadata import INSTANCE as VM
from rehearsal.google.network import SUBNETWORK
from rehearsal.providers.cloud_run import SERVICE_MEMBER
from rehearsal.store import Body
from tests.region import (
    GPU,
    HUB,
    NUMBER,
    PAYLOAD,
    PROJECT,
    PYTHON,
    REGION,
    RUNTIME,
    SERVER,
    STRANGER,
    Cloud,
    service,
)

pytestmark = pytest.mark.rehearsal

Open = Callable[..., Cloud]


@pytest.fixture(name="open_cloud")
def _open_cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Open]:
    """Opens a cloud with the given faults."""
    monkeypatch.setattr(revision, "IDLE_FLOOR_S", 0.7)
    opened: list[Cloud] = []

    def open_it(*faults: str, speed: float = 2000) -> Cloud:
        opened.append(Cloud(tmp_path, speed, *faults))
        return opened[-1]

    yield open_it
    for it in opened:
        it.close()


@pytest.fixture
def cloud(open_cloud: Open) -> Cloud:
    return open_cloud()


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cloud]:
    """One cloud for all that it refuses."""
    cloud = Cloud(tmp_path_factory.mktemp("world"), 2000)
    yield cloud
    cloud.close()


def deploy(cloud: Cloud, *arguments: str, **more: Any) -> Body:
    """Create a service; its outputs."""
    return cloud.create(SERVICE, "llm", service(*arguments, **more))


def at_once(count: int, cloud: Cloud, made: Body) -> list[requests.Response]:
    """The answers to so many requests that take a second, sent at the same time."""
    with ThreadPoolExecutor(count) as callers:
        return [*callers.map(cloud.ask, [made["uri"]] * count, ["/slow"] * count)]


# --- waking and scaling ---------------------------------------------------------------------------


def test_a_service_answers_at_both_of_its_addresses(cloud: Cloud) -> None:
    """Its container gets its command, arguments and variables, and the host that was asked for."""
    container = {"envs": [{"name": "MODEL", "value": "a/b c"}], "ports": {"containerPort": 9000}}
    made = deploy(cloud, "--flag", "with space", container=container)

    assert made["urls"][0] == f"https://llm-{NUMBER}.{REGION}.run.app"
    assert made["uri"] == made["urls"][1]
    for url in made["urls"]:
        answer = cloud.ask(url, "/v1/models?x=1")
        assert answer.headers["Server"] == "Google Frontend"
        facts = answer.json()
        assert f"https://{facts['host']}" == url
        assert facts["arguments"] == ["--flag", "with space"]
        expected = {"MODEL": "a/b c", "PORT": "9000", "K_SERVICE": "llm"}
        assert expected.items() <= facts["variables"].items()
        assert facts["variables"]["K_REVISION"] == made["latestReadyRevision"].rpartition("/")[2]
        assert "PYTHONPATH" not in facts["variables"]


def test_an_idle_service_is_at_zero_and_wakes(cloud: Cloud) -> None:
    """Nothing runs after the idle time; the next request waits for an instance and is answered."""
    made = deploy(cloud)
    first = cloud.ask(made["uri"]).json()["instance"]

    cloud.until(lambda: not cloud.instances())
    woken = cloud.ask(made["uri"])

    assert woken.status_code == 200
    assert woken.json()["instance"] != first


def test_many_callers_at_zero_wake_one_instance(cloud: Cloud) -> None:
    """All are served by it, as far as its concurrency goes."""
    made = deploy(cloud, template={"scaling": {"maxInstanceCount": 3}})
    cloud.until(lambda: not cloud.instances())

    answers = [it.json() for it in at_once(6, cloud, made)]

    assert len({it["instance"] for it in answers}) == 1


def test_more_callers_than_an_instance_takes_get_more_instances(cloud: Cloud) -> None:
    """Up to the limit: with a concurrency of one, two at once are served by two instances."""
    scaling = {"scaling": {"maxInstanceCount": 2}, "maxInstanceRequestConcurrency": 1}
    made = deploy(cloud, template=scaling)

    answers = [it.json() for it in at_once(4, cloud, made)]

    assert len({it["instance"] for it in answers}) == 2


def test_an_instance_comes_up_though_its_caller_has_gone(cloud: Cloud) -> None:
    """A client that gives up during the cold start leaves a warm instance to the next one."""
    slow_start = "import time; time.sleep(1)\n" + SERVER
    made = deploy(cloud, code=slow_start)
    cloud.until(lambda: not cloud.instances())

    with pytest.raises(requests.exceptions.ReadTimeout):
        cloud.ask(made["uri"], timeout=0.5)
    [started] = cloud.instances()
    warm = cloud.ask(made["uri"]).json()["instance"]

    assert started["name"] in warm
    assert cloud.logs().count("Starting new instance.") == 2  # the deployment's, and this


def test_the_least_number_of_instances_stays(cloud: Cloud) -> None:
    """A service that must keep one instance does, beyond the idle time and after a crash."""
    made = deploy(cloud, template={"scaling": {"minInstanceCount": 1, "maxInstanceCount": 1}})
    time.sleep(revision.IDLE_FLOOR_S + 0.5)  # that nothing happens takes its time
    first = cloud.ask(made["uri"]).json()["instance"]

    assert cloud.ask(made["uri"], "/die").status_code == 503
    cloud.until(lambda: cloud.logs().count("listening") == 2)

    assert cloud.ask(made["uri"]).json()["instance"] != first


# --- what Cloud Run answers itself ----------------------------------------------------------------


def test_a_full_service_says_so(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that finds no room in time is answered 429."""
    monkeypatch.setattr(revision, "WAIT_FLOOR_S", 0.2)
    monkeypatch.setattr(revision, "WAIT_FACTOR", 0.1)
    made = deploy(cloud, template={"maxInstanceRequestConcurrency": 1})

    answers = sorted((it.status_code, it.text) for it in at_once(2, cloud, made))

    assert answers[0][0] == 200
    assert answers[1] == (429, "Rate exceeded.")
    assert "The request was aborted because there was no available instance." in cloud.logs()


def test_a_request_has_its_time(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes longer than the service allows is broken off with 504."""
    monkeypatch.setattr(front_end, "REQUEST_FLOOR_S", 0.3)
    made = deploy(cloud, template={"timeout": "60s"})

    answer = cloud.ask(made["uri"], "/slow")

    assert (answer.status_code, answer.text) == (504, "upstream request timeout")


def test_a_crash_costs_its_request_and_no_more(cloud: Cloud) -> None:
    """The caller of a container that dies gets 503; the next request starts another one."""
    made = deploy(cloud)

    answer = cloud.ask(made["uri"], "/die")

    assert answer.status_code == 503
    assert answer.text.startswith("upstream connect error or disconnect/reset before headers.")
    cloud.until(lambda: "Container called exit(3)." in cloud.logs())
    assert cloud.ask(made["uri"]).status_code == 200


def test_a_sick_container_is_replaced(cloud: Cloud) -> None:
    """One whose liveness probe fails is ended, and a new one takes its place."""
    probe = {"httpGet": {"path": "/health"}, "periodSeconds": 10, "failureThreshold": 1}
    scaling = {"scaling": {"minInstanceCount": 1, "maxInstanceCount": 1}}
    made = deploy(cloud, container={"livenessProbe": probe}, template=scaling)
    first = cloud.ask(made["uri"], "/fall-sick").json()["instance"]

    cloud.until(lambda: "LIVENESS probe failed." in cloud.logs())
    cloud.until(lambda: cloud.logs().count("listening") == 2)

    assert cloud.ask(made["uri"]).json()["instance"] != first


@pytest.mark.parametrize("caller", ["inside", "outside"])
def test_a_host_that_is_nobodys_is_not_found(cloud: Cloud, caller: str) -> None:
    """Also on a connection to a service's own host: a tunnel must send the host that it calls."""
    made = deploy(cloud)
    if caller == "outside":
        answer = cloud.ask(f"https://nothing-{NUMBER}.{REGION}.run.app")
        status, body = answer.status_code, answer.text
    else:
        host = "Host: llm.example.com"
        status, body = cloud.ask_as_guest("a-vm", made["uri"], "--header", host)

    assert status == 404
    assert "The requested URL was not found on this server." in body


# --- who is let in --------------------------------------------------------------------------------

SUBNET = f"projects/{PROJECT}/regions/{REGION}/subnetworks/llm"
VM_ID = f"projects/{PROJECT}/zones/{REGION}-a/instances/connector"


@pytest.mark.parametrize(
    ("vm", "private_google_access", "status"),
    [
        ({}, True, 200),
        ({}, False, 404),  # it comes by the NAT, from the internet
        ({"externalIp": True}, True, 404),
        ({"project": "another-project"}, True, 404),
    ],
)
def test_an_internal_service_is_for_the_networks_of_its_project(
    cloud: Cloud, vm: Body, private_google_access: bool, status: int
) -> None:
    """A VM without external address, on a subnet with Private Google Access, is let in."""
    cloud.put(SUBNETWORK, SUBNET, {"privateIpGoogleAccess": private_google_access})
    row = {"project": PROJECT, "subnetwork": SUBNET, "externalIp": False}
    cloud.put(VM, VM_ID, row | vm)
    made = deploy(cloud, ingress="INGRESS_TRAFFIC_INTERNAL_ONLY")

    assert cloud.ask_as_guest(VM_ID, made["uri"])[0] == status
    assert cloud.ask(made["uri"]).status_code == 404


def test_a_service_is_for_invokers_unless_it_says_otherwise(cloud: Cloud) -> None:
    """With the check on, a caller without proof gets 403, until everybody may invoke it."""
    made = deploy(cloud, invokerIamDisabled=False)

    refused = cloud.ask(made["uri"], "/v1/models")
    member = {"name": "llm", "location": REGION, "role": "roles/run.invoker", "member": "allUsers"}
    cloud.create(SERVICE_MEMBER, "all", member)

    assert refused.status_code == 403
    assert "does not have permission to get URL <code>/v1/models</code>" in refused.text
    assert cloud.ask(made["uri"]).status_code == 200


# --- revisions ------------------------------------------------------------------------------------


def test_a_new_revision_serves_once_it_is_ready_and_the_old_one_finishes(cloud: Cloud) -> None:
    """What the old one has begun it ends; then nothing of it runs."""
    made = deploy(cloud, "one", container={"envs": [{"name": "SLOW", "value": "3"}]})
    begun: list[Any] = []
    calling = threading.Thread(
        target=lambda: begun.append(cloud.ask(made["uri"], "/slow").json()["arguments"])
    )
    calling.start()
    cloud.until(lambda: "slow begins" in cloud.logs())

    updated = cloud.update(made, SERVICE, service("two"))
    calling.join()

    assert begun == [["one"]]
    assert cloud.ask(made["uri"]).json()["arguments"] == ["two"]
    assert updated["generation"] == updated["observedGeneration"] == "2"
    assert "-00002-" in updated["latestReadyRevision"]
    cloud.until(lambda: [it["name"][:9] for it in cloud.instances()] == ["llm-00002"])


def test_a_change_beside_the_template_makes_no_revision(cloud: Cloud) -> None:
    """Ingress, for one, holds at once for the revision that serves."""
    made = deploy(cloud)

    updated = cloud.update(made, SERVICE, service(ingress="INGRESS_TRAFFIC_INTERNAL_ONLY"))

    assert updated["latestReadyRevision"] == made["latestReadyRevision"]
    assert cloud.ask(made["uri"]).status_code == 404


CRASHES = "raise SystemExit(7)"


def test_a_revision_that_does_not_start_never_serves(cloud: Cloud) -> None:
    """The update fails in Cloud Run's words, and the old revision goes on."""
    made = deploy(cloud, "one")

    with pytest.raises(OperationFailed) as failure:
        cloud.update(made, SERVICE, service("two", code=CRASHES))

    words = cloud.words(failure.value, SERVICE, "update")
    assert "Error waiting to update Service: Error waiting for Updating Service: Error" in words
    assert "is not ready and cannot serve traffic. The user-provided container failed to" in words
    assert "PORT=8080 environment variable" in words
    assert "Logs URL: https://console.cloud.google.com/logs/viewer?project=team-llm" in words
    assert "Container called exit(7)." in cloud.logs()
    assert cloud.ask(made["uri"]).json()["arguments"] == ["one"]
    assert [it["name"][:9] for it in cloud.instances()] == ["llm-00001"]


def test_a_container_must_listen_on_its_port(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that runs, but does not listen where Cloud Run sends requests, does not start."""
    monkeypatch.setattr(revision, "STARTUP_FLOOR_S", 0.5)

    with pytest.raises(OperationFailed, match="failed to start and listen on the port"):
        deploy(cloud, code=SERVER.replace('int(os.environ["PORT"])', "9999"))

    assert "STARTUP TCP probe failed on port 8080. The instance was not started." in cloud.logs()
    assert not cloud.instances()


def test_a_service_that_never_started_exists_and_can_be_mended(cloud: Cloud) -> None:
    """It is in the state, with its error; the next update brings it up."""
    probe = {"httpGet": {"path": "/health"}, "failureThreshold": 1}
    with pytest.raises(OperationFailed, match="failed the configured startup probe") as failure:
        deploy(cloud, code=CRASHES, container={"startupProbe": probe})

    left = failure.value.outputs
    assert cloud.ask(left["uri"]).status_code == 404
    assert left["terminalConditions"][0]["state"] == "CONDITION_FAILED"

    cloud.update(left, SERVICE, service())
    assert cloud.ask(left["uri"]).status_code == 200


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (f"{HUB}/library/python:9.99", "Image '{image}' not found."),
        ("library/python:9.99", "Image '{image}' not found."),
        (
            f"{REGION}-docker.pkg.dev/elsewhere/hub/library/python:3.13",
            "must have permission to read the image, {image}",
        ),
    ],
)
def test_an_image_must_be_there_and_readable(cloud: Cloud, image: str, message: str) -> None:
    """Cloud Run's own service agent pulls it, not the service's identity."""
    with pytest.raises(OperationFailed) as failure:
        deploy(cloud, container={"image": image})

    assert message.format(image=image) in failure.value.message
    assert failure.value.message.startswith("Revision 'llm-00001-")


# --- secrets, buckets, identity -------------------------------------------------------------------

READS = """
import os, pathlib
print(os.environ.get("TOKEN"), pathlib.Path("/run/secrets/hub/token").read_text(), flush=True)
"""
SECRET_ENV = {"name": "TOKEN", "valueSource": {"secretKeyRef": {"secret": "token"}}}
SECRET_FILES: Body = {
    "volumes": [
        {
            "name": "hub",
            "secret": {"secret": "token", "items": [{"path": "token", "version": "latest"}]},
        }
    ]
}
MOUNT = {"volumeMounts": [{"name": "hub", "mountPath": "/run/secrets/hub"}]}


def test_a_secret_comes_as_a_variable_or_a_file(cloud: Cloud) -> None:
    """Read with the service's own identity when an instance starts."""
    deploy(
        cloud, code=READS + SERVER, container=MOUNT | {"envs": [SECRET_ENV]}, template=SECRET_FILES
    )

    assert f"{PAYLOAD} {PAYLOAD}" in cloud.logs()


@pytest.mark.parametrize("way", ["variable", "file"])
def test_a_secret_that_the_identity_may_not_read_stops_the_revision(cloud: Cloud, way: str) -> None:
    """The binding must be there before the service."""
    inputs = service(
        container=MOUNT if way == "file" else {"envs": [SECRET_ENV]},
        template={"serviceAccount": STRANGER} | (SECRET_FILES if way == "file" else {}),
    )

    with pytest.raises(OperationFailed) as failure:
        cloud.create(SERVICE, "llm", inputs)

    secret = f"projects/{NUMBER}/secrets/token/versions/latest"
    assert f"Permission denied on secret: {secret} for Revision service account {STRANGER}." in (
        failure.value.message
    )
    assert "(roles/secretmanager.secretAccessor)" in failure.value.message


def test_a_secret_that_does_not_exist_stops_the_revision(cloud: Cloud) -> None:
    """A version that was never added, for one."""
    env = {"name": "T", "valueSource": {"secretKeyRef": {"secret": "token", "version": "9"}}}

    with pytest.raises(OperationFailed, match=r"secrets/token/versions/9 was not found"):
        deploy(cloud, container={"envs": [env]})


LISTS = """
import pathlib
print("found", pathlib.Path("/weights/config.json").read_text(), flush=True)
try:
    pathlib.Path("/weights/new").write_text("x")
except OSError as error:
    print("refused:", error, flush=True)
"""


@pytest.mark.parametrize("readonly", [True, False])
def test_a_bucket_is_mounted_as_files(cloud: Cloud, readonly: bool) -> None:
    """What lies in it is read; it is written only where the volume is not read-only."""
    bucket = cloud.world.buckets / "weights"
    bucket.mkdir(parents=True)
    (bucket / "config.json").write_text("a model")
    cloud.call(lambda: cloud.bind("roles/storage.objectUser", RUNTIME, project=PROJECT))
    volume = {"name": "hub", "gcs": {"bucket": "weights", "readOnly": readonly}}
    mount = {"volumeMounts": [{"name": "hub", "mountPath": "/weights"}]}

    deploy(cloud, code=LISTS + SERVER, container=mount, template={"volumes": [volume]})

    assert "found a model" in cloud.logs()
    assert ("Read-only file system" in cloud.logs()) is readonly
    assert (bucket / "new").exists() is not readonly


def test_a_bucket_that_the_identity_may_not_list_stops_the_revision(cloud: Cloud) -> None:
    """Its mount fails before the container starts."""
    (cloud.world.buckets / "weights").mkdir(parents=True)
    volume = {"name": "hub", "gcs": {"bucket": "weights"}}

    with pytest.raises(OperationFailed, match=r"does not have storage\.objects\.list access"):
        deploy(cloud, template={"volumes": [volume]})


ASKS = """
import urllib.request, urllib.error
def ask(path, **headers):
    request = urllib.request.Request("http://metadata.google.internal" + path, headers=headers)
    try:
        return urllib.request.urlopen(request).read().decode()
    except urllib.error.HTTPError as error:
        return str(error.code)
v1, flavor = "/computeMetadata/v1/", {"Metadata-Flavor": "Google"}
for path in (
    "project/project-id",
    "project/numeric-project-id",
    "instance/region",
    "instance/service-accounts/default/email",
    "instance/attributes/startup-script",
):
    print(path, ask(v1 + path, **flavor), flush=True)
print("token", "ya29." in ask(v1 + "instance/service-accounts/default/token", **flavor), flush=True)
print("forged", ask(v1 + "project/project-id"), flush=True)
"""


def test_a_container_meets_cloud_runs_metadata_server(cloud: Cloud) -> None:
    """It tells the region and the service's identity; there is nothing of a VM about it."""
    deploy(cloud, code=ASKS + SERVER)

    for line in (
        f"project/project-id {PROJECT}",
        f"project/numeric-project-id {NUMBER}",
        f"instance/region projects/{NUMBER}/regions/{REGION}",
        f"instance/service-accounts/default/email {RUNTIME}",
        "instance/attributes/startup-script 404",
        "token True",
        "forged 403",
    ):
        assert line in cloud.logs()


# --- GPUs -----------------------------------------------------------------------------------------

LOOKS = 'import subprocess\nprint(subprocess.check_output("nvidia-smi", text=True), flush=True)\n'


def test_a_gpu_runs_for_as_long_as_its_instance(cloud: Cloud) -> None:
    """It is there in the container, with Cloud Run's driver; the timeline tells how long."""
    made = deploy(cloud, code=LOOKS + SERVER, **GPU)
    [row] = cloud.instances()

    assert row["gpu"] == {"type": "nvidia-l4", "zonalRedundancy": False}
    assert "NVIDIA L4  24576 MiB" in cloud.logs()
    assert "Driver Version: 535." in cloud.logs()
    assert not cloud.gpu_spans()

    cloud.delete(SERVICE, made)
    [span] = cloud.gpu_spans()
    assert (span.holds, span.name[:16]) == ("nvidia-l4", "GPU of llm-00001")
    assert span.end - span.start > 0.1


def gpu(limits: Body | None = None, **template: Any) -> Body:
    """More of a service: an L4, changed."""
    container: Body = GPU["container"]
    resources: Body = container["resources"]
    all_limits = resources["limits"] | (limits or {})
    more = {"resources": resources | {"limits": all_limits}}
    return {"container": more, "template": GPU["template"] | template}


RTX = {"nodeSelector": {"accelerator": "nvidia-rtx-pro-6000"}}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (gpu({"cpu": "2", "memory": "8Gi"}), "needs at least 4 CPU and 16Gi of memory"),
        (gpu({"cpu": "8", "memory": "32Gi"}, **RTX), "needs at least 20 CPU and 80Gi of memory"),
        (gpu(nodeSelector={"accelerator": "nvidia-t4"}), "Unsupported GPU 'nvidia-t4'"),
        (gpu({"nvidia.com/gpu": "2"}), "nvidia.com/gpu must be 1"),
        (gpu() | {"location": "europe-west3"}, "is not available in europe-west3"),
        (
            gpu(scaling={"maxInstanceCount": 4}),
            "Max instances must be set to 3 or fewer in order to set GPU requirements.",
        ),
        (gpu(scaling={}), "Max instances must be set to 3 or fewer"),
        (
            gpu(gpuZonalRedundancyDisabled=False),
            "You do not have quota for using GPUs with zonal redundancy.",
        ),
        (gpu(executionEnvironment="EXECUTION_ENVIRONMENT_GEN1"), "must be EXECUTION_ENVIRONMENT"),
        (
            {"container": {"resources": GPU["container"]["resources"] | {"cpuIdle": True}}}
            | {"template": GPU["template"]},
            "cpu_idle: must be false",
        ),
        ({"container": {"startupProbe": {"periodSeconds": 300}}}, "must be between 1 and 240"),
        (
            {"container": {"startupProbe": {"periodSeconds": 5, "timeoutSeconds": 6}}},
            "must not exceed period_seconds",
        ),
        ({"container": {"resources": {"limits": {"cpu": "1", "memory": "8Gi"}}}}, "For 1.0 CPU"),
        ({"container": MOUNT}, "Volume 'hub' not found."),
        ({"container": {"envs": [{"name": "PORT", "value": "1"}]}}, "'PORT' is reserved"),
        ({"template": {"timeout": "7200s"}}, "must be between 1s and 3600s"),
        ({"template": {"serviceAccount": "nobody@example.com"}}, "iam.serviceaccounts.actAs"),
        ({"name": "A-name"}, "must use only lowercase alphanumeric characters"),
    ],
)
def test_cloud_run_refuses_during_up(refusing: Cloud, more: Body, message: str) -> None:
    """What previews well, and cannot be."""
    with pytest.raises(CloudError) as refusal:
        deploy(refusing, **more)

    assert message in refusing.words(refusal.value, SERVICE)
    assert not refusing.all(SERVICE)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"template": {"timeout": "300"}}, "doesn't match regexp"),
        ({"ingress": "INTERNAL"}, "expected value to be one of"),
        ({"template": {"sessionAffinity": True}}, "does not play template.sessionAffinity"),
        (
            {"template": {"vpcAccess": {"networkInterfaces": [{"network": "llm"}]}}},
            "does not play template.vpcAccess",
        ),
        ({"template": {"containers": [{"image": PYTHON}] * 2}}, "does not play sidecars"),
        ({"template": {"serviceAccount": ""}}, "default service account"),
        ({"traffics": [{"percent": 50, "type": "x", "revision": "y"}]}, "latest revision only"),
        ({"defaultUriDisabled": True}, "does not play defaultUriDisabled"),
        ({"template": {"surprise": 1}}, 'An argument named "surprise" is not expected here'),
    ],
)
def test_the_plugin_refuses_at_preview(refusing: Cloud, more: Body, message: str) -> None:
    """And what has no stand-in is refused with a word, never ignored."""
    with pytest.raises(ValueError, match=message):
        refusing.check(SERVICE, "llm", service(**more))


def test_without_quota_there_is_no_gpu(open_cloud: Open) -> None:
    """As in a new project."""
    cloud = open_cloud("cloud-run-quota-0")

    with pytest.raises(CloudError, match="quota for using GPUs without zonal redundancy"):
        deploy(cloud, **GPU)


def test_with_a_quota_of_one_a_second_revision_finds_no_gpu(open_cloud: Open) -> None:
    """While the first one holds it; the endpoint goes on with that."""
    cloud = open_cloud("cloud-run-quota-1")
    made = deploy(cloud, "one", **GPU)

    with pytest.raises(OperationFailed, match=r"requested: 2 allowed: 1"):
        cloud.update(made, SERVICE, service("two", **GPU))

    assert cloud.ask(made["uri"]).json()["arguments"] == ["one"]


def test_without_stock_a_sleeping_service_does_not_wake(
    open_cloud: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told after a while, and served once there is a GPU again."""
    monkeypatch.setattr(revision, "WAIT_FLOOR_S", 0.3)
    monkeypatch.setattr(revision, "WAIT_FACTOR", 0.1)
    cloud = open_cloud()
    made = deploy(cloud, **GPU)
    cloud.until(lambda: not cloud.instances())

    cloud.world.faults.set("cloud-run-stockout")
    refused = cloud.ask(made["uri"])
    cloud.world.faults.clear("cloud-run-stockout")
    monkeypatch.undo()

    assert refused.status_code == 500
    assert "Please try again in 30 seconds." in refused.text
    assert cloud.ask(made["uri"]).status_code == 200


# --- deletion, and another daemon -----------------------------------------------------------------


def test_a_service_is_protected_unless_it_says_otherwise(cloud: Cloud) -> None:
    """By default `destroy` stops until protection was taken away by an `up`."""
    inputs = service()
    del inputs["deletionProtection"]
    made = cloud.create(SERVICE, "llm", inputs)

    with pytest.raises(ValueError, match="cannot destroy service without setting deletion_prot"):
        cloud.delete(SERVICE, made)

    updated = cloud.update(made, SERVICE, service())
    cloud.delete(SERVICE, updated)
    assert not cloud.all(SERVICE)


def test_nothing_is_left_of_a_deleted_service(cloud: Cloud) -> None:
    """No instance, no revision, no binding; its host is nobody's."""
    made = deploy(cloud)
    member = {"name": "llm", "location": REGION, "role": "roles/run.invoker", "member": "allUsers"}
    cloud.create(SERVICE_MEMBER, "all", member)

    cloud.delete(SERVICE, made)

    left = [cloud.all(type) for type in (SERVICE, SERVICE_MEMBER, REVISION, INSTANCE)]
    assert left == [[], [], [], []]
    assert cloud.ask(made["uri"]).status_code == 404


def test_a_service_survives_the_daemon(cloud: Cloud) -> None:
    """When the clouds are started again it is at zero, and wakes."""
    made = deploy(cloud)

    cloud.restart()

    assert not cloud.instances()
    assert cloud.ask(made["uri"]).status_code == 200


# --- a connector ----------------------------------------------------------------------------------

CURLS = "#!/bin/bash\ncurl --silent --show-error https://HOST/\nnvidia-smi\ntouch /usr/x\n"


def test_a_small_vm_without_gpu_reaches_an_internal_service(cloud: Cloud) -> None:
    """From Container-Optimized OS, which has no NVIDIA tools and cannot be written to."""
    made = deploy(cloud, ingress="INGRESS_TRAFFIC_INTERNAL_ONLY")
    script = CURLS.replace("HOST", made["urls"][0].removeprefix("https://"))
    link = "https://www.googleapis.com/compute/v1"
    network = f"projects/{PROJECT}/global/networks/llm"
    template = f"projects/{PROJECT}/regions/{REGION}/instanceTemplates/connector"
    cloud.put(
        SUBNETWORK,
        SUBNET,
        {
            "ipCidrRange": "10.10.0.0/24",
            "network": f"{link}/{network}",
            "privateIpGoogleAccess": True,
            "region": REGION,
            "selfLink": f"{link}/{SUBNET}",
        },
    )
    cloud.put(
        "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate",
        template,
        {
            "machineType": "e2-micro",
            "disks": [{"sourceImage": "projects/cos-cloud/global/images/family/cos-stable"}],
            "metadataStartupScript": script,
            "networkInterfaces": [{"subnetwork": f"{link}/{SUBNET}"}],
        },
    )
    group = {
        "project": PROJECT,
        "region": REGION,
        "baseInstanceName": "connector",
        "distributionPolicyZones": [f"{REGION}-a"],
        "targetSize": 1,
        "versions": [{"instanceTemplate": f"{link}/{template}"}],
    }

    async def follow() -> InstanceGroups:
        groups = InstanceGroups(cloud.around)
        groups.start()
        return groups

    groups = cloud.do(follow())
    cloud.put(GROUP, f"projects/{PROJECT}/regions/{REGION}/instanceGroupManagers/c", group)
    consoles = cloud.world.directory / "machines"
    cloud.until(
        lambda: any(
            "Finished running startup" in it.read_text()
            for it in consoles.glob("connector-*/console.log")
        )
    )
    [console] = consoles.glob("connector-*/console.log")
    cloud.do(groups.close())

    said = console.read_text()
    assert '"instance": "llm-00001-' in said
    assert "nvidia-smi: command not found" in said
    assert "Read-only file system" in said
    assert json.loads((console.parent / "machine.json").read_text())["gpu"]["count"] == 0
