"""vLLM's HTTP server: llama.cpp's own behind a front that speaks under vLLM's names.

The OpenAI API is llama.cpp's (chat, completions, responses, streaming, usage). The front adds what
a client or an operator sees of vLLM itself: models, health, metrics, version, errors, fingerprint.
"""

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from rehearsal.containers import llama
from rehearsal.faults import Faults

SLOTS = 8
"""Requests answered at once; more wait, as in vLLM."""

SLOW_TOKEN_S = 0.5
"""Real seconds before each token of a stream, under the fault `slow-tokens`."""

GENERATE = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
OTHERS = ("/load", "/tokenize", "/detokenize", "/scale_elastic_ep", "/is_scaling_elastic_ep")
"""Answered with an empty 200 here: in vLLM they are open to anyone, which is why they matter."""
DEVELOPER = {"/pause": "paused", "/resume": "resumed", "/sleep": "", "/wake_up": ""}
"""With VLLM_SERVER_DEV_MODE only."""

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{labels} {requests_processing}
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{labels} {requests_deferred}
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{labels} {prompt_tokens_total}
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{labels} {tokens_predicted_total}
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{labels} {succeeded}
"""
"""Names and help of vLLM's, values of llama.cpp's own counters."""


@dataclass
class Serving:
    """What is served, and how."""

    names: tuple[str, ...]
    root: str
    version: str
    max_model_len: int
    fingerprint: str | None
    keep_alive_s: int
    shutdown_timeout_s: int
    developer: bool
    gguf: Path | None
    """A model of the user's instead of the one that the project makes."""
    faults: Faults
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def engine(self) -> llama.Engine:
        """What answers; any request may use the whole context, as in vLLM."""
        return llama.Engine(
            name=self.names[0],
            context=self.max_model_len,
            slots=SLOTS,
            shared=True,
            gguf=self.gguf,
            keep_alive_s=self.keep_alive_s,
        )


def error(status: int, kind: str, message: str, parameter: str | None = None) -> web.Response:
    """vLLM's error envelope."""
    body = {"error": {"message": message, "type": kind, "param": parameter, "code": status}}
    return web.json_response(body, status=status)


