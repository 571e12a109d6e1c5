"""llama.cpp's server, which answers in a rehearsal, and what every engine's front does with it.

The OpenAI API (chat, completions, responses, embeddings, streaming, usage) is llama.cpp's. A front
goes before it and adds what a client or an operator sees of the engine that it stands for.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import aiohttp
from aiohttp import web

from rehearsal.containers import tiny_model

xllamacpp: Any = import_module("xllamacpp")  # compiled, and without types

MAX_BODY = 64 * 2**20


@dataclass(frozen=True)
class Engine:
    """What llama.cpp is to serve."""

    name: str
    context: int
    """Tokens that a request may have."""
    slots: int
    """Requests answered at once; more wait."""
    shared: bool
    """Whether the requests share one context; else each has its own."""
    gguf: Path | None = None
    """A model of the user's instead of the one that the project makes."""
    embeds: bool = False
    """Whether it answers with embeddings instead of text."""
    keep_alive_s: int = 0
    """Seconds of silence after which a stream gets a comment; 0: never."""


def start(engine: Engine, folder: Path) -> Any:
    """llama.cpp's server on a free port of 127.0.0.1; it ends when nothing refers to it any more.

    Exits 1 when it cannot load a user's file.
    """
    path = engine.gguf or folder / "rehearsal.gguf"
    if engine.gguf is None:
        tiny_model.write(path, context=engine.context)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {engine.name}
    params.n_ctx = engine.context if engine.shared else engine.context * engine.slots
    params.n_parallel = engine.slots
    params.kv_unified = engine.shared
    if engine.embeds:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.endpoint_metrics = True
    params.warmup = False
    params.ui = False
    params.cache_ram_mib = 0
    params.verbosity = 0  # nothing of a prompt in the logs
    params.sse_ping_interval = engine.keep_alive_s or -1
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        raise SystemExit(
            f"llama.cpp cannot load {path}: give --gguf a model in GGUF form"
        ) from None


def client() -> aiohttp.ClientSession:
    """For requests to llama.cpp: streams may last as long as they like."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))


async def body(request: web.Request) -> dict[str, Any] | None:
    """A request's JSON object, or None when it has none."""
    try:
        found = await request.json()
    except ValueError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


async def stream(
    request: web.Request,
    answer: aiohttp.ClientResponse,
    change: Callable[[bytes], bytes],
    pause_s: float = 0,
) -> web.StreamResponse:
    """Pass server-sent events on as they come, each line changed, and each event after a pause."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    async for line in answer.content:
        await asyncio.sleep(pause_s if line.strip() else 0)
        await response.write(change(line))
    await response.write_eof()
    return response


def told_to_end() -> asyncio.Event:
    """Set when the process gets SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, host: str, port: int, grace_s: float
) -> AsyncGenerator[None]:
    """Answer requests while the block runs; then, requests in flight get `grace_s` seconds.

    Raises OSError when the address cannot be had.
    """
    # 0 would be for ever.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=max(grace_s, 0.01))
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
