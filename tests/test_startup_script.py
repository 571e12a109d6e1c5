"""scripts/startup.sh, run by a booting machine as it is; the containers alone are fakes."""

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import (
    ACCESS_TOKEN,
    CLOUDFLARED,
    ENGINE,
    REGISTRY,
    SECRETS,
    STARTUP_SCRIPT,
    STORAGE,
    Guest,
)

pytestmark = pytest.mark.rehearsal

TUNNEL_SECRET = "projects/123/secrets/dev-tunnel-token/versions/3"
HUB_SECRET = "projects/123/secrets/dev-hugging-face-token/versions/1"
TUNNEL_TOKEN = "eyJhIjoi-planted-tunnel-token"
HUB_TOKEN = "hf_planted_hugging_face_token"
STARTED = "startup-script exit status 0"
READY = "phase=engine-ready"
AGAIN = (
    "curl -s -H 'Metadata-Flavor: Google' http://metadata.google.internal"
    "/computeMetadata/v1/instance/attributes/startup-script | bash"
)
"""Runs the script as an operator does, by hand."""


def prepared(directory: Path) -> Guest:
    """A machine that has all it needs, before its first boot."""
    guest = Guest(directory)
    guest.cloud.secrets = {TUNNEL_SECRET: TUNNEL_TOKEN, HUB_SECRET: HUB_TOKEN}
    guest.cloud.metadata = {
        "startup-script": STARTUP_SCRIPT.read_text(),
        "engine-image": ENGINE,
        "engine-args": "Qwen/Qwen3-4B\n--serve",
        "engine-env": "VLLM_NO_USAGE_STATS=1",
        "engine-port": "8000",
        "engine-health-path": "/health",
        "cloudflared-image": CLOUDFLARED,
        "tunnel-token-secret": TUNNEL_SECRET,
        "hugging-face-token-secret": HUB_SECRET,
        "shutdown-timeout": "20",
        "revision": "r1",
    }
    return guest


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    """A machine of the test's own, before its first boot."""
    with prepared(tmp_path / "world") as guest:
        yield guest


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A machine that has booted and serves; tests only look at it."""
    with prepared(tmp_path_factory.mktemp("world")) as guest:
        yield up(guest.boot())


def up(guest: Guest, boots: int = 1) -> Guest:
    """The guest, once both containers of so many boots have started."""
    guest.until(STARTED, boots)
    guest.until(READY, boots)
    guest.wait_for(lambda: len(guest.containers()) >= 2 * boots, "both containers")
    return guest


def hashed(secret: str) -> str:
    """As the fake container reports a secret that it could read."""
    return hashlib.sha256(secret.encode()).hexdigest()


def engines(guest: Guest) -> list[list[str]]:
    """The arguments of every engine that was started."""
    return [it["arguments"] for it in guest.containers() if "tunnel" not in it["arguments"]]


def test_a_boot_starts_the_engine_and_the_tunnel(endpoint: Guest) -> None:
    """After a boot the engine answers on its port, and both units run."""
    assert "200" in endpoint.sh("curl -so /dev/null -w '%{http_code}' http://10.10.0.7:8000/health")
    assert endpoint.sh("systemctl is-active llm-endpoint-engine cloudflared") == "active\nactive\n"
    assert endpoint.sh("docker ps --format '{{.Names}}' | sort").split() == [
        "cloudflared",
        "llm-endpoint-engine",
    ]


def test_every_phase_is_logged_with_its_duration(endpoint: Guest) -> None:
    """What a boot spent its time on can be read off the console."""
    console = endpoint.console

    phases = re.findall(
        r"llm-endpoint phase=(\S+) seconds=\d+\.\d status=ok start=\d+\.\d\n", console
    )
    assert sorted(phases) == [
        "boot",
        "engine-image",
        "engine-init",
        "engine-ready",
        "engine-start",
        "gpu",
        "hugging-face-token",
        "prepare",
        "prune",
        "tunnel-image",
        "tunnel-start",
        "tunnel-token",
    ]


def reported(guest: Guest) -> dict[str, tuple[float, str, str]]:
    """The phases as Google was told last: start, seconds or `-`, and status by name."""
    key, text = (guest.cloud.guest_attributes or [("llm-endpoint/phases", "")])[-1]
    assert key == "llm-endpoint/phases"
    rows = [line.split(" ") for line in text.splitlines()]
    return {name: (float(start), seconds, status) for name, start, seconds, status in rows}


def test_a_boot_can_be_followed_from_outside(endpoint: Guest) -> None:
    """The instance's guest attributes have every phase with start and duration, as the log does."""
    told = re.findall(r"phase=(\S+) seconds=(\S+) status=(\S+) start=(\S+)", endpoint.console)
    phases = {name: (float(start), seconds, status) for name, seconds, status, start in told}
    endpoint.wait_for(lambda: reported(endpoint) == phases, "report of every phase")

    start, seconds, _ = phases["boot"]
    assert 42 <= float(seconds) < 72, "the time before the script, from the kernel's start"
    assert start + float(seconds) == pytest.approx(phases["prepare"][0], abs=1)


