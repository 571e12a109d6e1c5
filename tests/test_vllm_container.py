"""What stands where the vLLM image would: starts, refuses and answers as vLLM does."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import openai
import pytest
import requests

from components import catalogue
from components.models import models
from components.vllm_flags import FLAGS
from rehearsal import timeline
from rehearsal.containers import tiny_model, vllm
from tests.hub_site import TOKEN, hub_site
from tests.processes import wait_until

MODEL = "Qwen/Qwen3-4B"
GATED = "meta-llama/Llama-3.1-8B-Instruct"
PROMPT = "a prompt that nobody else should read"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The hub's site on this machine."""
    with hub_site(tmp_path_factory.mktemp("world")) as url:
        yield url


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: str) -> Callable[..., Path]:
    """Describes the simulated machine; returns its timeline file."""
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "vllm"))

    def describe(gpu: str = "nvidia-l4", count: int = 1, driver: str = "580.82.07") -> Path:
        path = tmp_path / "machine.json"
        told = {
            "speed": 1e6,
            "gpu": {"type": gpu, "count": count, "memory_gib": 24, "driver": driver},
            "timeline": str(tmp_path / "timeline.jsonl"),
        }
        path.write_text(json.dumps(told))
        monkeypatch.setenv("REHEARSAL_MACHINE", str(path))
        return tmp_path / "timeline.jsonl"

    describe()
    return describe


REFUSALS = [
    (f"{MODEL} --foo", 2, "vllm: error: unrecognized arguments: --foo"),
    (f"{MODEL} --port eighty", 2, "argument --port: invalid int value: 'eighty'"),
    (f"{MODEL} --max-model-len long", 2, "invalid human_readable_int_or_auto value: 'long'"),
    (f"{MODEL} --dtype int7", 2, "argument --dtype: invalid choice: 'int7'"),
    (f"{MODEL} --max-model-len 50000", 1, "User-specified max_model_len (50000) is greater than"),
    (f"{MODEL} --tensor-parallel-size 2", 1, "World size (2) is larger than the number of avai"),
    (f"{MODEL} --tensor-parallel-size 3", 1, "Total number of attention heads (32) must be div"),
    (f"{MODEL} --gpu-memory-utilization 1", 1, "on startup is less than desired GPU memory util"),
    ("Qwen/Qwen3-8B", 1, "the estimated maximum model length is 2"),
    ("Qwen/Qwen3-14B --gpu-memory-utilization 0.5", 1, "torch.OutOfMemoryError: CUDA out of memo"),
    ("Qwen/Qwen3-8B --gpu-memory-utilization 0.7", 1, "No available memory for the cache blocks."),
    ("nobody/nothing", 1, "is not a valid model identifier"),
    (GATED, 1, "You are trying to access a gated repo."),
]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("arguments", "status", "message"), REFUSALS)
def test_what_vllm_refuses_is_refused_in_its_words(
    capsys: pytest.CaptureFixture[str], arguments: str, status: int, message: str
) -> None:
    """A wrong flag, model or size ends the container as it would on a real GPU."""
    with pytest.raises(SystemExit) as ended:
        vllm.main(arguments.split())

    written = capsys.readouterr()
    assert ended.value.code == status
    assert message in written.out + written.err


