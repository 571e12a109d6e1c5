"""vLLM: its container, and which of its paths are public."""

import difflib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from components import catalogue, fit_rule, vllm_flags
from components.engine import TOKEN_FILE, WEIGHTS, EngineContainer, Probe, pinned_image
from components.problem import HIDDEN, Problem, command, key
from components.stack_rules import either

if TYPE_CHECKING:
    from components.settings import Settings

NEWEST = "0.33.0"
OLDEST = (0, 32, 0)
SOURCE: Literal["hub", "ollama"] = "hub"
IMAGE_GIB = 12.0
"""vllm-project/vllm#27154 (2025-10)."""
START_S = 90.0
"""U: imports 25, compilation 45, graph capture 20."""

PORT = 8000
HEALTH_PATH = "/health"

PUBLIC_PATHS = (
    "^/v1/(chat/completions|completions|embeddings|models)$",
    "^/v1/responses(/[A-Za-z0-9_-]+(/cancel)?)?$",
    "^/v1/audio/(transcriptions|translations)$",
)
"""OpenAI's API as far as vLLM has it, and nothing else: next to it vLLM answers, to anybody,
/invocations, /pause, /update_weights, /metrics, and even below /v1 it loads adapters.

Expressions of Go's, for the decoded path. Both ends are tied, as cloudflared looks for a match
anywhere; no part can match a dot, a percent sign or an empty segment, so `/v1/../metrics`,
`/v1/%2e%2e/metrics` and `//metrics` find no rule, whoever resolves them."""

SSE_KEEP_ALIVE_S = 15
"""Seconds of silence after which a stream gets a comment; Cloudflare closes it after 100 to 120."""

NEEDS_COMPUTE = (
    ("--dtype", "bfloat16", (8, 0), "bfloat16"),
    ("--kv-cache-dtype", "(fp8|nvfp4).*", (8, 0), "an 8- or 4-bit float cache"),
    ("--quantization", "(gpt_oss_)?mxfp4|mxfp8|modelopt|fbgemm_fp8", (8, 0), "that format"),
    ("--quantization", "fp_quant", (10, 0), "that format"),
)
"""Flag, its value, compute capability that vLLM 0.33's source asks of it, what is missing."""

MODEL_NEEDS_COMPUTE = (
    (r"gpt-oss|mxfp[48]", (8, 0), "MXFP4 or MXFP8 weights"),
    (r"^nvidia/.*-fp8", (8, 0), "ModelOpt's FP8 weights"),
    (r"gemma-[23]-|glm-4-.*-0414", (8, 0), "bfloat16, as float16 makes it unstable"),
)
"""The same for models, by their names."""

MODEL = (
    r"(?!.*(?:--|\.\.))(?!.*\.git$)[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
)
MODEL_FORM = "a model on Hugging Face, organisation/name"
MODEL_EXAMPLE = "Qwen/Qwen3-4B"

PHASES = (
    ("engine-load", "Starting to load model|Loading model from scratch"),
    ("engine-compile", "Model loading took"),
    ("engine-profile", "torch.compile took"),
    ("engine-capture", "KV cache size:"),
    ("engine-ready", "init engine .* took"),
)
"""How vLLM's log tells what it is at (v1/worker/gpu_model_runner.py, v1/worker/gpu/model_runner.py,
compilation/monitor.py, v1/core/kv_cache_utils.py, v1/engine/core.py of 0.33). "Graph capturing
finished" is not among them: the newer model runner says so of a trial while it profiles, too. Where
nothing is compiled (--enforce-eager), what is called engine-compile is the profiling alone."""

COMPILE_CACHE = "vllm/torch_compile_cache"
"""Below VLLM_CACHE_ROOT, which is ~/.cache/vllm (vLLM's docs/design/torch_compile.md)."""

CONCURRENCY = 256
"""Sequences that vLLM computes at once where --max-num-seqs says nothing; more wait in it."""


def version(platform: str, gpu: str) -> str:
    """One version serves everywhere: where the driver is old, `environment` makes up for it."""
    return NEWEST


def base_image(settings: "Settings") -> str:
    """vLLM's image at the stack's version or digest."""
    return pinned_image("vllm/vllm-openai", settings.image_version, prefix="v")


def container(
    settings: "Settings", image: str, bucket: str, revision: str, *, token: bool
) -> EngineContainer:
    """The vLLM container of a stack; see components/engine.py.

    Clients see `revision` as `system_fingerprint`.
    """
    return EngineContainer(
        image=image,
        args=arguments(settings, bucket, revision),
        env=environment(settings, token=token),
        port=PORT,
        health_path=HEALTH_PATH,
        shutdown_timeout_s=settings.shutdown_timeout_s,
        concurrency=concurrency(settings),
        weights_bucket=bucket if weights_are_on_disk(settings) else "",
        compile_cache=COMPILE_CACHE,
        phases=PHASES,
    )


def weights_are_on_disk(settings: "Settings") -> bool:
    """Whether they are read from the machine's disk, where others would stream from the bucket."""
    return settings.platform == "vm" and settings.prepared == "weights"


def probe(settings: "Settings", revision: str) -> Probe:
    """vLLM answers with the fingerprint that it was started with."""
    return Probe(settings.model, fingerprint=revision, any_machine=not revision)


