"""How long `pulumi preview` takes for this program, beside a flat file with the same resources.

    .venv/bin/python tests/benchmark_preview.py [--rounds N] [--flat FILE]

The flat program is written from what this one declares: no component, no settings, no catalogue,
one constructor call after the other. Both are first held against each other under the recording
engine; then both are previewed, turn by turn, with the real engine and the rehearsal's providers.
"""

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rehearsal.session import ENDPOINT, Project, Session  # noqa: E402 (the path comes first)
from tests.conftest import (  # noqa: E402
    COMPUTED,
    MASKED,
    TUNNEL_TOKEN,
    Declared,
    Deployment,
    deploy,
)
from tests.stack_config import API_TOKEN  # noqa: E402

STACK = "dev"
HUGGING_FACE_TOKEN = "hf_of-nobody"
PREAMBLE = f'''"""What stack {STACK} declares, and nothing around it."""

import pulumi
import pulumi_cloudflare as cloudflare
import pulumi_command as command
import pulumi_gcp as gcp

api_token = pulumi.Config("cloudflare").require_secret("apiToken")
hugging_face_token = pulumi.Config("llm-endpoint").require_secret("huggingFaceToken")
'''
SECRETS = {API_TOKEN: "api_token", HUGGING_FACE_TOKEN: "hugging_face_token"}
TUNNEL = "cloudflare:index/zeroTrustTunnelCloudflared:ZeroTrustTunnelCloudflared"
TUNNEL_TOKEN_CALL = (
    "cloudflare.get_zero_trust_tunnel_cloudflared_token_output("
    "account_id={account!r}, tunnel_id={tunnel}.id).token"
)


def leaves(deployment: Deployment) -> list[Declared]:
    """What exists in a cloud: all but the components."""
    return [item for item in deployment.resources if not item.type.startswith("llm-endpoint:")]


def snake(name: str) -> str:
    """A property's Python name; what is no property's name (`enable-oslogin`, `PATH`) stays."""
    if not re.fullmatch("[a-z][a-zA-Z0-9]*", name):
        return name
    return re.sub("(?<=[a-z0-9])[A-Z]", lambda found: f"_{found[0]}", name).lower()


def variable(item: Declared) -> str:
    """The Python name of a resource."""
    return item.name.replace("-", "_")


def references(item: Declared) -> dict[str, str]:
    """The values that only this resource can give, and where a program reads them."""
    mine = variable(item)
    outputs = COMPUTED.get(item.type, {})
    known = {value: f"{mine}.{snake(key)}" for key, value in outputs.items()}
    if item.type == TUNNEL:
        account = item.received["accountId"]
        known[TUNNEL_TOKEN] = TUNNEL_TOKEN_CALL.format(account=account, tunnel=mine)
    return known | {f"{item.name}-id": f"{mine}.id"}


def expression(value: Any, known: Mapping[str, str]) -> str:
    """The value as Python source, with a reference wherever it holds a known value."""
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value).items()
        return f"{{{', '.join(f'{snake(k)!r}: {expression(v, known)}' for k, v in entries)}}}"
    if isinstance(value, list):
        return f"[{', '.join(expression(item, known) for item in cast('list[Any]', value))}]"
    if isinstance(value, float) and value.is_integer():
        return repr(int(value))  # the wire has no whole numbers
    if not isinstance(value, str) or not value:
        return repr(value)
    longest_first = sorted(map(re.escape, known), key=len, reverse=True)
    parts = [part for part in re.split(f"({'|'.join(longest_first)})", value) if part]
    sources = [known.get(part, repr(part)) for part in parts]
    return f"pulumi.Output.concat({', '.join(sources)})" if len(sources) > 1 else "".join(sources)


def constructor(item: Declared, waits_for: list[Declared]) -> str:
    """The statement that declares a resource."""
    package, module, name = item.type.split(":")
    module = module.partition("/")[0]
    path = [package, name] if module == "index" else [package, module, name]
    known = {k: v for other in waits_for for k, v in references(other).items()} | SECRETS
    lines = [f'"{item.name}"']
    for key, value in sorted(item.received.items()):
        source = expression(value, known)
        hidden = item.inputs[key] == MASKED
        lines.append(f"{snake(key)}={f'pulumi.Output.secret({source})' if hidden else source}")
    others = ", ".join(map(variable, waits_for))
    lines.append(f"opts=pulumi.ResourceOptions(protect={item.protect}, depends_on=[{others}])")
    return f"{variable(item)} = {'.'.join(path)}(\n    " + ",\n    ".join(lines) + ",\n)\n"