def test_bfloat16_is_refused_on_a_t4(
    machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A T4 computes no bfloat16, and vLLM says what to do instead."""
    machine("nvidia-tesla-t4")

    with pytest.raises(SystemExit):
        vllm.main([MODEL, "--dtype", "bfloat16"])

    assert "Your Tesla T4 GPU has compute capability 7.5" in capsys.readouterr().out


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("token", "problem"), [("hf_wrong", "Invalid credentials"), (TOKEN, "")])
def test_a_gated_model_needs_a_token_that_the_hub_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, problem: str
) -> None:
    """The token is read from the file that HF_TOKEN_PATH names."""
    (tmp_path / "token").write_text(token)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))

    try:
        vllm.find_model(vllm.options([GATED]))
    except vllm.StartError as error:
        told = str(error)
    else:
        told = ""

    assert bool(problem) == bool(told)
    assert problem in told


def test_every_flag_of_vllm_is_known() -> None:
    """What vLLM takes, the container takes: a flag with its value, with `=`, or without value."""
    for name, flag in FLAGS.items():
        if flag.nargs == 0:
            vllm.options([MODEL, name, "--tool-call-parser=hermes", "--enable-eplb", "--numa-bind"])

    assert vllm.options([MODEL, "--max-model-len=16k"]).max_model_len == 16000
    assert vllm.options([MODEL, "--max_model_len", "16K"]).max_model_len == 16384


@pytest.mark.usefixtures("machine")
def test_automatic_context_is_what_fits() -> None:
    """`--max-model-len auto` takes as much as the GPU has room for, no more than the model has."""
    chosen = vllm.options(["Qwen/Qwen3-8B", "--max-model-len", "auto"])
    length = vllm.fit(chosen, catalogue.gpu("nvidia-l4"), vllm.find_model(chosen))

    assert 20_000 < length < 30_000


@pytest.mark.usefixtures("machine")
def test_a_cache_of_eight_bits_holds_twice_as_much() -> None:
    """What the program lets pass thanks to a flag is not refused here."""
    chosen = vllm.options(["Qwen/Qwen3-8B", "--max-model-len=40960", "--kv-cache-dtype=fp8"])

    assert vllm.fit(chosen, catalogue.gpu("nvidia-l4"), vllm.find_model(chosen)) == 40960


def test_the_hub_has_the_catalogues_models(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM's stand-in reads of a model's files is what the catalogue says of it."""
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    for name, model in models().items():
        assert vllm.find_model(vllm.options([name])) == replace(model, gated=False)


# --- a server that runs ---------------------------------------------------------------------------


@dataclass
class Container:
    """A running one."""

    process: subprocess.Popen[bytes]
    url: str
    timeline: Path
    log: Path


def test_an_older_driver_needs_the_compatibility_libraries(
    machine: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As that of Cloud Run's L4: without the variable, vLLM's image does not start there."""
    machine(driver="535.216.03")
    too_long = f"{MODEL} --max-model-len 50000".split()
    with pytest.raises(SystemExit):
        vllm.main(too_long)
    refused = capsys.readouterr().out

    monkeypatch.setenv("VLLM_ENABLE_CUDA_COMPATIBILITY", "1")
    with pytest.raises(SystemExit):
        vllm.main(too_long)

    assert "The NVIDIA driver on your system is too old (found version 12020)." in refused
    assert "too old" not in capsys.readouterr().out


@contextlib.contextmanager
def running(folder: Path, hub: str, *flags: str, speed: float = 2000) -> Generator[Container]:
    """The container as docker would start it, on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    machine = {
        "speed": speed,
        "gpu": {"type": "nvidia-l4", "count": 1, "memory_gib": 24},
        "timeline": str(folder / "timeline.jsonl"),
    }
    (folder / "machine.json").write_text(json.dumps(machine))
    own = {
        "REHEARSAL_MACHINE": str(folder / "machine.json"),
        "HF_ENDPOINT": hub,
        "HF_HOME": str(folder / "hub"),
        "VLLM_CACHE_ROOT": str(folder / "vllm"),
    }
    command = [sys.executable, "-m", "rehearsal.containers.vllm", MODEL, "--host", "127.0.0.1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), *flags],
            env=os.environ | own,
            stdout=log,
            stderr=log,
        )
    try:
        yield Container(
            process, f"http://127.0.0.1:{port}", folder / "timeline.jsonl", folder / "log"
        )
    finally:
        process.kill()
        process.wait()


def healthy(container: Container) -> bool:
    assert container.process.poll() is None, container.log.read_text()
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"{container.url}/health", timeout=5).ok
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hub: str) -> Iterator[Container]:
    """One that is ready."""
    flags = ("--max-model-len", "16384", "--shutdown-timeout", "20", "--fingerprint-mode", "custom")
    folder = tmp_path_factory.mktemp("vllm")
    with running(folder, hub, *flags, "--fingerprint-value", "revision-7") as container:
        wait_until(lambda: healthy(container))
        yield container


