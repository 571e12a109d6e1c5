"""The gate before everything: nothing is created until all that a stack needs is granted."""

from typing import TypedDict

import pulumi
from pulumi_command import local

from components.domain import Domain
from components.ordering import after
from components.settings import Settings

CHECKED = frozenset(
    {
        *("stack", "project", "region", "platform", "engine", "engine_version", "model"),
        *("model_revision", "weights", "hugging_face_endpoint", "gpu", "gpu_count"),
        *(
            "machine_type",
            "provisioning",
            "zones",
            "replicas",
            "rollout",
            "boot_image",
            "prepared_from",
            "boot_disk_gb",
        ),
        *("cpus", "memory_gib", "max_instances", "zonal_redundancy", "cloudflared_version"),
        *("hostname", "cloudflare_account_id", "cloudflare_zone_id", "cloudflare_zone_name"),
        *("access_team_name", "consumers"),
    }
)
"""The settings that the checks look at: a change of another one, such as the end of `protect`, must
not have to wait for them."""


class PreflightArgs(TypedDict):
    settings: Settings
    domain: Domain
    token: pulumi.Input[str] | None
    """The Hugging Face hub's. Must be marked secret."""


class Preflight(pulumi.ComponentResource):
    """Runs scripts/preflight when the stack is new, and again when a token changes or a setting
    that it looks at.

    Project and account are what every other resource begins with: to take them from here is to
    wait for the checks.
    """

    project: pulumi.Output[str]
    account_id: pulumi.Output[str]
    """Cloudflare's."""

    def __init__(
        self, name: str, args: PreflightArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:Preflight", name, {}, opts)
        settings = args["settings"]

        checks = local.Command(
            f"{name}-preflight",
            create=".venv/bin/python -m scripts.preflight --brief",
            environment={
                "PREFLIGHT_SETTINGS": settings.model_dump_json(include=set(CHECKED)),
                "CLOUDFLARE_API_TOKEN": args["domain"].api_token,
                "HF_TOKEN": args["token"] or "",
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

        self.project = after(settings.project, checks)
        self.account_id = after(settings.cloudflare_account_id, checks)
        self.register_outputs({"project": self.project, "account_id": self.account_id})
