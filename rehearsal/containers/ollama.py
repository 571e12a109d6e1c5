"""What stands where Ollama's image would: the command `ollama serve`, and what asks that server.

Weights are fetched as few bytes and nothing is computed on a GPU; how much memory things take and
how long they would take to load is reckoned from what a model says of its size. Where Ollama finds
no GPU it uses the CPU and says so in one line of its log, as in life; a model too large for the GPU
is split over both and answers slowly.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import requests

from rehearsal import figures
from rehearsal.containers.host import Machine
from rehearsal.containers.ollama_server import Options, serve

VERSION = "0.32.15"
"""Of an image without a tag."""
DRIVERS = (((0, 30), 550), ((0, 0), 531))
"""From which version on which driver is wanted (docs/gpu.mdx)."""
UNITS_S = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3}


def options(environment: Mapping[str, str], version: str) -> Options:
    """What the environment says; a value that cannot be read is passed over, as Ollama does."""

    def number(name: str, default: int) -> int:
        value = environment.get(name, "")
        return int(value) if value.isdecimal() else default

    home = Path(environment.get("HOME", "/root"))
    keep = seconds(environment.get("OLLAMA_KEEP_ALIVE", "5m"))
    return Options(
        version=version,
        models=Path(environment.get("OLLAMA_MODELS") or home / ".ollama" / "models"),
        context=number("OLLAMA_CONTEXT_LENGTH", 0),
        parallel=max(number("OLLAMA_NUM_PARALLEL", 1), 1),
        keep_alive_s=float("inf") if keep < 0 else keep,
        cloud=environment.get("OLLAMA_NO_CLOUD", "").lower() in ("", "0", "f", "false"),
    )


def seconds(text: str) -> float:
    """A duration of Go's (`5m`, `1h30m`) or a number of seconds; five minutes for anything else."""
    if re.fullmatch(r"-?\d+", text):
        return float(text)
    if re.fullmatch(r"-?(\d+(\.\d+)?(ms|[hms]))+", text):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[hms])", text)
        total = sum(float(number) * UNITS_S[unit] for number, unit in parts)
        return -total if text.startswith("-") else total
    return 300


def address(text: str) -> tuple[str, int]:
    """Where to listen, by OLLAMA_HOST (`0.0.0.0:11434`)."""
    host, colon, port = text.rpartition(":")
    return (host, int(port)) if colon and port.isdecimal() else (text or "127.0.0.1", 11434)


def log(message: str, *, level: str = "INFO", **values: object) -> None:
    """A line as Go's slog writes it."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    told = "".join(f' {key}="{value}"' for key, value in values.items())
    print(f'time={stamp} level={level} msg="{message}"{told}', file=sys.stderr, flush=True)


def usable(machine: Machine, version: str) -> Machine:
    """The machine without its GPUs where their driver is too old; it says so."""
    parts = tuple(int(part) for part in re.findall(r"\d+", version))
    wanted = next(driver for since, driver in DRIVERS if parts >= since)
    if machine.gpu is None or machine.driver >= wanted:
        return machine
    facts = {"device": machine.gpu.product, "driver": machine.driver}
    log("NVIDIA driver too old", level="WARN", **facts, required_driver=f"{wanted} or newer")
    return replace(machine, gpu=None, count=0)


def discover(machine: Machine) -> None:
    """Let the time pass that the start takes, and say what Ollama will compute on."""
    with machine.span("Ollama start", figures.seconds("Ollama start")):
        time.sleep(figures.seconds("Ollama start") / machine.speed)
    if machine.gpu is None:
        log("inference compute", id="cpu", library="cpu", compute="", name="cpu")
        return
    for index in range(machine.count):
        compute = ".".join(map(str, machine.gpu.compute_capability))
        total = f"{machine.gpu.usable_gib:.1f} GiB"
        name = f"CUDA{index}"
        log("inference compute", id=index, library="CUDA", compute=compute, name=name, total=total)


def ask(arguments: list[str]) -> None:
    """`ollama list` and `ollama pull MODEL`, which the server does. Exits 1 when it cannot."""
    host, port = address(os.environ.get("OLLAMA_HOST", ""))
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/api"  # noqa: S104
    problem = ""
    try:
        if arguments == ["list"]:
            models = requests.get(f"{url}/tags", timeout=10).json()["models"]
            print("NAME    ID    SIZE    MODIFIED")
            for model in models:
                print(model["name"], model["digest"][:12], model["size"], model["modified_at"])
        elif len(arguments) == 2 and arguments[0] == "pull":
            wanted = {"model": arguments[1]}
            with requests.post(f"{url}/pull", json=wanted, stream=True, timeout=600) as answer:
                for line in answer.iter_lines():
                    told = json.loads(line)
                    problem = told.get("error", "")
                    print(told.get("status", ""), file=sys.stderr)
        else:
            problem = f'unknown command "{" ".join(arguments)}" for "ollama"'
    except requests.ConnectionError:
        problem = "could not connect to ollama server, run 'ollama serve' to start it"
    if problem:
        print(f"Error: {problem}", file=sys.stderr)
        sys.exit(1)


def main(arguments: list[str]) -> None:
    """`ollama serve`, until SIGTERM; or what else is asked of it."""
    if arguments != ["serve"]:
        ask(arguments)
        return
    machine = Machine.read()
    version = machine.tag if re.match(r"\d", machine.tag) else VERSION
    machine = usable(machine, version)
    host, port = address(os.environ.get("OLLAMA_HOST", ""))
    chosen = options(os.environ, version)
    log(f"Ollama cloud disabled: {str(not chosen.cloud).lower()}")
    discover(machine)
    try:
        asyncio.run(serve(chosen, machine, host, port, log))
    except OSError as error:
        print(f"Error: listen tcp {host}:{port}: bind: {error.strerror}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