@pytest.fixture
def client(server: Container) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, *, model: str = MODEL, prompt: str = PROMPT, max_tokens: int = 50):
    """A chat with the openai client."""
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], max_tokens=max_tokens
    )


def test_it_answers_chats(client: openai.OpenAI) -> None:
    """A chat gets an answer, its usage counted by the real engine, under the model's name."""
    answer = ask(client)

    assert answer.choices[0].message.content == tiny_model.ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.system_fingerprint == "revision-7"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > len(PROMPT)


def test_it_streams(client: openai.OpenAI) -> None:
    """A streamed answer comes word by word; its end tells the fingerprint."""
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": PROMPT}], stream=True
        )
    )
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]

    assert len([word for word in words if word]) == len(tiny_model.ANSWER.split())
    assert "".join(word or "" for word in words) == tiny_model.ANSWER
    assert "revision-7" in {chunk.system_fingerprint for chunk in chunks}


def test_it_lists_its_model(client: openai.OpenAI) -> None:
    """The model list says whose it is and how much it takes."""
    (model,) = client.models.list().data

    assert (model.id, model.owned_by) == (MODEL, "vllm")
    assert model.model_dump()["max_model_len"] == 16384


def test_a_model_that_is_not_served_is_not_found(client: openai.OpenAI) -> None:
    """Asking for another model is vLLM's 404."""
    with pytest.raises(openai.NotFoundError, match="The model `gpt-5` does not exist"):
        ask(client, model="gpt-5")


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "message"),
    [
        ("x" * 17000, 50, "This model's maximum context length is 16384 tokens"),
        ("x", 20000, "max_tokens=20000 cannot be greater than max_model_len=16384"),
    ],
)
def test_what_does_not_fit_the_context_is_a_bad_request(
    client: openai.OpenAI, prompt: str, max_tokens: int, message: str
) -> None:
    """Too long a prompt, or too many tokens asked for, is vLLM's 400."""
    with pytest.raises(openai.BadRequestError, match=message):
        ask(client, prompt=prompt, max_tokens=max_tokens)


def test_metrics_count_what_was_served(server: Container, client: openai.OpenAI) -> None:
    """/metrics has vLLM's names, and they move with use."""

    def count(name: str) -> float:
        lines = requests.get(f"{server.url}/metrics", timeout=5).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))

    names = ("vllm:generation_tokens_total", "vllm:request_success_total")
    before = [count(name) for name in names]
    ask(client)

    assert [count(name) for name in names] == [
        before[0] + len(tiny_model.ANSWER.split()) + 1,
        before[1] + 1,
    ]


def test_what_vllm_leaves_open_is_open(server: Container) -> None:
    """/invocations answers without /v1; what is for developers needs developers' mode."""
    body = {"model": MODEL, "prompt": PROMPT}
    answered = requests.post(f"{server.url}/invocations", json=body, timeout=10)

    assert answered.json()["choices"][0]["text"] == tiny_model.ANSWER
    assert requests.get(f"{server.url}/version", timeout=5).json() == {"version": "0.33.0"}
    assert requests.post(f"{server.url}/pause", timeout=5).status_code == 404


def test_loading_is_on_the_timeline(server: Container) -> None:
    """Each phase that costs time in life says how much."""
    life = {event.name: event.life for event in timeline.read(server.timeline)}

    assert list(life) == [
        "vLLM start",
        "weights download",
        "weights load",
        "torch.compile",
        "CUDA graphs",
    ]
    assert life["weights download"] == pytest.approx(40, rel=0.01)


