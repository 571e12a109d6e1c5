"""The engine's container, and what of it the world may reach."""

import re

import pytest

from components import vllm_flags
from components.engine import TOKEN_FILE, EngineContainer, Probe, containers
from components.engines import vllm
from components.settings import Settings
from tests.stack_config import SECRET_KEYS, configuration


def container(
    changes: dict[str, str] | None = None, stack: str = "dev", *, token: bool = False
) -> EngineContainer:
    """The container of a committed stack with changes."""
    settings = Settings.parse(configuration(stack, changes), SECRET_KEYS)
    weights = {"bucket": "gs://weights", "image": "registry/image@sha256:1", "hub": ""}
    return containers(settings, token=token)("registry/hub", weights[settings.weights], "r1")


HUB = {"llm-endpoint:weights": "hub"}


def flags(engine: EngineContainer) -> dict[str, object]:
    """What vLLM understands of the container's arguments; the last value of each flag."""
    model, *args = engine.args
    assert not model.startswith("-")
    values, unknown = vllm_flags.parse(args)
    assert unknown == []
    return {flag: given[-1] for flag, given in values.items()}


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_vllm_has_every_flag_that_the_program_sets(stack: str) -> None:
    """The program's own flags are spelt in full, so that no new flag makes them ambiguous."""
    engine = container(stack=stack)

    assert flags(engine)
    assert {arg.partition("=")[0] for arg in engine.args[1:]} <= vllm_flags.FLAGS.keys()


def test_the_model_is_served_as_configured() -> None:
    """Model, revision, context length, memory share and number of GPUs reach vLLM."""
    engine = container(
        HUB
        | {
            "llm-endpoint:modelRevision": "abc123",
            "llm-endpoint:maxModelLen": "4096",
            "llm-endpoint:gpuCount": "2",
            "llm-endpoint:gpuMemoryUtilization": "0.8",
        }
    )

    assert engine.args[0] == "Qwen/Qwen3-4B"
    assert (
        flags(engine).items()
        >= {
            "--revision": "abc123",
            "--max-model-len": 4096,
            "--tensor-parallel-size": 2,
            "--gpu-memory-utilization": 0.8,
        }.items()
    )


