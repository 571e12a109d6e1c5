"""What of a model decides whether it fits a GPU: from the catalogue, or from its config.json."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import gcd
from pathlib import Path
from typing import Any, Self, cast

Config = Mapping[str, Any]


class UnknownShape(ValueError):
    """A config.json that the reckoning cannot follow; says what it stumbled over."""


@dataclass(frozen=True)
class Attention:
    """Layers that keep something of every token."""

    layers: int
    heads: int
    """KV heads. One for latent attention, which no GPU has only a part of."""
    values: int
    """Numbers that a KV head keeps of a token: twice the head's width, for keys and values."""
    window: int | None = None
    """Tokens that they look back upon; None for all."""


@dataclass(frozen=True)
class State:
    """Layers that keep the same amount of a request, however long (Mamba, gated delta rule)."""

    layers: int
    size: int
    """Bytes a layer and request."""


@dataclass(frozen=True)
class Model:
    """A model, as far as memory is concerned."""

    name: str
    """On Hugging Face (organisation/name)."""
    weights: int
    """Bytes, as stored."""
    precision: str
    """Of most weights: bf16, fp16, fp32, fp8, int8, int4, mxfp4, nvfp4."""
    method: str
    """How they were quantised, by vLLM's name; empty for weights as they were trained."""
    cache_precision: str
    """What the checkpoint wants the KV cache to be: auto, or fp8."""
    context: int
    """Tokens that it was made for."""
    hidden: int
    """Width of a token's vector."""
    vocabulary: int
    heads: int
    """Attention heads."""
    blocks: int
    """Blocks in a row of its narrowest quantised layer, which GPUs must share evenly; 0 where they
    need not."""
    full: Attention | None
    sliding: Attention | None
    state: State | None
    images: bool
    """It takes images (or sound), with an encoder of its own."""
    gated: bool
    """Its licence must be accepted before it can be downloaded."""

    @property
    def layers(self) -> int:
        """Its layers, of whatever kind."""
        return sum(it.layers for it in (self.full, self.sliding, self.state) if it)

    @classmethod
    def from_config(cls, name: str, config: Config, weights: int, *, gated: bool = False) -> Self:
        """The model of a config.json and the size of its safetensors files in bytes.

        Raises UnknownShape.
        """
        try:
            return cls._from_config(name, config, weights, gated)
        except UnknownShape:
            raise
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise UnknownShape(f"a value is not what it should be ({error})") from error

    @classmethod
    def _from_config(cls, name: str, config: Config, weights: int, gated: bool) -> Self:
        text = _text(config)
        attention, heads = _attention(text), _whole(text, "num_attention_heads")
        quantised: Config = (
            config.get("quantization_config") or text.get("quantization_config") or {}
        )
        method = str(quantised.get("quant_method") or "")
        return cls(
            name=name,
            weights=weights,
            precision=_precision(method, quantised) if method else _type(config, text),
            method=method,
            cache_precision="fp8" if _caches_fp8(quantised) else "auto",
            context=_whole(text, "max_position_embeddings"),
            hidden=_whole(text, "hidden_size"),
            vocabulary=_whole(text, "vocab_size"),
            heads=heads,
            blocks=_blocks(text, method, quantised),
            full=attention.get("full"),
            sliding=attention.get("sliding"),
            state=_state(text),
            images=any(key in config for key in ("vision_config", "audio_config")),
            gated=gated,
        )


# --- the catalogue --------------------------------------------------------------------------------


@cache
def models() -> dict[str, Model]:
    """The catalogue's models by name."""
    with Path(__file__).with_name("models.csv").open(newline="") as file:
        return {row["model"]: _row(row) for row in csv.DictReader(file)}


