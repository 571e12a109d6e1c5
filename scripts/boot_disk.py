"""See to it that a disk has all that a machine of the stack would fetch; `pulumi up` runs this.

`python -m scripts.boot_disk`, on the machine of whoever deploys, with their own credentials of
Google's (scripts/google_api.py). A small machine without a GPU boots the base image with
scripts/startup.sh, which fetches the container images, and the weights where the stack wants them,
and seals the disk. Then the machine is deleted, and its disk stays: Pulumi makes an image of it.
`--remove` deletes what is left of all that: Pulumi runs it once there is the image, and at the end.

Everything comes from the environment: PROJECT, REGION, ZONES (with spaces between them), STACK,
BASE_IMAGE, DISK_GB, SUBNETWORK, SERVICE_ACCOUNT, ENGINE_IMAGE, CLOUDFLARED_IMAGE, and
WEIGHTS_BUCKET (may be empty). How it goes is told on stderr. The last line, alone on stdout, is the
disk.

A machine never outlives its purpose: interrupted or killed, this has it deleted
(scripts/cancel_when_gone.py), and Google deletes it anyhow after LONGEST_S. Exits 1 when the disk
is not prepared.
"""

import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import requests

from scripts import boot_phases
from scripts.boot_phases import Phase
from scripts.cancel_when_gone import Interrupted, watched
from scripts.google_api import GoogleError, base, call, session
from scripts.machine_group import Machine, MachineGroup
from scripts.stage_weights import PATIENCE_SECONDS, Teller, insist, interrupt, say

POLL_SECONDS = 2.0
LONGEST_S = 2 * 3600
"""Images take minutes; 140 GB of weights at 200 MB/s a quarter of an hour."""
HOPELESS_SECONDS = 180.0
"""So long the machine may fail at something, trying again each minute, before it is given up."""
MACHINE_TYPE = "e2-standard-4"
"""Enough to unpack an image of 12 GB in its time; with fewer CPUs that is what takes longest."""
DISK_TYPE = "pd-balanced"
STACK_LABEL, PURPOSE_LABEL = "llm-endpoint-stack", "llm-endpoint-purpose"
PURPOSE = "boot-disk"
DONE = "disk-prepared"
"""The phase of scripts/startup.sh with which all is on the disk."""
STOCKOUT = re.compile("RESOURCE_POOL_EXHAUSTED|STOCKOUT|RESOURCE_NOT_FOUND|UNSUPPORTED")
STARTUP_SCRIPT = Path(__file__).parent / "startup.sh"


class PreparationError(Exception):
    """The disk is not prepared; says why."""


class Builder:
    """The machine that prepares a disk. Methods raise GoogleError when Google refuses."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._http = session()
        self._project = f"{base('compute')}/compute/v1/projects/{env['PROJECT']}"
        self.name = f"llm-{env['STACK']}-builder-{secrets.token_hex(3)}"
        self.zone = ""

    @property
    def url(self) -> str:
        """The machine's address, once there is one."""
        return f"{self._project}/zones/{self.zone}/instances/{self.name}"

    @property
    def disk(self) -> str:
        """Its disk, as Google itself links to it: another spelling would look like a change."""
        place = f"projects/{self._env['PROJECT']}/zones/{self.zone}"
        return f"https://www.googleapis.com/compute/v1/{place}/disks/{self.name}"

    def create(self) -> list[Mapping[str, str]]:
        """Make the machine in its zone; waits until it runs. Returns why it could not."""
        url = f"{self._project}/zones/{self.zone}/instances"
        operation = call(self._http, "POST", url, body=instance(self._env, self))
        error: dict[str, Any] = self._wait(operation).get("error") or {}
        return error.get("errors") or []

    def phases(self) -> list[Phase]:
        """What it reports of its work. PreparationError when it is gone."""
        env = self._env
        group = MachineGroup(self._http, env["PROJECT"], env["REGION"], name="")
        found = group.phases(Machine(self.name, self.zone, status="", template=""))
        if not found and call(self._http, "GET", self.url)["status"] in ("STOPPING", "TERMINATED"):
            raise PreparationError(f"the machine {self.name} is gone")
        return found

    def errors(self) -> list[str]:
        """What its startup script says is wrong, the last of it."""
        said = call(self._http, "GET", f"{self.url}/serialPort", parameters={"port": 1})
        lines = re.findall(r"llm-endpoint error: (.*)", said.get("contents") or "")
        return [*dict.fromkeys(it.strip() for it in lines[-6:])]

    def dissolve(self) -> None:
        """Delete the machine, and keep its disk."""
        keep = {"autoDelete": "false", "deviceName": self.name}
        url = f"{self.url}/setDiskAutoDelete"
        self._wait(call(self._http, "POST", url, parameters=keep))
        self._wait(call(self._http, "DELETE", self.url))

    def remove_others(self) -> None:
        """Delete what earlier runs for this stack have left: machines, and disks without one."""
        for noun in ("instances", "disks"):
            for link in self._left(noun):
                say(f"deleting {link}")
                try:
                    self._wait(call(self._http, "DELETE", f"{base('compute')}/compute/v1/{link}"))
                except GoogleError as error:
                    if error.status != 404:  # with its machine
                        raise

    def _left(self, noun: str) -> Iterator[str]:
        page = ""
        while True:
            asked = {"filter": f"labels.{STACK_LABEL}={self._env['STACK']}", "pageToken": page}
            url = f"{self._project}/aggregated/{noun}"
            answer: dict[str, Any] = call(self._http, "GET", url, parameters=asked)
            scopes: dict[str, dict[str, list[dict[str, Any]]]] = answer.get("items") or {}
            for it in (found for scope in scopes.values() for found in scope.get(noun) or ()):
                labels: dict[str, str] = it.get("labels") or {}
                if labels.get(PURPOSE_LABEL) == PURPOSE:
                    yield it["selfLink"].partition("/compute/v1/")[2]
            page = answer.get("nextPageToken") or ""
            if not page:
                return

    def _wait(self, operation: dict[str, Any]) -> dict[str, Any]:
        """The operation once it is done."""
        url = f"{base('compute')}/compute/v1/" + operation["selfLink"].partition("/compute/v1/")[2]
        while operation["status"] != "DONE":
            time.sleep(POLL_SECONDS)
            operation = call(self._http, "GET", url)
        return operation