def test_staged_weights_are_streamed_from_their_bucket() -> None:
    """vLLM reads the bucket itself, asks the hub for nothing, and keeps the model's name."""
    engine = container({"llm-endpoint:gpuCount": "2"}, token=True)

    assert engine.args[0] == "gs://weights"
    assert flags(engine)["--load-format"] == "runai_streamer"
    assert flags(engine)["--served-model-name"] == "Qwen/Qwen3-4B"
    assert flags(engine)["--model-loader-extra-config"] == {"distributed": True}
    assert "--model-loader-extra-config" not in flags(container())
    assert engine.env["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN_PATH" not in engine.env


def test_an_image_with_the_weights_in_it_is_run_as_it_is() -> None:
    """The stack's own image, and no hub."""
    engine = container({"llm-endpoint:weights": "image"})

    assert engine.image == "registry/image@sha256:1"
    assert engine.args[0] == "Qwen/Qwen3-4B"
    assert engine.env["HF_HUB_OFFLINE"] == "1"


def test_cloud_runs_old_driver_gets_the_compatibility_that_vllm_needs() -> None:
    """Only there, only on its L4; and the stack has the last word."""
    on_cloud_run = {"llm-endpoint:platform": "cloud-run", "gcp:region": "europe-west4"}
    variable = "VLLM_ENABLE_CUDA_COMPATIBILITY"
    newer = on_cloud_run | {"llm-endpoint:gpu": "nvidia-rtx-pro-6000"}
    other = on_cloud_run | {"llm-endpoint:engineEnv": f'["{variable}=0"]'}

    assert container(on_cloud_run).env[variable] == "1"
    assert variable not in container(newer).env
    assert variable not in container().env
    assert container(other).env[variable] == "0"


def test_an_instance_takes_as_many_requests_as_the_engine() -> None:
    """What more comes is another instance's, not the queue's."""
    assert container({"llm-endpoint:engineArgs": '["--max-num-seqs=8"]'}).concurrency == 8
    assert container().concurrency == vllm.CONCURRENCY


def test_without_a_revision_the_newest_is_taken() -> None:
    """An empty revision is not handed to vLLM."""
    assert "--revision" not in flags(container(HUB))


def test_a_t4_computes_in_float16() -> None:
    """A T4 has no bfloat16; newer GPUs take what the model asks for."""
    assert flags(container({"llm-endpoint:gpu": "nvidia-tesla-t4"}))["--dtype"] == "float16"
    assert "--dtype" not in flags(container())


def test_streams_stay_open_through_the_tunnel() -> None:
    """An idle stream gets a comment long before Cloudflare's read timeout of 100 seconds."""
    assert flags(container())["--sse-keep-alive-interval"] in range(1, 50)


@pytest.mark.parametrize(
    ("provisioning", "hours", "notice"),
    [("spot", "0", 30), ("standard", "0", 90), ("flex-start", "24", 90)],
)
def test_requests_end_before_the_machine_does(provisioning: str, hours: str, notice: int) -> None:
    """Requests in flight get most of the notice that Google gives a machine, and not all of it."""
    engine = container(
        {"llm-endpoint:provisioning": provisioning, "llm-endpoint:maxRunHours": hours}
    )

    assert flags(engine)["--shutdown-timeout"] == engine.shutdown_timeout_s
    assert notice / 2 < engine.shutdown_timeout_s <= notice - 10


def test_the_new_machine_can_be_told_from_the_old() -> None:
    """Answers carry the machine's revision as system_fingerprint."""
    given = flags(container())
    settings = Settings.parse(configuration(), SECRET_KEYS)

    assert vllm.probe(settings, "r1") == Probe("Qwen/Qwen3-4B", fingerprint="r1")
    assert (given["--fingerprint-mode"], given["--fingerprint-value"]) == ("custom", "r1")


def test_prompts_stay_private() -> None:
    """vLLM logs no prompts and reports no usage."""
    engine = container()

    assert not flags(engine).keys() & {"--enable-log-requests", "--enable-log-outputs"}
    assert engine.env.items() >= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}.items()


def test_a_stacks_own_flags_come_last() -> None:
    """A stack may overrule what is not the program's: the last value counts."""
    engine = container(
        {
            "llm-endpoint:gpu": "nvidia-tesla-t4",
            "llm-endpoint:engineArgs": '["--dtype=float32", "--max-num-seqs", "8"]',
        }
    )

    assert engine.args[-3:] == ("--dtype=float32", "--max-num-seqs", "8")
    assert flags(engine)["--dtype"] == "float32"


def test_the_token_comes_as_a_file_or_not_at_all() -> None:
    """The environment names the token's file, and only where there is a token."""
    assert container(HUB, token=True).env["HF_TOKEN_PATH"] == TOKEN_FILE
    assert "HF_TOKEN_PATH" not in container(HUB).env


def test_a_mirror_is_used() -> None:
    """Models come from where the stack says."""
    mirror = {"llm-endpoint:huggingFaceEndpoint": "https://mirror.example.com"}

    assert container(mirror).env["HF_ENDPOINT"] == "https://mirror.example.com"


def test_the_image_is_pinned() -> None:
    """A version becomes a tag, a digest stays a digest."""
    digest = "sha256:" + "a" * 64

    assert container().image == f"registry/hub/vllm/vllm-openai:v{vllm.NEWEST}"
    by_digest = container({"llm-endpoint:engineVersion": digest})
    assert by_digest.image == f"registry/hub/vllm/vllm-openai@{digest}"


