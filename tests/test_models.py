"""Models: what is read of a config.json, and the catalogue."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.engines import vllm
from components.models import Attention, Model, State, UnknownShape, models

FOLDER = Path(__file__).parent / "models"
GB = 10**9


def config(name: str) -> dict[str, Any]:
    """A model's config.json as its maker publishes it."""
    return json.loads((FOLDER / f"{name.replace('/', '--')}.json").read_text())


def read(name: str, **changes: Any) -> Model:
    return Model.from_config(name, config(name) | changes, 8 * GB)


SHAPES: list[tuple[str, str, str, Attention | None, Attention | None, State | None]] = [
    ("Qwen/Qwen3-8B", "bf16", "", Attention(36, 8, 256), None, None),
    ("Qwen/Qwen3-30B-A3B", "bf16", "", Attention(48, 4, 256), None, None),
    ("Qwen/Qwen3-32B-FP8", "fp8", "fp8", Attention(64, 8, 256), None, None),
    ("meta-llama/Meta-Llama-3.1-8B", "bf16", "", Attention(32, 8, 256), None, None),
    ("meta-llama/Meta-Llama-3.1-70B", "bf16", "", Attention(80, 8, 256), None, None),
    ("mistralai/Mixtral-8x7B-v0.1", "bf16", "", Attention(32, 8, 256), None, None),
    (
        "google/gemma-2-9b-it",
        "bf16",
        "",
        Attention(21, 8, 512),
        Attention(21, 8, 512, 4096),
        None,
    ),
    # The published test data have six layers of it, and a window of four tokens.
    ("google/gemma-3-27b-it", "bf16", "", Attention(1, 16, 256), Attention(5, 16, 256, 4), None),
    (
        "google/gemma-4-26B-A4B",
        "bf16",
        "",
        Attention(5, 2, 1024),
        Attention(25, 8, 512, 1024),
        None,
    ),
    (
        "nvidia/Gemma-4-31B-IT-NVFP4",
        "nvfp4",
        "modelopt",
        Attention(10, 4, 1024),
        Attention(50, 16, 512, 1024),
        None,
    ),
    (
        "openai/gpt-oss-20b",
        "mxfp4",
        "mxfp4",
        Attention(12, 8, 128),
        Attention(12, 8, 128, 128),
        None,
    ),
    # One vector of 512 + 64 numbers for all heads' keys and values.
    ("deepseek-ai/DeepSeek-V3", "fp8", "fp8", Attention(61, 1, 576), None, None),
    ("moonshotai/Kimi-K2.5", "int4", "compressed-tensors", Attention(61, 1, 576), None, None),
    # Three of four layers keep a state of 48 heads of 128 x 128 numbers in 32 bits, and a
    # convolution's last three inputs.
    ("Qwen/Qwen3.5-27B", "bf16", "", Attention(16, 4, 512), None, State(48, 3207168)),
    ("Qwen/Qwen3.5-35B-A3B", "bf16", "", Attention(10, 2, 512), None, State(30, 2146304)),
    (
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "bf16",
        "",
        Attention(6, 2, 256),
        None,
        State(23, 2134016),
    ),
]


@pytest.mark.parametrize(
    ("name", "precision", "method", "full", "sliding", "state"),
    SHAPES,
    ids=[shape[0] for shape in SHAPES],
)
def test_a_published_config_is_understood(
    name: str,
    precision: str,
    method: str,
    full: Attention | None,
    sliding: Attention | None,
    state: State | None,
) -> None:
    """Layers by what they keep of a request, and the weights' precision."""
    model = read(name)

    assert (model.precision, model.method) == (precision, method)
    assert (model.full, model.sliding, model.state) == (full, sliding, state)


def test_every_config_of_the_test_data_is_read() -> None:
    """No file lies there unread."""
    for path in FOLDER.glob("*.json"):
        assert read(path.stem.replace("--", "/", 1)).heads


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 8, "group_size": 128, "desc_act": False}
TENSORS = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
}


@pytest.mark.parametrize(
    ("quantised", "precision", "cache"),
    [(AWQ, "int4", "auto"), (GPTQ, "int8", "auto"), (TENSORS, "fp8", "fp8")],
    ids=["awq", "gptq", "compressed-tensors"],
)
def test_quantised_weights_are_known_by_their_method(
    quantised: dict[str, Any], precision: str, cache: str
) -> None:
    """AWQ, GPTQ and compressed-tensors say how many bits, and of what kind, a weight has."""
    model = read("Qwen/Qwen3-8B", quantization_config=quantised)

    assert model.method == quantised["quant_method"]
    assert (model.precision, model.cache_precision) == (precision, cache)


