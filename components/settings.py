"""What a stack may choose, refused with a readable reason before anything is created."""

import difflib
import inspect
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Self, get_origin

import pulumi
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from components import catalogue
from components.callers import Callers
from components.catalogue import Machine, Provisioning
from components.domain import Domain
from components.downtime import downtime
from components.engine import containers, pinned_image
from components.engine import engine as engine_named
from components.engine import names as engine_names
from components.hardware import TRIED_IMAGE, Hardware
from components.model_source import ModelSource
from components.models import models
from components.problem import (
    HIDDEN,
    NAMESPACE,
    Problem,
    command,
    key,
    named,
    ordinary,
    refusal,
    shown,
)
from components.serving import EngineArgs, MachinesArgs, Prepared, Rollout, ServiceArgs
from components.stack_rules import (
    PLATFORM_RULES,
    PREPARED,
    RULES,
    SHORTEST_CONTEXT,
    machines,
    zones_with_gpu,
)

LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
IMAGE = f"projects/[a-z0-9.:-]{{1,100}}/global/images/(family/)?[a-z]{LABEL}"
IMAGE_FORM = "projects/PROJECT/global/images/NAME or projects/PROJECT/global/images/family/FAMILY"
PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
DOMAIN = rf"({LABEL}\.)+[a-z]{LABEL}"
LONGEST_DOMAIN = 253

MOST_FLAGS = 500
MOST_VARIABLES = 200
FLAGS_KIB = 64
"""All flags together. A machine takes 256 KiB of metadata a value and 512 in all
(docs.cloud.google.com/compute/docs/metadata/setting-custom-metadata), the startup script
included; and Linux 128 an argument."""
VARIABLES_KIB = 32
"""The whole environment together, and with it each line of it: Docker reads at most 64 a line of an
environment file, and Cloud Run takes 32 of a function's."""
MOST_EMAILS, MOST_EMAIL_DOMAINS = 900, 50
"""With the stack's service tokens, 1000 rules: what an Access application takes
(developers.cloudflare.com/cloudflare-one/account-limits)."""


class Rule(NamedTuple):
    """What a setting must be, in words, and a value that is right."""

    expected: str
    example: object
    remedy: str = ""
    """What to do, where it is not `pulumi config set`."""


def pinned(value: str) -> str:
    """A version, or an image's digest; a tag that moves is neither."""
    number = "(0|[1-9][0-9]{0,5})"
    if re.fullmatch(rf"{number}\.{number}\.{number}|sha256:[0-9a-f]{{64}}", value):
        return value
    raise ValueError


def recent_enough(*oldest: int) -> AfterValidator:
    """A version of at least `oldest`, or a digest."""

    def check(value: str) -> str:
        if not value.startswith("sha256:") and tuple(map(int, value.split("."))) < oldest:
            raise ValueError
        return value

    return AfterValidator(check)


def at_most_kib(limit: int) -> AfterValidator:
    """Texts that together, each on a line, take no more than so many KiB."""

    def check(lines: tuple[str, ...]) -> tuple[str, ...]:
        if sum(len(line.encode()) + 1 for line in lines) > limit * 1024:
            raise ValueError
        return lines

    return AfterValidator(check)


def unique_names(lines: tuple[str, ...]) -> tuple[str, ...]:
    """NAME=VALUE lines, no name of which may come twice."""
    unique(tuple(line.partition("=")[0] for line in lines))
    return lines


def no_way_up(value: str) -> str:
    """A name without `..`, which no branch or tag of git's has."""
    if ".." in value:
        raise ValueError
    return value


def one_of(values: Collection[str]) -> AfterValidator:
    """One of the values."""

    def check(value: str) -> str:
        if value not in values:
            raise ValueError
        return value

    return AfterValidator(check)


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """The values, none of which may come twice."""
    if len(set(values)) < len(values):
        raise ValueError
    return values


SHUTDOWN_S = {"spot": 20, "standard": 60, "flex-start": 60, "cloud-run": 8}
"""A Spot machine is gone 30 seconds after its notice, others get 90 or more (Compute Engine's
shutdown period); Cloud Run kills 10 seconds after SIGTERM (its container contract)."""

