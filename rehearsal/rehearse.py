"""`scripts/rehearse`: up, use, refuse, destroy, audit, with the real engine and no cloud."""

import argparse
import http.client
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

from rehearsal import (
    audit,
    checks,
    fault_run,
    homes,
    interruptions,
    leaks,
    preconditions,
    report,
    timeline,
)
from rehearsal.errors import RehearsalError
from rehearsal.fault_library import FAULTS
from rehearsal.progress import Progress
from rehearsal.session import CONSUMER, ENDPOINT, PROJECTS, ROOT, Session

DEFAULT_SPEED = 60.0
GGUF_MAGIC = b"GGUF"
MOMENTS = 20

UNREACHABLE = (OSError, http.client.HTTPException, subprocess.TimeoutExpired, sqlite3.Error)
"""What goes wrong with a machine's disk or with the clouds' sockets, not with our code."""

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

NO_CONSUMERS = (
    "Left out: service tokens, an openai client and another team's stack, which need an entry in "
    "llm-endpoint:consumers. A person who logged in asked instead."
)

Stage = Callable[..., AbstractContextManager[None]]


def arguments() -> argparse.Namespace:
    """The command line. What cannot work is refused here, before anything is started."""
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
    parser.add_argument(
        "--json", type=_writable, metavar="FILE", help="write a report for machines"
    )
    parser.add_argument(
        "--gguf", type=_gguf, metavar="FILE", help="answer with this model of yours"
    )
    parser.add_argument(
        "--fault",
        action="append",
        choices=sorted(FAULTS),
        metavar="NAME",
        help="let this go wrong, and look what comes of it (may be repeated)",
    )
    parser.add_argument(
        "--faults",
        choices=("all", "interruptions"),
        help="let everything of rehearsal/fault_library/ go wrong, one after the other; or stop"
        f" `up` and `destroy` at {MOMENTS} random moments each",
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="draws the moments (default: 1)"
    )
    options = parser.parse_args()
    if options.keep and options.down:
        parser.error("--keep and --down exclude each other")
    if (options.fault or options.faults) and (options.keep or options.down or options.stack):
        parser.error("faults have stacks of their own: leave --keep, --down and --stack out")
    if options.down and options.json:
        parser.error("--json reports a rehearsal; --down is none")
    return options


def main() -> int:
    """Run the rehearsal that the command line asks for; the exit status is 0 when all held."""
    options = arguments()
    for number in INTERRUPTIONS:
        signal.signal(number, _interrupted)
    progress = Progress()
    try:
        if options.down:
            return take_down(progress, options)
        if options.fault or options.faults:
            return let_fail(progress, options)
        return rehearse(progress, options)
    except RehearsalError as error:
        print(f"\n{error}", file=sys.stderr)
    except UNREACHABLE as error:
        text = preconditions.with_way_out(f"The rehearsal broke off: {error}")
        print(f"\n{text}", file=sys.stderr)
    except KeyboardInterrupt as signalled:
        print(_after_interruption(options), file=sys.stderr)
        return 128 + signalled.args[0]
    return 1


def _after_interruption(options: argparse.Namespace) -> str:
    """What is left where it was interrupted."""
    if not options.down:
        return "Nothing half-made is left."
    again = "./scripts/rehearse --down" + (f" --stack {options.stack}" if options.stack else "")
    return f"What was not destroyed yet is still up. Go on with: {again}"


def rehearse(progress: Progress, options: argparse.Namespace) -> int:
    """One whole rehearsal of a stack; with --keep it ends before the destroy."""
    stack = options.stack or "dev"
    Session.stack_source(stack)
    preconditions.check(homes.ALL)
    with homes.kept() if options.keep else homes.one_run() as home:
        session = Session(home, progress)
        if options.keep and stack in session.standing():
            return _already_up(session, stack, options)
        shared = options.keep and bool(session.standing())
        if not shared:
            session.discard()  # what a killed command left half-made
            session = Session(home, progress)
        done = False
        try:
            result = _rehearse(session, stack, options)
            done = result.ok
        finally:
            if not (options.keep and done):
                _clear(session, stack, shared)
    return 0 if result.ok else 1


def _rehearse(session: Session, stack: str, options: argparse.Namespace) -> report.Report:
    """Every stage, then what was found: on the terminal and, if wanted, as JSON."""
    progress = session.progress or Progress()
    result = report.Report(stack=stack, platform=_platform(stack))
    result.seconds["setup"] = float(os.environ.get("LLM_ENDPOINT_SETUP_SECONDS", "0"))
    began, since = time.monotonic() - result.seconds["setup"], time.time()
    progress.line(f"Rehearsing stack {stack}: the real engine and program, simulated clouds.")
    try:
        _stages(session, stack, options, result)
    except (RehearsalError, *UNREACHABLE) as error:
        text = session.why_the_clouds_ended() or str(error)
        if not options.keep:
            text = text.replace(str(session.logs), str(homes.LAST / session.logs.name))
        result.check("the rehearsal runs to its end", False, preconditions.with_way_out(text))
    result.seconds["total"] = time.monotonic() - began
    result.timeline = session.timeline(since)  # the clouds of other kept stacks have a history
    progress.line()
    columns = shutil.get_terminal_size((report.COLUMNS, 0)).columns - 1
    for line in [
        *report.draw(result.timeline, columns),
        "",
        *report.summary(result, options.speed),
    ]:
        progress.line(line)
    if options.json:
        result.write(options.json)
    if options.keep and result.ok:
        session.stands(stack)
        _how_to_use(session, stack)
    elif not result.ok:
        progress.line(f"  Logs: {homes.LAST}")
    return result