def test_what_is_under_way_can_be_seen_as_well(guest: Guest) -> None:
    """While the engine loads, the report says so, and since when."""
    loading(guest)

    guest.wait_for(lambda: reported(guest)["engine-init"][1:] == ("-", "running"), "report")
    assert reported(guest)["engine-image"][2] == "ok"


def test_the_engine_tells_what_it_is_at(guest: Guest) -> None:
    """Its own words begin its phases, each once and in order; the last ends when it answers."""
    guest.cloud.metadata["engine-phases"] = (
        "engine-load\tStarting to load model|from scratch\nengine-compile\tloading took [0-9.]+\n"
        "engine-capture\tnever said\nengine-ready\tinit engine .* took"
    )
    guest.cloud.metadata["engine-args"] = "\n".join(
        [
            "--serve",
            "--load",
            "--say=(EngineCore pid=7) INFO Loading model from scratch...",
            "--say=(EngineCore pid=7) INFO Model loading took 15.3 GiB",
            "--say=(EngineCore pid=7) INFO Starting to load model of a draft",
        ]
    )
    guest.boot()
    guest.wait_for(lambda: "engine-compile" in reported(guest), "engine-compile")
    assert reported(guest)["engine-compile"][2] == "running"
    guest.sh("touch /var/lib/llm-endpoint/cache/loaded")
    up(guest)

    parts = re.findall(r"phase=(engine-\S+) .* start=(\S+)", guest.console)
    names = ["engine-init", "engine-load", "engine-compile", "engine-ready"]
    assert [name for name, _ in parts if name in names] == names
    starts = [float(start) for name, start in parts if name in names]
    assert starts == sorted(starts)


def test_an_engine_that_dies_leaves_its_phase_failed(guest: Guest) -> None:
    """Whoever watches sees which part of its start it did not survive."""
    guest.cloud.metadata["engine-phases"] = "engine-load\tloading\nengine-ready\tloaded"
    guest.cloud.metadata["engine-args"] = "--crash\n--say=loading"
    guest.boot()

    guest.until("phase=engine-init")
    guest.until("status=failed")


def test_a_machine_that_may_not_report_boots_all_the_same(guest: Guest) -> None:
    """An organisation may forbid guest attributes; the log has the phases anyway."""
    guest.cloud.forbid_guest_attributes = True
    up(guest.boot())

    assert guest.cloud.guest_attributes == []
    assert "llm-endpoint phase=boot" in guest.console


def test_arguments_reach_the_engine_byte_for_byte(guest: Guest) -> None:
    """No argument is split, expanded or run, whatever is in it."""
    arguments = [
        "Qwen/Qwen3-4B",
        "--serve",
        "--two words",
        "  spaces  ",
        "",
        "'single' \"double\"",
        "$(touch /var/tmp/ran)",
        "`touch /var/tmp/ran`",
        "; touch /var/tmp/ran #",
        "${HOME} $HOME %n %% \\ \\n * ~",
        '{"json": [1, true]}',
        "grüße 你好 🚀",
        "-",
        "--",
    ]
    guest.cloud.metadata["engine-args"] = "\n".join(arguments)
    guest.cloud.metadata["engine-env"] = "QUOTED='$(touch /var/tmp/ran)' \"x\"\nEMPTY="

    up(guest.boot())

    (engine,) = [it for it in guest.containers() if "--serve" in it["arguments"]]
    assert engine["arguments"] == arguments
    assert engine["environment"]["QUOTED"] == "'$(touch /var/tmp/ran)' \"x\""
    assert engine["environment"]["EMPTY"] == ""
    assert guest.sh("ls /var/tmp") == ""


