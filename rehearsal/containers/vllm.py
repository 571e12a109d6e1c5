"""What stands where the vLLM image would: `vllm serve MODEL --flags`, up to the server itself.

Refuses what vLLM 0.33 refuses, in its words (read off its source): flags that it does not have,
models that it cannot get, what does not fit the machine's GPUs. Takes as long to load as vLLM
would. Weights are not downloaded and nothing is computed on a GPU; how much memory things take is
reckoned from the model's shape.
"""

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests

from components.catalogue import Gpu
from components.models import Model
from components.vllm_flags import parse
from rehearsal import figures, hub
from rehearsal.containers import vllm_weights
from rehearsal.containers.host import FREE_SHARE, GIB, Machine
from rehearsal.containers.vllm_server import Serving, serve

VERSION = "0.33.0"


OVERHEAD_GIB = 1.4
"""What is neither weights nor cache (CUDA context, peak activation, CUDA graphs): as vLLM 0.19 and
0.31 told of models of 8 to 26 billion weights on an A100."""
DRIVER = 580
"""Oldest branch of NVIDIA's driver that vLLM's image runs on as it is."""
CUDA = {535: 12020, 550: 12040, 570: 12080}
"""Branch of the driver -> the newest CUDA it knows, as CUDA numbers them."""
MEMORY_HELP = "See https://docs.vllm.ai/en/latest/configuration/conserving_memory/"


