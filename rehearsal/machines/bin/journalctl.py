#!/run/rehearsal/python -IS
"""journalctl: what init has written down since this boot."""

import argparse
import json
import socket
import sys
import time

JOURNAL = "/run/log/journal.jsonl"
FIELDS = {"_SYSTEMD_INVOCATION_ID": "invocation"}
"""Fields that may be asked for, FIELD=VALUE, and where an entry has them."""


def _lines(text: str) -> int | None:
    return None if text == "all" else int(text)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("journalctl", allow_abbrev=False)
    parser.add_argument("-u", "--unit", action="append", default=[])
    parser.add_argument("-n", "--lines", type=_lines)
    parser.add_argument("-f", "--follow", action="store_true")
    parser.add_argument("-b", "--boot", action="store_true")
    parser.add_argument("-o", "--output", choices=("short", "short-unix", "cat"), default="short")
    parser.add_argument("--no-pager", action="store_true")
    parser.add_argument("matches", nargs="*", metavar="FIELD=VALUE")
    options = parser.parse_args()
    matches = [match.split("=", 1) for match in options.matches]
    if unknown := [field for field, *value in matches if field not in FIELDS or not value]:
        parser.error(f"the rehearsal plays no match of {unknown[0]}")
    units = {unit if "." in unit else f"{unit}.service" for unit in options.unit}

    def show(line: str) -> str | None:
        entry = json.loads(line)
        if units and entry["unit"] not in units:
            return None
        if any(entry[FIELDS[field]] != value for field, value in matches):
            return None
        if options.output == "cat":
            return entry["message"]
        who = f"{entry['identifier']}[{entry['pid']}]: {entry['message']}"
        if options.output == "short-unix":
            return f"{entry['time']:.6f} {socket.gethostname()} {who}"
        return f"{time.strftime('%b %d %H:%M:%S', time.localtime(entry['time']))} {who}"

    with open(JOURNAL) as journal:
        shown = [text for line in journal if (text := show(line)) is not None]
        wanted = shown if options.lines is None else shown[len(shown) - options.lines :]
        if wanted or not options.follow:
            print("\n".join(wanted or ["-- No entries --"]), flush=True)
        while options.follow:
            for line in journal:
                if (text := show(line)) is not None:
                    print(text, flush=True)
            time.sleep(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