def leaks(guest: Guest) -> list[str]:
    """Where a token can be read that is no file for root alone."""
    secrets = (TUNNEL_TOKEN, HUB_TOKEN, ACCESS_TOKEN)
    processes = guest.sh("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'")
    assert "llm-endpoint-engine" in processes
    looked = {
        "processes": processes,
        "console": guest.console,
        "units": guest.sh("cat /run/systemd/system/*"),
        "docker": guest.sh("docker inspect cloudflared llm-endpoint-engine"),
    }
    found = [where for where, text in looked.items() if any(it in text for it in secrets)]
    # Whatever was written since the machine was made, on its disk and in its memory.
    new = "find /etc /var /opt /root /home /tmp /run /dev/shm -type f -newer /run/rehearsal/python"
    files = guest.sh(f"{new} -exec grep -lE '{'|'.join(secrets)}' {{}} + 2>/dev/null")
    return found + sorted(files.split())


VAULTS = [
    "/run/llm-endpoint/cloudflared/token",
    "/run/llm-endpoint/llm-endpoint-engine/hugging-face-token",
]


def test_secrets_are_nowhere_but_in_files_for_root(endpoint: Guest) -> None:
    """No token is in a process list, an environment, a log, a unit, or on the disk."""
    assert leaks(endpoint) == VAULTS
    modes = endpoint.sh(f"stat -c '%a %u' /run/llm-endpoint {' '.join(VAULTS)}")
    assert modes.splitlines() == ["700 0", "400 0", "400 0"]


def test_a_leak_would_be_found(guest: Guest) -> None:
    """The look for secrets finds each of three that a careless script would leak."""
    careless = STARTUP_SCRIPT.read_text()
    for found, replacement in (
        ("grace=$(<shutdown-timeout)", "grace=$(<shutdown-timeout); cat token; echo"),
        ("--user=0:0 --cap", '--user=0:0 --env="TUNNEL_TOKEN=$(<token)" --cap'),
        ('chmod 0400 "$2"', 'chmod 0400 "$2"; cp "$2" /var/lib/token'),
    ):
        assert found in careless
        careless = careless.replace(found, replacement)
    guest.cloud.metadata["startup-script"] = careless
    up(guest.boot())

    assert {"processes", "console", "docker", "/var/lib/token"} <= set(leaks(guest))


def test_the_containers_get_only_what_they_need(endpoint: Guest) -> None:
    """The tunnel has its token and no capability; the engine has the GPU and not the token."""
    found = {("tunnel" in it["arguments"]): it for it in endpoint.containers()}
    tunnel, engine = found[True], found[False]
    assert tunnel["secret"] == [hashed(TUNNEL_TOKEN)]
    assert int(tunnel["capabilities"], 16) == 0
    assert (tunnel["gpus"], engine["gpus"]) == (0, 1)
    assert engine["secrets"] == ["hugging-face-token"]
    assert "llm-endpoint" not in engine["run"] + tunnel["run"]


def test_an_open_model_needs_no_token(guest: Guest) -> None:
    """Without a Hugging Face token the engine starts, and nothing is mounted for it."""
    del guest.cloud.metadata["hugging-face-token-secret"]
    up(guest.boot())

    assert [it["secrets"] for it in guest.containers() if it["gpus"]] == [[]]


def test_a_reboot_takes_up_what_has_changed(guest: Guest) -> None:
    """New arguments and a rotated secret hold after a reboot; images are not pulled again."""
    up(guest.boot())
    guest.cloud.metadata["engine-args"] = "another/model\n--serve"
    guest.cloud.secrets[TUNNEL_SECRET] = "rotated"
    pulls = sum("/manifests/" in it for it in guest.cloud.requests)

    guest.run(guest.machine.reboot())
    up(guest, boots=2)

    assert engines(guest) == [["Qwen/Qwen3-4B", "--serve"], ["another/model", "--serve"]]
    assert [it["secret"] for it in guest.containers()][-2:].count([hashed("rotated")]) == 1
    assert sum("/manifests/" in it for it in guest.cloud.requests) == pulls


def test_running_it_again_restarts_only_what_has_changed(guest: Guest) -> None:
    """An operator may run the script at any time: a working engine is not interrupted."""
    up(guest.boot())

    assert "llm-endpoint started" in guest.sh(AGAIN)
    assert len(guest.containers()) == 2
    guest.cloud.metadata["engine-args"] = "another/model\n--serve"
    assert "llm-endpoint started" in guest.sh(AGAIN)
    guest.wait_for(lambda: len(guest.containers()) == 3, "third container")

    assert engines(guest)[-1] == ["another/model", "--serve"]