def test_prompts_stay_out_of_the_logs(server: Container, client: openai.OpenAI) -> None:
    """Neither prompts nor answers are logged."""
    ask(client)

    assert "Application startup complete." in server.log.read_text()
    assert PROMPT not in server.log.read_text()
    assert tiny_model.ANSWER not in server.log.read_text()


def test_nothing_listens_before_the_model_is_loaded(tmp_path: Path, hub: str) -> None:
    """While the model loads, connections are refused."""
    with running(tmp_path, hub, speed=30) as container:
        wait_until(lambda: "Starting to load model" in container.log.read_text())
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{container.url}/health", timeout=5)
        wait_until(lambda: healthy(container))


def test_weights_are_downloaded_once(tmp_path: Path, hub: str) -> None:
    """A restarted container finds the weights that the first one left on the disk."""
    for _ in range(2):
        with running(tmp_path, hub) as container:
            wait_until(lambda: healthy(container))

    names = [event.name for event in timeline.read(tmp_path / "timeline.jsonl")]
    assert names.count("weights load") == 2
    assert names.count("weights download") == 1


def test_it_answers_from_a_users_model(
    tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GGUF file of the user's, that model answers under the configured name."""
    monkeypatch.setattr(tiny_model, "ANSWER", "Hello from my own file.")
    tiny_model.write(tmp_path / "own.gguf", context=4096)
    monkeypatch.setenv("REHEARSAL_GGUF", str(tmp_path / "own.gguf"))

    with running(tmp_path, hub) as container:
        wait_until(lambda: healthy(container))
        with openai.OpenAI(base_url=f"{container.url}/v1", api_key="-") as client:
            assert ask(client).choices[0].message.content == "Hello from my own file."


def test_a_file_that_is_no_model_is_named(
    tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that llama.cpp cannot load ends the container with the file's name."""
    (tmp_path / "own.gguf").write_text("not a model")
    monkeypatch.setenv("REHEARSAL_GGUF", str(tmp_path / "own.gguf"))

    with running(tmp_path, hub) as container:
        assert container.process.wait(30) == 1
    assert f"llama.cpp cannot load {tmp_path / 'own.gguf'}" in container.log.read_text()


def test_requests_in_flight_are_finished_at_shutdown(tmp_path: Path, hub: str) -> None:
    """SIGTERM closes the door to new requests and lets the running ones end."""
    flags = ("--max-model-len", "16384", "--shutdown-timeout", "60")
    long = {"model": MODEL, "prompt": "x" * 6000}
    answers: list[requests.Response] = []
    with running(tmp_path, hub, *flags) as container:
        wait_until(lambda: healthy(container))
        url = f"{container.url}/v1/completions"
        thread = threading.Thread(
            target=lambda: answers.append(requests.post(url, json=long, timeout=60))
        )
        thread.start()
        running_now = 'vllm:num_requests_running{engine="0",model_name="Qwen/Qwen3-4B"} 1'
        metrics = f"{container.url}/metrics"
        wait_until(lambda: running_now in requests.get(metrics, timeout=30).text)
        container.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "shutdown triggered" in container.log.read_text())
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{container.url}/health", timeout=5)
        thread.join(60)

        assert container.process.wait(30) == 0
    assert [answer.status_code for answer in answers] == [200]


def test_what_was_compiled_is_used_again_unless_it_is_damaged(
    machine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The second start is sooner; over a damaged file vLLM dies, and does so at each start."""
    timeline_file = machine()
    chosen, here = vllm.options([MODEL]), vllm.Machine.read()

    vllm.compile_model(chosen, here, 36)
    vllm.compile_model(chosen, here, 36)

    spans = {it.name: it.life or 0 for it in timeline.read(timeline_file)}
    assert spans["torch.compile, cached"] < spans["torch.compile"]
    vllm.compiled(chosen, here).write_text("compi")
    for _ in range(2):
        with pytest.raises(vllm.StartError, match="pickle data was truncated"):
            vllm.compile_model(chosen, here, 36)
    vllm.compile_model(replace(chosen, enforce_eager=True), here, 36)