def _stages(
    session: Session, stack: str, options: argparse.Namespace, result: report.Report
) -> None:
    """Up, use, up again, consume, refuse, destroy, audit. Raises RehearsalError."""
    stage = _stages_of(session, result)

    with stage("start the clouds, configure the stack", "setup"):
        session.own(stack)
        session.start_daemon(options.speed, outlives_us=False, gguf=options.gguf)
        session.prepare_stack(stack)
    with stage("pulumi up", "up"):
        up = session.must(session.pulumi("up", "--yes", stack=stack))
        result.resources = up.changes.get("create", 0)
    endpoint = checks.Endpoint(session, stack)
    with stage("ask the model through Access"):
        _check(result, checks.answers(endpoint))
        _check(result, checks.staged_without_a_gpu(endpoint))
    with stage("pulumi up again: nothing may change", "noop_up"):
        # The first up showed a preview; the later ones go without, to spare half a minute.
        again = session.must(session.pulumi("up", "--yes", "--skip-preview", stack=stack))
        result.second_up_changes = again.changed
        result.check("a second up changes nothing", not again.changed, str(again.changes))
    if result.platform == "cloud-run":
        with stage("the service sleeps, and wakes"):
            _check(result, checks.sleeps_and_wakes(endpoint, options.speed))
    if endpoint.credentials:
        with stage("another team's stack takes the endpoint"):
            session.prepare_consumer(stack)
            up = ("up", "--yes", "--skip-preview")
            session.must(session.pulumi(*up, stack=stack, project=CONSUMER))
            _check(result, checks.consumer_has_it(endpoint, endpoint.credentials))
    elif session.progress:
        session.progress.line(f"  {NO_CONSUMERS}")
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
        found = audit.told(session, stack, "--gone")
        result.check("scripts/audit finds nothing left over", found["ok"], audit.in_words(found))


def _destroy(session: Session, stack: str, result: report.Report) -> None:
    """Destroy the consumer's stack, then the endpoint's, in one run each, where they stand."""
    destroy = ("destroy", "--yes", "--skip-preview")
    if stack in session.stacks(CONSUMER):
        session.must(session.pulumi(*destroy, stack=stack, project=CONSUMER))
        session.must(session.pulumi("stack", "rm", "--yes", stack, stack=stack, project=CONSUMER))
    if stack not in session.stacks():
        return  # its person destroyed it by hand
    if session.protected(stack):
        refused = session.pulumi("destroy", "--yes", stack=stack)
        text = "is protected" if "protected" in refused.stdout else refused.stdout[-200:]
        result.check("destroy is refused while the stack is protected", not refused.ok, text)
        session.must(session.pulumi("config", "set", "protect", "false", stack=stack))
        session.must(session.pulumi("up", "--yes", "--skip-preview", stack=stack))
    # What a half-way configuration has left protected, the person who takes it down wants gone.
    session.must(session.pulumi("state", "unprotect", "--all", "--yes", stack=stack))
    destroyed = session.must(session.pulumi(*destroy, stack=stack))
    result.check("one destroy suffices", destroyed.ok, str(destroyed.changes))
    session.must(session.pulumi("stack", "rm", "--yes", stack, stack=stack))


def let_fail(progress: Progress, options: argparse.Namespace) -> int:
    """Let things go wrong, and print what came of each; 0 when every promise was kept."""
    preconditions.check(homes.ALL)
    chosen = [FAULTS[name] for name in options.fault or ()]
    if options.faults == "all":
        chosen = [*FAULTS.values()]
    elif options.faults == "interruptions":
        chosen += interruptions.moments(MOMENTS, options.seed)
    progress.line(f"{len(chosen)} faults, in {fault_run.WORLDS} worlds at a time.")
    start = time.monotonic()
    findings = fault_run.play(chosen, progress)
    for text in ("", *fault_run.table(findings), "", *fault_run.summary(findings)):
        progress.line(text)
    progress.line(f"  {time.monotonic() - start:.0f} s.  Logs of the last world: {homes.LAST}")
    if options.json:
        fault_run.write(findings, options.json)
    return 0 if all(finding.ok for finding in findings) else 1