def loading(guest: Guest) -> Guest:
    """The guest, booted, with an engine that listens and is not ready."""
    guest.cloud.metadata["engine-args"] = "Qwen/Qwen3-4B\n--serve\n--load"
    guest.boot().until(STARTED)
    guest.until("still loading", times=10)
    return guest


def test_the_tunnel_opens_only_when_the_engine_is_healthy(guest: Guest) -> None:
    """A machine that still loads its model is not offered to Cloudflare, which would use it."""
    loading(guest)

    assert guest.sh("systemctl is-active cloudflared") == "activating\n"
    assert len(guest.containers()) == len(engines(guest)) == 1
    guest.sh("touch /var/lib/llm-endpoint/cache/loaded")
    up(guest)

    assert guest.sh("docker ps --format '{{.Names}}'").count("cloudflared") == 1


def test_a_stop_ends_the_wait_for_the_engine(guest: Guest) -> None:
    """Neither an operator nor the power button waits for a model to load."""
    loading(guest)

    guest.sh("systemctl stop cloudflared")
    assert guest.sh("systemctl is-active cloudflared; pgrep -f [w]ait-for-engine") == "inactive\n"
    guest.sh("systemctl start --no-block cloudflared")
    guest.run(guest.machine.stop(grace_s=30))

    assert "Reached target poweroff.target" in guest.console


def test_the_tunnel_can_be_restarted_alone(guest: Guest) -> None:
    """After its own crash, or by hand, cloudflared is back; the engine is not touched."""
    up(guest.boot())

    guest.sh("docker kill cloudflared")
    guest.wait_for(lambda: len(guest.containers()) == 3, "tunnel after its crash")
    guest.sh("systemctl restart cloudflared")
    guest.wait_for(lambda: len(guest.containers()) == 4, "tunnel after a restart by hand")

    assert guest.sh("systemctl is-active cloudflared") == "active\n"
    assert len(engines(guest)) == 1


def test_an_engine_that_dies_is_started_again(guest: Guest) -> None:
    """A crash costs a restart and nothing more; the tunnel stays up."""
    up(guest.boot())
    guest.sh("docker kill llm-endpoint-engine")

    guest.until(READY, times=2)

    assert len(engines(guest)) == 2
    assert len(guest.containers()) == 3
    assert "llm-endpoint-engine.service: Main process exited, code=exited, status=137" in (
        guest.console
    )


def test_an_engine_that_cannot_start_is_tried_again(guest: Guest) -> None:
    """The unit is never taken for ready, and never stuck, while the engine keeps crashing."""
    guest.cloud.metadata["engine-args"] = "Qwen/Qwen3-4B\n--crash"
    guest.boot()

    guest.until("llm-endpoint-engine.service: Scheduled restart job, restart counter is at 2")

    assert READY not in guest.console


def test_a_container_that_was_left_behind_is_replaced(guest: Guest) -> None:
    """A start does not fail over the name of a container whose client was killed."""
    up(guest.boot())
    guest.sh("kill -9 $(systemctl show llm-endpoint-engine | sed -n s/MainPID=//p)")

    guest.until(READY, times=2)

    assert guest.sh("docker ps --format '{{.Names}}'").count("llm-endpoint-engine") == 1


def test_images_of_earlier_versions_are_removed(guest: Guest) -> None:
    """A new engine version does not fill the disk with the old one."""
    up(guest.boot())
    newer = ENGINE.replace("v0.33.0", "v0.34.0")
    guest.cloud.images.add(newer)
    guest.cloud.metadata["engine-image"] = newer

    guest.run(guest.machine.reboot())
    up(guest, boots=2)

    assert sorted(guest.sh("docker image ls --format '{{.Tag}}'").split()) == [
        "2026.8.2",
        "v0.34.0",
    ]


def test_a_role_that_is_still_spreading_is_waited_for(guest: Guest) -> None:
    """A machine that boots right after its roles were granted does not give up at the first 403."""
    guest.cloud.refusals = {SECRETS: [403, 403, 403], REGISTRY: [403, 403]}
    up(guest.boot())

    assert engines(guest) == [["Qwen/Qwen3-4B", "--serve"]]


