"""scripts/ollama.sh in what stands for Ollama's image: pulls, loads, answers, refuses, ends."""

import contextlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import time
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import openai
import pytest
import requests

from components.engines import ollama
from components.settings import Settings
from rehearsal import timeline
from rehearsal.containers import tiny_model
from rehearsal.containers.ollama_store import Store
from rehearsal.machines.machine import IMAGES
from tests.guest import ACCESS_TOKEN, REGISTRY, Guest
from tests.ollama_registry import Registry, digest, serving
from tests.stack_config import SECRET_KEYS, configuration

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "ollama.sh"
PROMPT = "a prompt that nobody else should read"
ALIAS = ollama.alias("1a2b3c4d5e6f")
IN_THE_IMAGE = ("bash", "cat", "cp", "grep", "ln", "mktemp", "rm")
"""All that the script runs, and that Ollama's image has: Ubuntu's essential packages."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Where the models are."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch, serving(folder) as running:
        patch.setenv("REQUESTS_CA_BUNDLE", str(folder / "ca.pem"))
        yield running


@dataclass
class Container:
    """The script's process, and what it serves."""

    process: subprocess.Popen[bytes]
    folder: Path
    url: str

    @property
    def log(self) -> str:
        """All that it has said."""
        return (self.folder / "log").read_text()

    def get(self, path: str) -> int:
        """The status of an answer; 0 for none."""
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(self.url + path, timeout=5).status_code
        return 0

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until the condition holds; fail after a while."""
        deadline = time.monotonic() + 40
        while not condition():
            over = self.process.poll() is not None or time.monotonic() > deadline
            assert not over, f"no {what} in:\n{self.log}"
            time.sleep(0.05)

    def until_log(self, text: str) -> None:
        """Wait for a text in the log."""
        self.until(lambda: text in self.log, text)

    def until_ready(self) -> "Container":
        """Wait until its health path says 200."""
        self.until_log("can answer")
        assert self.get(ollama.HEALTH_PATH) == 200
        return self

    def client(self) -> openai.OpenAI:
        """OpenAI's client, to be closed."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="-", max_retries=0)


def image(folder: Path) -> Path:
    """A PATH with what the image has on it, and nothing else; its `sleep` is in a hurry."""
    bin = folder / "bin"
    bin.mkdir(exist_ok=True)
    for name in IN_THE_IMAGE:
        (bin / name).unlink(missing_ok=True)
        (bin / name).symlink_to(f"/bin/{name}")
    python = shlex.quote(sys.executable)
    for name, line in {
        "ollama": f'exec {python} -m rehearsal.containers.ollama "$@"',
        "sleep": "exec /bin/sleep 0.05",
    }.items():
        (bin / name).write_text(f"#!/bin/sh\n{line}\n")
        (bin / name).chmod(0o755)
    return bin


@dataclass(frozen=True)
class On:
    """What the container runs on."""

    speed: float = 2000
    driver: str = "580.82.07"
    """Empty where there is no GPU."""
    version: str = ollama.NEWEST

    def describe(self, folder: Path) -> None:
        """Write what the stand-in knows of its machine."""
        gpu = {"type": "nvidia-l4", "count": 1, "memory_gib": 24, "driver": self.driver}
        facts = {
            "speed": self.speed,
            "timeline": str(folder / "timeline.jsonl"),
            "gpu": gpu if self.driver else {},
            "image": f"a-registry/ollama/ollama:{self.version}",
        }
        (folder / "machine.json").write_text(json.dumps(facts))


def settings(model: str = "qwen3:8b") -> Settings:
    """A stack that serves the model."""
    own = {"engine": "ollama", "model": model, "maxModelLen": "4096"}
    config = {f"llm-endpoint:{name}": value for name, value in own.items()}
    return Settings.parse(configuration(changes=config), SECRET_KEYS)


