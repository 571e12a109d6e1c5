"""Print every flag that `vllm serve` has: components/vllm_flags.txt is what this printed.

Runs where vLLM is installed, which is inside its image, on a machine with a GPU:
docker run --rm -i --gpus all --entrypoint python3 vllm/vllm-openai:v0.33.0 < THIS_FILE

A value's type is what vLLM's parser makes of it. Its choices or limits are the parser's, or else
those of the configuration that it is handed to, which is checked before anything is loaded.
"""
# pyright: basic, reportMissingImports=false
# (vLLM is no dependency of this project and argparse keeps its table of flags to itself)

import argparse
import dataclasses
import typing

import annotated_types
import vllm.config
from pydantic import ConfigDict, TypeAdapter, ValidationError
from vllm import __version__
from vllm.config.cache import KV_CACHE_DTYPES
from vllm.config.mamba import MambaBackendEnum
from vllm.config.parallel import DataParallelBackend
from vllm.engine.arg_utils import EngineArgs, get_type_hints
from vllm.entrypoints.common.cli_args import (
    FrontendArgs,
    LoRAModulePath,
    LoRAParserAction,
    ReasoningEffort,
    make_arg_parser,
)
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.model_executor.model_loader import LoadFormats
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.transformers_utils.config import _CONFIG_FORMAT_TO_CONFIG_PARSER
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.attention.backends.registry import AttentionBackendEnum

CHOICES = {
    "attention_backend": ["auto", *(name.lower() for name in AttentionBackendEnum.__members__)],
    "config_format": ["auto", *_CONFIG_FORMAT_TO_CONFIG_PARSER],
    "data_parallel_backend": typing.get_args(DataParallelBackend),
    "kv_cache_dtype": KV_CACHE_DTYPES,
    "load_format": typing.get_args(LoadFormats),
    "lora_modules": [field.name for field in dataclasses.fields(LoRAModulePath)],
    "mamba_backend": [name.lower() for name in MambaBackendEnum.__members__],
    "optimization_level": range(4),
    "quantization": QUANTIZATION_METHODS,
    "reasoning_effort_map": typing.get_args(ReasoningEffort),
    "reasoning_parser": ["", "none", *ReasoningParserManager.list_registered()],
    "tool_call_parser": ToolParserManager.list_registered(),
}
"""What vLLM looks up by name, and refuses when it is not there."""
KINDS = {
    "human_readable_int": "size",
    "human_readable_int_or_auto": "length",
    "loads": "json",
    "parse_dataclass": "object",
    "parse_reasoning_parser": "str",
    "union_dict_and_str": "mixed",
    "<lambda>": "str",
}
"""vLLM's types by their functions' names."""
WORDS = {
    *("attention_backend", "linear_backend", "load_format", "mamba_backend", "moe_backend"),
    "sparse_indexer_topk_backend",
}
"""Choices whose case does not matter."""
FIELDS = "__pydantic_fields__"
BOUNDS = {
    annotated_types.Ge: ("ge", ">="),
    annotated_types.Gt: ("gt", ">"),
    annotated_types.Le: ("le", "<="),
    annotated_types.Lt: ("lt", "<"),
}

hints = {
    field.name: get_type_hints(field.type)
    for arguments in (EngineArgs, FrontendArgs)
    for field in dataclasses.fields(arguments)
}
settled = {
    name: field
    for each in vars(vllm.config).values()
    if hasattr(each, FIELDS) and each is not vllm.config.SpeculativeConfig
    for name, field in getattr(each, FIELDS).items()
}
"""The fields of the configuration that flags end in, by name; a draft model has its own."""


def kind_of(action: argparse.Action) -> str:
    """The first word of a value's description; components/vllm_values.py tells what it means."""
    if isinstance(action, LoRAParserAction):
        return "lora"
    convert: typing.Any = action.type
    optional = ""
    while convert and convert.__name__ in ("_optional_type", "_parse_type"):
        optional = "?" if convert.__name__ == "_optional_type" else optional
        convert = convert.__closure__[0].cell_contents
    name = convert.__name__ if convert else "str"
    kind = "word" if action.dest in WORDS else KINDS.get(name, name)
    if kind == "mixed" and not accepts(action.dest, "text"):
        kind = "object"
    if kind == "json" and dict in {typing.get_origin(it) or it for it in hints[action.dest]}:
        kind = "object"
    return kind + optional


def accepts(dest: str, value: object) -> bool:
    """Whether the configuration takes a value."""
    config = ConfigDict(arbitrary_types_allowed=True)
    try:
        TypeAdapter(settled[dest].annotation, config=config).validate_python(value)
    except ValidationError:
        return False
    return True


def values_of(action: argparse.Action) -> str:
    """Choices of a word, keys of an object, limits of a number."""
    field = settled.get(action.dest)
    if action.dest in CHOICES:
        return "|".join(map(str, CHOICES[action.dest]))
    if action.choices:
        return "|".join(map(str, action.choices))
    if kind_of(action).startswith("object"):
        return "|".join(keys(action.dest))
    limits = field.metadata if field else []
    signs = [(BOUNDS[type(it)], it) for it in limits if type(it) in BOUNDS]
    return ",".join(f"{sign}{getattr(limit, name):g}" for (name, sign), limit in signs)


def keys(dest: str) -> list[str]:
    """What an object of this configuration may have; nothing where that is anything."""
    parts = get_type_hints(settled[dest].annotation) if dest in settled else ()
    fields = {k: it for each in parts for k, it in getattr(each, FIELDS, {}).items()}
    names = [name for name, field in fields.items() if field.init is not False]
    # Dashes are turned into underscores here, and nowhere else.
    dashed = [it.replace("_", "-") for it in names if dest == "speculative_config" and "_" in it]
    return names + dashed


print(f"# vLLM {__version__}: flags, how many values follow (0, 1, ?, +), what a value is, which")
flags: dict[argparse.Action, list[str]] = {}
for flag, action in make_arg_parser(FlexibleArgumentParser())._option_string_actions.items():
    flags.setdefault(action, []).append(flag)
for action, names in flags.items():
    arity = 1 if action.nargs is None else action.nargs
    spelled = ",".join(sorted(names, key=lambda name: not name.startswith("--")))
    described = f" {kind_of(action)} {values_of(action)}".rstrip() if arity else ""
    print(f"{spelled} {arity}{described}")
