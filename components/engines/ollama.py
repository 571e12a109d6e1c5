"""Ollama: its container, and which of its paths are public.

What is said of Ollama here was read in its source, v0.32.15, unless another version is named.

It wants a GPU of compute capability 5.0 (docs/gpu.mdx), which all in components/gpus.csv have, and
a driver that its CUDA libraries can use: see `version`. Without either it would run on the CPU and
call that a success; scripts/ollama.sh does not.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from components.engine import EngineContainer, Probe, pinned_image
from components.problem import HIDDEN, Problem, command, key
from components.scripts import script

if TYPE_CHECKING:
    from components.settings import Settings

SOURCE: Literal["hub", "ollama"] = "ollama"
NEWEST = "0.32.15"
OLDEST = (0, 20, 0)
"""The first with all of PUBLIC_PATHS; OLLAMA_NO_CLOUD is older (0.16.2)."""
DRIVER_535 = "0.24.0"
"""The newest that runs on drivers before R550, for its libraries are not compressed yet
(ollama/ollama#16449, #16895)."""
IMAGE_GIB = 2.0
"""U: with its CUDA libraries."""
START_S = 5.0
"""U: until it has found its GPUs and listens."""

PORT = 11434
READY = "ready"
"""A name that scripts/ollama.sh gives to the model when it has been loaded into the GPU."""
HEALTH_PATH = f"/v1/models/{READY}"
"""Not `/`, which answers before there is a model, and not the model's own name, which Ollama knows
as soon as it has the files."""

PUBLIC_PATHS = (
    "^/v1/(chat/completions|completions|embeddings|responses)$",
    "^/v1/models(/[A-Za-z0-9_-]+([.:][A-Za-z0-9_-]+)*)?$",
    "^/v1/audio/transcriptions$",
)
"""OpenAI's API as far as Ollama has it (server/routes.go, GenerateRoutes), and nothing else: Ollama
asks nobody who he is, so whoever reaches /api/pull, /api/delete or /api/create fills the disk,
deletes the model or exchanges it; and Go's profiler is at /debug/pprof.

Expressions of Go's, for the decoded path. Both ends are tied, as cloudflared looks for a match
anywhere. A dot stands only between two other characters, and no part can match a percent sign or an
empty segment, so `/v1/../api/tags`, `/v1/%2e%2e/api/tags` and `//api/tags` find no rule, whoever
resolves them."""

_PART = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAMESPACE = "[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_HOST = "[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"
MODEL = rf"(({_HOST}/)?{_NAMESPACE}/)?{_PART}(:{_PART})?"
"""types/model/name.go; a name without a host is one of registry.ollama.ai."""
MODEL_FORM = (
    "a model by Ollama's name, [[host/]namespace/]name[:tag], such as hf.co/org/name:Q4_K_M"
)
MODEL_EXAMPLE = "qwen3:8b"

PHASES = (
    ("engine-pull", "llm-endpoint pull: "),
    ("engine-load", "llm-endpoint loading "),
    ("engine-ready", "llm-endpoint .* can answer"),
)
"""How the log tells what it is at: the words of scripts/ollama.sh."""

PARALLEL = 4
"""Requests that share the GPU; more wait. By default Ollama answers one after the other. Each has
the whole context length, so the cache in the GPU's memory is four times as big: `-c` is the product
(llm/llama_server.go)."""

MODELS = "/root/.cache/ollama"
"""Where pulled models lie: on a VM the folder of the disk that outlives a container."""

_LOADED = "leave it out: the model is loaded before the endpoint counts as ready, and stays"
_STORE = "leave it out: the models lie where the machine keeps them"
_HERE = "leave it out: what this endpoint is asked is computed here and nowhere else"
_LOGS = "leave it out: prompts and answers stay out of the logs"
NOT_YOURS = {
    "OLLAMA_HOST": "leave it out: requests come through the tunnel only",
    "OLLAMA_CONTEXT_LENGTH": "set llm-endpoint:maxModelLen",
    "OLLAMA_LOAD_TIMEOUT": "set llm-endpoint:readyTimeoutMinutes",
    "OLLAMA_KEEP_ALIVE": _LOADED,
    "OLLAMA_MAX_LOADED_MODELS": _LOADED,
    "OLLAMA_MODELS": _STORE,
    "OLLAMA_NOPRUNE": _STORE,
    "OLLAMA_NO_CLOUD": _HERE,
    "OLLAMA_REMOTES": _HERE,
    "OLLAMA_DEBUG": _LOGS,
    "OLLAMA_DEBUG_LOG_REQUESTS": _LOGS,
}
"""Ollama's variables that a stack may not set, and what to do instead."""


def version(platform: str, gpu: str) -> str:
    """The version for a stack that leaves `engineVersion` open.

    Ollama 0.30 and newer want driver R550 (docs/gpu.mdx), older ones R531. Cloud Run's L4 have 535,
    a VM has what its boot image brings.
    """
    return DRIVER_535 if (platform, gpu) == ("cloud-run", "nvidia-l4") else NEWEST


def base_image(settings: "Settings") -> str:
    """Ollama's image at the stack's version or digest."""
    return pinned_image("ollama/ollama", settings.image_version)


def container(
    settings: "Settings", image: str, bucket: str, revision: str, *, token: bool
) -> EngineContainer:
    """The Ollama container of a stack; see components/engine.py.

    It has no use for a token of Hugging Face's: it asks for a model as anyone may.
    """
    return EngineContainer(
        image=image,
        args=arguments(settings, revision),
        env=environment(settings),
        port=PORT,
        health_path=HEALTH_PATH,
        shutdown_timeout_s=settings.shutdown_timeout_s,
        concurrency=concurrency(settings),
        script=script("ollama.sh"),
        weights_bucket=bucket,
        phases=PHASES,
    )


def probe(settings: "Settings", revision: str) -> Probe:
    """Only a machine of that revision has the model under that name."""
    model = alias(revision) if revision else settings.model
    return Probe(model, fingerprint="", any_machine=not revision)


def alias(revision: str) -> str:
    """A name that the model has only where this revision runs; clients may use it.

    Ollama gives every answer the same `system_fingerprint`, so that whoever wants to know who
    answers asks for the model by this name: a machine of another revision does not have it.
    """
    return f"revision-{revision}"


def arguments(settings: "Settings", revision: str) -> tuple[str, ...]:
    """The arguments of scripts/ollama.sh. READY comes last, as it tells that all is done."""
    return (settings.model, alias(revision), READY)


def environment(settings: "Settings") -> dict[str, str]:
    """The container's environment (envconfig/config.go); the stack's own entries win.

    Ollama reports nothing home and looks for no updates; without its cloud it asks ollama.com for
    nothing at all. It logs prompts only with OLLAMA_DEBUG or OLLAMA_DEBUG_LOG_REQUESTS.
    """
    env = {
        "OLLAMA_HOST": f"0.0.0.0:{PORT}",
        "OLLAMA_MODELS": MODELS,
        "OLLAMA_CONTEXT_LENGTH": str(settings.max_model_len),
        "OLLAMA_NUM_PARALLEL": str(PARALLEL),
        # Once loaded, always loaded: its default is five minutes without a request.
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        # How long loading may stand still; whoever started the container has the same patience.
        "OLLAMA_LOAD_TIMEOUT": f"{settings.ready_timeout_minutes}m",
        # A start would throw away what a pull that broke off has left to go on with.
        "OLLAMA_NOPRUNE": "1",
        # Nobody's prompts go to ollama.com because a client names a model `...:cloud`.
        "OLLAMA_NO_CLOUD": "1",
    }
    return env | settings.environment


def concurrency(settings: "Settings") -> int:
    """Requests that Ollama computes at the same time."""
    given = environment(settings)["OLLAMA_NUM_PARALLEL"]
    # What Ollama makes of anything else is 1, also of a number that 64 bits cannot hold.
    return max(int(given), 1) if re.fullmatch("[0-9]{1,19}", given) else 1


def model_runs_here(model: str) -> Iterator[Problem]:
    """Some of Ollama's names stand for models that run in its cloud (internal/modelref)."""
    tag = model.rpartition("/")[2].partition(":")[2].lower()
    if tag == "cloud" or tag.endswith("-cloud"):
        yield Problem(
            key("model"),
            repr(model),
            "a model that runs on this stack's GPU, not in Ollama's cloud",
            command("model", MODEL_EXAMPLE),
        )


def version_is_in_the_name(model_revision: str | None) -> Iterator[Problem]:
    """Ollama knows tags, no commits or branches."""
    if model_revision:
        yield Problem(
            key("model_revision"),
            repr(model_revision),
            "nothing with ollama: a model's version is the tag in its name",
            f"{command('model', MODEL_EXAMPLE)}; pulumi config rm {key('model_revision')}",
        )


def driver_takes_it(engine_version: str | None, platform: str, gpu: str) -> Iterator[Problem]:
    """On Cloud Run the driver is Google's; a newer Ollama finds no GPU, and says so in a log."""
    newest = version(platform, gpu)
    if engine_version and newest == DRIVER_535 and _numbers(engine_version) > _numbers(newest):
        yield Problem(
            key("engine_version"),
            repr(engine_version),
            f"at most {newest}: newer ones do not run on the driver that Cloud Run has for {gpu}",
            f"pulumi config rm {key('engine_version')}, or {command('engine_version', newest)}",
        )


def _numbers(version: str) -> tuple[int, ...]:
    """A version to compare; a digest tells nothing, and counts as old."""
    return () if version.startswith("sha256:") else tuple(map(int, version.split(".")))


def it_takes_no_flags(engine_args: tuple[str, ...]) -> Iterator[Problem]:
    """Ollama is configured by its environment."""
    if engine_args:
        yield Problem(
            key("engine_args"),
            HIDDEN,
            "nothing with ollama, which takes no flags",
            f"{command('engine_env', 'OLLAMA_FLASH_ATTENTION=1', 0)}, or another variable of its",
        )


def variables_are_yours(engine_env: tuple[str, ...]) -> Iterator[Problem]:
    """The program relies on some of Ollama's variables. Values are not shown."""
    for name in (line.partition("=")[0] for line in engine_env):
        if name in NOT_YOURS:
            yield Problem(
                key("engine_env"),
                name,
                "variables that the program does not set itself",
                NOT_YOURS[name],
            )


RULES = (
    model_runs_here,
    version_is_in_the_name,
    driver_takes_it,
    it_takes_no_flags,
    variables_are_yours,
)
