"""One rehearsal's world: its directory, its clock, its account holder's accounts."""

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from rehearsal import timeline
from rehearsal.faults import Faults
from rehearsal.store import Store

PERSON = "you@example.com"
"""Whoever rehearses, as Google knows them; every project of `Accounts` is theirs."""
CREDENTIALS = "application_default_credentials.json"
CLOCK = Path(__file__).parent / "clock"

PROXIES: tuple[str, ...] = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "GRPC_PROXY")
EXCEPTIONS: tuple[str, ...] = ("NO_PROXY", "NO_GRPC_PROXY")
"""What clients read; gRPC has names of its own, and takes the common ones where they are not set
(github.com/grpc/grpc/blob/master/doc/environment_variables.md)."""


class Accounts(BaseModel):
    """What the rehearsing person owns in the two clouds before the first `pulumi up`.

    Written by scripts/rehearse from the stack's configuration into
    `accounts.json`; whatever is not in it does not exist for the clouds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    projects: dict[str, str]
    """Google Cloud project id -> project number."""
    google_refresh_tokens: list[str] = []
    """What the person's Application Default Credentials hold."""
    google_roles: list[str] = ["roles/owner"]
    """The person's roles in their projects."""
    google_apis: list[str] = ["serviceusage.googleapis.com"]
    """APIs that are on in the projects before the first `up`: this one is in every new project
    (docs.cloud.google.com/service-usage/docs/enabled-service), others were switched on by hand."""
    unbilled_projects: list[str] = []
    """Projects that no billing account pays for."""
    quotas: dict[str, int] = {}
    """Limits other than quotas.py has them, by metric (`NVIDIA_L4_GPUS`) or id, in all regions."""
    quota_used: dict[str, int] = {}
    """What others in the projects use up, by the same names."""
    org_policies: dict[str, dict[str, Any]] = {}
    """Constraint (`gcp.resourceLocations`) -> a rule of the organisation's, as its API has it."""
    closed_locations: list[str] = ["me-central2"]
    """Those that are listed, and to which Google must admit a project
    (github.com/firezone/firezone/pull/7711)."""
    zones_without_gpus: list[str] = []
    """Zones in which the projects get none, whatever the catalogue says."""
    obtainability: dict[str, float] = {}
    """Zone -> how likely a Spot machine is to be had there, 0 to 1, where that is not high."""
    cloudflare_accounts: dict[str, str]
    """Cloudflare account id -> Access team name; empty where Zero Trust is not switched on."""
    cloudflare_zones: dict[str, str]
    """Cloudflare zone id -> domain name. Every zone belongs to every account listed."""
    cloudflare_zone_status: dict[str, str] = {}
    """Zone id -> `pending` or `moved`, where a zone is not active."""
    cloudflare_tokens: list[str] = []
    """API tokens that Cloudflare accepts."""
    cloudflare_expired_tokens: list[str] = []
    """Those that it accepted once."""
    cloudflare_permissions: list[str] | None = None
    """What the tokens may do, by the names of cloudflare.permissions; None for all of it."""
    hugging_face_tokens: list[str] = []
    """Tokens that the hub accepts."""
    hugging_face_sizes: dict[str, int] = {}
    """Model -> bytes of its weights, where they are others than components/models.csv has."""
    hugging_face_refusals: list[str] = []
    """Gated models to which the tokens' owner has not been let in."""


@dataclass(frozen=True)
class World:
    """Where a rehearsal lives and how fast its clouds' time runs.

    Layout of `directory`:
        accounts.json        see Accounts
        application_default_credentials.json
        clouds.db            the Store
        ca.pem               certificate authority that the world's clients trust
        daemon.json          pid, ports: written when the daemon is ready
        daemon.log
        timeline.jsonl       see timeline.Event
        faults/<name>        what goes wrong, see faults.Faults
        buckets/<name>/      Cloud Storage's objects, as files; parts of them in uploads/
        machines/<name>/     one folder a simulated machine: console.log, timeline.jsonl
        logs/<name>.log      what the containers of a Cloud Run revision or execution wrote
        logs/entries.jsonl   Cloud Logging's, of builds
        disks/<id>/          what was written to disks that have outlived their VM, and is on images
        images/<repository>/ Artifact Registry's images that were pushed
        buckets/<name>/      the objects of a bucket of Cloud Storage, as files
    """

    directory: Path
    speed: float = 60.0
    """Seconds of life that pass in one second here."""
    gguf: Path | None = None
    """A model file of the user's that answers instead of the tiny one."""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    @cached_property
    def store(self) -> Store:
        """What exists in the clouds."""
        return Store(self.directory / "clouds.db")

    @property
    def accounts(self) -> Accounts:
        """Read at every use: a second stack may bring its accounts while the daemon runs."""
        return Accounts.model_validate_json((self.directory / "accounts.json").read_text())

    @property
    def timeline(self) -> Path:
        """The world's own timeline file."""
        return self.directory / "timeline.jsonl"

    @cached_property
    def faults(self) -> Faults:
        """What goes wrong, which may change at any time."""
        return Faults(self.directory / "faults")

    @property
    def logs(self) -> Path:
        """Folder of Cloud Run's logs."""
        return self.directory / "logs"

    @property
    def buckets(self) -> Path:
        """Folder of Cloud Storage's buckets."""
        return self.directory / "buckets"

    async def take(self, name: str, life: float) -> None:
        """Let `life` seconds of cloud time pass, and put them on the timeline under `name`."""
        start = time.time()
        await asyncio.sleep(life / self.speed)
        timeline.record(self.timeline, timeline.Event(name, start, time.time(), life))

    @classmethod
    def open(cls, directory: Path, speed: float = 60.0) -> Self:
        """The world in `directory`, made if it is not there."""
        return cls(directory.resolve(), speed)


def client_environment(world: Path, internet_port: int) -> dict[str, str]:
    """Environment variables that lead any HTTP client (requests, httpx, curl, Go) into the world.

    Google's libraries find the person's credentials there, too.

    Every proxy variable is set, in both spellings, and `SSL_CERT_FILE` replaces the
    system's authorities: a client that obeys its environment cannot reach the real
    clouds even by mistake, whatever proxy the person uses otherwise.
    """
    ca = str(world / "ca.pem")
    proxy = f"http://127.0.0.1:{internet_port}"
    nowhere = "localhost,127.0.0.1,::1"
    return {
        "GOOGLE_APPLICATION_CREDENTIALS": str(world / CREDENTIALS),
        **_spelt_twice(dict.fromkeys(PROXIES, proxy) | dict.fromkeys(EXCEPTIONS, nowhere)),
        "SSL_CERT_FILE": ca,
        "REQUESTS_CA_BUNDLE": ca,
        "CURL_CA_BUNDLE": ca,
    }


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the person's own proxies."""
    own = _spelt_twice(dict.fromkeys((*PROXIES, *EXCEPTIONS), ""))
    return {name: value for name, value in environment.items() if name not in own}


def _spelt_twice(variables: Mapping[str, str]) -> dict[str, str]:
    """curl and requests prefer lower case, Go upper case."""
    return {spelt: it for name, it in variables.items() for spelt in (name, name.lower())}


def command_environment(world: Path, internet_port: int, clock: float = 1.0) -> dict[str, str]:
    """The environment in which the pulumi-command stand-in runs a command.

    With a `clock`, so many seconds pass in one for Python commands; see clock/sitecustomize.py.
    """
    faster = {"PYTHONPATH": str(CLOCK), "REHEARSAL_CLOCK": str(clock)} if clock != 1 else {}
    return os.environ | client_environment(world, internet_port) | faster