def arguments(settings: "Settings", bucket: str, revision: str) -> tuple[str, ...]:
    """The arguments of `vllm serve`; the stack's own come last.

    Prompts are logged only with --enable-log-requests, which a stack may not set.
    """
    on_disk = weights_are_on_disk(settings)
    args = [
        WEIGHTS if on_disk else f"gs://{bucket}" if bucket else settings.model,
        "--host=0.0.0.0",
        f"--port={PORT}",
        f"--tensor-parallel-size={settings.gpu_count}",
        f"--max-model-len={settings.max_model_len}",
        f"--gpu-memory-utilization={settings.gpu_memory_utilization}",
        f"--sse-keep-alive-interval={SSE_KEEP_ALIVE_S}",
        f"--shutdown-timeout={settings.shutdown_timeout_s}",
        # The access log names callers and paths, no contents; health checks would drown it.
        f"--disable-access-log-for-endpoints={HEALTH_PATH}",
        "--fingerprint-mode=custom",
        f"--fingerprint-value={revision}",
    ]
    if settings.weights != "hub":  # else vLLM calls the model by where it lies
        args.append(f"--served-model-name={settings.model}")
    if bucket:
        if not on_disk:
            args.append("--load-format=runai_streamer")
        if not on_disk and settings.gpu_count > 1:
            args.append('--model-loader-extra-config={"distributed":true}')
    elif settings.model_revision:
        args.append(f"--revision={settings.model_revision}")
    if settings.compute_capability < (8, 0):
        args.append("--dtype=float16")  # A T4 has no bfloat16, which most models ask for.
    return (*args, *settings.engine_args)


def environment(settings: "Settings", *, token: bool) -> dict[str, str]:
    """The container's environment; the stack's own entries win."""
    env = {
        "HF_ENDPOINT": settings.hugging_face_endpoint,
        "HF_XET_HIGH_PERFORMANCE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if settings.weights != "hub":
        env["HF_HUB_OFFLINE"] = "1"
    elif token:
        env["HF_TOKEN_PATH"] = TOKEN_FILE
    if settings.platform == "cloud-run" and settings.gpu == "nvidia-l4":
        # Cloud Run's L4 have driver 535; vLLM's image wants 580, or the forward compatibility
        # libraries that it brings along (vLLM's installation guide, "CUDA compatibility").
        env["VLLM_ENABLE_CUDA_COMPATIBILITY"] = "1"
    return env | settings.environment


def concurrency(settings: "Settings") -> int:
    """Requests that vLLM computes at the same time."""
    try:
        given = vllm_flags.parse(settings.engine_args).values.get("--max-num-seqs")
    except ValueError:
        return CONCURRENCY
    return given[-1] if given else CONCURRENCY


def engine_args_are_vllms(engine_args: tuple[str, ...]) -> Iterator[Problem]:
    """vLLM must have the flags, and the program must not have set them. Values are not shown."""
    try:
        values, unknown = vllm_flags.parse(engine_args)
    except ValueError as error:
        yield Problem(
            key("engine_args"),
            HIDDEN,
            f"arguments that `vllm serve` takes; it would say: {_brief(str(error))}",
            "correct the list; vLLM's documentation of `vllm serve` has every flag",
        )
        return
    for flag in sorted(values.keys() & vllm_flags.NOT_YOURS.keys()):
        yield Problem(
            key("engine_args"),
            flag,
            "flags that the program does not set itself",
            vllm_flags.NOT_YOURS[flag],
        )
    for arg in unknown:
        name = re.match("--?[A-Za-z0-9_.-]{1,80}", arg)
        flag = name[0] if name else HIDDEN
        near = difflib.get_close_matches(flag, vllm_flags.FLAGS, n=1)
        yield Problem(
            key("engine_args"),
            flag,
            "flags of vLLM 0.33.0, each value after its own flag",
            f"did you mean {near[0]}?" if near else "remove it",
        )


def gpu_computes_it(gpu: str, model: str, engine_args: tuple[str, ...]) -> Iterator[Problem]:
    """Old GPUs lack the newer number formats; vLLM would find out after minutes of loading."""
    capability = catalogue.machines(gpu)[0].compute_capability
    try:
        values = vllm_flags.parse(engine_args).values
    except ValueError:
        return
    for flag, pattern, needed, what in NEEDS_COMPUTE:
        for value in values.get(flag, ()):
            if capability < needed and re.fullmatch(pattern, str(value)):
                yield _too_old("engine_args", f"{flag}={value}", what, gpu, needed)
    for pattern, needed, what in MODEL_NEEDS_COMPUTE:
        if capability < needed and re.search(pattern, model, re.IGNORECASE):
            yield _too_old("model", repr(model), what, gpu, needed)


def _too_old(setting: str, value: str, what: str, gpu: str, needed: tuple[int, int]) -> Problem:
    able = [
        name
        for name in catalogue.gpus()
        if catalogue.machines(name)[0].compute_capability >= needed
    ]
    return Problem(
        key(setting),
        value,
        f"something that {gpu} computes; it lacks {what}",
        f"{command('gpu', able[0])} ({either(able)} can), or choose another",
    )


def _brief(error: str) -> str:
    """Argparse's words without what may be secret in them, and not all of fifty candidates."""
    words = re.sub("=.* could match", " could match", error, flags=re.DOTALL)
    words = re.sub(
        r"invalid choice: .*( \(choose from )", r"invalid choice\1", words, flags=re.DOTALL
    )
    words = re.sub("(invalid [a-z_]+ value): .*", r"\1", words, flags=re.DOTALL)
    words = re.sub("ignored explicit argument .*", "it takes no value", words, flags=re.DOTALL)
    words = re.sub("it has no .*", "it has no such key", words, flags=re.DOTALL)
    return words if len(words) <= 200 else f"{words[:200]}..."


RULES = (engine_args_are_vllms, gpu_computes_it, fit_rule.model_fits)
