"""Print every flag that `vllm serve` has: components/vllm_flags.txt is what this printed.

Runs where vLLM is installed, which is inside its image, on a machine with a GPU:
docker run --rm -i --gpus all --entrypoint python3 vllm/vllm-openai:v0.33.0 < THIS_FILE
"""
# pyright: basic, reportMissingImports=false
# (vLLM is no dependency of this project and argparse keeps its table of flags to itself)

import argparse

from vllm import __version__
from vllm.entrypoints.common.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

print(f"# vLLM {__version__}: flags, how many values follow (0, 1, ?, +), int|float|str, choices")
flags: dict[argparse.Action, list[str]] = {}
for flag, action in make_arg_parser(FlexibleArgumentParser())._option_string_actions.items():
    flags.setdefault(action, []).append(flag)
for action, names in flags.items():
    arity = 1 if action.nargs is None else action.nargs
    kind = "int" if action.type is int else "float" if action.type is float else "str"
    choices = "|".join(str(choice) for choice in action.choices or ())
    print(*(",".join(names), arity, *([kind] if arity else []), *([choices] if choices else [])))