def instance(env: Mapping[str, str], builder: Builder) -> dict[str, Any]:
    """The machine, as instances.insert takes it."""
    labels = {STACK_LABEL: env["STACK"], PURPOSE_LABEL: PURPOSE}
    place = f"zones/{builder.zone}"
    metadata = {
        "startup-script": STARTUP_SCRIPT.read_text(),
        "prepare-disk": "true",
        "engine-image": env["ENGINE_IMAGE"],
        "cloudflared-image": env["CLOUDFLARED_IMAGE"],
        "weights-bucket": env["WEIGHTS_BUCKET"],
        "enable-guest-attributes": "TRUE",
        "enable-oslogin": "TRUE",
        "block-project-ssh-keys": "TRUE",
        "serial-port-logging-enable": "TRUE",
    }
    return {
        "name": builder.name,
        "machineType": f"{place}/machineTypes/{MACHINE_TYPE}",
        "labels": labels,
        "disks": [
            {
                "boot": True,
                "autoDelete": True,  # until all is on it
                "deviceName": builder.name,
                "initializeParams": {
                    "diskName": builder.name,
                    "sourceImage": env["BASE_IMAGE"],
                    "diskSizeGb": env["DISK_GB"],
                    "diskType": f"{place}/diskTypes/{DISK_TYPE}",
                    "labels": labels,
                },
            }
        ],
        "networkInterfaces": [{"subnetwork": env["SUBNETWORK"]}],
        "serviceAccounts": [
            {
                "email": env["SERVICE_ACCOUNT"],
                "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
            }
        ],
        "shieldedInstanceConfig": {"enableVtpm": True, "enableIntegrityMonitoring": True},
        "scheduling": {
            "provisioningModel": "STANDARD",
            "automaticRestart": False,
            "maxRunDuration": {"seconds": str(LONGEST_S)},
            "instanceTerminationAction": "DELETE",
        },
        "metadata": {"items": [{"key": key, "value": metadata[key]} for key in metadata]},
    }


def make(builder: Builder, zones: list[str], watch: Callable[[str], None]) -> None:
    """Have the machine in the first zone that has room. PreparationError where none has."""
    for zone in zones:
        builder.zone = zone
        watch(f"DELETE {builder.url}")
        errors = builder.create()
        if not errors:
            return
        told = "; ".join(f"{it.get('code')}: {it.get('message')}" for it in errors)
        say(f"no machine in {zone}: {told}")
        if not STOCKOUT.search(told):
            break
    raise PreparationError(f"no {MACHINE_TYPE} to be had: see above")


def follow(builder: Builder, teller: Teller) -> None:
    """Until all is on the disk. PreparationError when that does not come to pass."""
    start = time.monotonic()
    well = start
    while True:
        phases = insist(teller, PATIENCE_SECONDS, builder.phases)
        now = time.monotonic()
        if any((it.name, it.status) == (DONE, "ok") for it in phases):
            return
        if not any(it.status == "failed" for it in phases):
            well = now
        teller.tell(f"{builder.name} {boot_phases.doing(phases) or 'boots'}")
        if now - well > HOPELESS_SECONDS or now - start > LONGEST_S:
            raise PreparationError("\n  ".join([boot_phases.doing(phases), *builder.errors()]))
        time.sleep(POLL_SECONDS)


def prepare(env: Mapping[str, str]) -> str:
    """A disk with everything on it. PreparationError or GoogleError when there is none."""
    builder, teller = Builder(env), Teller(say, time.monotonic)
    builder.remove_others()
    with watched() as watch:
        try:
            make(builder, env["ZONES"].split(), watch)
            follow(builder, teller)
            insist(teller, PATIENCE_SECONDS, partial(builder.dissolve))
        except (PreparationError, GoogleError):
            builder.remove_others()
            raise
    return builder.disk


def main() -> int:
    """Prepare, or remove; and tell."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    env = os.environ
    try:
        if sys.argv[1:] == ["--remove"]:
            Builder(env).remove_others()
            return 0
        print(prepare(env))
    except PreparationError as error:
        say(f"The boot disk is not prepared: {error}\n  next: put it right, then: pulumi up")
        return 1
    except (GoogleError, requests.RequestException) as error:
        say(f"The boot disk is not prepared: {error}")
        return 1
    except Interrupted as interrupted:
        return 128 + interrupted.number
    return 0


if __name__ == "__main__":
    sys.exit(main())
