"""Whether a stack will come up: all that Google, Cloudflare and the model's hub must grant it.

    ./scripts/preflight [--stack NAME] [--brief | --json] [--strict] [--fix --email YOU@EXAMPLE.COM]

It reads Pulumi.yaml and the stack's own file, and changes nothing. Google is asked as whoever is
logged in (gcloud auth application-default login). Cloudflare's API token and the Hugging Face token
are taken from CLOUDFLARE_API_TOKEN and HF_TOKEN, or else from the stack's configuration, which
`pulumi` decrypts. Exit status: 0, 1 where a check fails (with --strict also where nothing can be
known), 2 for a mistake in how it was called.
"""

import argparse
import json
import os
import re
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from components.engine import engine as engine_named  # noqa: E402 (the path comes first)
from components.settings import Settings  # noqa: E402
from scripts import command_line, stack_file, stack_secrets  # noqa: E402
from scripts.checks import check, cloudflare, google, hugging_face, quotas, registries  # noqa: E402
from scripts.checks.check import Check, Finding  # noqa: E402
from scripts.checks.cloudflare import Cloudflare  # noqa: E402
from scripts.checks.google import Google  # noqa: E402
from scripts.checks.hugging_face import Hub  # noqa: E402
from scripts.checks.quotas import Requests  # noqa: E402

WIDTH = 100
SETTINGS = "PREFLIGHT_SETTINGS"
"""The settings that count as JSON, where `pulumi up` runs this and has them already."""
EMAIL = r"[^@\s]+@[^@\s]+\.[^@\s]+"


class Secrets(NamedTuple):
    """What the checks show to others, and nobody prints."""

    cloudflare: str
    hugging_face: str


def main(arguments: list[str]) -> int:
    """Check, and tell. The exit status."""
    asked = _arguments(arguments)
    try:
        settings = _settings(asked.stack)
    except stack_file.StackFileError as error:
        print(error, file=sys.stderr)
        return 2
    began = time.monotonic()
    secrets = _secrets(asked.stack)
    left_s = check.LIMIT_S - (time.monotonic() - began)
    with checks(settings, secrets) as wanted:
        findings = _watched(check.run(wanted, left_s), quiet=asked.json)
    if asked.json:
        print(json.dumps([_listed(finding) for finding in findings], indent=2))
    else:
        print("\n".join(_page(settings.stack, findings, brief=asked.brief)))
    if asked.fix:
        _fix(settings.project, findings, asked)
    bad = {"fails", "cannot know"} if asked.strict else {"fails"}
    return int(any(finding.verdict in bad for finding in findings))


@contextmanager
def checks(settings: Settings, secrets: Secrets) -> Generator[list[Check]]:
    """Every check of a stack, while its connections are open."""
    clouds, edge = Google(settings.project), Cloudflare(secrets.cloudflare)
    hub = Hub(settings.hugging_face_endpoint, secrets.hugging_face)
    from_hub = engine_named(settings.engine).SOURCE == "hub"
    try:
        yield [
            *google.checks(clouds, settings),
            *quotas.checks(clouds, settings),
            *cloudflare.checks(edge, settings),
            *(hugging_face.checks(hub, settings) if from_hub else ()),
            *registries.checks(settings),
        ]
    finally:
        clouds.close()
        edge.close()


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./scripts/preflight",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stack", default="dev", metavar="NAME", help="the stack (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the list of findings as JSON")
    parser.add_argument("--brief", action="store_true", help="print only what is not ok")
    parser.add_argument(
        "--strict", action="store_true", help="what cannot be known counts as a failure"
    )
    parser.add_argument(
        "--fix", action="store_true", help="ask Google for the quota that is missing"
    )
    parser.add_argument("--email", metavar="ADDRESS", help="whom Google may ask about that quota")
    parser.add_argument("--yes", action="store_true", help="with --fix: do not ask before")
    asked = parser.parse_args(arguments)
    if asked.fix and not re.fullmatch(EMAIL, asked.email or ""):
        parser.error("--fix needs --email: Google wants an address with a request for quota")
    if asked.fix and asked.json:
        parser.error("--fix talks to a person, --json to a program: one of them")
    return asked


