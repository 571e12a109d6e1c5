"""What a stack may choose, refused with a readable reason before anything is created."""

import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

import pulumi
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from components import catalogue
from components.catalogue import Provisioning

NAMESPACE = "llm-endpoint"


class Rule(NamedTuple):
    """What a key's value must be, in words, and one that is right."""

    expected: str
    example: str


class Problem(NamedTuple):
    """Why a configuration is refused."""

    key: str
    value: str
    expected: str
    next: str


Optional = BeforeValidator(lambda value: value or None)
"""The engine knows no absent key, so an optional one is empty by default."""

Strings = tuple[str, ...]


class Settings(BaseModel):
    """The plain part of a stack's configuration; what was left open is filled from the catalogue.

    `Pulumi.yaml` owns names, descriptions and defaults; this class owns what
    they may be. Secrets never pass through here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: str
    project: str
    region: str
    platform: Literal["vm"]
    model: str
    model_revision: Annotated[str | None, Optional]
    gpu: str
    gpu_count: int
    machine_type: Annotated[str | None, Optional]
    provisioning: Provisioning
    max_run_hours: int
    zones: Strings
    boot_image: str
    boot_disk_gb: int
    max_model_len: int
    gpu_memory_utilization: float
    engine_version: str
    engine_args: Strings
    cloudflared_version: str
    hostname: str
    cloudflare_account_id: str
    cloudflare_zone_id: str
    cloudflare_zone_name: str
    access_team_name: str
    consumers: Strings
    allowed_emails: Strings
    allowed_email_domains: Strings
    service_token_duration: str
    hugging_face_endpoint: str
    replicas: Annotated[int, Field(ge=1)]
    rollout: Literal["replace", "surge", "manual"]
    ready_timeout_minutes: int
    wait_until_ready: bool
    protect: bool

    @property
    def machine(self) -> catalogue.Machine:
        """The catalogue's row for the machine of this stack."""
        rows = catalogue.machines(self.gpu)
        return next(
            row
            for row in rows
            if row.machine_type == self.machine_type and row.count == self.gpu_count
        )

    @classmethod
    def load(cls) -> Self:
        """The running stack's settings.

        Raises pulumi.RunError, listing every problem, when they cannot work.
        """
        values: dict[str, str | None] = {
            key(name): pulumi.runtime.get_config(key(name)) for name in cls.model_fields
        }
        return cls.parse(values | {key("stack"): pulumi.get_stack()})

    @classmethod
    def parse(cls, config: Mapping[str, str | None]) -> Self:
        """Settings from the values as Pulumi holds them: text, lists as JSON."""
        valid: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            value: Any = config.get(key(name))
            if field.annotation == Strings:
                value = json.loads(value)
            valid[name] = TypeAdapter[Any](field.rebuild_annotation()).validate_python(value)
        rows = catalogue.machines(valid["gpu"])
        valid["machine_type"] = valid["machine_type"] or next(
            row.machine_type for row in rows if row.count == valid["gpu_count"]
        )
        valid["zones"] = valid["zones"] or tuple(
            zone for zone in catalogue.zones(valid["gpu"]) if zone.startswith(valid["region"] + "-")
        )
        return cls(**valid)


def key(name: str) -> str:
    """The configuration key of a field."""
    special = {"stack": "the stack's name", "project": "gcp:project", "region": "gcp:region"}
    return special.get(name) or f"{NAMESPACE}:{to_camel(name)}"