class StartError(Exception):
    """vLLM does not start. `engine` is true when its engine process is the one that fails."""

    def __init__(self, message: str, *, kind: str = "ValueError", engine: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.engine = engine


@dataclass(frozen=True)
class Options:
    """The arguments that the stand-in acts upon; the others are checked and otherwise ignored."""

    model: str
    host: str
    port: int
    revision: str
    dtype: str
    tensor_parallel_size: int
    gpu_memory_utilization: float
    max_model_len: int | None
    """None: as long as the model takes; -1: as long as fits."""
    kv_cache_dtype: str
    enforce_eager: bool
    shutdown_timeout: int
    sse_keep_alive_interval: int
    load_format: str
    served_names: tuple[str, ...]
    fingerprint: str | None


def options(arguments: list[str]) -> Options:
    """The options of `vllm serve ARGUMENTS`. Exits 2 with argparse's message where vLLM would."""
    with suppress(IndexError):
        if not arguments[0].startswith("-"):
            arguments = [f"--model={arguments[0]}", *arguments[1:]]
    try:
        values, unknown = parse(arguments)
        if unknown:
            usage_error(f"unrecognized arguments: {' '.join(unknown)}", program="vllm")

        def one(flag: str, default: Any) -> Any:
            return values.get(flag, [default])[-1]

        model = one("--model", "Qwen/Qwen3-0.6B")
        mode = one("--fingerprint-mode", "full")
        tensor_parallel_size = one("--tensor-parallel-size", 1)
        parallel = f"-tp{tensor_parallel_size}" if tensor_parallel_size > 1 else ""
        fingerprints = {
            "custom": one("--fingerprint-value", None),
            "none": None,
            "hash": f"vllm-{VERSION}-00000000",
            "full": f"vllm-{VERSION}{parallel}-00000000",
        }
        return Options(
            model=model,
            host=one("--host", "0.0.0.0"),  # noqa: S104 # vLLM listens everywhere, too
            port=one("--port", 8000),
            revision=one("--revision", "main"),
            dtype=one("--dtype", "auto"),
            tensor_parallel_size=tensor_parallel_size,
            gpu_memory_utilization=one("--gpu-memory-utilization", 0.92),
            max_model_len=one("--max-model-len", None),
            kv_cache_dtype=one("--kv-cache-dtype", "auto"),
            enforce_eager=one("--enforce-eager", False),
            shutdown_timeout=one("--shutdown-timeout", 0),
            sse_keep_alive_interval=one("--sse-keep-alive-interval", 0),
            load_format=one("--load-format", "auto"),
            served_names=tuple(values.get("--served-model-name", [model])),
            fingerprint=fingerprints[mode],
        )
    except ValueError as error:
        usage_error(str(error))


def usage_error(message: str, *, program: str = "vllm serve") -> NoReturn:
    """End as argparse does; what no parser knows is the outer one's error."""
    print(f"usage: {program} [-h] [options]", file=sys.stderr)
    print(f"{program}: error: {message}", file=sys.stderr)
    sys.exit(2)


# --- the machine and the model --------------------------------------------------------------------


def find_model(options: Options) -> Model:
    """Look for the model where the options say. Raises StartError as vLLM does without it."""
    streamed = options.model.startswith("gs://")
    try:
        if streamed and options.load_format != "runai_streamer":
            raise vllm_weights.NotThereError(INVALID_MODEL.format(model=options.model))
        if streamed:
            vllm_weights.in_bucket(options.model)
        elif options.model.startswith("/"):
            vllm_weights.in_folder(options.model)
        elif vllm_weights.offline():
            vllm_weights.in_cache(options.model, options.revision)
        else:
            return ask_hub(options)
    except vllm_weights.NotThereError as error:
        raise StartError(str(error)) from error
    # The bytes that lie there are few; how many they stand for goes by the model's name.
    known = hub.model(options.served_names[0])
    if known is None:
        raise StartError(INVALID_MODEL.format(model=options.served_names[0]))
    return known


def ask_hub(options: Options) -> Model:
    """Ask the hub for the model. Raises StartError as vLLM does when it cannot be had."""
    site = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{site}/{options.model}/resolve/{options.revision}/config.json"
    headers = {"Authorization": f"Bearer {token}"} if (token := hub_token()) else {}
    try:
        answer = requests.get(url, headers=headers, timeout=10)
        about = requests.get(f"{site}/api/models/{options.model}", headers=headers, timeout=10)
    except requests.RequestException as error:
        cause = (
            f"We couldn't connect to '{site}' to load the files, and couldn't find them in the"
            f" cached files.\n({type(error).__name__}: {urlsplit(site).hostname})"
        )
        raise StartError(f"{cause}\n{INVALID_MODEL.format(model=options.model)}") from error
    if answer.status_code != 200:
        told = answer.headers.get("X-Error-Message", answer.reason)
        cause = (
            f"You are trying to access a gated repo.\nMake sure to have access to it at"
            f" {site}/{options.model}."
            if answer.headers.get("X-Error-Code") == "GatedRepo"
            else f"{options.model} is not a local folder and is not a valid model identifier"
            f" listed on '{site}/models'\nIf this is a private repository, make sure to pass a"
            " token having permission to this repo."
        )
        raise StartError(
            f"{cause}\n{answer.status_code} Client Error. {told}\n"
            + INVALID_MODEL.format(model=options.model)
        )
    # Of a repository with its weights in several forms, vLLM takes one.
    files = (it for it in about.json()["siblings"] if it["rfilename"].endswith(".safetensors"))
    return Model.from_config(options.model, answer.json(), sum(it["size"] for it in files))


INVALID_MODEL = (
    "Invalid repository ID or local directory specified: '{model}'.\n"
    "Please verify the following requirements:\n"
    "1. Provide a valid Hugging Face repository ID.\n"
    "2. Specify a local directory that contains a recognized configuration file.\n"
)


def hub_token() -> str:
    """The hub's token as its library finds it: HF_TOKEN, else the file that HF_TOKEN_PATH names."""
    token = os.environ.get("HF_TOKEN", "")
    if not token:
        path = Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token")
        with suppress(OSError):
            token = path.read_text()
    return token.strip()


def hub_home() -> Path:
    """Where the hub's library keeps what it downloaded."""
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")


def check(options: Options, machine: Machine, model: Model) -> Gpu:
    """The GPU to load onto. Raises StartError for what vLLM refuses before it loads anything."""
    if machine.gpu is None:
        raise StartError(
            "Failed to infer device type, please set the environment variable"
            " `VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.",
            kind="RuntimeError",
        )
    # https://docs.vllm.ai/en/latest/getting_started/installation/gpu/: the image has CUDA 13, and
    # the libraries that let data-centre GPUs run it on an older driver.
    if machine.driver < DRIVER and os.environ.get("VLLM_ENABLE_CUDA_COMPATIBILITY") != "1":
        raise StartError(
            f"The NVIDIA driver on your system is too old (found version {CUDA[machine.driver]})."
            " Please update your GPU driver by downloading and installing a new version from the"
            " URL: http://www.nvidia.com/Download/index.aspx",
            kind="RuntimeError",
            engine=True,
        )
    capability = ".".join(map(str, machine.gpu.compute_capability))
    # With `auto`, vLLM falls back to float16 by itself.
    if options.dtype == "bfloat16" and machine.gpu.compute_capability < (8, 0):
        raise StartError(
            "Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
            f"Your {machine.gpu.product} GPU has compute capability {capability}. "
            "You can use float16 instead by explicitly setting the `dtype` flag in CLI, for "
            "example: --dtype=half."
        )
    asked = options.max_model_len
    if asked is not None and asked > model.context:
        raise StartError(
            f"User-specified max_model_len ({asked}) is greater than the derived max_model_len "
            f"(max_position_embeddings={model.context} or model_max_length=None in model's "
            "config.json). To allow overriding this maximum, set the env var "
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1."
        )
    ranks = options.tensor_parallel_size
    if model.heads % ranks:
        raise StartError(
            f"Total number of attention heads ({model.heads}) must be divisible by tensor"
            f" parallel size ({ranks})."
        )
    if ranks > machine.count:
        raise StartError(
            f"World size ({ranks}) is larger than the number of available GPUs ({machine.count})"
            " in this node. If this is intentional and you are using:\n"
            "- ray, set '--distributed-executor-backend ray'.\n"
            "- multiprocessing, set '--nnodes' appropriately."
        )
    return machine.gpu


def fit(options: Options, gpu: Gpu, model: Model) -> int:
    """The context length in tokens. Raises StartError when weights and cache do not fit a GPU."""
    length = options.max_model_len or model.context
    share = options.gpu_memory_utilization
    free, wanted = gpu.usable_gib * FREE_SHARE, gpu.usable_gib * share
    if free < wanted:
        raise StartError(
            f"Free memory on device cuda:0 ({free:.2f}/{gpu.usable_gib:.2f} GiB) on startup is"
            f" less than desired GPU memory utilization ({share}, {wanted:.2f} GiB). Decrease GPU"
            " memory utilization or reduce GPU memory used by other processes.",
            engine=True,
        )
    weights = model.weights / GIB / options.tensor_parallel_size
    if weights > free:
        raise StartError(
            f"CUDA out of memory. GPU 0 has a total capacity of {gpu.usable_gib:.2f} GiB of which"
            f" {max(free - weights, 0):.2f} GiB is free."
            " (Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization"
            " to free memory for weights, increasing --tensor-parallel-size, or using"
            f" --quantization. {MEMORY_HELP} for more tips.)",
            kind="torch.OutOfMemoryError",
            engine=True,
        )
    cache = wanted - weights - OVERHEAD_GIB
    log(f"Available KV cache memory: {cache:.2f} GiB", process="EngineCore")
    if cache <= 0:
        raise StartError(
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when"
            " initializing the engine (this flag also controls CPU memory reservation on the CPU"
            f" backend, despite its name). {MEMORY_HELP} for more details.",
            engine=True,
        )
    full = model.full
    number = 1 if options.kv_cache_dtype.startswith("fp8") else 2
    # What windows and recurrent state keep does not grow with the context.
    values = full.layers * full.heads * full.values if full else 0
    per_token = max(1.0, number * values / options.tensor_parallel_size)
    tokens = int(cache * GIB / per_token)
    if length == -1:
        length = min(model.context, tokens)
    if length > tokens:
        raise StartError(
            f"To serve at least one request with the model's max seq len ({length}),"
            f" ({length * per_token / GIB:.2f} GiB KV cache is needed, which is larger than the"
            f" available KV cache memory ({cache:.2f} GiB). Based on the available memory, the"
            f" estimated maximum model length is {tokens}. Try increasing `gpu_memory_utilization`"
            " (which also controls CPU memory on the CPU backend) or decreasing `max_model_len`"
            f" when initializing the engine. {MEMORY_HELP} for more details.",
            engine=True,
        )
    log(
        f"GPU KV cache size: {tokens:,} tokens, Maximum concurrency for {length:,} tokens per"
        f" request: {tokens / length:.2f}x",
        process="EngineCore",
    )
    return length


# --- starting -------------------------------------------------------------------------------------


def log(message: str, *, level: str = "INFO", process: str = "APIServer") -> None:
    """A line as vLLM's logger writes it."""
    stamp = time.strftime("%m-%d %H:%M:%S")
    print(f"({process} pid={os.getpid()}) {level} {stamp} [vllm] {message}", flush=True)


def load(options: Options, machine: Machine, model: Model) -> None:
    """Let the time pass that downloading and loading take in life."""
    gb = model.weights / 1e9
    cached = hub_home() / "hub" / f"models--{options.model.replace('/', '--')}" / "refs"
    staged = options.model.startswith(("gs://", "/")) or vllm_weights.offline()
    download = 0.0 if staged or (cached / options.revision).exists() else gb
    log(f"Starting to load model {options.model}...", process="EngineCore")
    took = take(machine, "weights download", download * figures.seconds("weights download, 1 GB"))
    if download:
        log(
            f"Time spent downloading weights for {options.model}: {took:.6f} seconds",
            process="EngineCore",
        )
    with suppress(OSError):  # a cache that cannot be written to is no cache
        cached.mkdir(parents=True, exist_ok=True)
        (cached / options.revision).touch()
    if machine.faults.strikes("weights-truncated"):
        raise StartError(
            "Error while deserializing header: incomplete metadata, file not fully covered",
            kind="safetensors_rust.SafetensorError",
            engine=True,
        )
    share = gb / options.tensor_parallel_size
    # From a prepared disk, which nobody has read yet, at the disk's own pace.
    ways = {"gs://": "weights stream", "/": "weights read"}
    way = next(
        (it for start, it in ways.items() if options.model.startswith(start)), "weights load"
    )
    took = take(machine, way, share * figures.seconds(f"{way}, 1 GB"))
    log(
        f"Model loading took {share * 1e9 / GIB:.2f} GiB memory and {took:.6f} seconds",
        process="EngineCore",
    )


def compile_model(options: Options, machine: Machine, layers: int) -> float:
    """Let the time pass that compilation takes in life, or the use of what was compiled before.

    Returns it. Raises StartError where that is damaged, as vLLM does (vllm-project/vllm#24915,
    #31199): it is there at the next start, too.
    """
    if options.enforce_eager:
        return 0.0
    kept = compiled(options, machine)
    if kept.exists():
        if kept.read_text() != artifact(kept):
            raise StartError(
                f"pickle data was truncated ({kept})", kind="_pickle.UnpicklingError", engine=True
            )
        log("Directly load the compiled graph(s) from the cache", process="EngineCore")
        took = take(machine, "torch.compile, cached", figures.seconds("torch.compile, cached"))
    else:
        log("Starting torch.compile", process="EngineCore")
        life = figures.seconds(figures.of_layers("torch.compile", layers))
        took = take(machine, "torch.compile", life)
        if os.environ.get("VLLM_DISABLE_COMPILE_CACHE") != "1":
            with suppress(OSError):  # a cache that cannot be written to is no cache
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(artifact(kept))
    log(f"torch.compile took {took:.2f} s in total", process="EngineCore")
    return took


def compiled(options: Options, machine: Machine) -> Path:
    """Where vLLM keeps what it compiled for this model, these options and this GPU."""
    root = Path(os.environ.get("VLLM_CACHE_ROOT") or Path.home() / ".cache" / "vllm")
    shape = (VERSION, options.model, options.dtype, options.tensor_parallel_size, machine.gpu)
    key = hashlib.sha256(repr(shape).encode()).hexdigest()[:10]
    return root / "torch_compile_cache" / key / "rank_0_0" / "backbone" / "artifact"


def artifact(path: Path) -> str:
    """What is written there."""
    return f"compiled for {path.parents[2].name}\n" * 64


def capture_graphs(options: Options, machine: Machine, layers: int, compiling_s: float) -> None:
    """Let the time pass that graph capture takes in life."""
    took = 0.0
    if not options.enforce_eager:
        life = figures.seconds(figures.of_layers("CUDA graphs", layers))
        took = take(machine, "CUDA graphs", life)
        log(f"Graph capturing finished in {took:.0f} secs, took 0.60 GiB", process="EngineCore")
    compilation = f" (compilation: {compiling_s:.2f} s)" if compiling_s else ""
    log(
        "init engine (profile, create kv cache, warmup model) took"
        f" {compiling_s + took:.2f} s{compilation}",
        process="EngineCore",
    )


def befall(machine: Machine, gpu: Gpu) -> None:
    """What goes wrong when weights and cache are allocated. Raises StartError."""
    if machine.faults.strikes("engine-out-of-memory"):
        raise StartError(
            f"CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
            f" {gpu.usable_gib:.2f} GiB of which 1.12 GiB is free.",
            kind="torch.OutOfMemoryError",
            engine=True,
        )


def take(machine: Machine, name: str, life: float) -> float:
    """Sleep for `life` seconds of cloud time; returns `life`. Nothing passes for nothing."""
    if life:
        with machine.span(name, life):
            time.sleep(life / machine.speed)
    return life


def fail(error: StartError) -> NoReturn:
    """Log the failure where vLLM does, and exit 1."""
    process = "EngineCore" if error.engine else "APIServer"
    if error.engine:
        log("EngineCore failed to start.", level="ERROR", process=process)
    for line in f"{error.kind}: {error}".splitlines():
        log(line, level="ERROR", process=process)
    if error.engine:
        log(
            "RuntimeError: Engine core initialization failed. See root cause above."
            " Failed core proc(s): {'EngineCore_DP0': 1}",
            level="ERROR",
        )
    sys.exit(1)


def main(arguments: Iterable[str]) -> None:
    """`vllm serve ARGUMENTS`, until SIGTERM."""
    chosen = options(list(arguments))
    machine = Machine.read()
    log(f"vLLM server version {VERSION}, serving model {chosen.model}")
    try:
        take(machine, "vLLM start", figures.seconds("vLLM start"))
        model = find_model(chosen)
        gpu = check(chosen, machine, model)
        # What does not fit shows after it was loaded: it costs that time in life, too.
        load(chosen, machine, model)
        befall(machine, gpu)
        compiling_s = compile_model(chosen, machine, model.layers)
        length = fit(chosen, gpu, model)
        capture_graphs(chosen, machine, model.layers, compiling_s)
    except StartError as error:
        fail(error)
    serving = Serving(
        names=chosen.served_names,
        root=chosen.model,
        version=VERSION,
        max_model_len=length,
        fingerprint=chosen.fingerprint,
        keep_alive_s=chosen.sse_keep_alive_interval,
        shutdown_timeout_s=chosen.shutdown_timeout,
        developer="VLLM_SERVER_DEV_MODE" in os.environ,
        gguf=machine.gguf,
        faults=machine.faults,
    )
    asyncio.run(serve(serving, chosen.host, chosen.port, log))


if __name__ == "__main__":
    main(sys.argv[1:])
