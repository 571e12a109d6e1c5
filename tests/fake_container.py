"""A container for tests: writes down how it was started, answers on a port, ends when told to."""

import hashlib
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

OUTPUT = Path("/var/tmp/containers")  # noqa: S108 -- of the guest, and of one test


LOADED = Path("/root/.cache/loaded")  # where the machine's own cache is mounted


COMPILED = Path("/root/.cache/vllm/torch_compile_cache/1a2b/artifact")


class Handler(BaseHTTPRequestHandler):
    """200 for everything; with `--load`, 503 until a test says that the model is loaded."""

    def do_GET(self) -> None:
        loading = "--load" in sys.argv and not LOADED.exists()
        if loading:
            print("still loading", flush=True)
        self.send_response(503 if loading else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def secret_of(argument: str) -> str:
    """A hash of the mounted file that an argument names, or why it cannot be read."""
    try:
        return hashlib.sha256(Path(argument.partition("=")[2]).read_bytes()).hexdigest()
    except OSError as error:
        return f"error: {error.strerror}"


def end(*_: object) -> None:
    """Say that it was asked to, and end."""
    print("container ended on SIGTERM", flush=True)
    sys.exit(0)


def main() -> None:
    """Until SIGTERM."""
    signal.signal(signal.SIGTERM, end)
    arguments = sys.argv[1:]
    tokens = [it for it in arguments if it.startswith("--token-file=")]
    status = Path("/proc/self/status").read_text()
    report = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "run": sorted(os.listdir("/run")),
        "secrets": sorted(os.listdir("/run/secrets")) if Path("/run/secrets").exists() else [],
        "weights": sorted(
            str(path.relative_to("/weights"))
            for path in Path("/weights").rglob("*")
            if path.is_file()
        ),
        "secret": [secret_of(it) for it in tokens],
        "gpus": json.loads(Path("/run/rehearsal/machine.json").read_text())["gpu"]["count"],
        "capabilities": status.partition("CapEff:\t")[2].partition("\n")[0],
        "pid": os.getpid(),
    }
    print("container " + json.dumps(report), flush=True)
    for line in (it.removeprefix("--say=") for it in arguments if it.startswith("--say=")):
        print(line, flush=True)
    if "--compile" in arguments:
        if COMPILED.exists() and COMPILED.read_text() != "compiled":
            print("_pickle.UnpicklingError: pickle data was truncated", flush=True)
            sys.exit(1)
        print("compiled before" if COMPILED.exists() else "compiling", flush=True)
        COMPILED.parent.mkdir(parents=True, exist_ok=True)
        COMPILED.write_text("compiled")
    if "--crash" in arguments:
        sys.exit(3)
    if "--serve" in arguments:
        HTTPServer(("0.0.0.0", 8000), Handler).serve_forever()  # noqa: S104 -- as the engine must
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