LONGEST_START_S = 1800
"""How long Cloud Run lets a GPU container start
(docs.cloud.google.com/run/docs/configuring/jobs/healthchecks; for services U)."""
START_S = 360
"""Four times what vLLM's start, compilation and graph capture take (rehearsal/figures.py)."""
SECONDS_A_GIGABYTE = {"bucket": 4, "image": 4, "hub": 24}
"""The same for weights, by where they come from."""

# The engine knows no absent key: an optional one is empty by default.
EmptyIsNone = BeforeValidator(lambda value: value or None)


class Settings(BaseModel):
    """The plain part of a stack's configuration; what was left open is filled from the catalogue.

    `Pulumi.yaml` owns names, descriptions and defaults; this class owns what
    they may be. Secrets never pass through here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: Annotated[
        str,
        Field(pattern="^[a-z]([a-z0-9-]{0,16}[a-z0-9])?$"),
        Rule(
            "1 to 18 lower-case letters, digits and hyphens, a letter first: it is part of names"
            " of which Google allows 30 characters",
            "dev",
            "pulumi stack rename dev, or `pulumi stack init` another",
        ),
    ]
    project: Annotated[
        str,
        Field(pattern="^[a-z][a-z0-9-]{4,28}[a-z0-9]$"),
        Rule("a Google Cloud project's id, neither its name nor its number", "my-project-1234"),
    ]
    region: Annotated[
        str,
        Field(pattern="^[a-z]{1,20}-[a-z]{1,20}[0-9]{1,3}$"),
        Rule("a Google Cloud region", "us-central1"),
    ]
    platform: Annotated[Literal["vm", "cloud-run"], Rule("vm or cloud-run", "vm")]
    engine: Annotated[
        str,
        one_of(engine_names()),
        Rule(f"one of {', '.join(engine_names())}", "vllm"),
    ]
    model: Annotated[
        str,
        Field(pattern="^[A-Za-z0-9][A-Za-z0-9._/:-]{0,250}$"),
        Rule("a model by the name that the engine has for it", "Qwen/Qwen3-4B"),
    ]
    model_revision: Annotated[
        Annotated[
            str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$"), AfterValidator(no_way_up)
        ]
        | None,
        EmptyIsNone,
        Rule("a commit, tag or branch of the model", "main"),
    ]
    weights: Annotated[Literal["bucket", "image", "hub"], Rule("bucket, image or hub", "bucket")]
    keep_weights: Annotated[bool, Rule("true or false", "true")]
    gpu: Annotated[
        str,
        one_of(catalogue.gpus()),
        Rule(f"one of {', '.join(catalogue.gpus())}", "nvidia-l4"),
    ]
    gpu_count: Annotated[int, Field(ge=1, le=1000), Rule("a number of GPUs, 1 or more", 1)]
    machine_type: Annotated[
        Annotated[str, Field(pattern="^[a-z][a-z0-9-]{1,61}$")] | None,
        EmptyIsNone,
        Rule("a machine type of Google's, or nothing for the usual one", "g2-standard-8"),
    ]
    provisioning: Annotated[Provisioning, Rule("spot, standard or flex-start", "spot")]
    max_run_hours: Annotated[int, Field(ge=0, le=168), Rule("0 to 168 hours", 24)]
    zones: Annotated[
        tuple[Annotated[str, Field(pattern="^[a-z]{1,20}-[a-z]{1,20}[0-9]{1,3}-[a-z]$")], ...],
        Field(max_length=26),
        AfterValidator(unique),
        Rule("zones of Google's, each once", "us-central1-a"),
    ]
    boot_image: Annotated[
        Annotated[str, Field(pattern=f"^(prepared|prepared-with-weights|{IMAGE})$")] | None,
        EmptyIsNone,
        Rule(f"prepared, prepared-with-weights, or an image: {IMAGE_FORM}", TRIED_IMAGE),
    ]
    prepared_from: Annotated[
        Annotated[str, Field(pattern=f"^{IMAGE}$")] | None,
        EmptyIsNone,
        Rule(IMAGE_FORM, TRIED_IMAGE),
    ]
    boot_disk_gb: Annotated[
        int,
        Field(ge=100, le=65_536),
        Rule("100 to 65536 GB: image, containers and weights must fit", 100),
    ]
    compile_cache: Annotated[Literal["disk", "bucket"], Rule("disk or bucket", "disk")]
    max_model_len: Annotated[
        int,
        Field(ge=SHORTEST_CONTEXT, le=10_485_760),
        Rule(f"tokens as a whole number, {SHORTEST_CONTEXT} or more (8192, not 8k)", 8192),
    ]
    gpu_memory_utilization: Annotated[
        float, Field(ge=0.1, le=1), Rule("a share of the GPU's memory, 0.1 to 1", 0.92)
    ]
    engine_version: Annotated[
        Annotated[str, AfterValidator(pinned)] | None,
        EmptyIsNone,
        Rule("a version of the engine, or its image's digest sha256:...", "0.33.0"),
    ]
    engine_args: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")], ...],
        Field(max_length=MOST_FLAGS),
        at_most_kib(FLAGS_KIB),
        Rule(
            "flags of `vllm serve`, one a line, without control characters;"
            f" at most {MOST_FLAGS}, and {FLAGS_KIB} KiB in all",
            "--max-num-seqs=64",
        ),
    ]
    engine_env: Annotated[
        tuple[
            Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*=[^\x00-\x1f\x7f-\x9f]*$")], ...
        ],
        Field(max_length=MOST_VARIABLES),
        at_most_kib(VARIABLES_KIB),
        AfterValidator(unique_names),
        Rule(
            "NAME=VALUE, each name once, without control characters;"
            f" at most {MOST_VARIABLES}, and {VARIABLES_KIB} KiB in all",
            "VLLM_USE_V1=1",
        ),
    ]
    cloudflared_version: Annotated[
        str,
        AfterValidator(pinned),
        recent_enough(2025, 4, 0),
        Rule("a version of cloudflared, 2025.4.0 or newer, or its image's digest", "2026.8.2"),
    ]
    hostname: Annotated[
        str,
        Field(pattern=f"^{DOMAIN}$", max_length=LONGEST_DOMAIN),
        Rule("a lower-case host name without scheme, port or path", "llm.example.com"),
    ]
    cloudflare_account_id: Annotated[
        str,
        Field(pattern="^[0-9a-f]{32}$"),
        Rule("32 hexadecimal digits, as in the dashboard's address", "0123456789abcdef" * 2),
    ]
    cloudflare_zone_id: Annotated[
        str,
        Field(pattern="^[0-9a-f]{32}$"),
        Rule("32 hexadecimal digits, as on the zone's overview page", "0123456789abcdef" * 2),
    ]
    cloudflare_zone_name: Annotated[
        str,
        Field(pattern=f"^{DOMAIN}$", max_length=LONGEST_DOMAIN),
        Rule("the zone's domain in lower case", "example.com"),
    ]
    access_team_name: Annotated[
        str,
        Field(pattern=f"^{LABEL}$"),
        Rule("the team name alone, without .cloudflareaccess.com", "example"),
    ]
    consumers: Annotated[
        tuple[Annotated[str, Field(pattern="^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")], ...],
        Field(max_length=49),
        AfterValidator(unique),
        Rule(
            "names of lower-case letters, digits and hyphens, each once; at most 49, as an account"
            " has 50 service tokens and the stack needs one itself",
            "app",
        ),
    ]
    allowed_emails: Annotated[
        tuple[
            Annotated[str, Field(pattern=rf"^[A-Za-z0-9._%+'-]{{1,64}}@{DOMAIN}$", max_length=254)],
            ...,
        ],
        Field(max_length=MOST_EMAILS),
        AfterValidator(unique),
        Rule(
            f"e-mail addresses, each once; at most {MOST_EMAILS}, for more name their domain",
            "someone@example.com",
        ),
    ]
    allowed_email_domains: Annotated[
        tuple[Annotated[str, Field(pattern=f"^{DOMAIN}$", max_length=LONGEST_DOMAIN)], ...],
        Field(max_length=MOST_EMAIL_DOMAINS),
        AfterValidator(unique),
        Rule(
            f"domains in lower case, without @, each once; at most {MOST_EMAIL_DOMAINS}",
            "example.com",
        ),
    ]
    service_token_duration: Annotated[
        str, Field(pattern="^([1-9][0-9]{0,5}h|forever)$"), Rule("hours, or forever", "8760h")
    ]
    hugging_face_endpoint: Annotated[
        str,
        Field(pattern=rf"^https://{DOMAIN}(:{PORT})?(/[A-Za-z0-9._/-]*)?$", max_length=500),
        Rule("an https address, as the token travels there", "https://huggingface.co"),
    ]
    cpus: Annotated[int, Field(ge=0, le=64), Rule("a number of CPUs, or 0 for the least", 8)]
    memory_gib: Annotated[int, Field(ge=0, le=256), Rule("GiB, or 0 for the least", 32)]
    min_instances: Annotated[
        int, Field(ge=0, le=100), Rule("0 to 100 instances; 0 lets it sleep when idle", 0)
    ]
    max_instances: Annotated[int, Field(ge=1, le=100), Rule("1 to 100 instances", 1)]
    zonal_redundancy: Annotated[bool, Rule("true or false", "false")]
    replicas: Annotated[int, Field(ge=1, le=1000), Rule("a number of machines, 1 or more", 1)]
    rollout: Annotated[Rollout, Rule("replace, surge or manual", "replace")]
    ready_timeout_minutes: Annotated[
        int,
        Field(ge=5, le=60),
        Rule("5 to 60 minutes; machines that need longer count as broken", 30),
    ]
    readiness_api: Annotated[
        Literal["chat/completions", "completions", "embeddings"],
        Rule("chat/completions, completions or embeddings", "embeddings"),
    ]
    hours_per_day: Annotated[int, Field(ge=0, le=24), Rule("0 to 24 hours, as a whole number", 8)]
    preflight: Annotated[bool, Rule("true or false", "true")]
    wait_until_ready: Annotated[bool, Rule("true or false", "true")]
    protect: Annotated[bool, Rule("true or false", "true")]

    def domain(self, api_token: pulumi.Input[str]) -> Domain:
        """Where the endpoint lives on Cloudflare."""
        return Domain(
            account_id=self.cloudflare_account_id,
            api_token=api_token,
            zone_id=self.cloudflare_zone_id,
            team_name=self.access_team_name,
            hostname=self.hostname,
            protect=self.protect,
        )

    @property
    def callers(self) -> Callers:
        """Who is let in."""
        return Callers(
            consumers=self.consumers,
            emails=self.allowed_emails,
            email_domains=self.allowed_email_domains,
            token_duration=self.service_token_duration,
        )

    @property
    def model_source(self) -> ModelSource:
        """Which model, where from, and by which way to the engine."""
        engine = engine_named(self.engine)
        return ModelSource(
            weights=self.weights,
            engine=self.engine,
            base_image=engine.base_image(self),
            kind=engine.SOURCE,
            model=self.model,
            revision=self.model_revision or "main",
            hub=self.hugging_face_endpoint,
            keep=self.keep_weights,
            protect=self.protect,
        )

    def serving(self, *, token: bool) -> EngineArgs:
        """What serves, and its end of the tunnel; `token` says whether there is one for the hub."""
        engine = engine_named(self.engine)
        return {
            "engine": containers(self, token=token),
            "port": engine.PORT,
            "health_path": engine.HEALTH_PATH,
            "load_time_s": self.ready_timeout_minutes * 60,
            "cloudflared": pinned_image("cloudflare/cloudflared", self.cloudflared_version),
        }

    @property
    def machines(self) -> MachinesArgs:
        """The machines of the platform `vm`."""
        machine = self.machine
        return {
            "hardware": Hardware(
                machine_type=machine.machine_type,
                boot_image=self.base_boot_image,
                boot_disk_gb=self.boot_disk_gb,
                boot_disk_type=machine.boot_disk,
                provisioning=self.provisioning,
                max_run_hours=self.max_run_hours,
                gpu=machine.gpu,
                attached_gpus=machine.count if machine.attached else 0,
            ),
            "prepared": self.prepared,
            "compile_cache": self.compile_cache,
            "zones": self.zones,
            "replicas": self.replicas,
            "rollout": self.rollout,
            "downtime": self.downtime,
        }

    @property
    def service(self) -> ServiceArgs:
        """The service of the platform `cloud-run`."""
        cpus, memory_gib = catalogue.gpu(self.gpu).cloud_run or (0, 0)
        return {
            "gpu": self.gpu,
            "cpus": self.cpus or cpus,
            "memory_gib": self.memory_gib or memory_gib,
            "min_instances": self.min_instances,
            "max_instances": self.max_instances,
            "zonal_redundancy": self.zonal_redundancy,
            "start_limit_s": self.start_limit_s,
            "protect": self.protect,
        }

    @property
    def downtime(self) -> str:
        """How long the endpoint is away while its only machine is replaced, in words."""
        chosen, known = engine_named(self.engine), models().get(self.model)
        return downtime(
            self.shutdown_timeout_s,
            chosen.IMAGE_GIB if self.prepared == "nothing" else 0.0,
            chosen.START_S,
            self.weights,
            known.weights if known else None,
        )

    @property
    def start_limit_s(self) -> int:
        """Seconds in which an instance on Cloud Run must load the model; it follows from its size.

        A model that is not in the catalogue gets the longest that Cloud Run allows.
        """
        limit = min(self.ready_timeout_minutes * 60, LONGEST_START_S)
        known = models().get(self.model)
        if known is None:
            return limit
        gigabytes = known.weights / 1e9
        return min(limit, START_S + math.ceil(gigabytes * SECONDS_A_GIGABYTE[self.weights]))

    @property
    def machine(self) -> Machine:
        """The catalogue's row for the machines of this stack."""
        return machines(self.gpu, self.gpu_count, self.machine_type)[0]

    @property
    def prepared(self) -> Prepared:
        """What machines find on their disk when they boot, besides the system."""
        return PREPARED.get(self.boot_image or "", "nothing")

    @property
    def base_boot_image(self) -> str:
        """What machines boot from, or what theirs is made from."""
        given = self.boot_image if self.prepared == "nothing" else self.prepared_from
        return given or TRIED_IMAGE

    @property
    def image_version(self) -> str:
        """The engine's version, or its image's digest."""
        return self.engine_version or engine_named(self.engine).version(self.platform, self.gpu)

    @property
    def environment(self) -> dict[str, str]:
        """What the stack adds to the engine's environment, or sets otherwise there."""
        return dict(line.split("=", 1) for line in self.engine_env)

    @property
    def compute_capability(self) -> tuple[int, int]:
        """NVIDIA's, (major, minor), of the stack's GPU."""
        return catalogue.gpu(self.gpu).compute_capability

    @property
    def shutdown_timeout_s(self) -> int:
        """Seconds that requests in flight get before the engine goes."""
        return SHUTDOWN_S["cloud-run" if self.platform == "cloud-run" else self.provisioning]

    @classmethod
    def load(cls) -> Self:
        """The running stack's settings.

        Raises pulumi.RunError, which lists every problem, when they cannot work.
        """
        given = [name for name in pulumi.runtime.get_config_env() if name.startswith(NAMESPACE)]
        names = {*given, *SECRETS, *map(key, cls.model_fields)}
        values: dict[str, str | None] = {name: pulumi.runtime.get_config(name) for name in names}
        return cls.parse(
            values | {key("stack"): pulumi.get_stack()},
            secret={name for name in names if pulumi.runtime.is_config_secret(name)},
        )

    @classmethod
    def parse(cls, config: Mapping[str, str | None], secret: Collection[str] = ()) -> Self:
        """Settings from a configuration as Pulumi holds it: key to text, lists as JSON.

        `secret` names the keys that are encrypted. Raises pulumi.RunError.
        """
        problems = [*_unknown_keys(config), *_secrets(config, secret)]
        valid: dict[str, Any] = {}
        for setting in cls.model_fields:
            if key(setting) in secret:
                problems.append(_not_secret(setting))
                continue
            try:
                valid[setting] = _value(setting, config.get(key(setting)))
            except ValidationError as error:
                problems += _wrong_values(setting, error)
        rules: list[Callable[..., Iterator[Problem]]] = [
            *RULES,
            *PLATFORM_RULES.get(valid.get("platform", ""), ()),
            *(engine_named(valid["engine"]).RULES if "engine" in valid else ()),
        ]
        for rule in rules:
            compared = inspect.signature(rule).parameters
            refused = {problem.key for problem in problems}  # What they would say follows from it.
            if valid.keys() >= compared.keys() and refused.isdisjoint(map(key, compared)):
                problems += rule(**{setting: valid[setting] for setting in compared})
        if problems:
            raise refusal(problems)
        if valid["platform"] == "vm":
            usual = machines(valid["gpu"], valid["gpu_count"], valid["machine_type"])[0]
            valid["machine_type"] = usual.machine_type
            valid["zones"] = valid["zones"] or zones_with_gpu(valid["gpu"], valid["region"])
        return cls(**valid)


