"""What a stack may choose, refused with a readable reason before anything is created."""

import difflib
import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping
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
from components.catalogue import Machine, Provisioning
from components.problem import HIDDEN, NAMESPACE, Problem, command, key, refusal
from components.stack_rules import RULES, SHORTEST_CONTEXT, machines, zones_with_gpu

LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = rf"({LABEL}\.)+[a-z]{LABEL}"


class Rule(NamedTuple):
    """What a setting must be, in words, and a value that is right."""

    expected: str
    example: object
    remedy: str = ""
    """What to do, where it is not `pulumi config set`."""


def pinned(*oldest: int) -> AfterValidator:
    """A version of at least `oldest`, or an image's digest; a tag that moves is neither."""

    def check(value: str) -> str:
        version = re.fullmatch(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)", value)
        if version and tuple(map(int, version.groups())) >= oldest:
            return value
        if re.fullmatch("sha256:[0-9a-f]{64}", value):
            return value
        raise ValueError

    return AfterValidator(check)


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
        Field(pattern="^[a-z]+-[a-z]+[0-9]+$"),
        Rule("a Google Cloud region", "us-central1"),
    ]
    platform: Annotated[Literal["vm"], Rule("vm", "vm")]
    model: Annotated[
        str,
        Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$"),
        Rule("a model on Hugging Face, organisation/name", "Qwen/Qwen3-4B"),
    ]
    model_revision: Annotated[
        Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")] | None,
        EmptyIsNone,
        Rule("a commit, tag or branch of the model", "main"),
    ]
    gpu: Annotated[
        str,
        one_of(catalogue.gpus()),
        Rule(f"one of {', '.join(catalogue.gpus())}", "nvidia-l4"),
    ]
    gpu_count: Annotated[int, Field(ge=1), Rule("a number of GPUs, 1 or more", 1)]
    machine_type: Annotated[
        Annotated[str, Field(pattern="^[a-z][a-z0-9-]{1,61}$")] | None,
        EmptyIsNone,
        Rule("a machine type of Google's, or nothing for the usual one", "g2-standard-8"),
    ]
    provisioning: Annotated[Provisioning, Rule("spot, standard or flex-start", "spot")]
    max_run_hours: Annotated[int, Field(ge=0, le=168), Rule("0 to 168 hours", 24)]
    zones: Annotated[
        tuple[Annotated[str, Field(pattern="^[a-z]+-[a-z]+[0-9]+-[a-z]$")], ...],
        AfterValidator(unique),
        Rule("zones of Google's, each once", "us-central1-a"),
    ]
    boot_image: Annotated[
        str,
        Field(pattern="^projects/[a-z0-9.:-]+/global/images/(family/)?[a-z][a-z0-9-]*$"),
        Rule(
            "projects/PROJECT/global/images/NAME or projects/PROJECT/global/images/family/FAMILY",
            "projects/deeplearning-platform-release/global/images/family/"
            "common-cu129-ubuntu-2404-nvidia-580",
        ),
    ]
    boot_disk_gb: Annotated[
        int,
        Field(ge=100, le=65_536),
        Rule("100 to 65536 GB: image, containers and weights must fit", 100),
    ]
    max_model_len: Annotated[
        int,
        Field(ge=SHORTEST_CONTEXT, le=10_485_760),
        Rule(f"tokens as a whole number, {SHORTEST_CONTEXT} or more (8192, not 8k)", 8192),
    ]
    gpu_memory_utilization: Annotated[
        float, Field(ge=0.1, le=1), Rule("a share of the GPU's memory, 0.1 to 1", 0.92)
    ]
    engine_version: Annotated[
        str,
        pinned(0, 32, 0),
        Rule("a version of vLLM, 0.32.0 or newer, or its image's digest sha256:...", "0.33.0"),
    ]
    engine_args: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")], ...],
        Rule("flags of `vllm serve`, one a line, without control characters", "--max-num-seqs=64"),
    ]
    cloudflared_version: Annotated[
        str,
        pinned(2025, 4, 0),
        Rule("a version of cloudflared, 2025.4.0 or newer, or its image's digest", "2026.8.2"),
    ]
    hostname: Annotated[
        str,
        Field(pattern=f"^{DOMAIN}$", max_length=253),
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
        str, Field(pattern=f"^{DOMAIN}$"), Rule("the zone's domain in lower case", "example.com")
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
        tuple[Annotated[str, Field(pattern=rf"^[A-Za-z0-9._%+'-]+@{DOMAIN}$")], ...],
        AfterValidator(unique),
        Rule("e-mail addresses, each once", "someone@example.com"),
    ]
    allowed_email_domains: Annotated[
        tuple[Annotated[str, Field(pattern=f"^{DOMAIN}$")], ...],
        AfterValidator(unique),
        Rule("domains in lower case, without @, each once", "example.com"),
    ]
    service_token_duration: Annotated[
        str, Field(pattern="^([1-9][0-9]{0,5}h|forever)$"), Rule("hours, or forever", "8760h")
    ]
    hugging_face_endpoint: Annotated[
        str,
        Field(pattern=rf"^https://{DOMAIN}(:[0-9]{{1,5}})?(/[A-Za-z0-9._/-]*)?$"),
        Rule("an https address, as the token travels there", "https://huggingface.co"),
    ]
    replicas: Annotated[int, Field(ge=1), Rule("a number of machines, 1 or more", 1)]
    rollout: Annotated[
        Literal["replace", "surge", "manual"], Rule("replace, surge or manual", "replace")
    ]
    ready_timeout_minutes: Annotated[
        int,
        Field(ge=5, le=60),
        Rule("5 to 60 minutes; machines that need longer count as broken", 30),
    ]
    wait_until_ready: Annotated[bool, Rule("true or false", "true")]
    protect: Annotated[bool, Rule("true or false", "true")]

    @property
    def machine(self) -> Machine:
        """The catalogue's row for the machines of this stack."""
        return machines(self.gpu, self.gpu_count, self.machine_type)[0]

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
        for rule in RULES:
            compared = inspect.signature(rule).parameters
            if valid.keys() >= compared.keys():
                problems += rule(**{setting: valid[setting] for setting in compared})
        if problems:
            raise refusal(problems)
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
    f"{NAMESPACE}:huggingFaceToken": Secret("[!-~]{8,}", "a token of Hugging Face's", False),
    "cloudflare:apiToken": Secret("[0-9A-Za-z_-]{40,80}", "an API token of Cloudflare's", True),
}


def _value(setting: str, text: str | None) -> Any:
    value: Any = text
    if _is_list(setting) and text is not None:
        with suppress(ValueError):  # Text that is no list is refused as such.
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
        value = "not set" if detail["input"] is None else repr(detail["input"])
        fix = command(setting, rule.example, int(index or 0) if listed else None)
        yield Problem(
            key(setting) if index is None else f"{key(setting)}[{index}]",
            HIDDEN if setting == "engine_args" else value,
            rule.expected,
            rule.remedy or f"such as: {fix}",
        )


def _unknown_keys(config: Mapping[str, str | None]) -> Iterator[Problem]:
    known = {*map(key, Settings.model_fields), *SECRETS}
    for name in config.keys() - known:
        near = difflib.get_close_matches(name, known, n=1)
        yield Problem(
            name,
            HIDDEN,
            f"did you mean {near[0]}?" if near else "a key that Pulumi.yaml declares",
            f"pulumi config rm {name}" + (f", then set {near[0]}" if near else ""),
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