def _row(row: Mapping[str, str]) -> Model:
    def number(column: str) -> int:
        return int(row[column] or 0)

    def attention(kind: str, window: int | None) -> Attention | None:
        layers, heads, values = (number(f"{kind}_{part}") for part in ("layers", "heads", "values"))
        return Attention(layers, heads, values, window) if layers else None

    state = State(number("state_layers"), number("state_bytes"))
    return Model(
        name=row["model"],
        weights=number("weights"),
        precision=row["precision"],
        method=row["method"],
        cache_precision=row["cache_precision"],
        context=number("context"),
        hidden=number("hidden"),
        vocabulary=number("vocabulary"),
        heads=number("heads"),
        blocks=number("blocks"),
        full=attention("full", None),
        sliding=attention("sliding", number("window")),
        state=state if state.layers else None,
        images=row["images"] == "yes",
        gated=row["gated"] == "yes",
    )


# --- config.json ----------------------------------------------------------------------------------

DEFAULTS: dict[str, Config] = {
    "gemma3_text": {"max_position_embeddings": 131072, "vocab_size": 262208},
}
"""What published files leave out, as transformers' class has it, by `model_type`."""

PATTERNS = {"gemma2": 2, "gemma3_text": 6}
"""One in so many layers attends to everything, the others to a window, by `model_type`."""

ALL_SLIDING = {"mistral", "mixtral", "phi3", "starcoder2"}
"""Families in which `sliding_window` alone means that every layer has it."""

UNKNOWN = {
    "index_topk": "sparse attention with an indexer",
    "compress_ratios": "compressed attention",
    "block_configs": "layers that differ",
    "layers_block_type": "layers that differ",
    "attn_layer_period": "layers that differ",
    "encoder_layers": "an encoder",
}
"""Keys of shapes that keep something else of a token; what to call it."""

KINDS = {
    "full_attention": "full",
    "chunked_attention": "full",  # vLLM may keep less; so much is enough.
    "sliding_attention": "sliding",
    "linear_attention": "state",
}


def _text(config: Config) -> Config:
    """The part of a config.json that describes the language model."""
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(key), dict):
            inner: Config = config[key]
            return {**DEFAULTS.get(str(inner.get("model_type")), {}), **inner}
    return {**DEFAULTS.get(str(config.get("model_type")), {}), **config}


