"""How much longer `pulumi up` takes than the longest chain of what must precede the answer.

    .venv/bin/python tests/benchmark_up.py [--model NAME] [--weights KIND] [--speed N]

A rehearsal of stack dev, in real time unless told otherwise (then it takes about ten minutes): the
real engine, program and startup script, clouds that take as long as rehearsal/figures.py says. The
chain is the one that ./scripts/timeline marks; what a cloud does in it counts as its figure.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rehearsal import figures  # noqa: E402 (the path comes first)
from rehearsal.session import Session  # noqa: E402
from scripts import spans, timeline, timeline_drawing  # noqa: E402
from scripts.spans import Span  # noqa: E402
from tests.creation import LIVES  # noqa: E402

STACK = "dev"
AT_MOST = 1.05


def needed_s(span: Span, speed: float) -> float:
    """What a step of the chain takes, without what Pulumi and polls add: here, in seconds."""
    if span.type in LIVES:
        return figures.seconds(LIVES[span.type].create) / speed
    return span.seconds


def report(preview_s: float, up_s: float, found: list[Span], speed: float) -> None:
    """Print the chain and how it compares with the whole."""
    critical = spans.critical(found)
    print("\n".join(timeline_drawing.text(found, critical)))
    chain_s = sum(needed_s(it, speed) for it in critical)
    story_s = max(it.end for it in found) - min(it.start for it in found)
    for what, seconds in (
        ("the chain, what must precede the answer", chain_s),
        ("pulumi up, without its preview", up_s),
        ("of which before the first resource was begun", up_s - story_s),
        ("its preview", preview_s),
    ):
        print(f"{what:<48} {seconds:8.1f} s")
    print(f"{'ratio':<48} {up_s / chain_s:8.3f}     (at most {AT_MOST} in real time)")
    print(f"{'with the preview':<48} {(preview_s + up_s) / chain_s:8.3f}")


def main() -> None:
    """Measure, and leave nothing behind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="Qwen/Qwen3-8B")
    parser.add_argument("--weights", default="bucket", choices=("bucket", "hub"))
    parser.add_argument(
        "--speed", type=float, default=1.0, help="seconds of cloud time in one here"
    )
    options = parser.parse_args()
    engine = subprocess.check_output([ROOT / "scripts" / "setup"], text=True).strip()
    os.environ["LLM_ENDPOINT_ENGINE_BIN"] = engine
    session = Session(Path(tempfile.mkdtemp()))
    try:
        session.own(STACK)
        session.start_daemon(speed=options.speed, outlives_us=False)
        session.prepare_stack(STACK)
        for key, value in (("model", options.model), ("weights", options.weights)):
            session.must(session.pulumi("config", "set", key, value, stack=STACK))
        began = time.monotonic()
        session.must(session.pulumi("preview", stack=STACK))
        previewed = time.monotonic()
        session.must(session.pulumi("up", "--yes", "--skip-preview", stack=STACK))
        up_s, preview_s = time.monotonic() - previewed, previewed - began
        os.environ.update(session.environment(STACK))
        _, found = timeline.story(STACK)
        report(preview_s, up_s, found, options.speed)
    finally:
        session.discard()


if __name__ == "__main__":
    main()
