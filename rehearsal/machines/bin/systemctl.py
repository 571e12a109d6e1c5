#!/run/rehearsal/python -IS
"""systemctl, for what a startup script and an operator use; init.py does the work."""

import json
import socket
import sys

VERBS = ("daemon-reload", "is-active", "restart", "show", "start", "status", "stop")
OPTIONS = ("--no-block", "--no-pager", "--quiet", "-q", "--now")
NOT_FOUND = {"status": 4, "is-active": 4}
"""Exit codes for a unit that does not exist (systemctl(1)); other verbs give 5."""


def ask(verb: str, name: str, block: bool) -> dict[str, object]:
    """The answer of init's Manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect("/run/systemd/private")
        with connection.makefile("rw") as stream:
            stream.write(json.dumps({"verb": verb, "name": name, "block": block}) + "\n")
            stream.flush()
            return json.loads(stream.readline())


def fail(message: str, code: int = 1) -> int:
    """Say why not."""
    print(message, file=sys.stderr)
    return code


def apply(verb: str, name: str, options: list[str]) -> int:
    """One verb on one unit; the exit code."""
    answer = ask(verb, name, "--no-block" not in options)
    state, detail = answer.get("state", "inactive"), answer.get("detail", "dead")
    if not answer["found"] and verb != "is-active":
        if verb in ("status", "show"):
            return fail(f"Unit {name} could not be found.", NOT_FOUND[verb])
        return fail(f"Failed to {verb} {name}: Unit {name} not found.", 5)
    if verb == "is-active":
        if not {"-q", "--quiet"} & set(options):
            print(state)
        return 0 if state == "active" else 3 if answer["found"] else 4
    if verb == "show":
        print(f"Id={name}\nActiveState={state}\nSubState={detail}\nMainPID={answer['pid']}")
    if verb == "status":
        print(f"● {name} - {answer['description']}\n     Active: {state} ({detail})")
        if answer["pid"]:
            print(f"   Main PID: {answer['pid']}")
        return 0 if state == "active" else 3
    if not answer["ok"]:
        return fail(
            f"Job for {name} failed because the control process exited with error code.\n"
            f'See "systemctl status {name}" and "journalctl -xeu {name}" for details.'
        )
    return 0


def main(arguments: list[str]) -> int:
    """The exit code."""
    options = [it for it in arguments if it.startswith("-")]
    verb, *names = [it for it in arguments if not it.startswith("-")] or ["list-units"]
    for option in options:
        if option not in OPTIONS:
            return fail(f"systemctl: unrecognized option '{option}'")
    if verb not in VERBS:
        return fail(f"Unknown command verb '{verb}'.")
    if verb == "daemon-reload":
        ask(verb, "", True)
        return 0
    if not names:
        return fail("Too few arguments.")
    codes = [apply(verb, it if "." in it else f"{it}.service", options) for it in names]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
