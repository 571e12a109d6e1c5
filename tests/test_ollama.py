"""Ollama's container, and what of it the world may reach."""

import inspect
import re

import pytest

from components.engine import pinned_image
from components.engines import ollama
from components.settings import Settings
from tests.stack_config import SECRET_KEYS, configuration

REVISION = "1a2b3c4d5e6f"


def settings(changes: dict[str, str] | None = None) -> Settings:
    """A stack of Ollama's, with changes."""
    own = {"engine": "ollama", "model": "qwen3:8b", "maxModelLen": "8192"}
    config = {f"llm-endpoint:{name}": value for name, value in (own | (changes or {})).items()}
    return Settings.parse(configuration(changes=config), SECRET_KEYS)


ENV = ollama.environment(settings({"readyTimeoutMinutes": "30"}))


def test_the_model_is_ready_under_names_of_its_own() -> None:
    """The script learns the model, a name that only this revision has, and the one of health."""
    assert ollama.arguments(settings(), REVISION) == (
        "qwen3:8b",
        "revision-1a2b3c4d5e6f",
        "ready",
    )
    assert ollama.HEALTH_PATH == "/v1/models/ready"


def test_names_that_the_program_gives_are_names_for_ollama() -> None:
    """Ollama takes them, and clients may ask for them."""
    for name in (ollama.alias(REVISION), ollama.READY):
        assert re.fullmatch(ollama.MODEL, name)
        assert reachable(f"/v1/models/{name}")


def test_a_prompt_and_its_answer_get_the_context_of_the_stack() -> None:
    """Each of the requests at the same time has all of it."""
    assert ENV["OLLAMA_CONTEXT_LENGTH"] == "8192"
    assert ENV["OLLAMA_NUM_PARALLEL"] == str(ollama.concurrency(settings())) == "4"


def test_a_loaded_model_stays_loaded() -> None:
    """No pause and no other model makes the next client wait."""
    assert ENV.items() >= {"OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_MAX_LOADED_MODELS": "1"}.items()


def test_loading_has_the_time_that_a_machine_has() -> None:
    """Ollama gives up no sooner than the one who started it."""
    assert ENV["OLLAMA_LOAD_TIMEOUT"] == "30m"


def test_nothing_is_computed_elsewhere_and_nothing_is_told() -> None:
    """Neither Ollama's cloud nor a log hears of a prompt."""
    assert ENV["OLLAMA_NO_CLOUD"] == "1"
    assert not ENV.keys() & {"OLLAMA_DEBUG", "OLLAMA_DEBUG_LOG_REQUESTS"}


def test_what_a_broken_pull_has_left_is_kept() -> None:
    """A restart goes on with it."""
    assert ENV["OLLAMA_NOPRUNE"] == "1"


def test_a_stacks_own_variables_win() -> None:
    """A stack may overrule what is not the program's."""
    own = settings({"engineEnv": '["OLLAMA_NUM_PARALLEL=16", "OLLAMA_FLASH_ATTENTION=1"]'})

    assert ollama.environment(own)["OLLAMA_FLASH_ATTENTION"] == "1"
    assert ollama.concurrency(own) == 16


@pytest.mark.parametrize(("value", "requests"), [("", 1), ("0", 1), ("many", 1), ("8", 8)])
def test_parallel_requests_are_counted_as_ollama_counts_them(value: str, requests: int) -> None:
    """What it cannot read is one."""
    own = settings({"engineEnv": f'["OLLAMA_NUM_PARALLEL={value}"]'})

    assert ollama.concurrency(own) == requests


def test_the_image_is_pinned() -> None:
    """A version becomes a tag, a digest stays a digest."""
    digest = "sha256:" + "a" * 64

    assert pinned_image("ollama/ollama", "0.32.15") == "ollama/ollama:0.32.15"
    assert pinned_image("ollama/ollama", digest) == f"ollama/ollama@{digest}"


@pytest.mark.parametrize(
    ("platform", "gpu", "newest"),
    [
        ("vm", "nvidia-l4", True),
        ("cloud-run", "nvidia-rtx-pro-6000", True),
        ("cloud-run", "nvidia-l4", False),
    ],
)
def test_the_version_is_one_for_the_driver(platform: str, gpu: str, newest: bool) -> None:
    """Cloud Run's L4 have driver 535, on which Ollama 0.30 and newer find no GPU."""
    version = tuple(map(int, ollama.version(platform, gpu).split(".")))

    assert version >= ollama.OLDEST
    assert (version >= (0, 30)) == newest


