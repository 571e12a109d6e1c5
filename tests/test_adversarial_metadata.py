"""scripts/startup.sh, run by a machine whose metadata wants to make it do something else.

Metadata is written by the program alone; whoever else may write it (an editor of the project) could
as well exchange the whole script. What is held here is the second line of defence: values are data.
"""

import re
from collections.abc import Iterator
from itertools import cycle

import pytest

from tests.guest import Guest
from tests.test_startup_script import AGAIN, READY, STARTED, prepared, up

pytestmark = pytest.mark.rehearsal

CANARY = "/var/tmp/canary"  # noqa: S108 (of the guest)
LOOK = "ls -d /var/tmp/* /tmp/canary* /etc/canary* /run/canary* 2>/dev/null"

HOSTILE = (
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f"; touch {CANARY} #",
    f"' ; touch {CANARY} ; '",
    f'" ; touch {CANARY} ; "',
    f"x\ntouch {CANARY}",
    f"x\n[Service]\nExecStartPre=/bin/touch {CANARY}",
    f"a[$(touch {CANARY})]",
    f'x"\noutput = "{CANARY}"\nurl = "http://metadata.google.internal/',
    "%n%i%h %s$HOME",
    "--privileged",
    "-v=/:/host",
    "../../../etc/passwd",
    "/../../etc/canary",
    "@metadata.google.internal/",
    "{a,b}[1-9]",
    "x y",
    "\x1b[31mred\x07",
    "x\x00y",
    "grüße 🚀",
    "x" * 100_000,
)
SPECIAL = {
    "engine-port": ("0", "08", "0x10", "1+1", "65536", "-1"),
    "shutdown-timeout": ("08", "0x10", "1e3", "-1"),
    "engine-health-path": ("health", "/he alth", "@evil.example/", "/?a=$(id)"),
    "engine-phases": (
        f"../../../var/tmp/canary\t{CANARY}",
        "engine-load no tab",
        "Engine\tx",
        "ok\tx\n../x\ty",
    ),
    "weights-bucket": ("gs://x", "A", "x/../y"),
    "engine-image": ("--volume=/:/host", "Image:x", "image:x y"),
    "cloudflared-image": ("-it", "image@sha256:abc"),
    "revision": ("r1\nllm-endpoint phase=engine-ready seconds=0.0 status=ok start=0.0",),
    "tunnel-token-secret": (
        "projects/1/secrets/a/versions/1:destroy?x=",
        "projects/1/secrets/../versions/1",
    ),
    "hugging-face-token-secret": ("projects/1/secrets/a",),
}
"""Values that are wrong for one key alone."""


def cases() -> list[tuple[str, str]]:
    """Key and value of everything that is to be refused; HOSTILE goes round the keys."""
    special = [(key, value) for key, values in SPECIAL.items() for value in values]
    return [*special, *zip(cycle(SPECIAL), HOSTILE, strict=False)]


ARGUMENTS = (
    "Qwen/Qwen3-4B",
    "--serve",
    *(value for value in HOSTILE if not re.search("[\x00-\x1f]", value)),
    "--",
    "-",
    "\u2028\u0085",
)
VARIABLES = {f"V{n}": value for n, value in enumerate(ARGUMENTS) if len(value) < 60_000}
PHASES = {
    "engine-load": f"$(touch {CANARY})",
    "engine-a": "[unclosed",
    "engine-b": "(((",
    "engine-c": f"`touch {CANARY}`; touch {CANARY}",
    "engine-d": f"a[$(touch {CANARY})]",
}
SAID = (
    f"1.0 host engine: $(touch {CANARY})",
    f"a[$(touch {CANARY})] a[$(touch {CANARY})] x: y",
    "llm-endpoint phase=engine-ready seconds=9.9 status=ok start=0.0",
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A machine that serves, and is then told all kinds of things."""
    with prepared(tmp_path_factory.mktemp("world")) as guest:
        yield up(guest.boot())


def test_nothing_that_is_injected_runs_and_the_machine_says_what_is_wrong(endpoint: Guest) -> None:
    """Each value is refused by its key's name, in one printable line; what serves goes on."""
    whole, serving = dict(endpoint.cloud.metadata), len(endpoint.containers())
    again, _, _ = AGAIN.rpartition(" | ")
    endpoint.sh(f"{again} >/run/by-hand")
    run = "timeout 30 bash /run/by-hand 2>&1 | sed '/again in a minute/q; /llm-endpoint started/q'"

    for key, value in cases():
        endpoint.cloud.metadata = whole | {key: value}
        said = endpoint.sh(run)
        endpoint.cloud.metadata = whole

        where = f"{key}={value[:80]!r}: {said[-600:]}"
        errors = [it for it in said.splitlines() if it.startswith("llm-endpoint error: ")]
        assert errors, where
        assert key in errors[0], where
        assert len(errors[0]) < 600, where
        assert errors[0].isprintable(), where
        assert "llm-endpoint started" not in said, where
        assert "\nllm-endpoint phase=engine-ready" not in said, where
        assert endpoint.sh(LOOK) == "", where
    assert "llm-endpoint started" in endpoint.sh(run)
    assert len(endpoint.containers()) == serving, "the engine or the tunnel was interrupted"
    assert endpoint.sh("systemctl is-active llm-endpoint-engine cloudflared") == "active\n" * 2


def test_what_may_be_any_text_arrives_whole_and_runs_nowhere(endpoint: Guest) -> None:
    """Arguments, environment and log lines of the engine are hostile at once, and it serves."""
    endpoint.cloud.metadata |= {
        "engine-args": "\n".join((*ARGUMENTS, *(f"--say={line}" for line in SAID))),
        "engine-env": "\n".join(f"{name}={value}" for name, value in VARIABLES.items()),
        "engine-phases": "\n".join(f"{name}\t{words}" for name, words in PHASES.items()),
    }
    endpoint.run(endpoint.machine.reboot())
    endpoint.until(STARTED, 2, limit_s=90)
    endpoint.wait_for(lambda: endpoint.console.count(READY) >= 2, "second start of the engine")
    endpoint.wait_for(lambda: len(endpoint.containers()) >= 4, "both containers")

    engine = [it for it in endpoint.containers() if "--serve" in it["arguments"]][-1]
    assert engine["arguments"][: len(ARGUMENTS)] == [*ARGUMENTS]
    assert engine["environment"].items() >= VARIABLES.items()
    assert endpoint.sh(LOOK) == ""
    units = endpoint.sh("cat /run/systemd/system/*.service")
    assert not any(value in units for value in ARGUMENTS[2:] if len(value) > 3)


def test_a_planted_canary_would_be_found(endpoint: Guest) -> None:
    """Metadata that runs, here a startup script's own line, is seen by what looks for it."""
    endpoint.sh(f"touch {CANARY}")

    assert CANARY in endpoint.sh(LOOK)
