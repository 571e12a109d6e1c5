"""Lets things go wrong, one after the other, and holds what comes of it to what is promised.

Each fault begins, is watched, ends, and the stack must be whole again after the next `pulumi up`;
from the broken state `pulumi destroy` must leave nothing in either cloud. Meanwhile somebody
without a token tries every door, and afterwards secrets are looked for where none belongs.
"""

import json
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rehearsal import homes
from rehearsal.attempt import Attempt
from rehearsal.errors import RehearsalError
from rehearsal.fault_library.fault import Fault
from rehearsal.progress import Progress
from rehearsal.scene import IMPATIENCE_MIN, LIMIT_S, PATIENCE_MIN, Scene
from rehearsal.watcher import Watch, Watcher

WORLDS = 3
"""Worlds at a time: one more than continuous integration has cores, as each waits now and then."""
SILENCE_S = 30.0
"""Real seconds for which the CLI may print nothing."""
TRACEBACKS = ("Traceback (most recent call last)", "a fault of the rehearsal, see its daemon.log")
NOTHING = r"(?!)"
ONLY_THE_ANSWER = re.compile(r"was not ready after|gets no machine")
"""How `up` ends when all is there that it creates, and nobody answers."""
ASKS_AGAIN = "`pulumi up` asks again"
ASKED_AGAIN = 3
WORDS = 96
"""Letters of what the user saw that the table shows."""


@dataclass
class Finding:
    """What came of one fault. Times are real seconds, of a world whose time is compressed."""

    fault: str
    saw: str = ""
    """What told the user, in a line."""
    known_s: float = 0.0
    """From the beginning of the command, or of the fault, until the user knew."""
    converged: bool = False
    left: list[str] = field(default_factory=list[str])
    """What stayed in a cloud and in nobody's state."""
    broken: list[str] = field(default_factory=list[str])
    """Promises that were not kept."""
    silence_s: float = 0.0
    """For how long the CLI printed nothing, at most."""
    watch: Watch = field(default_factory=Watch)

    @property
    def ok(self) -> bool:
        """Every promise was kept."""
        return not self.broken


