"""What the engine's container is: image, arguments, environment, and which of its paths are public."""

from dataclasses import dataclass

from components.settings import Settings

PORT = 8000
HEALTH_PATH = "/health"


@dataclass(frozen=True)
class EngineContainer:
    """A container that serves the OpenAI API. Nothing in it is secret."""

    image: str
    """On Docker Hub, pinned: `vllm/vllm-openai:v0.33.0` or `vllm/vllm-openai@sha256:...`."""
    args: tuple[str, ...]
    """What follows the image's entry point (`vllm serve`)."""
    env: dict[str, str]
    port: int
    health_path: str
    """200 when the engine can answer."""
    public_paths: tuple[str, ...]
    """Regular expressions (Go's) of the paths that clients may reach; all others are closed."""
    shutdown_timeout_s: int
    """Seconds that requests in flight get after SIGTERM."""


def container(settings: Settings, *, revision: str, token: bool) -> EngineContainer:
    """The vLLM container of a stack.

    `revision` names the machine's configuration; clients see it as
    `system_fingerprint`. `token` says whether a Hugging Face token is mounted.
    """
    return EngineContainer(
        image=f"vllm/vllm-openai:v{settings.engine_version}",
        args=(settings.model, "--host=0.0.0.0", f"--port={PORT}"),
        env={},
        port=PORT,
        health_path=HEALTH_PATH,
        public_paths=("^/v1/chat/completions$",),
        shutdown_timeout_s=20,
    )