STORE = {
    "blobs/sha256-0a1b": b"a layer",
    "blobs/sha256-2c3d": b"another",
    "manifests/registry.ollama.ai/library/qwen3/8b": b"{}",
}


def test_staged_weights_lie_where_the_engine_looks(guest: Guest) -> None:
    """The bucket's content is on the disk before the engine starts, every file whole, once."""
    guest.cloud.metadata["weights-bucket"] = "weights"
    guest.cloud.objects = dict(STORE)
    guest.cloud.refusals = {STORAGE: [503, 403]}
    up(guest.boot())

    (found,) = (it["weights"] for it in guest.containers() if it["weights"])
    assert found == sorted(STORE)
    assert "another" in guest.sh("cat /var/lib/llm-endpoint/weights/blobs/sha256-2c3d")
    assert "phase=weights" in guest.console
    assert ACCESS_TOKEN not in guest.sh("cat /run/llm-endpoint/weights-* 2>&1")

    guest.cloud.requests.clear()
    guest.sh(AGAIN)
    assert not [it for it in guest.cloud.requests if "blobs" in it], "fetched a second time"


CACHE = "/var/lib/llm-endpoint/cache/vllm/torch_compile_cache"


def test_a_damaged_compile_cache_is_no_crash_loop(guest: Guest) -> None:
    """It is used as long as the engine starts with it; then one line says that it is removed."""
    guest.cloud.metadata["engine-args"] = "Qwen/Qwen3-4B\n--compile\n--serve"
    guest.cloud.metadata["compile-cache"] = "vllm/torch_compile_cache"
    up(guest.boot())
    guest.sh("systemctl restart llm-endpoint-engine")
    guest.until("]: compiled before")
    guest.until(READY, 2)

    guest.sh(f"truncate --size=3 {CACHE}/1a2b/artifact; systemctl restart llm-endpoint-engine")
    guest.until(READY, 3)

    assert guest.console.count("pickle data was truncated") == 1
    assert guest.console.count("llm-endpoint compile cache: removed") == 1
    assert guest.sh(f"cat {CACHE}/1a2b/artifact") == "compiled"


def booted_anew(guest: Guest, forget: str = CACHE) -> str:
    """What a machine says that comes after this one, and has nothing of what that compiled."""
    before = guest.console
    guest.sh(f"rm -r {forget}")
    guest.run(guest.machine.reboot())
    guest.until(READY, before.count(READY) + 1)
    return guest.console[len(before) :]


