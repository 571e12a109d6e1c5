"""The end of `pulumi up`: the model has answered, from outside, as it will answer a consumer."""

from typing import TypedDict

import pulumi
import pulumi_cloudflare as cloudflare
from pulumi_command import local

from components.engine import Probe
from components.place import Place
from components.settings import Settings


class ReadinessArgs(TypedDict):
    hostname: pulumi.Input[str]
    settings: Settings
    probe: pulumi.Output[Probe]
    """How the machines or instances that are meant can be told."""
    caller: cloudflare.ZeroTrustAccessServiceToken
    """Who asks."""
    place: Place
    group: pulumi.Input[str]
    """Where to look if it does not answer in time."""


class Readiness(pulumi.ComponentResource):
    """Asks until the machines of this revision answer; asks again when any input changes."""

    def __init__(
        self, name: str, args: ReadinessArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:Readiness", name, {}, opts)
        settings, place = args["settings"], args["place"]
        probe, caller = args["probe"], args["caller"]

        local.Command(
            f"{name}-answer",
            create=".venv/bin/python -m scripts.wait_until_ready",
            environment={
                "ENDPOINT_HOSTNAME": args["hostname"],
                "ENDPOINT_MODEL": probe.apply(lambda it: it.model),
                "ENDPOINT_API": settings.readiness_api,
                "ENDPOINT_ANY_MACHINE": probe.apply(lambda it: str(it.any_machine).lower()),
                "ENDPOINT_REVISION": probe.apply(lambda it: it.fingerprint),
                "READY_TIMEOUT_MINUTES": str(settings.ready_timeout_minutes),
                "CF_ACCESS_CLIENT_ID": caller.client_id,
                "CF_ACCESS_CLIENT_SECRET": pulumi.Output.secret(caller.client_secret),
                "PLATFORM": settings.platform,
                "GOOGLE_PROJECT": place.project,
                "GOOGLE_REGION": place.region,
                "INSTANCE_GROUP": args["group"],
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})