@contextlib.contextmanager
def running(folder: Path, *command: str, on: On = On()) -> Generator[Container]:
    """A command in the image, as docker would start it, on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    on.describe(folder)
    own = ollama.environment(settings())
    own |= {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(folder / "models"),
        "REHEARSAL_MACHINE": str(folder / "machine.json"),
        "PYTHONPATH": str(ROOT),
        "PATH": str(image(folder)),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | own, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield Container(process, folder, f"http://127.0.0.1:{port}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def engine(
    folder: Path,
    model: str,
    on: On = On(),
) -> contextlib.AbstractContextManager[Container]:
    """The script with its arguments as the program gives them."""
    arguments = ollama.arguments(settings(model), ALIAS.removeprefix("revision-"))
    return running(folder, str(SCRIPT), *arguments, on=on)


@pytest.fixture(scope="module")
def model(registry: Registry) -> str:
    """One that chats."""
    return registry.publish("qwen3:8b")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: str) -> Iterator[Container]:
    """One that has pulled and loaded it."""
    with engine(tmp_path_factory.mktemp("ollama"), model) as container:
        yield container.until_ready()


@pytest.fixture
def client(server: Container) -> Iterator[openai.OpenAI]:
    with server.client() as made:
        yield made


# --- what clients see -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, ALIAS])
def test_it_answers_chats(client: openai.OpenAI, model: str, name: str | None) -> None:
    """A chat is answered, and counted by the real engine, under the name that was asked for."""
    asked = name or model
    answer = client.chat.completions.create(
        model=asked, messages=[{"role": "user", "content": PROMPT}]
    )

    assert answer.choices[0].message.content == tiny_model.ANSWER
    assert (answer.model, answer.system_fingerprint) == (asked, "fp_ollama")
    assert answer.usage
    assert answer.usage.prompt_tokens > len(PROMPT)


def test_it_streams(client: openai.OpenAI, model: str) -> None:
    """A streamed answer comes word by word."""
    chunks = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": PROMPT}], stream=True
    )
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]

    assert "".join(word or "" for word in words) == tiny_model.ANSWER
    assert len([word for word in words if word]) == len(tiny_model.ANSWER.split())


def test_it_completes_and_responds(client: openai.OpenAI, model: str) -> None:
    """The other two ways to ask for text."""
    assert client.completions.create(model=model, prompt=PROMPT).choices[0].text
    assert client.responses.create(model=model, input=PROMPT).output_text == tiny_model.ANSWER


def test_it_lists_the_model_under_all_its_names(client: openai.OpenAI, model: str) -> None:
    """Its own, the revision's and the one of health."""
    assert {it.id for it in client.models.list()} == {model, f"{ALIAS}:latest", "ready:latest"}


def test_a_model_that_is_not_there_is_not_found(client: openai.OpenAI) -> None:
    """Nor is it fetched."""
    with pytest.raises(openai.NotFoundError, match="model 'gpt-5' not found"):
        client.responses.create(model="gpt-5", input=PROMPT)


def test_a_model_of_the_cloud_is_refused(client: openai.OpenAI) -> None:
    """A client cannot have the endpoint send its prompt to ollama.com."""
    with pytest.raises(openai.PermissionDeniedError, match="ollama cloud is disabled"):
        client.responses.create(model="gpt-oss:120b-cloud", input=PROMPT)


def test_what_ollama_leaves_open_is_open(server: Container) -> None:
    """This is why the tunnel carries a list of paths: whoever gets here may do anything."""
    for path in ("/", "/api/version", "/api/tags", "/api/ps", "/debug/pprof/"):
        assert server.get(path) == 200
    for path in ("/api/create", "/api/push", "/api/chat"):
        assert requests.post(server.url + path, json={}, timeout=5).status_code == 200


def test_prompts_stay_out_of_the_log(server: Container, client: openai.OpenAI, model: str) -> None:
    """Neither prompts nor answers; who asked for what path, but for the health checks."""
    client.responses.create(model=model, input=PROMPT)

    server.until_log('POST     "/v1/responses"')
    assert PROMPT not in server.log
    assert tiny_model.ANSWER not in server.log
    assert ollama.HEALTH_PATH not in server.log


