"""The engine's container: image, arguments, environment, and which of its paths are public."""

from dataclasses import dataclass

from components.settings import Settings
from components.vllm_flags import FLAGS as FLAGS  # (the engine's flags belong to the engine)

PORT = 8000
HEALTH_PATH = "/health"
TOKEN_FILE = "/run/secrets/hugging-face-token"  # noqa: S105 (a path; what lies there is the secret)
"""Where the container finds the Hugging Face token, when there is one."""

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

SHUTDOWN_S = {"spot": 20, "standard": 60, "flex-start": 60}
"""Seconds that requests in flight get. A Spot machine is gone 30 seconds after its notice,
others get 90 or more (Compute Engine's shutdown period)."""


@dataclass(frozen=True)
class EngineContainer:
    """A container that serves the OpenAI API. Nothing in it is secret."""

    image: str
    """On Docker Hub, pinned: `vllm/vllm-openai:v0.33.0` or `vllm/vllm-openai@sha256:...`."""
    args: tuple[str, ...]
    """What follows the image's entry point, `vllm serve`."""
    env: dict[str, str]
    port: int
    health_path: str
    """200 when the engine can answer."""
    public_paths: tuple[str, ...]
    """Regular expressions (Go's) of the paths that clients may reach; all others are closed."""
    shutdown_timeout_s: int
    """Seconds that requests in flight get after SIGTERM; the container needs some more."""


def container(settings: Settings, revision: str, *, token: bool) -> EngineContainer:
    """The vLLM container of a stack.

    `revision` names the machine's configuration; clients see it as
    `system_fingerprint`. `token` says whether a Hugging Face token lies in TOKEN_FILE.
    """
    return EngineContainer(
        image=image(settings.engine_version),
        args=arguments(settings, revision),
        env=environment(settings.hugging_face_endpoint, token=token),
        port=PORT,
        health_path=HEALTH_PATH,
        public_paths=PUBLIC_PATHS,
        shutdown_timeout_s=SHUTDOWN_S[settings.provisioning],
    )


def image(version: str) -> str:
    """The image of a version (`0.33.0`) or digest (`sha256:...`), as Docker Hub names it."""
    name = "vllm/vllm-openai"
    return f"{name}@{version}" if version.startswith("sha256:") else f"{name}:v{version}"


def arguments(settings: Settings, revision: str) -> tuple[str, ...]:
    """The arguments of `vllm serve`; the stack's own come last.

    Prompts are logged only with --enable-log-requests, which a stack may not set.
    """
    args = [
        settings.model,
        "--host=0.0.0.0",
        f"--port={PORT}",
        f"--tensor-parallel-size={settings.gpu_count}",
        f"--max-model-len={settings.max_model_len}",
        f"--gpu-memory-utilization={settings.gpu_memory_utilization}",
        f"--sse-keep-alive-interval={SSE_KEEP_ALIVE_S}",
        f"--shutdown-timeout={SHUTDOWN_S[settings.provisioning]}",
        # The access log names callers and paths, no contents; health checks would drown it.
        f"--disable-access-log-for-endpoints={HEALTH_PATH}",
        "--fingerprint-mode=custom",
        f"--fingerprint-value={revision}",
    ]
    if settings.model_revision:
        args.append(f"--revision={settings.model_revision}")
    if settings.machine.compute_capability < (8, 0):
        args.append("--dtype=float16")  # A T4 has no bfloat16, which most models ask for.
    return (*args, *settings.engine_args)


def environment(hugging_face_endpoint: str, *, token: bool) -> dict[str, str]:
    """The container's environment."""
    env = {
        "HF_ENDPOINT": hugging_face_endpoint,
        "HF_XET_HIGH_PERFORMANCE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    return env | {"HF_TOKEN_PATH": TOKEN_FILE} if token else env