class Front:
    """The routes."""

    def __init__(self, serving: Serving, upstream: str, client: aiohttp.ClientSession) -> None:
        self._serving = serving
        self._upstream = upstream
        self._client = client
        self._succeeded = 0

    def app(self) -> web.Application:
        """The application, ready to be served."""
        app = web.Application(client_max_size=llama.MAX_BODY, middlewares=[self._errors])
        for path in GENERATE:
            app.router.add_post(path, self._generate)
        app.router.add_post("/invocations", self._invocations)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/version", self._version)
        app.router.add_get("/health", self._ok)
        app.router.add_route("*", "/ping", self._ok)
        for path in OTHERS:
            app.router.add_route("*", path, self._ok)
        for path, status in DEVELOPER.items() if self._serving.developer else ():
            app.router.add_post(path, lambda _, status=status: _status(status))
        return app

    @web.middleware
    async def _errors(
        self, request: web.Request, handler: Callable[..., Any]
    ) -> web.StreamResponse:
        if self._serving.faults.strikes("engine-hangs"):
            await asyncio.Event().wait()
        if self._serving.faults.strikes("engine-crashes"):
            print("EngineCore encountered a fatal error. CUDA error: an illegal memory access")
            os._exit(1)
        try:
            return await handler(request)
        except web.HTTPException as raised:
            phrase = HTTPStatus(raised.status).phrase
            return error(raised.status, phrase, phrase)

    async def _ok(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self._serving.version})

    async def _models(self, _: web.Request) -> web.Response:
        cards: list[dict[str, Any]] = [
            {
                "id": name,
                "object": "model",
                "created": self._serving.created,
                "owned_by": "vllm",
                "root": self._serving.root,
                "parent": None,
                "max_model_len": self._serving.max_model_len,
                "permission": [],
            }
            for name in self._serving.names
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _metrics(self, _: web.Request) -> web.Response:
        async with self._client.get(f"{self._upstream}/metrics") as answer:
            lines = [line.split() for line in (await answer.text()).splitlines()]
        counters = {line[0].partition(":")[2]: line[1] for line in lines if line[0] != "#"}
        labels = f'{{engine="0",model_name="{self._serving.names[0]}"}}'
        text = METRICS.format_map(counters | {"labels": labels, "succeeded": self._succeeded})
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _invocations(self, request: web.Request) -> web.StreamResponse:
        body = await llama.body(request)
        path = GENERATE[0] if "messages" in (body or {}) else GENERATE[1]
        return await self._generate(request, path)

    async def _generate(self, request: web.Request, path: str = "") -> web.StreamResponse:
        body = await llama.body(request)
        if body is None:
            return error(400, "Bad Request", "JSON decode error")
        name = body.get("model")
        if name and name not in self._serving.names:
            message = f"The model `{name}` does not exist."
            return error(404, "NotFoundError", message, "model")
        for key in ("max_tokens", "max_completion_tokens"):
            limit, asked = self._serving.max_model_len, body.get(key)
            if isinstance(asked, int) and asked > limit:
                message = (
                    f"{key}={asked} cannot be greater than max_model_len={limit}."
                    f" Please request fewer output tokens. (parameter={key}, value={asked})"
                )
                return error(400, "BadRequestError", message, key)
        url = self._upstream + (path or request.path)
        async with self._client.post(url, json=body) as answer:
            if answer.status != HTTPStatus.OK:
                return self._refusal(answer.status, await answer.json(content_type=None))
            if answer.content_type == "text/event-stream":
                slow = self._serving.faults.strikes("slow-tokens")
                response = await llama.stream(
                    request, answer, self._event, SLOW_TOKEN_S if slow else 0
                )
                self._succeeded += 1
                return response
            self._succeeded += 1
            return web.json_response(self._stamp(await answer.json(), last=True))

    def _refusal(self, status: int, told: dict[str, Any]) -> web.Response:
        """llama.cpp's error as vLLM's."""
        cause = told.get("error", {})
        if cause.get("type") == "exceed_context_size_error":
            count = cause["n_prompt_tokens"]
            message = (
                f"This model's maximum context length is {self._serving.max_model_len} tokens."
                f" However, your prompt contains {count} input tokens, which exceeds this limit"
                " even without any output tokens. Please reduce the length of the input prompt."
                f" (parameter=input_tokens, value={count})"
            )
            return error(400, "BadRequestError", message, "input_tokens")
        kind = "BadRequestError" if status == HTTPStatus.BAD_REQUEST else "InternalServerError"
        return error(status, kind, str(cause.get("message", "")))

    def _event(self, line: bytes) -> bytes:
        if line.startswith(b":"):
            return b": keep-alive\n"
        if not line.startswith(b"data: {"):
            return line
        chunk: dict[str, Any] = json.loads(line[6:])
        # vLLM's fingerprint comes with the end of a stream, not with every chunk.
        choices = chunk.get("choices", [])
        last = any(choice.get("finish_reason") for choice in choices) or "usage" in chunk
        return b"data: " + json.dumps(self._stamp(chunk, last=last)).encode() + b"\n"

    def _stamp(self, body: dict[str, Any], *, last: bool) -> dict[str, Any]:
        body.pop("timings", None)
        if "system_fingerprint" in body:
            body["system_fingerprint"] = self._serving.fingerprint if last else None
        return body


async def _status(status: str) -> web.Response:
    return web.json_response({"status": status}) if status else web.Response()


async def serve(serving: Serving, host: str, port: int, log: Callable[[str], None]) -> None:
    """Serve until SIGTERM, then give requests in flight `shutdown_timeout_s` to finish."""
    stop = llama.told_to_end()
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        engine = llama.start(serving.engine, Path(folder))
        client = await stack.enter_async_context(llama.client())
        app = Front(serving, engine.listening_address, client).app()
        await stack.enter_async_context(
            llama.listening(app, host, port, serving.shutdown_timeout_s)
        )
        log(f"Starting vLLM server on http://{host}:{port}")
        for route in app.router.routes():
            if route.resource and route.method != "HEAD":
                log(f"Route: {route.resource.canonical}, Methods: {route.method}")
        log("Application startup complete.")
        await stop.wait()
        log("[shutdown] API server: shutdown triggered")
    log("[shutdown] API server: done")
