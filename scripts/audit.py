"""What is there of a stack in Google Cloud and in Cloudflare, and what of it is left over.

    ./scripts/audit [--stack NAME] [--gone] [--json]

It asks the clouds themselves, by the stack's label and by the names that its program gives, and
changes nothing. What Pulumi's state holds belongs to the stack; what it does not hold is left over.
After a `pulumi destroy` the state holds nothing, so that anything that is there is left over; with
--gone that is so for what a destroy that broke off has left in the state, too. What is left on
purpose is told, and is no failure: APIs that are on, buckets of `keepWeights`, what is protected.

Google is asked as whoever is logged in (gcloud auth application-default login). Cloudflare's API
token is taken from CLOUDFLARE_API_TOKEN, or else from the stack's configuration, which `pulumi`
decrypts: audit before `pulumi stack rm`. Exit status: 0 where nothing is left over, 1 where
something is or where something cannot be known, 2 for a mistake in how it was called.
"""

import argparse
import json
import os
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from components.settings import Settings  # noqa: E402 (the path comes first)
from scripts import command_line, stack_file, stack_secrets  # noqa: E402
from scripts.audits import cloudflare, google, state, thing  # noqa: E402
from scripts.audits.marks import DRAWN_NAMES, OWN_NAMES, Marks  # noqa: E402
from scripts.audits.state import State  # noqa: E402
from scripts.audits.thing import Listing, Thing  # noqa: E402
from scripts.checks.check import Finding, UnknownError  # noqa: E402
from scripts.checks.cloudflare import Cloudflare  # noqa: E402
from scripts.checks.google import Google  # noqa: E402

WIDTH = 100
IN_STATE = "in its state"
UNPROTECT = "pulumi config set protect false && pulumi up && pulumi destroy"
REGION = re.compile("[a-z]+-[a-z]+[0-9]+")

LOOKED_FOR = frozenset(
    {*DRAWN_NAMES, *OWN_NAMES, google.NAT, google.ROLE, google.API, cloudflare.DNS_RECORD}
    | {it.type for it in cloudflare.TITLED}
)
"""Types of which everything that a stack has is found."""

Verdict = Literal["in the state", "missing", "stays", "found", "left over"]


class Judged(NamedTuple):
    """A thing, and what it is to the stack."""

    thing: Thing
    verdict: Verdict
    because: str = ""


class Audit(NamedTuple):
    """All that was found."""

    judged: list[Judged]
    unknown: list[Finding]
    state: State | None
    """None where nobody can tell what it holds."""

    @property
    def ok(self) -> bool:
        """Whether nothing is left over, and this is certain."""
        bad = ("left over", "found")
        return not self.unknown and all(it.verdict not in bad for it in self.judged)


