#!/run/rehearsal/python -IS
"""journalctl: what init has written down since this boot."""

import argparse
import json
import sys
import time

JOURNAL = "/run/log/journal.jsonl"


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("journalctl", allow_abbrev=False)
    parser.add_argument("-u", "--unit", action="append", default=[])
    parser.add_argument("-n", "--lines", type=int)
    parser.add_argument("-f", "--follow", action="store_true")
    parser.add_argument("-b", "--boot", action="store_true")
    parser.add_argument("-o", "--output", choices=("short", "cat"), default="short")
    parser.add_argument("--no-pager", action="store_true")
    options = parser.parse_args()
    units = {unit if "." in unit else f"{unit}.service" for unit in options.unit}

    def show(line: str) -> str | None:
        entry = json.loads(line)
        if units and entry["unit"] not in units:
            return None
        if options.output == "cat":
            return entry["message"]
        when = time.strftime("%b %d %H:%M:%S", time.localtime(entry["time"]))
        return f"{when} {entry['identifier']}[{entry['pid']}]: {entry['message']}"

    with open(JOURNAL) as journal:
        shown = [text for line in journal if (text := show(line)) is not None]
        wanted = shown if options.lines is None else shown[len(shown) - options.lines :]
        print("\n".join(wanted or ["-- No entries --"]), flush=True)
        while options.follow:
            for line in journal:
                if (text := show(line)) is not None:
                    print(text, flush=True)
            time.sleep(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
