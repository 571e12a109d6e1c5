"""Ollama's HTTP server: its own API as far as anyone here uses it, and llama.cpp's under its names.

All of it is open to anybody, as in life. Words and order of keys are those of Ollama 0.32
(server/routes.go, openai/openai.go); scripts that read them without a JSON parser rely on both.
"""

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from rehearsal import figures
from rehearsal.containers import llama
from rehearsal.containers.host import FREE_SHARE, GIB, Machine
from rehearsal.containers.ollama_pull import Progress, PullError, pull
from rehearsal.containers.ollama_store import Model, Name, Store, gigabytes

TEXT = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
OPEN = (
    *("/api/chat", "/api/create", "/api/push", "/api/embeddings", "/api/blobs/{digest}"),
    *("/debug/pprof/", "/v1/messages"),
)
"""Answered with an empty 200 here: in Ollama they are open to anyone, which is why they matter."""

OVERHEAD_GIB = 0.6
"""U: CUDA context and compute buffers."""
LAYERS = ((2, 28), (10, 36), (20, 40), (40, 64), (1e9, 80))
"""Up to how many GB of weights: layers. U."""
KV_BYTES_PER_LAYER = 2 * 2 * 8 * 128
"""Keys and values, two bytes each, 8 heads of 128: as in Qwen3 and Llama 3."""

Log = Callable[..., None]


@dataclass(frozen=True)
class Options:
    """What the environment says (envconfig/config.go)."""

    version: str
    models: Path
    context: int
    """0: by the GPU's memory."""
    parallel: int
    keep_alive_s: float
    """How long a model stays in memory after its last request."""
    cloud: bool


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Runner:
    """A model in memory, and the llama.cpp that answers for it."""

    model: Model
    server: Any
    size: int
    """Bytes of weights, cache and buffers."""
    vram: int
    """How many of them are in the GPU's memory."""
    context: int
    keep_alive_s: float
    requests: int = 0
    timer: asyncio.TimerHandle | None = None

    @property
    def pause_s(self) -> float:
        """Seconds of life that a token takes longer than on the GPU alone."""
        return (1 - self.vram / self.size) * figures.seconds("token on the CPU")