def test_blocks_of_quantised_weights_are_counted() -> None:
    """FP8 weights come in blocks of 128: 25600 columns are 200 of them, an expert's 768 are 6."""
    fp8 = config("Qwen/Qwen3-32B-FP8")["quantization_config"]

    assert read("Qwen/Qwen3-32B-FP8").blocks == 200
    assert read("Qwen/Qwen3-30B-A3B", quantization_config=fp8).blocks == 6
    assert read("Qwen/Qwen3-32B", quantization_config=AWQ).blocks == 200
    assert read("Qwen/Qwen3-32B-FP8", intermediate_size=25700).blocks == 1
    assert read("Qwen/Qwen3-32B-FP8", intermediate_size=None).blocks == 0
    # vLLM halves the groups of an expert's AWQ weights where it must.
    assert read("Qwen/Qwen3-30B-A3B", quantization_config=AWQ).blocks == 0


def test_a_window_that_is_switched_off_is_none() -> None:
    """Qwen's files name a window next to `use_sliding_window: false`."""
    model = read("Qwen/Qwen3-8B", sliding_window=4096, use_sliding_window=False)

    assert model.sliding is None
    assert read("Qwen/Qwen3-8B", model_type="phi3", sliding_window=None).sliding is None
    assert read("mistralai/Mixtral-8x7B-v0.1", sliding_window=4096).full is None


def test_pictures_and_licences_are_noted() -> None:
    """A model with an encoder for images says so; whether it is gated, the hub says."""
    assert read("google/gemma-3-27b-it").images
    assert not read("Qwen/Qwen3-8B").images
    assert Model.from_config("a/b", config("Qwen/Qwen3-8B"), GB, gated=True).gated


STRANGE: list[tuple[dict[str, Any], str]] = [
    ({"num_hidden_layers": None}, "num_hidden_layers is None"),
    ({"hidden_size": "4096"}, "hidden_size is '4096'"),
    ({"vocab_size": -1}, "vocab_size is -1"),
    ({"layer_types": ["full_attention", "lightning"]}, "layers of kind lightning"),
    ({"index_topk": 2048}, "sparse attention"),
    ({"encoder_layers": 12}, "an encoder"),
    ({"num_key_value_heads": "eight"}, "not what it should be"),
    ({"quantization_config": "awq"}, "not what it should be"),
    ({"quantization_config": AWQ | {"bits": "four"}}, "not what it should be"),
]


@pytest.mark.parametrize(("changes", "words"), STRANGE, ids=[words for _, words in STRANGE])
def test_what_is_not_understood_is_said(changes: dict[str, Any], words: str) -> None:
    """Rather no figure than a wrong one."""
    with pytest.raises(UnknownShape, match=re.escape(words)):
        read("Qwen/Qwen3-8B", **changes)


# --- the catalogue --------------------------------------------------------------------------------

TABLE = Path(__file__).parents[1] / "components" / "models.csv"
ROWS = list(csv.DictReader(TABLE.read_text().splitlines()))
BYTES = {
    "bf16": (1.8, 2.4),
    "fp8": (1.0, 1.4),
    "int4": (0.5, 0.75),
    "mxfp4": (0.5, 0.75),
}
"""A weight's, embeddings and scales counted in; names round the number of weights."""
UNNAMED = {"microsoft/Phi-4-reasoning": 14.7}
"""Billions of weights where the name does not say."""


@pytest.mark.parametrize("row", ROWS, ids=[row["model"] for row in ROWS])
def test_every_model_is_sane(row: dict[str, str]) -> None:
    """Its weights are as many as its name says, at their precision; figures have a source."""
    model = models()[row["model"]]
    named = re.search(r"-(\d+(?:\.\d+)?)B", model.name, re.IGNORECASE)
    billions = float(named[1]) if named else UNNAMED[model.name]
    least, most = BYTES[model.precision]

    assert least <= model.weights / GB / billions <= most
    assert model.full
    assert all(model.heads % kind.heads == 0 for kind in (model.full, model.sliding) if kind)
    assert (model.precision in ("bf16", "fp16")) == (not model.method)
    assert model.cache_precision == "auto"
    assert row["source"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", row["date"])


def test_models_come_once() -> None:
    """A second row of a model would be silently lost."""
    assert len(models()) == len(ROWS)


def test_every_model_runs_on_the_oldest_engine_that_a_stack_may_name() -> None:
    """`engineVersion` goes back to 0.32.0; a model that is newer would need a rule of its own."""
    for row in ROWS:
        assert tuple(map(int, row["min_vllm"].split("."))) <= vllm.OLDEST


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
        ("Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B-FP8"),
        ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B"),
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("openai/gpt-oss-120b", "openai/gpt-oss-120b"),
        ("google/gemma-4-26B-A4B", "google/gemma-4-26B-A4B"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Meta-Llama-3.1-70B"),
    ],
)
def test_a_row_says_what_the_model_itself_says(name: str, published: str) -> None:
    """The catalogue and config.json agree; an instructed model has the shape of its base."""
    row = models()[name]
    own = replace(read(published), name=name, weights=row.weights, gated=row.gated)

    assert row == own