class FaultRun:
    """Plays faults of one stack in one world, which is there from the first to the last."""

    def __init__(self, home: Path, stack: str) -> None:
        self._scene = scene = Scene(home, stack)
        hostname = scene.config["llm-endpoint:hostname"]
        self._watcher = Watcher(hostname, scene.session.environment(stack))
        self._standing = False
        self._all_there = False
        self.lost = False
        """Whether a promise was not kept, so that the world is not what the next fault expects."""

    def close(self) -> None:
        """End the world; its logs outlive it."""
        self._watcher.close()
        homes.keep_logs(self._scene.session)
        self._scene.close()

    def play(self, fault: Fault) -> Finding:
        """One fault, from a sound stack to a sound stack."""
        scene, finding = self._scene, Finding(fault.name)
        self._leaves = fault.leaves or NOTHING
        before = scene.session.stack_file_text(scene.stack)
        try:
            self._play(fault, finding)
        except (RehearsalError, OSError) as error:
            finding.broken.append(f"the fault could not be played: {error}")
        finally:
            scene.calm()
            scene.session.write_stack_file_text(scene.stack, before)
        finding.watch = self._watcher.seen()
        finding.broken += [f"a stranger got in: {it}" for it in finding.watch.let_in[:3]]
        finding.broken += scene.leaks()
        self.lost = not finding.ok
        return finding

    def _play(self, fault: Fault, finding: Finding) -> None:
        scene = self._scene
        if fault.act:
            scene.declared()
        if fault.when == "up":
            self._down(finding)
        elif not self._standing:
            self._must(finding, scene.up(), "up before the fault")
        for key, value in fault.config.items():
            scene.configure(key, value)
        self._strike(fault, finding)
        finding.broken += [f"{name} never struck" for name in scene.idle()]
        scene.calm()
        for step in fault.end:
            step(scene)
        if fault.when == "up" and fault.says:
            self._play_again(fault, finding)
        for command in fault.repair:
            self._must(finding, scene.run(*command.removeprefix("pulumi ").split()), command)
        if fault.when == "destroy":
            self._down(finding)
            finding.converged = finding.ok
            return
        self._must(finding, self._up_again(), "up once the fault is over")
        self._standing = True
        seen = scene.heals()
        finding.converged = not seen and finding.ok
        if seen:
            finding.broken.append(f"the endpoint does not answer afterwards: {seen}")
        self._note_left(finding)

    def _up_again(self) -> Attempt:
        """`pulumi up`, and once more as often as it says that it asks again."""
        attempt = self._scene.up()
        for _ in range(ASKED_AGAIN):
            if ASKS_AGAIN in attempt.text and not attempt.ok:
                attempt = self._scene.up()
        return attempt

    def _play_again(self, fault: Fault, finding: Finding) -> None:
        """From the broken state to nothing; then broken once more, on the way to what is wanted.

        Where only the answer was missing in the end, the state was whole, and this proves nothing.
        """
        if self._all_there:
            return
        self._down(finding)
        self._strike(fault, Finding(fault.name))
        self._scene.calm()
        for step in fault.end:
            step(self._scene)

    def _strike(self, fault: Fault, finding: Finding) -> None:
        """Begin the fault, do what it is about, and note what the user sees."""
        scene, start = self._scene, time.monotonic()
        if fault.when == "update":
            scene.configure("engineEnv[0]", f"UPDATE={time.time_ns()}")
        for step in fault.begin:
            step(scene)
        if fault.act:
            text = fault.act(scene)
            finding.known_s = time.monotonic() - start
            self._expect(fault, finding, not fault.says, text)
            finding.saw = line_of(text, fault.says)
            return
        if fault.when == "serving" and not fault.says:
            suffered = scene.suffers()
            seen = scene.heals()
            finding.known_s = time.monotonic() - start
            finding.saw = f"{suffered}; then answers again" if suffered else "answers all the time"
            if seen:
                finding.broken.append(f"it does not heal: {seen}")
            return
        patience = IMPATIENCE_MIN if fault.says else PATIENCE_MIN
        attempt = scene.destroy() if fault.when == "destroy" else scene.up(patience)
        finding.known_s = attempt.seconds
        self._look(finding, attempt)
        finding.saw = told(attempt, fault.says)
        self._all_there = bool(ONLY_THE_ANSWER.search(attempt.text))
        self._expect(fault, finding, attempt.ok, attempt.text)

    def _expect(self, fault: Fault, finding: Finding, ok: bool, text: str) -> None:
        if ok and fault.says:
            finding.broken.append("it went on as if nothing had happened")
        elif not ok and not fault.says:
            finding.broken.append(f"it ended with an error: {finding.saw}")
        elif fault.says and not re.search(fault.says, text):
            finding.broken.append(f"the user does not read {fault.says!r}")

    def _down(self, finding: Finding) -> None:
        """Destroy whatever there is; nothing may be left."""
        attempt = self._scene.destroy()
        self._standing = False
        self._look(finding, attempt)
        if not attempt.ok:
            finding.broken.append(f"destroy ends with an error: {told(attempt, '')}")
        self._note_left(finding)

    def _must(self, finding: Finding, attempt: Attempt, what: str) -> None:
        self._look(finding, attempt)
        if not attempt.ok:
            finding.broken.append(f"{what} ends with an error: {told(attempt, '')}")

    def _note_left(self, finding: Finding) -> None:
        left = self._scene.leftovers()
        audited = self._scene.audited() if left else []
        for it in left:
            type, _, id = it.partition(" ")
            finding.left.append(it)
            if not re.search(self._leaves, type):
                finding.broken.append(f"left over: {it}")
            elif id.rpartition("/")[2] not in audited:
                finding.broken.append(f"scripts/audit does not name {it}")
            # As whoever reads the audit does.
            self._scene.consoles.console("DELETE", type, id)

    def _look(self, finding: Finding, attempt: Attempt) -> None:
        """Whatever command it was: it ends in time, is never silent, and shows no traceback."""
        if not attempt.in_time:
            finding.broken.append(f"{attempt.log.stem} did not end within {LIMIT_S:g} s")
        finding.silence_s = max(finding.silence_s, attempt.longest_silence_s)
        if attempt.longest_silence_s > SILENCE_S:
            finding.broken.append(f"{attempt.longest_silence_s:.0f} s of silence")
        finding.broken += [f"the user reads {it!r}" for it in TRACEBACKS if it in attempt.text]