def test_a_model_that_embeds_is_loaded_and_embeds(tmp_path: Path, registry: Registry) -> None:
    """It cannot generate, so it is loaded in another way."""
    name = registry.publish("nomic-embed-text:v1.5", size="137M", family="nomic-bert")

    with engine(tmp_path, name) as container, container.until_ready().client() as client:
        answer = client.embeddings.create(model=name, input=["one", "two"])
        with pytest.raises(openai.BadRequestError, match="does not support chat"):
            client.chat.completions.create(model=name, messages=[])

    assert [len(it.embedding) for it in answer.data] == [tiny_model.WIDTH] * 2


# --- how a model gets there -----------------------------------------------------------------------


def test_loading_is_on_the_timeline(server: Container) -> None:
    """Each phase that costs time in life says how much: an 8B model in 4 bits has 5 GB."""
    life = {event.name: event.life for event in timeline.read(server.folder / "timeline.jsonl")}

    assert list(life) == ["Ollama start", "weights download", "weights load"]
    assert life["weights download"] == pytest.approx(25, rel=0.1)


def test_a_pull_says_how_far_it_is(server: Container) -> None:
    """In a line now and then, not sixteen a second."""
    lines = [line for line in server.log.splitlines() if line.startswith("llm-endpoint pull: ")]

    assert "llm-endpoint pull: pulling manifest" in lines
    assert any(line.endswith("% of 1 MB") for line in lines)
    assert lines[-1] == "llm-endpoint pull: writing manifest"
    assert len(lines) < 12


def test_a_pull_that_breaks_off_goes_on_where_it_stopped(
    tmp_path: Path, registry: Registry
) -> None:
    """Through more breaks than Ollama itself has patience for; what has arrived is not asked for
    again, and at the end all of it is there."""
    weights = os.urandom(8000)
    name = registry.publish("llama3.2:1b", size="1.2B", weights=weights)
    registry.cuts, registry.ranges = 8, []

    with engine(tmp_path, name, On(speed=1e5)) as container:
        container.until_ready()

        assert "max retries exceeded: unexpected EOF; trying again in 5 s" in container.log
    starts = [int(span.rstrip("-")) for span in registry.ranges]
    assert len(starts) == 8
    assert starts == sorted(set(starts))
    blob = tmp_path / "models" / "blobs" / digest(weights + b"llama3.2:1b").replace(":", "-")
    assert blob.read_bytes() == weights + b"llama3.2:1b"
    assert not list(blob.parent.glob("*partial*"))


def test_wrong_bytes_are_fetched_again(tmp_path: Path, registry: Registry) -> None:
    """A blob that is not what its name says is not used."""
    name = registry.publish("gemma3:4b", size="4.3B")
    right = b"w" * 5000 + b"gemma3:4b"
    registry.blobs[digest(right)] = b"x" * len(right)

    with engine(tmp_path, name) as container:
        container.until_log("digest mismatch, file must be downloaded again")
        registry.blobs[digest(right)] = right
        container.until_ready()


def test_a_model_that_does_not_exist_is_named(tmp_path: Path, registry: Registry) -> None:
    """At once, with where to look."""
    with engine(tmp_path, f"{registry.host}/library/qwen33:8b") as container:
        assert container.process.wait(30) == 1

        assert f"llm-endpoint error: there is no model {registry.host}/library/qwen33:8b" in (
            container.log
        )
        assert "https://ollama.com/library" in container.log
        assert container.get("/") == 0


def test_the_model_is_ready_only_when_it_is_loaded(tmp_path: Path, model: str) -> None:
    """Also after a restart, when its files, and names that it once had, are there already; and
    they are not fetched again."""
    with engine(tmp_path, model) as container:
        container.until_ready()

    with engine(tmp_path, model, On(speed=2)) as container:
        container.until_log("loading model via llama-server")
        assert container.get(f"/v1/models/{ALIAS}") == 404
        assert container.get(ollama.HEALTH_PATH) == 404
        container.until_ready()

        assert "pulling" not in container.log