def test_a_compile_cache_outlives_its_machine(guest: Guest) -> None:
    """The next one starts with it; a damaged one is said in one line, and never met again."""
    guest.cloud.metadata["engine-args"] = "Qwen/Qwen3-4B\n--compile\n--serve"
    guest.cloud.metadata["compile-cache"] = "vllm/torch_compile_cache"
    guest.cloud.metadata["compile-cache-bucket"] = "cache"
    up(guest.boot())
    guest.wait_for(lambda: bool(guest.cloud.cache), "upload")
    guest.cloud.metadata["engine-args"] += "\n--fingerprint-value=another"

    assert "]: compiled before" in booted_anew(guest)

    ((name, whole),) = guest.cloud.cache.items()
    guest.cloud.cache[name] = whole[: len(whole) // 2]
    said = booted_anew(guest)
    assert said.count(f"llm-endpoint compile cache: gs://cache/{name} was damaged") == 1
    assert "]: compiling" in said
    guest.wait_for(lambda: len(guest.cloud.cache.get(name, b"")) > len(whole) // 2, "upload")

    # Whole as it arrives, and yet the engine dies of it.
    file = f"{CACHE}/1a2b/artifact"
    guest.sh(f"echo damaged >{file}; tar -czf /var/tmp/kept -C {CACHE} .")
    guest.cloud.cache[name] = base64.b64decode(guest.sh("base64 -w0 /var/tmp/kept"))
    said = booted_anew(guest)
    assert said.count("llm-endpoint compile cache: removed") == 1
    assert "]: compiling" in said
    guest.wait_for(lambda: name in guest.cloud.cache, "upload")
    assert "]: compiled before" in booted_anew(guest)

    # What was compiled for other flags is another one's.
    guest.cloud.metadata["engine-args"] += "\n--say=hello"
    assert "]: compiling" in booted_anew(guest)
    guest.wait_for(lambda: len(guest.cloud.cache) == 2, "upload")
    assert not [it for it in leaks(guest) if it not in VAULTS]


MODEL = {"config.json": b"{}", "model-00001.safetensors": b"weights " * 64}
PREPARED = "llm-endpoint prepared: this machine may go"


def on_a_prepared_disk(guest: Guest, then: str = "true", **metadata: str) -> None:
    """A machine, off, that was prepared with MODEL and is told to be an endpoint from now on.

    `then` is done to its disk by hand.
    """
    told = guest.cloud.metadata
    guest.cloud.objects = dict(MODEL)
    keys = ("startup-script", "engine-image", "cloudflared-image")
    guest.cloud.metadata = {key: told[key] for key in keys}
    guest.cloud.metadata |= {"prepare-disk": "true", "weights-bucket": "weights"} | metadata
    guest.boot().until(PREPARED)
    guest.until(STARTED)
    guest.cloud.metadata = told | {"weights-bucket": "weights"}
    guest.cloud.requests.clear()
    assert guest.result(then)[0] == 0
    guest.run(guest.machine.stop(grace_s=30))


def booted(guest: Guest) -> list[str]:
    """The machine boots again and serves; what it says about its disk."""
    before, containers = guest.console, len(guest.containers())
    guest.run(guest.machine.start())
    guest.until(STARTED, before.count(STARTED) + 1)
    guest.wait_for(lambda: len(guest.containers()) == containers + 2, "both containers")
    said = guest.console[len(before) :].splitlines()
    return [it for it in said if "prepared disk:" in it or "llm-endpoint weights:" in it]


def test_a_prepared_disk_leaves_nothing_to_fetch(guest: Guest) -> None:
    """It has images and weights, whole, and no secret; nothing was started to put them there."""
    on_a_prepared_disk(guest)
    assert not guest.containers()

    assert booted(guest) == []

    assert not [it for it in guest.cloud.requests if "/manifests/" in it or "com/weights/" in it]
    (found,) = (it["weights"] for it in guest.containers() if it["weights"])
    assert found == sorted(MODEL)
    assert ACCESS_TOKEN not in guest.sh("grep -rl ya29 /var /etc 2>/dev/null")


def test_weights_that_were_cut_off_are_copied_again(guest: Guest) -> None:
    """One line says so; the engine finds the whole file."""
    file = "/var/lib/llm-endpoint/weights/model-00001.safetensors"
    on_a_prepared_disk(guest, f"truncate --size=100 {file}")

    (line,) = booted(guest)

    assert "1 of 2 files on this disk are missing or cut off (such as model-00001" in line
    assert "copied again from gs://weights" in line
    assert int(guest.sh(f"stat --format=%s {file}")) == len(MODEL["model-00001.safetensors"])


def test_a_disk_is_not_prepared_with_damaged_weights(guest: Guest) -> None:
    """A file that arrives with another hash than the bucket's is fetched again before it counts."""
    guest.cloud.listed_as = {"model-00001.safetensors": b"Weights " * 64}
    guest.cloud.objects = dict(MODEL)
    guest.cloud.metadata |= {"prepare-disk": "true", "weights-bucket": "weights"}
    guest.boot()

    guest.until("has another MD5 hash than the bucket says")
    assert PREPARED not in guest.console
    guest.cloud.listed_as = {}
    guest.until(PREPARED)


def test_a_disk_prepared_for_another_engine_version_is_no_obstacle(guest: Guest) -> None:
    """The machine says so in one line, pulls the right image, and drops the other one."""
    older = ENGINE.replace("v0.33.0", "v0.32.0")
    guest.cloud.images.add(older)
    on_a_prepared_disk(guest, **{"engine-image": older})

    (line,) = booted(guest)

    assert f"prepared disk: it has {older}, not {ENGINE}, which is pulled now" in line
    assert "v0.32.0" not in guest.sh("docker image ls --format '{{.Tag}}'")
    guest.run(guest.machine.stop(grace_s=30))
    assert booted(guest) == []


def test_an_image_that_is_not_as_it_was_put_there_is_pulled_again(guest: Guest) -> None:
    """What a prepared disk says of itself is compared with what Docker has."""
    marks = "/var/lib/llm-endpoint/prepared"
    on_a_prepared_disk(guest, f"sed -i 's/ sha256:..../ sha256:0000/' {marks}/engine-image")

    (line,) = booted(guest)

    assert f"{ENGINE} is not there as it was put there, and is pulled again" in line
    assert sum("vllm-openai/manifests" in it for it in guest.cloud.requests) == 1


def test_a_machine_without_an_engine_only_connects_the_tunnel(guest: Guest) -> None:
    """It waits for nothing, needs no GPU, and tells Google's health checks whether it leads on."""
    engine = [key for key in guest.cloud.metadata if key.startswith(("engine-", "hugging-"))]
    for key in engine:
        del guest.cloud.metadata[key]
    guest.remove_gpu()
    guest.boot()
    guest.until(STARTED)
    guest.wait_for(lambda: len(guest.containers()) == 1, "the tunnel's container")

    (tunnel,) = guest.containers()
    assert "--metrics=0.0.0.0:20241" in tunnel["arguments"]
    assert tunnel["secret"] == [hashed(TUNNEL_TOKEN)]
    assert "inactive" in guest.sh("systemctl is-active llm-endpoint-engine")


MISTAKES = {
    "missing key": (
        {"engine-args": None},
        "instance metadata has no 'engine-args'",
        "run it again",
    ),
    "port": ({"engine-port": "80; reboot"}, "'engine-port' is '80; reboot'", "a whole number"),
    "secret": (
        {"tunnel-token-secret": "projects/1/secrets/none/versions/1"},
        "Secret Manager answered 404 for projects/1/secrets/none/versions/1: Secret Version",
        "roles/secretmanager.secretAccessor",
    ),
    "image": (
        {"engine-image": ENGINE + "-typo"},
        f"manifest for {ENGINE}-typo not found: manifest unknown",
        "roles/artifactregistry.reader",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_the_next_step(guest: Guest, mistake: str) -> None:
    """The console says what is wrong, which value it was, and what to do; and it tries again."""
    changes, reason, remedy = MISTAKES[mistake]
    for key, value in changes.items():
        if value is None:
            del guest.cloud.metadata[key]
        else:
            guest.cloud.metadata[key] = value
    guest.boot()

    console = guest.until("again in a minute")

    assert reason in console
    (error,) = {
        it.partition("llm-endpoint error: ")[2]
        for it in console.splitlines()
        if "llm-endpoint error: " in it and remedy in it
    }
    assert STARTED not in console
    assert error


def test_one_failure_leaves_the_rest_waiting(guest: Guest) -> None:
    """With an image that does not exist the tunnel is prepared, and connects once it exists."""
    guest.cloud.metadata["engine-image"] = ENGINE + "-typo"
    guest.boot()

    console = guest.until("again in a minute")

    assert re.search(r"phase=engine-image seconds=\S+ status=failed", console)
    assert re.search(r"phase=tunnel-start seconds=\S+ status=ok", console)
    assert guest.sh("systemctl is-active cloudflared") == "activating\n"
    assert guest.containers() == []
    guest.cloud.metadata["engine-image"] = ENGINE
    guest.until("llm-endpoint started")
    guest.wait_for(lambda: len(guest.containers()) == 2, "both containers")


def test_a_machine_without_a_gpu_says_so(guest: Guest) -> None:
    """A driver that sees no GPU is reported in its own words, with what to change."""
    guest.remove_gpu()
    guest.boot()

    console = guest.until("again in a minute")

    assert "nvidia-smi says: No devices were found" in console
    assert "set bootImage" in console


def test_an_image_without_docker_is_named(guest: Guest) -> None:
    """A boot image that lacks what is needed stops the boot before anything is fetched."""
    guest.cloud.metadata["startup-script"] = STARTUP_SCRIPT.read_text().replace(
        "curl base64 sed", "curl absent-command sed"
    )
    guest.boot()

    console = guest.until("again in a minute")

    assert "this image has no 'absent-command': set bootImage" in console
    assert not any(it.startswith(SECRETS) for it in guest.cloud.requests)


def test_a_stop_lets_the_containers_finish_the_tunnel_first(guest: Guest) -> None:
    """The power button ends both units with SIGTERM and their grace, not with SIGKILL.

    No request reaches a machine whose engine takes none any more: callers would get 502.
    """
    up(guest.boot())

    guest.run(guest.machine.stop(grace_s=30))

    assert "Reached target poweroff.target" in guest.console
    assert guest.console.count("container ended on SIGTERM") == 2
    tunnel, engine = "Stopped cloudflared.service", "Stopping llm-endpoint-engine.service"
    assert guest.console.index(tunnel) < guest.console.index(engine)