class Secret(NamedTuple):
    """A key that Settings only looks at; the program takes it as an encrypted Output."""

    pattern: str
    expected: str
    required: bool


SECRETS = {
    f"{NAMESPACE}:huggingFaceToken": Secret("[!-~]{8,200}", "a token of Hugging Face's", False),
    "cloudflare:apiToken": Secret("[0-9A-Za-z_-]{40,80}", "an API token of Cloudflare's", True),
}


MAY_BE_SECRET = ("engine_args", "engine_env", "hugging_face_endpoint")
"""Settings in which somebody may have put a credential by mistake: a refusal does not repeat it."""


def _value(setting: str, text: str | None) -> Any:
    value: Any = text
    if _is_list(setting) and text is not None:
        # Text that is no list is refused as such, and one that is nested without end as well.
        with suppress(ValueError, RecursionError):
            value = json.loads(text)
    return _adapter(setting).validate_python(value)


@cache
def _adapter(setting: str) -> TypeAdapter[Any]:
    """One setting's validator: a model's own stops before the rules when one value is wrong."""
    return TypeAdapter(Settings.model_fields[setting].rebuild_annotation())


def _is_list(setting: str) -> bool:
    return get_origin(Settings.model_fields[setting].annotation) is tuple


def _rule(setting: str) -> Rule:
    return next(item for item in Settings.model_fields[setting].metadata if type(item) is Rule)