# --- what is checked ------------------------------------------------------------------------------


def _settings(stack: str) -> Settings:
    """The stack's settings. Raises StackFileError."""
    if given := os.environ.get(SETTINGS):
        return Settings.model_construct(**json.loads(given))  # valid already, and not all of them
    return stack_file.read(stack).settings


def _secrets(stack: str) -> Secrets:
    """From the environment, or else from the stack's configuration; empty where neither has any."""
    given = {key: os.environ.get(name, "").strip() for key, name in stack_secrets.VARIABLES.items()}
    if SETTINGS not in os.environ:
        missing = [key for key, value in given.items() if not value]
        given |= stack_secrets.decrypted(stack, *missing)
    return Secrets(given[stack_secrets.CLOUDFLARE_TOKEN], given[stack_secrets.HUGGING_FACE_TOKEN])


# --- what is told ---------------------------------------------------------------------------------


def _watched(findings: Iterable[Finding], *, quiet: bool) -> list[Finding]:
    """All findings, by name; meanwhile, on a terminal, how far it is."""
    found: list[Finding] = []
    live = sys.stderr.isatty() and not quiet
    for finding in findings:
        found.append(finding)
        if live:
            print(f"\r{len(found)} checked: {finding.name:.60}\033[K", end="", file=sys.stderr)
    if live:
        print("\r\033[K", end="", file=sys.stderr)
    return sorted(found, key=lambda it: it.name)


def _listed(finding: Finding) -> dict[str, object]:
    """A finding as `--json` prints it."""
    increase = finding.increase
    return {
        "check": finding.name,
        "verdict": finding.verdict,
        "detail": finding.detail,
        "next": finding.next_step or None,
        "quota": increase and increase._asdict(),
    }


def _page(stack: str, findings: list[Finding], *, brief: bool) -> Iterator[str]:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        if finding.verdict == "ok" and not brief:
            yield f"ok           {finding.name:{width}}  {finding.detail}".rstrip()
    yield from told(findings)
    counts = Counter(finding.verdict for finding in findings)
    yield (
        f"Preflight of stack {stack}: {counts['ok']} ok, {counts['fails']} fail,"
        f" {counts['cannot know']} cannot be known."
    )


def told(findings: list[Finding]) -> Iterator[str]:
    """Those that are not ok, with what to do; those of one cause together."""
    for verdict in ("cannot know", "fails"):
        causes: dict[tuple[str, str], list[str]] = {}
        for finding in findings:
            if finding.verdict == verdict:
                causes.setdefault((finding.detail, finding.next_step), []).append(finding.name)
        for (detail, next_step), names in causes.items():
            because = "because " if verdict == "cannot know" else ""
            first, *more = _wrapped("; ".join(_short(names)))
            yield f"{verdict:11}  {first.lstrip()}"
            yield from more
            yield from _wrapped(f"{because}{detail}")
            yield from _wrapped(f"next: {next_step}")


def _short(names: list[str]) -> Iterator[str]:
    """Names of checks, with whose they are (`Google: `) where that changes only."""
    last = ""
    for name in names:
        owner, _, rest = name.partition(": ")
        yield rest if owner == last else name
        last = owner


def _wrapped(text: str) -> Iterator[str]:
    indent = " " * 13
    yield from textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _fix(project: str, findings: list[Finding], asked: argparse.Namespace) -> None:
    """Ask Google for the quota that is missing, after a yes."""
    requests = Requests.of(project, asked.email, findings)
    if not requests.increases:
        print("\nNo quota is missing that could be asked for.")
        return
    print(f"\nGoogle will be asked, for project {project} and with {asked.email} to answer to, for")
    for line in requests.lines():
        print(f"  {line}")
    if not asked.yes and not _agreed():
        print("Nothing was asked.")
        return
    for line in requests.send():
        print(f"  {line}")


def _agreed() -> bool:
    try:
        return input("Ask? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


if __name__ == "__main__":
    command_line.run(main)