class Ollama:
    """The routes."""

    def __init__(
        self, options: Options, machine: Machine, client: aiohttp.ClientSession, log: Log
    ) -> None:
        self._options = options
        self._machine = machine
        self._client = client
        self._log = log
        self._store = Store(options.models)
        self._runner: Runner | None = None
        self._changing = asyncio.Lock()
        self._idle = asyncio.Condition()

    def app(self) -> web.Application:
        """The application, ready to be served."""
        app = web.Application(client_max_size=llama.MAX_BODY, middlewares=[self._access])
        app.router.add_get("/", self._root)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps)
        app.router.add_post("/api/show", self._show)
        app.router.add_post("/api/pull", self._pull)
        app.router.add_post("/api/copy", self._copy)
        app.router.add_delete("/api/delete", self._delete)
        app.router.add_post("/api/generate", self._generate)
        app.router.add_post("/api/embed", self._embed)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model}", self._model)
        app.router.add_post("/v1/embeddings", self._relay)
        for path in TEXT:
            app.router.add_post(path, self._relay)
        for path in OPEN:
            app.router.add_route("*", path, self._open)
        return app

    @web.middleware
    async def _access(
        self, request: web.Request, handler: Callable[..., Any]
    ) -> web.StreamResponse:
        """Errors in the envelope of the API that was asked, and gin's line for each request."""
        start = time.monotonic()
        try:
            response = await handler(request)
        except Refusal as refusal:
            told: Any = str(refusal)
            if request.path.startswith("/v1/"):
                kinds = {400: "invalid_request_error", 404: "not_found_error"}
                kind = kinds.get(refusal.status, "api_error")
                told = {"message": told, "type": kind, "param": None, "code": None}
            response = _json({"error": told}, refusal.status)
        except web.HTTPException as raised:
            phrase = HTTPStatus(raised.status).phrase.lower()
            words = "page not found" if raised.status == 404 else phrase
            response = web.Response(status=raised.status, text=f"{raised.status} {words}")
        stamp = time.strftime("%Y/%m/%d - %H:%M:%S")
        took = f"{(time.monotonic() - start) * 1000:.6f}ms"
        print(
            f"[GIN] {stamp} | {response.status} | {took:>12} | {request.remote:>15} |"
            f' {request.method:<7}  "{request.path_qs}"',
            flush=True,
        )
        return response

    async def _root(self, _: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, _: web.Request) -> web.Response:
        return _json({"version": self._options.version})

    async def _open(self, _: web.Request) -> web.Response:
        return web.Response()

    # --- the models on the disk -------------------------------------------------------------------

    async def _tags(self, _: web.Request) -> web.Response:
        return _json({"models": [self._card(it) for it in self._store.models()]})

    async def _models(self, _: web.Request) -> web.Response:
        models = [_openai_card(it.name.short, it) for it in self._store.models()]
        return _json({"object": "list", "data": models})

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        return _json(_openai_card(name, self._found(name)))

    async def _show(self, request: web.Request) -> web.Response:
        model = self._found((await _object(request)).get("model"))
        details = self._card(model)["details"]
        does = "embedding" if self._embeds(model) else "completion"
        return _json({"details": details, "model_info": {}, "capabilities": [does]})

    async def _copy(self, request: web.Request) -> web.Response:
        asked = await _object(request)
        source, name = asked.get("source", ""), Name.parse(asked.get("destination", ""))
        if name is None:
            raise Refusal(400, f'destination "{asked.get("destination", "")}" is invalid')
        model = self._store.find(source)
        if model is None:
            raise Refusal(404, f'model "{source}" not found')
        self._store.write(name, model.raw)
        return web.Response()

    async def _delete(self, request: web.Request) -> web.Response:
        self._store.delete(self._found((await _object(request)).get("model")))
        return web.Response()

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        name = Name.parse((await _object(request)).get("model", ""))
        if name is None:
            raise Refusal(400, "invalid model name")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        steps = pull(self._store, name, self._machine, lambda text: self._log(text))
        told: Progress | None
        try:
            while told := await asyncio.to_thread(next, steps, None):
                await response.write(_compact(told))
        except PullError as error:
            await response.write(_compact({"error": str(error)}))
        await response.write_eof()
        return response

    def _found(self, text: Any) -> Model:
        """A model that the disk has. Refuses 404 otherwise."""
        tag = str(text).rpartition(":")[2]
        if tag == "cloud" or tag.endswith("-cloud"):
            if not self._options.cloud:
                raise Refusal(403, "ollama cloud is disabled: remote model is unavailable")
            raise Refusal(502, "ollama.com is not part of the rehearsal")
        if (model := self._store.find(str(text))) is None:
            raise Refusal(404, f"model '{text}' not found")
        return model

    def _embeds(self, model: Model) -> bool:
        return str(self._store.config(model)["model_family"]).endswith("bert")

    def _card(self, model: Model) -> dict[str, Any]:
        config = self._store.config(model)
        return {
            "name": model.name.short,
            "model": model.name.short,
            "modified_at": _stamp(model.modified),
            "size": sum(layer["size"] for layer in model.layers),
            "digest": model.digest,
            "details": {
                "parent_model": "",
                "format": config["model_format"],
                "family": config["model_family"],
                "families": config["model_families"],
                "parameter_size": config["model_type"],
                "quantization_level": config["file_type"],
            },
        }

    # --- the model in memory ----------------------------------------------------------------------

    async def _ps(self, _: web.Request) -> web.Response:
        cards: list[dict[str, Any]] = []
        if runner := self._runner:
            card = self._card(runner.model) | {"size": runner.size}
            del card["modified_at"]
            expires = time.time() + min(runner.keep_alive_s, 1e9)
            card |= {"expires_at": _stamp(expires), "size_vram": runner.vram}
            cards.append(card | {"context_length": runner.context})
        return _json({"models": cards})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        """Loads without a prompt, and unloads with a `keep_alive` of 0 besides."""
        asked = await _object(request)
        model = self._found(asked.get("model"))
        done = {"model": asked["model"], "created_at": _stamp(time.time()), "response": ""}
        if not asked.get("prompt") and asked.get("keep_alive") == 0:
            await self._expire(model)
            return _json(done | {"done": True, "done_reason": "unload"})
        if self._embeds(model):
            raise Refusal(400, f'"{asked["model"]}" does not support generate')
        async with self._using(model):
            return _json(done | {"done": True, "done_reason": "load"})

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        """Loads, whatever the model can do."""
        asked = await _object(request)
        async with self._using(self._found(asked.get("model"))):
            return _json({"model": asked["model"], "embeddings": []})

    @contextlib.asynccontextmanager
    async def _using(self, model: Model) -> AsyncGenerator[Runner]:
        """The model in memory, where it stays at least as long as the block runs."""
        async with self._changing:
            runner = self._runner
            if runner and runner.model.weights != model.weights:
                await self._expire(runner.model)
                async with self._idle:
                    await self._idle.wait_for(lambda: self._runner is None)
                runner = None
            if runner is None:
                runner = self._runner = await self._load(model)
            runner.requests += 1
        if runner.timer:
            runner.timer.cancel()
        try:
            yield runner
        finally:
            runner.requests -= 1
            await self._rest(runner)

    async def _rest(self, runner: Runner) -> None:
        """After its last request a model stays for a while, or for ever."""
        if runner.requests:
            return
        if runner.keep_alive_s <= 0:
            self._unload(runner)
            async with self._idle:
                self._idle.notify_all()
        elif runner.keep_alive_s < float("inf"):
            seconds = runner.keep_alive_s / self._machine.speed
            runner.timer = asyncio.get_running_loop().call_later(seconds, self._unload, runner)

    async def _expire(self, model: Model) -> None:
        """Unload it as soon as nothing is being answered."""
        if (runner := self._runner) and runner.model.weights == model.weights:
            runner.keep_alive_s = 0
            await self._rest(runner)

    def _unload(self, runner: Runner) -> None:
        if runner is self._runner and not runner.requests:
            self._runner = None

    async def _load(self, model: Model) -> Runner:
        gb = gigabytes(self._store.config(model))
        layers = next(count for limit, count in LAYERS if gb <= limit)
        context = self._options.context or self._default_context()
        cache = layers * KV_BYTES_PER_LAYER * context * self._options.parallel
        size = int(gb * 1e9 + cache + OVERHEAD_GIB * GIB)
        room = self._machine.gpu.usable_gib * FREE_SHARE * GIB if self._machine.gpu else 0
        vram = int(min(size, room * self._machine.count))
        path = self._store.blob(model.weights)
        if not path.exists():
            raise Refusal(500, f"unable to load model: {path}")
        self._log("loading model via llama-server", model=path)
        start, life = time.time(), gb * figures.seconds("weights load, 1 GB")
        with self._machine.span("weights load", life):
            await asyncio.sleep(life / self._machine.speed)
        engine = llama.Engine(
            name=model.name.short,
            context=context,
            slots=self._options.parallel,
            shared=False,
            gguf=self._machine.gguf,
            embeds=self._embeds(model),
        )
        with tempfile.TemporaryDirectory() as folder:
            server = await asyncio.to_thread(llama.start, engine, Path(folder))
        print(f"load_tensors: offloaded {layers * vram // size}/{layers} layers to GPU", flush=True)
        self._log(f"llama-server started in {time.time() - start:.2f} seconds")
        return Runner(model, server, size, vram, context, self._options.keep_alive_s)

    def _default_context(self) -> int:
        gib = self._machine.gpu.usable_gib * self._machine.count if self._machine.gpu else 0
        return next(
            tokens for least, tokens in ((47, 262144), (23, 32768), (0, 4096)) if gib >= least
        )

    # --- OpenAI's API -----------------------------------------------------------------------------

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        """llama.cpp's answer, under the name that the client has used."""
        asked = await _object(request)
        name = asked.get("model")
        model = self._found(name)
        text = request.path in TEXT
        if text and self._embeds(model):
            what = "generate" if request.path == "/v1/completions" else "chat"
            raise Refusal(400, f'"{name}" does not support {what}')

        def stamp(answer: dict[str, Any]) -> dict[str, Any]:
            answer.pop("timings", None)
            ours = {"model": name, "system_fingerprint": "fp_ollama"}
            return answer | {key: value for key, value in ours.items() if key in answer}

        def event(line: bytes) -> bytes:
            if not line.startswith(b"data: {"):
                return line
            return b"data: " + _compact(stamp(json.loads(line[6:])))

        async with self._using(model) as runner:
            pause = runner.pause_s / self._machine.speed
            url = runner.server.listening_address + request.path
            async with self._client.post(url, json=asked) as answer:
                if answer.status != HTTPStatus.OK:
                    told = await answer.json(content_type=None)
                    raise Refusal(answer.status, str(told.get("error", {}).get("message", "")))
                if answer.content_type == "text/event-stream":
                    return await llama.stream(request, answer, event, pause)
                body = await answer.json()
                tokens = body.get("usage", {}).get("completion_tokens", 0)
                await asyncio.sleep(pause * tokens)
                return _json(stamp(body))


def _compact(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    """As Go writes it: without a space."""
    return web.Response(body=_compact(body), status=status, content_type="application/json")


async def _object(request: web.Request) -> dict[str, Any]:
    body = await llama.body(request)
    if body is None:
        raise Refusal(400, "missing request body")
    return body


def _openai_card(name: str, model: Model) -> dict[str, Any]:
    owner = parsed.namespace if (parsed := Name.parse(name)) else ""
    return {"id": name, "object": "model", "created": int(model.modified), "owned_by": owner}


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


async def serve(options: Options, machine: Machine, host: str, port: int, log: Log) -> None:
    """Serve until SIGTERM, which cuts what is being answered. OSError when the port is taken."""
    stop = llama.told_to_end()
    async with llama.client() as client:
        app = Ollama(options, machine, client, log).app()
        async with llama.listening(app, host, port, 0):
            log(f"Listening on {host}:{port} (version {options.version})")
            await stop.wait()
