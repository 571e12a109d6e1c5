"""What people do."""

import time
from collections.abc import Callable
from functools import partial

from rehearsal.fault_library.fault import Fault, edits, removes, sets
from rehearsal.fault_library.google import GROUP
from rehearsal.scene import LIMIT_S, Scene

PULUMI = "https://www.pulumi.com/docs/iac/concepts/state-and-backends/"
DRIFT = "https://www.pulumi.com/docs/iac/operations/drift/"
LOOK_AGAIN = ("pulumi refresh --yes --skip-preview",)

NAP_S = 6.0
"""Real seconds for which the laptop sleeps."""


def two_at_once(scene: Scene) -> str:
    """Two people type `pulumi up`; the second one's output."""
    first = scene.start("up", "--yes", "--skip-preview")
    while first.running and "updating" not in first.text.lower():
        time.sleep(0.05)
    second = scene.up()
    first.wait(LIMIT_S)
    return second.text if first.ok else f"the first one failed: {first.text[-200:]}"


def laptop_sleeps(scene: Scene) -> str:
    """The lid is closed in the middle; empty when the command goes on and succeeds."""
    running = scene.start("up", "--yes", "--skip-preview")
    while running.running and "created" not in running.text:
        time.sleep(0.05)
    running.sleep(NAP_S)
    return "" if running.wait(LIMIT_S).ok else running.text[-300:]


def wrong_passphrase(scene: Scene) -> str:
    """Somebody mistypes the passphrase of the stack's secrets."""
    return scene.run("up", "--yes", PULUMI_CONFIG_PASSPHRASE="mistyped").text  # noqa: S106 wrong on purpose


def drifted(name: str, life: str, type: str, step: Callable[[Scene], None]) -> Fault:
    """Somebody deletes something in a console; `pulumi refresh` and `up` bring it back."""
    return Fault(
        name=name,
        life=life,
        source=DRIFT,
        when="serving",
        begin=(step,),
        act=partial(_look, type),
        says=r"delete",
        repair=LOOK_AGAIN,
    )


def _look(type: str, scene: Scene) -> str:
    """What a preview of `pulumi refresh` says of a type."""
    text = scene.asked("refresh", "--preview-only")
    noun = type.rpartition(":")[2]
    return next(
        (it.strip() for it in text.splitlines() if f":{noun} " in it and "delete" in it), ""
    )


def deleted(type: str) -> Callable[[Scene], None]:
    """Somebody deletes it, and what would go with it in life."""
    return removes(type)


FIREWALL = "gcp:compute/firewall:Firewall"
RECORD = "cloudflare:index/dnsRecord:DnsRecord"
NAT = "gcp:compute/routerNat:RouterNat"

FAULTS = (
    Fault(
        name="credentials-expire",
        life="The login of whoever deploys expires in the middle.",
        source="https://docs.cloud.google.com/docs/authentication/troubleshoot-adc",
        when="up",
        begin=(sets("unauthenticated-create-RegionInstanceTemplate"),),
        says=r"Error 401",
    ),
    Fault(
        name="two-at-once",
        life="Two people run `pulumi up` at the same time.",
        source=PULUMI,
        when="up",
        begin=(),
        act=two_at_once,
        says=r"currently locked",
    ),
    Fault(
        name="laptop-sleeps",
        life="The laptop sleeps in the middle of an `up`.",
        source="nothing found: played as SIGSTOP and SIGCONT",
        when="up",
        begin=(),
        act=laptop_sleeps,
    ),
    Fault(
        name="passphrase-wrong",
        life="Somebody mistypes the passphrase.",
        source="https://www.pulumi.com/docs/iac/concepts/secrets/",
        when="serving",
        begin=(),
        act=wrong_passphrase,
        says=r"incorrect passphrase",
    ),
    drifted(
        "firewall-deleted-by-hand",
        "Somebody deletes the rule that admits health checks.",
        FIREWALL,
        deleted(FIREWALL),
    ),
    drifted(
        "dns-record-deleted-by-hand",
        "Somebody deletes the endpoint's DNS record.",
        RECORD,
        deleted(RECORD),
    ),
    drifted("nat-deleted-by-hand", "Somebody deletes the NAT.", NAT, deleted(NAT)),
    drifted(
        "group-deleted-by-hand",
        "Somebody deletes the group of machines.",
        GROUP,
        deleted(GROUP),
    ),
    Fault(
        name="group-stopped-by-hand",
        life="Somebody sets the group's size to 0, and forgets it.",
        source=DRIFT,
        when="serving",
        begin=(edits(GROUP, {"targetSize": 0}),),
        act=lambda scene: scene.suffers(),
        says=r"530",
        repair=LOOK_AGAIN,
    ),
)