def test_names_that_ollama_would_not_take_are_refused(tmp_path: Path) -> None:
    """Nothing of an argument gets into a request as anything but a name."""
    with running(tmp_path, str(SCRIPT), 'a","insecure":true,"x":"', "ready") as container:
        assert container.process.wait(10) == 1
        assert "is no name that Ollama takes" in container.log


# --- the GPU --------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["", "535.216.03"])
def test_a_model_on_the_cpu_is_not_ready(tmp_path: Path, model: str, driver: str) -> None:
    """Whoever pays for a GPU is not served by the CPU in silence, as Ollama would do: neither
    without a GPU nor with a driver that it cannot use."""
    with engine(tmp_path, model, On(driver=driver)) as container:
        assert container.process.wait(30) == 1

        assert "llm-endpoint error: Ollama found no GPU that it can use" in container.log
        assert "can answer" not in container.log
        assert container.get("/") == 0


def test_cloud_runs_l4_get_a_version_that_can_use_them(tmp_path: Path, model: str) -> None:
    """The version for driver 535 finds the GPU on which newer ones do not."""
    on = On(driver="535.216.03", version=ollama.version("cloud-run", "nvidia-l4"))
    with engine(tmp_path, model, on) as container:
        container.until_ready()

        answer = requests.get(f"{container.url}/api/version", timeout=5)
        assert answer.json() == {"version": on.version}


def test_a_model_too_large_for_the_gpu_answers_with_a_warning(
    tmp_path: Path, registry: Registry
) -> None:
    """It is what Ollama is chosen for; how much is not on the GPU is said."""
    name = registry.publish("llama3.3:70b", size="70.6B")

    with engine(tmp_path, name) as container, container.until_ready().client() as client:
        assert client.responses.create(model=name, input=PROMPT).output_text
        words = f"% of {name} and its cache are in the CPU's memory"
        (warning,) = [line for line in container.log.splitlines() if words in line]

    assert warning.startswith("llm-endpoint warning: 5")
    assert "take a larger GPU" in warning


# --- how it ends ----------------------------------------------------------------------------------


def stream_until_told_to_end(container: Container, model: str, told: int) -> str:
    """The rest of a long stream during which a process gets SIGTERM."""
    long = {"model": model, "stream": True, "max_tokens": 200, "ignore_eos": True}
    asked = long | {"messages": [{"role": "user", "content": PROMPT}]}
    url = f"{container.url}/v1/chat/completions"
    with requests.post(url, json=asked, stream=True, timeout=60) as answer:
        lines = answer.iter_lines(decode_unicode=True)
        next(lines)
        os.kill(told, signal.SIGTERM)
        return "\n".join(lines)


def test_requests_in_flight_are_finished(tmp_path: Path, model: str) -> None:
    """SIGTERM ends the server when the last answer has been given."""
    with engine(tmp_path, model) as container:
        container.until_ready()
        rest = stream_until_told_to_end(container, model, container.process.pid)

        assert rest.rstrip().endswith("data: [DONE]")
        assert container.process.wait(30) == 0
        assert container.get("/") == 0


def test_ollama_itself_would_cut_them(tmp_path: Path, model: str) -> None:
    """What the script is for, among other things."""
    with engine(tmp_path, model) as container:
        container.until_ready()

    with running(tmp_path, "ollama", "serve") as container:
        container.until(lambda: container.get("/") == 200, "server")
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            stream_until_told_to_end(container, model, container.process.pid)


def test_it_ends_at_once_while_it_loads(tmp_path: Path, model: str) -> None:
    """Nobody is being answered yet."""
    with engine(tmp_path, model, On(speed=1)) as container:
        container.until_log("loading model via llama-server")
        container.process.terminate()

        assert container.process.wait(10) == 0
        assert "llama-server started" not in container.log


