"""The flags of `vllm serve`: which there are, and which the program sets itself."""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from components.vllm_values import Value, human_readable_int

_ONE_WAY_IN = "leave it out: the tunnel reaches the engine at its own plain HTTP port"
_ONE_ENGINE = "leave it out: one engine spans the GPUs; for more set llm-endpoint:replicas"
_NEW_ONE = "leave it out: `pulumi up` knows the new machine by its fingerprint"

NOT_YOURS = {
    "--model": "set llm-endpoint:model",
    "--revision": "set llm-endpoint:modelRevision",
    "--max-model-len": "set llm-endpoint:maxModelLen",
    "--gpu-memory-utilization": "set llm-endpoint:gpuMemoryUtilization",
    "--load-format": "set llm-endpoint:weights",
    "--model-loader-extra-config": "set llm-endpoint:weights",
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
    "--middleware": "leave it out: it would see every prompt and every answer",
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

NEEDS = {
    "--enable-auto-tool-choice": "--tool-call-parser",
    "--collect-detailed-traces": "--otlp-traces-endpoint",
    "--enable-elastic-ep": "--enable-eplb",
    "--numa-bind-nodes": "--numa-bind",
    "--numa-bind-cpus": "--numa-bind",
}
EXCLUDES = {"--enable-per-request-metrics": "--disable-log-stats"}
"""Flags that vLLM does not start with unless another is there, or when it is."""


DEEPEST = 50
"""Keys of a dotted flag (`--json.key.key`)."""


class Flag(NamedTuple):
    """One flag of vLLM's, as its own parser declares it."""

    names: tuple[str, ...]
    """Every spelling; the first one is the flag's name."""
    nargs: int | str | None
    """How many values follow, in argparse's terms."""
    value: Value


def _flag(line: str) -> Flag:
    names, nargs, kind, values, *_ = [*line.split(), "", ""]
    return Flag(
        names=tuple(names.split(",")),
        nargs={"0": 0, "1": None}.get(nargs, nargs),
        value=Value(
            kind=kind.removesuffix("?"),
            optional=kind.endswith("?"),
            among=tuple(values.split("|")) if values else (),
        ),
    )


def _read(path: Path) -> dict[str, Flag]:
    flags = [_flag(line) for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: flag for flag in flags for name in flag.names}


FLAGS = _read(Path(__file__).with_name("vllm_flags.txt"))
"""Every spelling of every flag of vLLM 0.33.0 (`scripts/list_vllm_flags.py` makes the list)."""


class Parsed(NamedTuple):
    """What `vllm serve` understands of a list of arguments."""

    values: dict[str, list[Any]]
    """Values by the flag's name; of a flag without one, whether it was said or denied."""
    unknown: list[str]
    """Arguments that it does not have."""


def parse(args: Iterable[str]) -> Parsed:
    """Read arguments as vLLM does: unambiguous abbreviations, underscores, dotted JSON and all.

    Raises ValueError, in argparse's words, for a missing or wrong value and an ambiguous flag;
    also for what vLLM's configuration refuses before anything is loaded.
    """
    known, unknown = _parser().parse_known_args(list(_normalise(args)))
    values: dict[str, list[Any]] = vars(known)
    said = {flag for flag, given in values.items() if given[-1] not in (False, None)}
    for flag, other in NEEDS.items():
        if flag in said and other not in said:
            raise ValueError(f"{flag} requires {other}")
    for flag, other in EXCLUDES.items():
        if {flag, other} <= said:
            raise ValueError(f"{flag} and {other} exclude each other")
    return Parsed(values, unknown)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _Said(argparse.Action):
    """Appends True for a flag's own or short name, False for its opposite."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        said = option_string == self.option_strings[0] or not str(option_string).startswith("--")
        setattr(namespace, self.dest, [*getattr(namespace, self.dest, []), said])


_ACTIONS: dict[int | str | None, dict[str, Any]] = {
    0: {"action": _Said},
    None: {"action": "append"},
    "?": {"action": "append"},
    "+": {"action": "extend"},
}


@cache
def _parser() -> _Parser:
    parser = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for flag in dict.fromkeys(FLAGS.values()):
        typed: dict[str, Any] = {"type": flag.value.read, "choices": flag.value.choices()}
        parser.add_argument(
            *flag.names,
            dest=flag.names[0],
            nargs=flag.nargs,
            **_ACTIONS[flag.nargs],
            **(typed if flag.nargs != 0 else {}),
        )
    return parser


def _normalise(args: Iterable[str]) -> Iterator[str]:
    """Undo what vLLM lets people write: `--a_b`, `--json.key value`, `-O3`."""
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if arg.startswith("-O") and arg != "-O":
            yield f"--optimization-level={arg[2:].removeprefix('=')}"
        elif arg == "-O":
            yield "--optimization-level"
        elif arg.startswith("-") and "." in name:
            flag, *keys = name.split(".")
            if len(keys) > DEEPEST:
                raise ValueError(f"argument {_dashed(flag)}: nested too deeply")
            value = value if equals else next(rest, None)
            yield from (_dashed(flag), *([] if value is None else [_nested(keys, value)]))
        elif arg.startswith("--"):
            yield _dashed(name) + equals + value
        else:
            yield arg


def _nested(keys: Sequence[str], text: str) -> str:
    """The JSON object that `.key.key=text` stands for; `.key+=a,b` is a list."""
    last = keys[-1]
    value: Any = text.split(",") if last.endswith("+") else _loosely(text)
    for key in reversed([*keys[:-1], last.removesuffix("+")]):
        value = {key: value}
    return json.dumps(value)


def _loosely(text: str) -> Any:
    """JSON, else a size, else the text."""
    for convert in (json.loads, human_readable_int):
        try:
            return convert(text)
        except (ValueError, RecursionError):
            continue
    return text


def _dashed(name: str) -> str:
    return "--" + name[2:].replace("_", "-") if name.startswith("--") else name