def take_down(progress: Progress, options: argparse.Namespace) -> int:
    """Destroy what --keep left up, one stack or all; audit; stop the clouds when all is gone."""
    with homes.kept() as home:
        session = Session(home, progress)
        stacks = _up(session)
        if options.stack is not None and options.stack not in stacks:
            up = ", ".join(stacks) or "none"
            raise RehearsalError(f"--stack {options.stack}: not up; up are: {up}")
        if not stacks and session.daemon is None:
            progress.line("Nothing is up.")
            session.discard()
            return 0
        session.start_daemon(options.speed, outlives_us=True)
        result = report.Report(stack="", platform="")
        for name in [options.stack] if options.stack else stacks:
            with progress.step(f"pulumi destroy, stack {name}"):
                session.release(name)
                _destroy(session, name, result)
        left = audit.leftovers(session)
        for item in left:
            progress.line(f"  LEFT OVER  {item}")
        for bucket in audit.kept(session):
            progress.line(f"  kept on purpose (keepWeights): the bucket {bucket}")
        stacks = _up(session)
        if not stacks:
            homes.keep_logs(session)
            session.discard()
        if not left:
            nothing = "Nothing of it is left; up are: " + ", ".join(stacks)
            progress.line(nothing if stacks else "Both clouds are empty.")
    return 1 if left else 0


def _up(session: Session) -> list[str]:
    """The names of the stacks that are up, of the endpoint or of its consumer alone."""
    return sorted({stack for project in PROJECTS for stack in session.stacks(project)})


def _clear(session: Session, stack: str, shared: bool) -> None:
    """After the rehearsal, or whatever ended it: nothing of it stays.

    In clouds that other kept stacks share, only this stack goes.
    """
    homes.keep_logs(session)
    if not shared:
        session.discard()
    elif stack in session.stacks():
        session.release(stack)
        _destroy(session, stack, report.Report(stack=stack, platform=""))


def _already_up(session: Session, stack: str, options: argparse.Namespace) -> int:
    """A kept stack, wanted again: say how to use it; its clouds run again if they had stopped."""
    if options.json:
        raise RehearsalError(
            f"--json: stack {stack} is up already, so there is nothing to report; "
            "take it down first: ./scripts/rehearse --down"
        )
    if session.daemon is None:
        session.start_daemon(options.speed, outlives_us=True, gguf=options.gguf)
        text = "Its clouds had stopped; they run again, and its machine boots."
        (session.progress or Progress()).line(text)
    _how_to_use(session, stack)
    return 0


def _stages_of(session: Session, result: report.Report) -> Stage:
    progress = session.progress or Progress()

    @contextmanager
    def stage(name: str, key: str | None = None) -> Generator[None]:
        start = time.monotonic()
        with timeline.span(session.world / "timeline.jsonl", name), progress.step(name):
            yield
        if key:
            result.seconds[key] = (result.seconds[key] or 0) + time.monotonic() - start

    return stage


def _check(result: report.Report, outcomes: Iterator[checks.Outcome]) -> None:
    for name, ok, detail in outcomes:
        result.check(name, ok, detail)


def _how_to_use(session: Session, stack: str) -> None:
    """The export lines and the curl line of a kept stack."""
    endpoint = checks.Endpoint(session, stack)
    progress = session.progress or Progress()
    progress.line(f"\nStack {stack} is up. In any shell, from {ROOT}:\n")
    for name, value in session.exports(stack).items():
        shown = value.replace(os.environ["PATH"], "$PATH") if name == "PATH" else value
        progress.line(f'export {name}="{shown}"')
    body = json.dumps({"model": endpoint.model, "messages": [{"role": "user", "content": "Hi"}]})
    asking = (
        "./scripts/access-headers | curl -sS -H @- -H 'Content-Type: application/json' "
        f"-d '{body}' {endpoint.base_url}/chat/completions"
        if endpoint.credentials
        else "pulumi config set --path 'consumers[0]' app  # to ask with curl, once that is up"
    )
    progress.line(
        "\nThen plain pulumi preview | up | refresh | stack output | config set | destroy, and:\n\n"
        f"{asking}\n\n"
        f"Its stack configuration: {shlex.quote(str(session.stack_file(ENDPOINT, stack)))}\n"
        "Take all down with:      ./scripts/rehearse --down"
    )


def _platform(stack: str) -> str:
    text = Session.stack_source(stack).read_text()
    return "cloud-run" if "platform: cloud-run" in text else "vm"


def _speed(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 (real time) to 1000")
    return value


def _writable(text: str) -> Path:
    path = Path(text).absolute()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is a folder; expected a file to write")
    there = path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text}: cannot be written ({error.strerror}); name another place"
        ) from None
    if not there:
        path.unlink()
    return path


def _gguf(text: str) -> Path:
    path = Path(text).absolute()
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    if magic != GGUF_MAGIC:
        raise argparse.ArgumentTypeError(f"{text}: not a GGUF file, which begins with GGUF")
    return path


def _interrupted(number: int, _frame: FrameType | None) -> None:
    """Begin to clear up; whoever presses Ctrl-C again does not hinder that."""
    for each in INTERRUPTIONS:
        signal.signal(each, _already_clearing)
    print("\nInterrupted; clearing up ...", file=sys.stderr)
    raise KeyboardInterrupt(number)


def _already_clearing(_number: int, _frame: FrameType | None) -> None:
    """Not SIG_IGN, which the commands that clear up would inherit."""