def reachable(path: str) -> bool:
    """Whether cloudflared would let the path through: Go's MatchString looks anywhere in it."""
    # Python's $ also matches before a final line break, Go's does not.
    return any(re.search(re.sub(r"\$$", r"\\Z", tied), path) for tied in ollama.PUBLIC_PATHS)


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
        *("/v1/models", "/v1/models/qwen3:8b", "/v1/models/llama3.2:1b-instruct_q4"),
        "/v1/audio/transcriptions",
    ],
)
def test_openais_api_is_reachable(path: str) -> None:
    """What an OpenAI client calls gets through."""
    assert reachable(path)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/api/tags", "/api/version", "/api/ps", "/api/status", "/api/me", "/api/signout"),
        *("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/show"),
        *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/blobs/sha256:0"),
        *("/api/experimental/web_search", "/debug/pprof/", "/debug/pprof/heap", "/metrics"),
        *("/v1", "/v1/", "/v1/messages", "/v1/images/generations", "/v1/models/"),
        *("/v1/chat/completions/", "/v1/responses/resp_1", "/v1/audio/translations"),
        *("/v1/../api/tags", "/v1/models/../../api/tags", "/v1/models%2f..%2fapi", "/v1/models/.."),
        *("/v1/models/x/../../../api/tags", "/v1/models/.", "/v1/models/.x", "/v1/models/x."),
        *("/v1/%2e%2e/api/tags", "//api/tags", "/api/tags//v1/models", "/x/v1/models"),
        *("/v1//models", "/V1/models", "/v1/models;x", "/v1/models\n", "/api/tags\n/v1/models"),
        *("/v1/models/x/y", "/v1/models/x..y", "/v1/models/%2e%2e", "/v1/models/hf.co/org/name"),
    ],
)
def test_nothing_else_is_reachable(path: str) -> None:
    """What pulls, deletes or replaces models, and paths that resolve to it, find no rule."""
    assert not reachable(path)


@pytest.mark.parametrize(
    "name",
    [
        *("llama3.2", "qwen3:8b", "qwen3:30b-a3b-instruct-2507-q4_K_M", "someone/model:latest"),
        *("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF", "hf.co/org/name:Q4_K_M"),
        *("registry.example/ns/name:tag", "registry.example:5000/ns/name:tag"),
    ],
)
def test_ollamas_names_are_taken(name: str) -> None:
    """A model is named as people name it to Ollama."""
    assert re.fullmatch(ollama.MODEL, name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "qwen3:", ":8b", "a/b/c/d", "http://hf.co/org/name", "qwen3:8b:x", "../x"),
        *("or.g/name", "name@sha256:" + "0" * 64, "qwen 3", "-x", 'a"b', "x" * 81, "qwen3:8b\n"),
    ],
)
def test_what_is_no_name_is_not(name: str) -> None:
    """Ollama would refuse it, after a machine was made for it."""
    assert not re.fullmatch(ollama.MODEL, name)


def problems(**settings: object) -> list[str]:
    """What the rules say of settings, the others being empty."""
    all_of_them: dict[str, object] = {
        "model": "qwen3:8b",
        "model_revision": None,
        "engine_args": (),
        "engine_env": (),
        "engine_version": None,
        "platform": "vm",
        "gpu": "nvidia-l4",
    }
    given = all_of_them | settings
    return [
        str(problem)
        for rule in ollama.RULES
        for problem in rule(**{name: given[name] for name in inspect.signature(rule).parameters})  # pyright: ignore[reportArgumentType] -- each takes the settings that it names
    ]


def test_a_stack_of_ollamas_is_fine() -> None:
    """A name and some tuning break no rule."""
    assert problems(engine_env=("OLLAMA_KV_CACHE_TYPE=q8_0", "OLLAMA_NUM_PARALLEL=8")) == []


@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "kimi-k2:cloud", "someone/model:1T-Cloud"])
def test_models_of_ollamas_cloud_are_refused(name: str) -> None:
    """Such a name stands for a computer of somebody else's."""
    (problem,) = problems(model=name)

    assert "on this stack's GPU" in problem


@pytest.mark.parametrize("name", ["cloud", "deepseek-cloud:7b", "cloud/model:8b"])
def test_a_model_may_be_called_after_a_cloud(name: str) -> None:
    """Only the tag tells where it runs."""
    assert problems(model=name) == []


def test_what_ollama_has_no_use_for_is_refused() -> None:
    """A revision or flags would do nothing, and say so with what to do instead."""
    (revision,) = problems(model_revision="main")
    (flags,) = problems(engine_args=("--max-num-seqs=8",))

    assert "next: pulumi config set llm-endpoint:model qwen3:8b" in revision
    assert "--max-num-seqs" not in flags
    assert "engineEnv[0]" in flags


@pytest.mark.parametrize("name", ollama.NOT_YOURS)
def test_what_the_program_relies_on_stays_as_it_is(name: str) -> None:
    """A variable that would open, log, send away or unload something is refused by its name."""
    (problem,) = problems(engine_env=(f"{name}=a-value",))

    assert name in problem
    assert "a-value" not in problem


def test_every_variable_of_the_program_is_protected_or_tuning() -> None:
    """Whatever it sets, a stack either may not set, or it only makes faster or slower."""
    assert ENV.keys() - ollama.NOT_YOURS.keys() == {"OLLAMA_NUM_PARALLEL"}