def reachable(path: str) -> bool:
    """Whether cloudflared would let the path through: Go's MatchString looks anywhere in it."""
    # Python's $ also matches before a final line break, Go's does not.
    return any(re.search(re.sub(r"\$$", r"\\Z", tied), path) for tied in vllm.PUBLIC_PATHS)


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/embeddings"),
        *("/v1/responses", "/v1/responses/resp_1-a", "/v1/responses/resp_1/cancel"),
        *("/v1/audio/transcriptions", "/v1/audio/translations"),
    ],
)
def test_openais_api_is_reachable(path: str) -> None:
    """What an OpenAI client calls gets through."""
    assert reachable(path)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/health", "/metrics", "/version", "/load", "/ping", "/docs", "/openapi.json"),
        *("/invocations", "/pause", "/resume", "/abort_requests", "/update_weights", "/sleep"),
        *("/tokenize", "/detokenize", "/score", "/rerank", "/pooling", "/classify"),
        *("/collective_rpc", "/server_info", "/scale_elastic_ep", "/inference/v1/generate"),
        *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/realtime", "/v1", "/v1/"),
        *("/v1/chat/completions/", "/v1/chat/completions/render", "/v1/chat/completions/batch"),
        *("/v1/../metrics", "/v1/models/../../metrics", "/v1/models%2f..%2f..%2fmetrics"),
        *("/v1/%2e%2e/metrics", "//metrics", "/metrics//v1/models", "/x/v1/models"),
        *("/v1//models", "/v1/responses/../../metrics", "/v1/responses/%2e%2e/%2e%2e/pause"),
        *("/V1/models", "/v1/models;x", "/v1/models\n", "/metrics\n/v1/models", "/v1/models/x"),
    ],
)
def test_nothing_else_is_reachable(path: str) -> None:
    """Metrics, administration, other dialects and paths that resolve to them find no rule."""
    assert not reachable(path)