def _whole(config: Config, key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise UnknownShape(f"{key} is {value!r}, not a number above 0")
    return value


def _layers(text: Config) -> list[str]:
    """The kind of every layer that keeps something: full, sliding or state."""
    for key, what in UNKNOWN.items():
        if text.get(key):
            raise UnknownShape(f"it has {what} ({key})")
    count = _whole(text, "num_hidden_layers")
    if isinstance(pattern := text.get("hybrid_override_pattern"), str):  # Nemotron-H
        kinds = {"*": "full", "M": "state"}
        return [kinds[letter] for letter in pattern if letter in kinds]
    if isinstance(types := text.get("layer_types"), Sequence):
        named = [str(kind) for kind in cast("Sequence[object]", types)]
        if strange := set(named) - KINDS.keys():
            raise UnknownShape(f"it has layers of kind {', '.join(sorted(strange))}")
        # The last ones may use what an earlier one keeps (Gemma).
        shared = int(text.get("num_kv_shared_layers") or 0)
        return [KINDS[kind] for kind in named[: len(named) - shared]]
    if interval := text.get("full_attention_interval"):  # Qwen3-Next
        return ["full" if index % interval == 0 else "state" for index in range(1, count + 1)]
    family = str(text.get("model_type"))
    windowed = bool(text.get("sliding_window")) and text.get("use_sliding_window") is not False
    if windowed and family in PATTERNS:
        every = int(text.get("sliding_window_pattern") or PATTERNS[family])
        return ["full" if index % every == 0 else "sliding" for index in range(1, count + 1)]
    return ["sliding" if windowed and family in ALL_SLIDING else "full"] * count


def _attention(text: Config) -> dict[str, Attention]:
    layers = _layers(text)
    found: dict[str, Attention] = {}
    if count := layers.count("full"):
        found["full"] = Attention(
            count, *_kept(text, "num_global_key_value_heads", "global_head_dim")
        )
    if count := layers.count("sliding"):
        found["sliding"] = Attention(count, *_kept(text), _whole(text, "sliding_window"))
    return found


def _kept(text: Config, heads_key: str = "", width_key: str = "") -> tuple[int, int]:
    """KV heads of a layer, and the numbers that one keeps of a token."""
    if text.get("kv_lora_rank"):  # latent attention (DeepSeek): one vector for keys and values
        return 1, _whole(text, "kv_lora_rank") + _whole(text, "qk_rope_head_dim")
    heads = _whole(text, "num_attention_heads")
    width = text.get(width_key) or text.get("head_dim") or _whole(text, "hidden_size") // heads
    kept = text.get(heads_key) or text.get("num_key_value_heads") or heads
    return int(kept), 2 * int(width)


def _state(text: Config) -> State | None:
    layers = _layers(text).count("state")
    if not layers:
        return None
    if "hybrid_override_pattern" in text:  # Mamba 2
        heads, width = _whole(text, "mamba_num_heads"), _whole(text, "mamba_head_dim")
        deep = _whole(text, "ssm_state_size")
        channels = heads * width + 2 * _whole(text, "n_groups") * deep
        taps, numbers = _whole(text, "conv_kernel"), heads * width * deep
        four = text.get("mamba_ssm_cache_dtype") == "float32"
    else:  # gated delta rule (Qwen3-Next, Qwen3.5)
        keys = _whole(text, "linear_num_key_heads") * _whole(text, "linear_key_head_dim")
        heads, width = _whole(text, "linear_num_value_heads"), _whole(text, "linear_value_head_dim")
        channels = 2 * keys + heads * width
        taps, numbers = (
            _whole(text, "linear_conv_kernel_dim"),
            heads * width * _whole(text, "linear_key_head_dim"),
        )
        four = text.get("mamba_ssm_dtype") == "float32"
    return State(layers, (taps - 1) * channels * 2 + numbers * (4 if four else 2))


TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def _type(config: Config, text: Config) -> str:
    """The precision of weights as they were trained."""
    told = (part.get(key) for part in (config, text) for key in ("torch_dtype", "dtype"))
    return TYPES.get(str(next(filter(None, told), "bfloat16")), "bf16")


def _precision(method: str, quantised: Config) -> str:
    """The precision of quantised weights."""
    named = {"fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "mxfp4", "gpt_oss_mxfp4": "mxfp4"}
    if method in named:
        return named[method]
    algorithm = str(quantised.get("quant_algo") or quantised.get("format") or "").lower()
    for known in ("nvfp4", "mxfp4", "fp8"):
        if known in algorithm:
            return known
    groups: Mapping[str, Any] = quantised.get("config_groups") or {"": {}}
    weights: Mapping[str, Any] = next(iter(groups.values())).get("weights") or {}
    bits = int(weights.get("num_bits") or quantised.get("bits") or 4)
    return f"fp{bits}" if weights.get("type") == "float" else f"int{bits}"


def _caches_fp8(quantised: Config) -> bool:
    return bool(quantised.get("kv_cache_scheme") or quantised.get("kv_cache_quant_algo"))


def _blocks(text: Config, method: str, quantised: Config) -> int:
    """How many blocks of weights with a scale of their own GPUs must share.

    vLLM refuses to split a block of FP8 weights, and a group of AWQ or GPTQ unless it is an
    expert's.
    """
    widths = [
        _whole(text, key)
        for key in ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
        if text.get(key)
    ]
    size = 0
    if block := quantised.get("weight_block_size"):
        size = int(block[0])
    elif method in ("awq", "gptq") and "moe_intermediate_size" not in text:
        size = int(quantised.get("group_size") or 0)
    if size <= 0 or not widths:
        return 0
    narrowest = gcd(*widths)
    # A layer that is no whole number of blocks cannot be split at all.
    return narrowest // size if narrowest % size == 0 else 1
