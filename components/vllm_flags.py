"""The flags of `vllm serve`: which there are, and which the program sets itself."""

import argparse
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

_ONE_WAY_IN = "leave it out: the tunnel reaches the engine at its own plain HTTP port"
_ONE_ENGINE = "leave it out: one engine spans the GPUs; for more set llm-endpoint:replicas"
_NEW_ONE = "leave it out: `pulumi up` knows the new machine by its fingerprint"

NOT_YOURS = {
    "--model": "set llm-endpoint:model",
    "--revision": "set llm-endpoint:modelRevision",
    "--max-model-len": "set llm-endpoint:maxModelLen",
    "--gpu-memory-utilization": "set llm-endpoint:gpuMemoryUtilization",
    "--tensor-parallel-size": "set llm-endpoint:gpuCount",
    "--hf-token": "pulumi config set --secret llm-endpoint:huggingFaceToken",
    "--api-key": "leave it out: Access knows the caller, and metadata would show the key",
    "--served-model-name": "leave it out: clients know the model by llm-endpoint:model",
    "--enable-log-requests": "leave it out: prompts stay out of the logs",
    "--enable-log-outputs": "leave it out: answers stay out of the logs",
    "--disable-access-log-for-endpoints": "leave it out: health checks would drown the log",
    "--shutdown-timeout": "leave it out: it must fit the notice that the machine gets",
    "--sse-keep-alive-interval": "leave it out: it must fit Cloudflare's read timeout",
    "--fingerprint-mode": _NEW_ONE,
    "--fingerprint-value": _NEW_ONE,
    "--config": "leave it out: what stands in a file cannot be checked",
    "--help": "leave it out: vLLM would print its help and end",
    "--host": _ONE_WAY_IN,
    "--port": _ONE_WAY_IN,
    "--uds": _ONE_WAY_IN,
    "--root-path": _ONE_WAY_IN,
    "--tokens-only": _ONE_WAY_IN,
    "--grpc": _ONE_WAY_IN,
    "--grpc-port": _ONE_WAY_IN,
    "--ssl-keyfile": _ONE_WAY_IN,
    "--ssl-certfile": _ONE_WAY_IN,
    "--ssl-ca-certs": _ONE_WAY_IN,
    "--ssl-cert-reqs": _ONE_WAY_IN,
    "--headless": _ONE_ENGINE,
    "--nnodes": _ONE_ENGINE,
    "--node-rank": _ONE_ENGINE,
    "--master-addr": _ONE_ENGINE,
    "--master-port": _ONE_ENGINE,
    "--device-ids": _ONE_ENGINE,
    "--pipeline-parallel-size": _ONE_ENGINE,
    "--prefill-context-parallel-size": _ONE_ENGINE,
    "--data-parallel-size": _ONE_ENGINE,
    "--data-parallel-size-local": _ONE_ENGINE,
    "--data-parallel-rank": _ONE_ENGINE,
    "--data-parallel-start-rank": _ONE_ENGINE,
    "--data-parallel-hybrid-lb": _ONE_ENGINE,
    "--data-parallel-external-lb": _ONE_ENGINE,
    "--data-parallel-multi-port-external-lb": _ONE_ENGINE,
}
"""Flags that a stack must not give, and what to do instead."""


class Flag(NamedTuple):
    """One flag of vLLM's, as its own parser declares it."""

    names: tuple[str, ...]
    """Every spelling; the first one is the flag's name."""
    nargs: int | str | None
    """How many values follow, in argparse's terms."""
    type: type[int | float | str]
    choices: tuple[Any, ...]


_TYPES: dict[str, type[int | float | str]] = {"int": int, "float": float}


def _flag(line: str) -> Flag:
    names, nargs, kind, choices, *_ = [*line.split(), "", ""]
    return Flag(
        names=tuple(names.split(",")),
        nargs={"0": 0, "1": None}.get(nargs, nargs),
        type=_TYPES.get(kind, str),
        choices=tuple(map(_TYPES.get(kind, str), choices.split("|"))) if choices else (),
    )


def _read(path: Path) -> dict[str, Flag]:
    flags = [_flag(line) for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: flag for flag in flags for name in flag.names}


FLAGS = _read(Path(__file__).with_name("vllm_flags.txt"))
"""Every spelling of every flag of vLLM 0.33.0 (`scripts/list_vllm_flags.py` makes the list)."""


class Parsed(NamedTuple):
    """What `vllm serve` understands of a list of arguments."""

    values: dict[str, list[Any]]
    """Values by the flag's name; [True] for a flag without one."""
    unknown: list[str]
    """Arguments that it does not have."""


def parse(args: Iterable[str]) -> Parsed:
    """Read arguments as vLLM does: unambiguous abbreviations, underscores, dotted JSON and all.

    Raises ValueError, in argparse's words, for a missing or wrong value and an ambiguous flag.
    """
    known, unknown = _parser().parse_known_args(list(_normalise(args)))
    return Parsed(vars(known), unknown)


def human_readable(value: str) -> int:
    """vLLM's numbers: 4096, 32k (decimal), 32K (binary), 25.6k. Raises ValueError for others."""
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)([kmgtKMGT]?)", value)
    if found is None or ("." in found[1] and not found[2].islower()):
        raise ValueError(f"invalid human_readable_int value: '{value}'")
    power = "kmgt".index(found[2].lower()) + 1 if found[2] else 0
    return int(float(found[1]) * (1000 if found[2].islower() else 1024) ** power)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


_ACTIONS: dict[int | str | None, dict[str, Any]] = {
    0: {"action": "append_const", "const": True},
    None: {"action": "append"},
    "?": {"action": "append", "nargs": "?"},
    "+": {"action": "extend", "nargs": "+"},
}


@cache
def _parser() -> _Parser:
    parser = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for flag in dict.fromkeys(FLAGS.values()):
        typed: dict[str, Any] = {"type": flag.type, "choices": flag.choices or None}
        value = typed if flag.nargs != 0 else {}
        parser.add_argument(*flag.names, dest=flag.names[0], **_ACTIONS[flag.nargs], **value)
    return parser


def _normalise(args: Iterable[str]) -> Iterator[str]:
    """Undo what vLLM lets people write: `--a_b`, `--json.key value`, `-O3`."""
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if arg.startswith("-O") and arg != "-O":
            yield f"--optimization-level={arg[2:].removeprefix('=')}"
        elif arg.startswith("-") and "." in name:
            value = value if equals else next(rest, None)
            yield from (_dashed(name.partition(".")[0]), *([] if value is None else ["{}"]))
        elif arg.startswith("--"):
            yield _dashed(name) + equals + value
        else:
            yield arg


def _dashed(name: str) -> str:
    return "--" + name[2:].replace("_", "-") if name.startswith("--") else name