def main(arguments: list[str]) -> int:
    """Look, and tell. The exit status."""
    asked = _arguments(arguments)
    try:
        settings = stack_file.read(asked.stack).settings
    except stack_file.StackFileError as error:
        print(error, file=sys.stderr)
        if asked.stack not in stack_file.names():
            print(
                "  or bring it back: `pulumi stack rm` deletes it, unless with --preserve-config",
                file=sys.stderr,
            )
        return 2
    token = os.environ.get(stack_secrets.VARIABLES[stack_secrets.CLOUDFLARE_TOKEN], "").strip()
    if not token:
        token = stack_secrets.decrypted(asked.stack, stack_secrets.CLOUDFLARE_TOKEN)[
            stack_secrets.CLOUDFLARE_TOKEN
        ]
    found = audit(settings, token, gone=asked.gone)
    if asked.json:
        print(json.dumps(_document(settings.stack, found), indent=2))
    else:
        print("\n".join(_page(settings, found)))
    return int(not found.ok)


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./scripts/audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stack", default="dev", metavar="NAME", help="the stack (%(default)s)")
    parser.add_argument(
        "--gone", action="store_true", help="the stack is meant to be gone: its state counts not"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    return parser.parse_args(arguments)


# --- what is there --------------------------------------------------------------------------------


def audit(settings: Settings, token: str, *, gone: bool = False) -> Audit:
    """Look at both clouds and at Pulumi's state; `token` is Cloudflare's."""
    known: State | None
    unknown: list[Finding] = []
    try:
        known = state.read(settings.stack)
    except UnknownError as error:
        known = None
        unknown.append(Finding("Pulumi's state", "cannot know", str(error), error.next_step))
    with listings(settings, token, known or state.EMPTY) as wanted:
        seen = thing.look(wanted)
    judged = [*judge(seen.things, known, gone=gone)]
    if known and not seen.unknown:
        judged += missing(seen.things, known)
    return Audit(judged, [*unknown, *seen.unknown], known)


@contextmanager
def listings(settings: Settings, token: str, known: State) -> Generator[list[Listing]]:
    """All that is asked, while its connections are open.

    That is where the stack's file says, and where its state says that it has something.
    """
    places = known.places

    def where(key: str, own: str) -> list[str]:
        return sorted({own, *places.get(key, ())})

    marks, edge = Marks(settings.stack, stack_file.names()), Cloudflare(token)
    clouds = [Google(project) for project in where("project", settings.project)]
    regions = [it for it in where("region", settings.region) if REGION.fullmatch(it)]
    zones = where("zoneId", settings.cloudflare_zone_id)
    try:
        # Machines before tunnels: what runs in them connects again and again.
        yield [
            *(it for cloud in clouds for it in google.listings(cloud, marks, regions)),
            *(
                listing
                for account in where("accountId", settings.cloudflare_account_id)
                for listing in cloudflare.listings(edge, marks, account, zones, settings.hostname)
            ),
        ]
    finally:
        for cloud in clouds:
            cloud.close()
        edge.close()


def judge(things: Iterable[Thing], known: State | None, *, gone: bool) -> Iterator[Judged]:
    """What each thing is to the stack. What a cloud has made for another thing is what that is."""
    found = list(things)
    by_id = {it.id: it for it in found}
    ids = {entry.partition(" ")[2] for entry in known.protected} if known else set[str]()

    def stands(it: Thing) -> bool:
        if known is None:
            return False
        if it.type and known.has(it.type, it.id):
            return True
        maker = by_id.get(it.of)
        return it.of in ids or (maker is not None and maker is not it and stands(maker))

    for it in found:
        there = stands(it)
        protected = bool(known and known.protected.get(f"{it.type} {it.id}"))
        if it.stays and (gone or not there):
            yield Judged(it, "stays", it.stays)
        elif there and gone and protected:
            yield Judged(it._replace(delete=UNPROTECT), "stays", "protected")
        elif there and gone:
            yield Judged(it._replace(delete="pulumi destroy"), "left over", IN_STATE)
        elif there:
            yield Judged(it, "in the state", "protected" if protected else "")
        else:
            yield Judged(it, "left over" if known else "found")


def missing(things: Iterable[Thing], known: State) -> Iterator[Judged]:
    """What the state has, and no cloud."""
    there = {f"{it.type} {it.id}" for it in things}
    for entry in known.protected:
        type, _, id = entry.partition(" ")
        if type in LOOKED_FOR and entry not in there:
            kind = type.rpartition(":")[2]
            yield Judged(Thing(kind, id, "the state", id, "", type), "missing")


# --- what is told ---------------------------------------------------------------------------------


def _document(stack: str, found: Audit) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "stack": stack,
        "ok": found.ok,
        "stack_is_known": found.state and found.state.known,
        "things": [
            {
                "verdict": it.verdict,
                "kind": it.thing.kind,
                "name": it.thing.name,
                "where": it.thing.where,
                "type": it.thing.type or None,
                "id": it.thing.id,
                "because": it.because or None,
                "delete": it.thing.delete or None,
            }
            for it in found.judged
        ],
        "unknown": [
            {"list": it.name, "because": it.detail, "next": it.next_step} for it in found.unknown
        ],
    }