@pytest.mark.parametrize(
    ("args", "values", "unknown"),
    [
        (["--max-num-seqs", "8"], {"--max-num-seqs": [8]}, []),
        (["--max_num_seqs=8"], {"--max-num-seqs": [8]}, []),
        (["--tensor-par", "2"], {"--tensor-parallel-size": [2]}, []),
        (["-tp", "2"], {"--tensor-parallel-size": [2]}, []),
        (["-n2"], {"--nnodes": [2]}, []),
        (["-O3"], {"--optimization-level": ["3"]}, []),
        (["-O=3"], {"--optimization-level": ["3"]}, []),
        (["-O", "3"], {"--optimization-level": ["3"]}, []),
        (["--compilation_config.mode", "3"], {"--compilation-config": [{"mode": 3}]}, []),
        (
            ["-cc.pass_config.fuse_x=y"],
            {"--compilation-config": [{"pass_config": {"fuse_x": "y"}}]},
            [],
        ),
        (["--hf-overrides.a+=b,c"], {"--hf-overrides": [{"a": ["b", "c"]}]}, []),
        (
            ['--kv-transfer-config={"kv_port": 80k}'],
            {"--kv-transfer-config": [{"kv_port": 80000}]},
            [],
        ),
        (["--max-num-batched-tokens=8k"], {"--max-num-batched-tokens": [8000]}, []),
        (["--kv-cache-memory-bytes=2G"], {"--kv-cache-memory-bytes": [2**31]}, []),
        (["--max-num-active-seqs=None"], {"--max-num-active-seqs": [None]}, []),
        (["--attention-backend=Flash_Attn"], {"--attention-backend": ["flash_attn"]}, []),
        (["--moe-backend=DEEP-GEMM"], {"--moe-backend": ["deep_gemm"]}, []),
        (
            ["--enforce-eager", "-ep"],
            {"--enforce-eager": [True], "--enable-expert-parallel": [True]},
            [],
        ),
        (["--no-enable-prefix-caching"], {"--enable-prefix-caching": [False]}, []),
        (["--disable-prefix-caching"], {"--enable-prefix-caching": [False]}, []),
        (["--hf-token"], {"--hf-token": [None]}, []),
        (["--lora-modules", "a=b", "c=d"], {"--lora-modules": ["a=b", "c=d"]}, []),
        (["--task=generate"], {}, ["--task=generate"]),
        (["another/model"], {}, ["another/model"]),
    ],
)
def test_arguments_are_read_as_vllm_reads_them(
    args: list[str], values: dict[str, object], unknown: list[str]
) -> None:
    """Abbreviations, underscores, short forms, dotted JSON and counterparts, as vLLM's parser."""
    assert vllm_flags.parse(args) == (values, unknown)


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("--max-num-seqs=many", "argument --max-num-seqs: invalid int value: 'many'"),
        ("--max-num-seqs", "argument --max-num-seqs: expected one argument"),
        ("--dtype=bf16", "argument --dtype: invalid choice: 'bf16'"),
        ("--max-lora-rank=3", "argument --max-lora-rank: invalid choice: 3"),
        ("--max-num=8", "ambiguous option: --max-num=8 could match --max-num-"),
        ("--compilation-config.mode", "argument --compilation-config/-cc: expected one argument"),
        ("-O9", "argument --optimization-level: invalid choice: '9'"),
        ("--max-num-seqs=0", "argument --max-num-seqs: expected a number >=1"),
        ("--watermark=1", "argument --watermark: expected a number >=0,<1"),
        ("--max-num-batched-tokens=8x", "invalid human_readable_int value: '8x'"),
        ("--max-cpu-loras=few", "argument --max-cpu-loras: invalid int value: 'few'"),
        ("--quantization=int3", "argument --quantization/-q: invalid choice: 'int3'"),
        ("--kv-cache-dtype=fp9", "argument --kv-cache-dtype: invalid choice: 'fp9'"),
        ("--attention-backend=flash", "argument --attention-backend: invalid choice: 'flash'"),
        ("--reasoning-parser=qwen9", "argument --reasoning-parser: invalid choice: 'qwen9'"),
        ("--compilation-config.modus=3", "argument --compilation-config/-cc: it has no modus"),
        ("--enable-auto-tool-choice", "--enable-auto-tool-choice requires --tool-call-parser"),
    ],
)
def test_wrong_values_are_refused_in_vllms_words(arg: str, words: str) -> None:
    """What vLLM's parser says is what a person finds when looking it up."""
    with pytest.raises(ValueError, match=re.escape(words)):
        vllm_flags.parse([arg])


@pytest.mark.parametrize(
    "flag", [name for name, it in vllm_flags.FLAGS.items() if it.value.kind == "object"]
)
def test_what_vllm_takes_as_json_must_be_json_and_is_not_repeated(flag: str) -> None:
    """An object, well-formed; credentials in it do not land in an error."""
    assert vllm_flags.parse([flag, "{}"]).values == {vllm_flags.FLAGS[flag].names[0]: [{}]}
    for broken in ('{"s3cret', "[]", "s3cret", "1"):
        with pytest.raises(ValueError, match=r"expected (a JSON object|JSON: )") as refusal:
            vllm_flags.parse([flag, broken])
        assert "s3cret" not in str(refusal.value)


def test_requests_metrics_need_statistics() -> None:
    """Two flags of which vLLM takes one."""
    both = ["--enable-per-request-metrics", "--disable-log-stats"]
    with pytest.raises(ValueError, match="exclude each other"):
        vllm_flags.parse(both)
    assert vllm_flags.parse([*both, "--disable-per-request-metrics"])


def test_forbidden_flags_exist() -> None:
    """A flag that vLLM does not have needs no prohibition; each is named by its first spelling."""
    assert all(vllm_flags.FLAGS[name].names[0] == name for name in vllm_flags.NOT_YOURS)
