"""`scripts/rehearse`: up, use, refuse, destroy, audit, with the real engine and no cloud."""

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

from rehearsal import audit, checks, leaks, preconditions, report, timeline
from rehearsal.errors import RehearsalError
from rehearsal.progress import Progress
from rehearsal.session import CONSUMER, ENDPOINT, ROOT, Session

HOME = ROOT / ".rehearsal"
KEPT = HOME / "kept"
LAST = HOME / "last"
DEFAULT_SPEED = 60.0

Stage = Callable[..., AbstractContextManager[None]]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/rehearse",
        description="Rehearse a stack on this machine: the real Pulumi engine, program and startup "
        "script against two simulated clouds. No account, no cost.",
    )
    parser.add_argument("--stack", default=None, help="the stack to rehearse (default: dev)")
    parser.add_argument("--keep", action="store_true", help="leave it up and print how to use it")
    parser.add_argument("--down", action="store_true", help="destroy and audit what was kept")
    parser.add_argument(
        "--speed",
        type=_speed,
        default=DEFAULT_SPEED,
        metavar="N",
        help=f"seconds of cloud time in one second here (default: {DEFAULT_SPEED:g})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a report for machines")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="answer with this model of yours")
    options = parser.parse_args()
    if options.keep and options.down:
        parser.error("--keep and --down exclude each other")
    if options.gguf and not options.gguf.is_file():
        parser.error(f"--gguf {options.gguf}: no such file")
    return options


def main() -> int:
    """Run the rehearsal that the command line asks for; the exit status is 0 when all held."""
    options = arguments()
    signal.signal(signal.SIGTERM, _as_interrupt)
    progress = Progress()
    try:
        if options.down:
            return take_down(progress, options.stack)
        return rehearse(progress, options)
    except RehearsalError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing of this rehearsal is left running.", file=sys.stderr)
        return 130


def rehearse(progress: Progress, options: argparse.Namespace) -> int:
    """One whole rehearsal of a stack; with --keep it ends before the destroy."""
    stack = options.stack or "dev"
    preconditions.check(HOME)
    home = KEPT if options.keep else HOME / "runs" / f"{time.time_ns() // 10**6}-{os.getpid()}"
    session = Session(home, progress)
    ours = session.daemon is None
    if options.keep and stack in session.stacks() and not ours:
        raise RehearsalError(f"Stack {stack} is up already: use it, or ./scripts/rehearse --down")
    result = report.Report(stack=stack, platform=_platform(stack), speed=options.speed)
    set_up = float(os.environ.get("LLM_ENDPOINT_SETUP_SECONDS", "0"))
    began = time.monotonic() - set_up
    result.seconds["setup"] = set_up
    progress.line(f"Rehearsing stack {stack}: the real engine and program, simulated clouds.")
    try:
        try:
            _stages(session, stack, options, result)
        except RehearsalError as error:
            result.error = str(error)
        except KeyboardInterrupt:
            if options.keep and not ours:
                session.pulumi("cancel", "--yes", stack=stack)
                session.pulumi("destroy", "--yes", "--remove", stack=stack)
            raise
        result.seconds["total"] = time.monotonic() - began
        result.timeline = session.timeline()
        _show(progress, result)
        if options.json:
            result.write(options.json)
        if options.keep and result.ok:
            _how_to_use(progress, session, stack)
    finally:
        failed = sys.exc_info()[0] is not None
        if not options.keep or (ours and (failed or not result.ok)):
            _keep_logs(session)
            session.discard()
    return 0 if result.ok else 1


def _stages(
    session: Session, stack: str, options: argparse.Namespace, result: report.Report
) -> None:
    """Up, use, up again, consume, refuse, destroy, audit. Raises RehearsalError."""
    stage = _stages_of(session, result)

    with stage("start the clouds and configure the stack"):
        session.own(stack)
        session.start_daemon(options.speed, outlives_us=options.keep, gguf=options.gguf)
        session.prepare_stack(stack)
    with stage("pulumi up", "up"):
        up = session.must(session.pulumi("up", "--yes", stack=stack))
        result.resources = up.changes.get("create", 0)
    endpoint = checks.Endpoint(session, stack)
    with stage("ask the model through Access"):
        _check(result, checks.answers(endpoint))
    with stage("pulumi up again, which must change nothing", "noop_up"):
        again = session.must(session.pulumi("up", "--yes", stack=stack))
        result.second_up_changes = again.changed
        result.check("a second up changes nothing", not again.changed, str(again.changes))
    with stage("another team's stack takes the endpoint"):
        session.prepare_consumer(stack)
        session.must(session.pulumi("up", "--yes", stack=stack, project=CONSUMER))
        _check(result, checks.consumer_has_it(endpoint))
    with stage("strangers and side doors are refused"):
        _check(result, checks.refusals(endpoint))
    with stage("look for secrets where none belongs"):
        _check(result, leaks.check(session, stack, endpoint))
    if options.keep:
        return
    with stage("pulumi destroy", "destroy"):
        _destroy(session, stack, result)
    with stage("audit both clouds"):
        result.leftovers = audit.leftovers(session)
        result.check("both clouds are empty", not result.leftovers, ", ".join(result.leftovers))