def test_a_server_that_dies_ends_the_container(tmp_path: Path, model: str) -> None:
    """And not with success, so that it is started again."""
    with engine(tmp_path, model) as container:
        container.until_ready()
        children = Path(f"/proc/{container.process.pid}/task/{container.process.pid}/children")
        servers = [
            int(pid)
            for pid in children.read_text().split()
            if b"containers.ollama" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(servers[0], signal.SIGKILL)

        assert container.process.wait(10) != 0
        assert "Ollama has ended by itself" in container.log


# --- in a container -------------------------------------------------------------------------------

IMAGE = f"{REGISTRY}/a-project/docker-hub/ollama/ollama:{ollama.NEWEST}"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[Guest]:
    """A machine that has the image, staged weights in /var/tmp/weights, and no way out."""
    folder = tmp_path_factory.mktemp("staged")
    registry.publish("phi4-mini:3.8b", size="3.8B")
    registry.stage("phi4-mini:3.8b", Store(folder / "weights"))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz") as tar:
        tar.add(folder / "weights", "weights")
    with Guest(tmp_path_factory.mktemp("world"), speed=2000) as guest:
        guest.spec = replace(guest.spec, images={"ollama/ollama": IMAGES["ollama/ollama"]})
        guest.cloud.images = {IMAGE}
        guest.cloud.metadata["startup-script"] = "#!/bin/sh\n"
        guest.boot().until("Finished running startup scripts.")
        guest.sh(
            f"echo {b64encode(archive.getvalue()).decode()} | base64 -d | tar -xJ -C /var/tmp;"
            f" printf {ACCESS_TOKEN} | docker login --username oauth2accesstoken --password-stdin"
            f" {REGISTRY}; docker pull {IMAGE}"
        )
        yield guest


def start(guest: Guest, *options: str) -> None:
    """Start the script in the image with read-only weights; its output is /tmp/log."""
    env = {f"--env={key}={value}" for key, value in ollama.environment(settings()).items()}
    arguments = ollama.arguments(settings("phi4-mini:3.8b"), ALIAS.removeprefix("revision-"))
    flags = ["--rm", "--name=engine", "--network=host", "--entrypoint=/bin/bash", *env, *options]
    mounts = [f"--volume={SCRIPT}:/ollama.sh:ro", "--volume=/var/tmp/weights:/weights:ro"]
    command = shlex.join(["docker", "run", *flags, *mounts, IMAGE, "/ollama.sh", *arguments])
    guest.sh(f"nohup {command} >/tmp/log 2>&1 </dev/null &")


def test_it_runs_as_a_text_too(tmp_path: Path, model: str) -> None:
    """Where there is no file to mount, the script is an argument of bash."""
    text = ("bash", "-c", SCRIPT.read_text(), "ollama.sh")
    with running(tmp_path, *text, model, ollama.READY) as container:
        container.until_ready()
        container.process.terminate()

        assert container.process.wait(10) == 0


@pytest.mark.rehearsal
def test_staged_weights_are_served_from_where_they_are(guest: Guest) -> None:
    """Read-only as they are, and without a network; then the container ends when it is told to."""
    start(guest, "--gpus=all")
    guest.wait_for(lambda: "can answer" in guest.sh("cat /tmp/log"), "answer")
    health = f"curl -s -o /dev/null -w '%{{http_code}}' 127.0.0.1:{ollama.PORT}"

    assert guest.sh(health + ollama.HEALTH_PATH) == "200"
    assert "pull" not in guest.sh("cat /tmp/log")
    assert "revision" not in guest.sh("ls -R /var/tmp/weights")
    assert guest.result("docker stop -t 20 engine")[0] == 0
    assert guest.sh(health + "/") == "000"


@pytest.mark.rehearsal
def test_a_container_without_gpus_ends_with_an_error(guest: Guest) -> None:
    """Docker gives GPUs only to those who ask for them."""
    start(guest)
    guest.wait_for(lambda: "llm-endpoint error" in guest.sh("cat /tmp/log"), "error")

    assert 'library="cpu"' in guest.sh("cat /tmp/log")
    guest.wait_for(lambda: guest.sh("docker ps --quiet") == "", "end")