def flat_program(deployment: Deployment) -> str:
    """Python source that declares a deployment's resources one after the other."""
    found = leaves(deployment)
    statements = [
        constructor(item, [other for other in found if other.urn in item.depends_on])
        for item in found
    ]
    return "\n".join([PREAMBLE, *statements])


def declares(deployment: Deployment) -> dict[tuple[str, str], Any]:
    """All that two programs must have in common: inputs, secrecy, protection, order."""
    found = leaves(deployment)
    return {
        (item.type, item.name): (
            dict(item.inputs),
            dict(item.received),
            item.protect,
            {other.name for other in found if other.urn in item.depends_on},
        )
        for item in found
    }


def write_flat_project(folder: Path) -> Project:
    """Write the flat program, with this project's name and configuration keys, into a folder.

    Raises AssertionError where it declares something else than this program.
    """
    changes = {"llm-endpoint:huggingFaceToken": HUGGING_FACE_TOKEN}
    ours = deploy(STACK, changes)
    program = folder / "__main__.py"
    program.write_text(flat_program(ours))
    shutil.copy(ROOT / "Pulumi.yaml", folder)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    assert declares(deploy(STACK, changes, program)) == declares(ours)
    return Project(ENDPOINT.name, folder)


@dataclass(frozen=True)
class Preview:
    """What one preview of a stack that is not there yet cost."""

    wall_s: float
    cpu_s: float
    """Of the engine, its language host and the program; not of the rehearsal's providers."""
    resources: int
    """That it would create."""


def preview(session: Session, project: Project) -> Preview:
    """Run one, with the real engine."""
    cpu, wall = cpu_of_children_s(), time.perf_counter()
    run = session.must(session.pulumi("preview", stack=STACK, project=project))
    return Preview(time.perf_counter() - wall, cpu_of_children_s() - cpu, run.changes["create"])


def cpu_of_children_s() -> float:
    """CPU seconds of all commands that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(session: Session, projects: Mapping[str, Project], rounds: int) -> None:
    """Preview every project in turn, after a round that does not count, and print the figures."""
    previews: dict[str, list[Preview]] = {name: [] for name in projects}
    for turn in range(rounds + 1):
        # Whoever is first in one round is last in the next.
        for name in sorted(projects, reverse=turn % 2 == 1):
            taken = preview(session, projects[name])
            if turn:
                previews[name].append(taken)
                print(f"round {turn}: {name:<13} {taken.wall_s:6.2f} s", flush=True)
    report("seconds", {name: [one.wall_s for one in of] for name, of in previews.items()})
    report("CPU seconds", {name: [one.cpu_s for one in of] for name, of in previews.items()})
    print(", ".join(f"{name}: {of[0].resources} resources" for name, of in previews.items()))


def report(unit: str, figures: Mapping[str, Sequence[float]]) -> None:
    """Print least, median and most of each, and how the first compares with the second."""
    print(f"\n{unit:<13} {'min':>6} {'median':>6} {'max':>6}")
    for name, values in figures.items():
        three = (min(values), statistics.median(values), max(values))
        print(f"{name:<13} " + " ".join(f"{value:6.2f}" for value in three))
    ours, flat = (statistics.median(values) for values in figures.values())
    print(f"ratio of the medians: {ours / flat:.2f}")


def main() -> None:
    """Measure, and leave nothing behind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="previews of each (default: 7)")
    parser.add_argument("--flat", type=Path, metavar="FILE", help="keep the flat program here")
    options = parser.parse_args()
    engine = subprocess.check_output([ROOT / "scripts" / "setup"], text=True).strip()
    os.environ["LLM_ENDPOINT_ENGINE_BIN"] = engine
    scratch = ROOT / ".rehearsal"
    scratch.mkdir(exist_ok=True)
    # Within the repository, whose state the engine notes with every preview.
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        flat = write_flat_project(Path(folder))
        if options.flat:
            shutil.copy(flat.directory / "__main__.py", options.flat)
        session = Session(Path(tempfile.mkdtemp()))
        try:
            session.own(STACK)
            session.start_daemon(speed=60, outlives_us=False)
            session.prepare_stack(STACK)
            measure(session, {"this program": ENDPOINT, "flat file": flat}, options.rounds)
        finally:
            session.discard()


if __name__ == "__main__":
    main()