def told(attempt: Attempt, pattern: str) -> str:
    """The line that tells the user what is wrong; of one that ended well, that."""
    return "nothing: it succeeds" if attempt.ok else line_of(attempt.text, pattern)


def line_of(text: str, pattern: str) -> str:
    """The line that matters of what the user reads."""
    _, _, diagnostics = text.partition("\nDiagnostics:\n")
    lines = [line.strip() for line in (diagnostics or text).splitlines()]
    wanted = [line for line in lines if pattern and re.search(pattern, line)]
    errors = [line for line in lines if line.startswith(("error:", "* "))]
    return (wanted or errors[::-1] or lines[::-1] or [""])[0]


def play(faults: Iterable[Fault], progress: Progress, worlds: int = WORLDS) -> list[Finding]:
    """All faults, those of a stack one after the other, in so many worlds at a time."""
    chosen = list(faults)
    stacks = sorted({fault.stack for fault in chosen})
    waiting = {stack: [it for it in chosen if it.stack == stack] for stack in stacks}
    findings: list[Finding] = []
    failed: list[BaseException] = []
    lock = threading.Lock()

    def next_of(stack: str | None) -> Fault | None:
        with lock:
            for each in [stack] if stack else waiting:
                if each and waiting[each] and not failed:
                    return waiting[each].pop(0)
        return None

    def work() -> None:
        while fault := next_of(None):
            with homes.one_run() as home:
                run = FaultRun(home, fault.stack)
                try:
                    while fault:
                        start = time.monotonic()
                        finding = run.play(fault)
                        findings.append(finding)
                        progress.line(line(finding, time.monotonic() - start))
                        fault = None if run.lost else next_of(fault.stack)
                finally:
                    run.close()

    def lane() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    lanes = [threading.Thread(target=lane, daemon=True) for _ in range(min(worlds, len(chosen)))]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()
    if failed:
        raise failed[0]
    order = [fault.name for fault in chosen]
    return sorted(findings, key=lambda finding: order.index(finding.fault))


def line(finding: Finding, seconds: float) -> str:
    """A finding as a line of progress."""
    outcome = "held" if finding.ok else "BROKEN"
    first = f"  {outcome:<6} {finding.fault:<32} {seconds:5.0f} s  {finding.saw[:WORDS]}"
    return "\n".join([first, *(f"           {it}" for it in finding.broken)])


def table(findings: Iterable[Finding]) -> list[str]:
    """All findings as a Markdown table."""
    rows = [
        "| fault | what the user saw | seconds to know | converged on the next up | left over |",
        "|---|---|---|---|---|",
    ]
    for it in findings:
        saw = it.saw[:WORDS].replace("|", "\\|")
        left = ", ".join(it.left) or "nothing"
        converged = "yes" if it.converged else "NO"
        rows.append(f"| {it.fault} | {saw} | {it.known_s:.0f} | {converged} | {left} |")
    return rows


def summary(findings: list[Finding]) -> list[str]:
    """All of them in a few lines."""
    watch = sum((it.watch for it in findings), Watch())
    kept = sum(it.ok for it in findings)
    let_in = f"{len(watch.let_in)} LET IN" if watch.let_in else "all refused"
    tries = ", ".join(f"{count} at the {door}" for door, count in sorted(watch.tried.items()))
    return [
        f"{kept} of {len(findings)} faults ended as promised.",
        f"  A stranger tried all the time: {tries}; {let_in}.",
        f"  A try every {1000 * watch.seconds / max(watch.tried.total(), 1):.0f} ms on average,"
        f" {1000 * watch.longest_gap_s:.0f} ms at most.",
        f"  The CLI was silent for {max((it.silence_s for it in findings), default=0):.0f} s"
        " at most.",
    ]


def write(findings: list[Finding], path: Path) -> None:
    """The findings for machines."""
    document = {
        "ok": all(it.ok for it in findings),
        # asdict() would count a counter's pairs.
        "faults": [asdict(it) | {"watch": vars(it.watch), "ok": it.ok} for it in findings],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
