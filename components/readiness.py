"""The end of `pulumi up`: the model has answered, from outside, as it will answer a consumer."""

from typing import TypedDict

import pulumi
from pulumi_command import local


class ReadinessArgs(TypedDict):
    hostname: pulumi.Input[str]
    model: str
    api: str
    """What to ask of the model: a path below /v1, such as `chat/completions`."""
    revision: pulumi.Input[str]
    """The `system_fingerprint` to wait for; empty to take any answer."""
    timeout_minutes: int
    client_id: pulumi.Input[str]
    client_secret: pulumi.Input[str]
    project: pulumi.Input[str]
    region: str
    group: pulumi.Input[str]
    """Where to look if it does not answer in time."""


class Readiness(pulumi.ComponentResource):
    """Asks until the machines of this revision answer; asks again when any input changes."""

    def __init__(
        self, name: str, args: ReadinessArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:Readiness", name, {}, opts)

        local.Command(
            f"{name}-answer",
            create=".venv/bin/python scripts/wait_until_ready.py",
            environment={
                "ENDPOINT_HOSTNAME": args["hostname"],
                "ENDPOINT_MODEL": args["model"],
                "ENDPOINT_API": args["api"],
                "ENDPOINT_REVISION": args["revision"],
                "READY_TIMEOUT_MINUTES": str(args["timeout_minutes"]),
                "CF_ACCESS_CLIENT_ID": args["client_id"],
                "CF_ACCESS_CLIENT_SECRET": pulumi.Output.secret(args["client_secret"]),
                "GOOGLE_PROJECT": args["project"],
                "GOOGLE_REGION": args["region"],
                "INSTANCE_GROUP": args["group"],
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})