def _wrong_values(setting: str, error: ValidationError) -> Iterator[Problem]:
    rule = _rule(setting)
    listed = _is_list(setting)
    for detail in error.errors(include_url=False, include_context=False):
        index = detail["loc"][0] if listed and detail["loc"] else None
        value = "not set" if detail["input"] is None else shown(detail["input"])
        fix = command(setting, rule.example, int(index or 0) if listed else None)
        yield Problem(
            key(setting) if index is None else f"{key(setting)}[{index}]",
            HIDDEN if setting in MAY_BE_SECRET else value,
            rule.expected,
            rule.remedy or f"such as: {fix}",
        )


def _unknown_keys(config: Mapping[str, str | None]) -> Iterator[Problem]:
    known = {*map(key, Settings.model_fields), *SECRETS}
    for name in config.keys() - known:
        near = difflib.get_close_matches(name, known, n=1) if ordinary(name) else []
        away = f"pulumi config rm {name}" if ordinary(name) else "take it out of the stack's file"
        yield Problem(
            named(name),
            HIDDEN,
            f"did you mean {near[0]}?" if near else "a key that Pulumi.yaml declares",
            away + (f", then set {near[0]}" if near else ""),
        )


def _not_secret(setting: str) -> Problem:
    return Problem(
        key(setting),
        HIDDEN,
        "a plain value: it goes into resources that anyone in the project can read",
        f"pulumi config rm {key(setting)}, then set it without --secret",
    )


def _secrets(config: Mapping[str, str | None], secret: Collection[str]) -> Iterator[Problem]:
    for name, rule in SECRETS.items():
        value = config.get(name) or ""
        fix = f"pulumi config set --secret {name}"
        if not value and rule.required:
            yield Problem(name, "not set", f"{rule.expected}, encrypted", fix)
        elif value and name not in secret:
            yield Problem(
                name,
                HIDDEN,
                "an encrypted value; it stands in the stack's file in clear",
                f"revoke that token and make a new one, then: {fix}",
            )
        elif value and not re.fullmatch(rule.pattern, value):
            yield Problem(name, HIDDEN, rule.expected, f"copy it again, then: {fix}")