def _destroy(session: Session, stack: str, result: report.Report) -> None:
    """Destroy the consumer's stack, then the endpoint's, in one run each."""
    if stack in session.stacks(CONSUMER):
        session.must(session.pulumi("destroy", "--yes", stack=stack, project=CONSUMER))
        session.must(session.pulumi("stack", "rm", "--yes", stack, stack=stack, project=CONSUMER))
    if _protected(session, stack):
        refused = session.pulumi("destroy", "--yes", stack=stack)
        text = "is protected" if "protected" in refused.stdout else refused.stdout[-200:]
        result.check("destroy is refused while the stack is protected", not refused.ok, text)
        session.must(session.pulumi("config", "set", "protect", "false", stack=stack))
        session.must(session.pulumi("up", "--yes", stack=stack))
    destroyed = session.must(session.pulumi("destroy", "--yes", stack=stack))
    result.check("one destroy suffices", destroyed.ok, str(destroyed.changes))
    session.must(session.pulumi("stack", "rm", "--yes", stack, stack=stack))


def take_down(progress: Progress, stack: str | None) -> int:
    """Destroy what --keep left up, one stack or all; audit; stop the clouds when all is gone."""
    session = Session(KEPT, progress)
    stacks = session.stacks()
    if stack is not None and stack not in stacks:
        raise RehearsalError(f"--stack {stack}: not up; up are: {', '.join(stacks) or 'none'}")
    if not stacks and session.daemon is None:
        progress.line("Nothing is up.")
        session.discard()
        return 0
    session.start_daemon(DEFAULT_SPEED, outlives_us=True)
    result = report.Report(stack=", ".join(stacks), platform="vm", speed=DEFAULT_SPEED)
    for name in [stack] if stack else stacks:
        with progress.step(f"pulumi destroy, stack {name}"):
            _destroy(session, name, result)
    left = audit.leftovers(session)
    for item in left:
        progress.line(f"  LEFT OVER  {item}")
    if not left:
        progress.line(
            "Both clouds are empty." if not session.stacks() else "Nothing of it is left."
        )
    if not session.stacks():
        _keep_logs(session)
        session.discard()
    return 1 if left else 0


def _stages_of(session: Session, result: report.Report) -> Stage:
    progress = session.progress or Progress()

    @contextmanager
    def stage(name: str, key: str | None = None) -> Generator[None]:
        start = time.monotonic()
        with timeline.span(session.world / "timeline.jsonl", name), progress.step(name):
            yield
        if key:
            result.seconds[key] = time.monotonic() - start

    return stage


def _check(result: report.Report, outcomes: Iterator[checks.Outcome]) -> None:
    for name, ok, detail in outcomes:
        result.check(name, ok, detail)


def _show(progress: Progress, result: report.Report) -> None:
    progress.line()
    for line in [*report.draw(result.timeline), "", *report.summary(result)]:
        progress.line(line)


def _how_to_use(progress: Progress, session: Session, stack: str) -> None:
    """The export lines and the curl line of a kept stack."""
    endpoint = checks.Endpoint(session, stack)
    progress.line(f"\nStack {stack} is up. In any shell, from {ROOT}:\n")
    for name, value in session.exports(stack).items():
        shown = value.replace(os.environ["PATH"], "$PATH") if name == "PATH" else value
        progress.line(f'export {name}="{shown}"')
    body = json.dumps({"model": endpoint.model, "messages": [{"role": "user", "content": "Hi"}]})
    progress.line(
        "\nThen plain pulumi preview | up | refresh | stack output | config set | destroy, and:\n\n"
        "./scripts/access-headers | curl -sS -H @- -H 'Content-Type: application/json' "
        f"-d '{body}' {endpoint.base_url}/chat/completions\n\n"
        f"Its stack configuration is {shlex.quote(str(session.stack_file(ENDPOINT, stack)))}; "
        "take all down with: ./scripts/rehearse --down"
    )


def _protected(session: Session, stack: str) -> bool:
    run = session.pulumi("config", "get", "protect", stack=stack)
    return run.ok and run.stdout.strip() == "true"


def _platform(stack: str) -> str:
    text = (
        (ROOT / f"Pulumi.{stack}.yaml").read_text()
        if (ROOT / f"Pulumi.{stack}.yaml").exists()
        else ""
    )
    return "cloud-run" if "platform: cloud-run" in text else "vm"


def _keep_logs(session: Session) -> None:
    """The logs of the last rehearsal outlive it, for whoever wants to read them."""
    shutil.rmtree(LAST, ignore_errors=True)
    LAST.mkdir(parents=True)
    for path in (session.logs, session.world / "machines"):
        if path.exists():
            shutil.copytree(path, LAST / path.name, ignore=shutil.ignore_patterns("*.sock"))
    for name in ("daemon.log", "timeline.jsonl"):
        if (session.world / name).exists():
            shutil.copy(session.world / name, LAST / name)


def _speed(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 (real time) to 1000")
    return value


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