def _page(settings: Settings, found: Audit) -> Iterator[str]:
    stack = settings.stack
    of = {
        verdict: [it for it in found.judged if it.verdict == verdict]
        for verdict in ("in the state", "missing", "stays", "found", "left over")
    }
    width = max((len(it.thing.kind) for it in found.judged), default=0)
    yield from _lines(of["in the state"], width)
    for it in of["missing"]:
        yield f"{_line(it, width)}: no cloud has it"
    yield from _lines(of["stays"], width)
    for it in (*of["found"], *of["left over"]):
        yield _line(it, width)
        if it.verdict == "left over" and it.because != IN_STATE:
            yield f"{'':13}{_shown(it.thing.delete)}"
    yield from _unknown(found.unknown)
    yield from _sum(settings, found)
    if of["left over"] and found.state and not found.state.known:
        yield from textwrap.wrap(
            f"Where Pulumi is logged in (pulumi whoami --verbose) there is no stack {stack}. Should"
            " it stand elsewhere, log in there and look again before anything is deleted.",
            WIDTH,
        )
    if any(it.because == IN_STATE for it in of["left over"]):
        yield f"What its state has goes with it: pulumi destroy --stack {stack}"
    if of["missing"]:
        yield f"What is missing was deleted by hand: pulumi refresh --stack {stack}"
    if found.state and found.state.interrupted:
        yield f"A command was killed while it created something: ./scripts/repair --stack {stack}"


def _unknown(findings: Iterable[Finding]) -> Iterator[str]:
    """What nobody can tell; what has the same reason together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for it in findings:
        alike.setdefault((it.detail, it.next_step), []).append(it.name)
    for (because, next_step), names in alike.items():
        for name in names:
            yield f"{'cannot know':13}{_shown(name)}"
        yield from _wrapped(f"because {because}")
        yield from _wrapped(f"next: {next_step}")


def _sum(settings: Settings, found: Audit) -> Iterator[str]:
    """What it comes to."""
    counts = Counter(it.verdict for it in found.judged)
    parts = [f"{counts['left over']} left over", f"{len(found.unknown)} lists that did not come"]
    if found.state is None:
        parts.insert(0, f"{counts['found']} found, of which nobody knows whether they are its own")
    elif counts["in the state"]:
        parts.insert(0, f"{counts['in the state']} in its state")
    yield f"Audit of stack {settings.stack}: {', '.join(parts)}."
    if found.ok and not counts["in the state"]:
        clouds = f"{settings.project} and Cloudflare's account {settings.cloudflare_account_id}"
        but = " but what stays on purpose" if counts["stays"] else ""
        yield f"Nothing of it is left in {clouds}{but}."


def _lines(judged: list[Judged], width: int) -> Iterator[str]:
    """What stands or stays; the APIs together."""
    for it in judged:
        if it.thing.type == google.API:
            continue
        yield _line(it, width)
        if it.verdict == "stays":
            yield f"{'':13}{_shown(it.thing.delete)}"
    apis = [it for it in judged if it.thing.type == google.API]
    if apis:
        because = ", as others may need them" if apis[0].verdict == "stays" else ""
        yield f"{apis[0].verdict:13}{'APIs':{width}}  {len(apis)} are on{because}:"
        yield from _wrapped(", ".join(it.thing.name.partition(".")[0] for it in apis))


def _line(it: Judged, width: int) -> str:
    because = f", {it.because}" if it.because else ""
    name, where = _shown(it.thing.name), _shown(it.thing.where)
    return f"{it.verdict:13}{it.thing.kind:{width}}  {name}  ({where}){because}"


def _shown(text: str) -> str:
    """Fit for a terminal: whoever names things in a cloud may name them as they like."""
    return "".join(it if it.isprintable() else "?" for it in text)


def _wrapped(text: str) -> Iterator[str]:
    indent = " " * 13
    yield from textwrap.wrap(
        " ".join(_shown(text).split()),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    command_line.run(main)
