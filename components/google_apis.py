"""The Google APIs that a stack calls, switched on before anything calls them."""

from collections.abc import Sequence
from typing import TypedDict

import pulumi
from pulumi_gcp import projects

from components.ordering import after

CALLED = (
    "artifactregistry",
    "cloudresourcemanager",  # roles on the project
    "compute",
    "iam",
    "run",  # the job that fetches the weights, and the platform cloud-run
    "secretmanager",
    "storage",
)
"""What the stack's resources call; `compute` is compute.googleapis.com."""
CALLED_TO_BUILD = ("cloudbuild", "logging")
"""What they call besides where images are built."""
USED_LATER = (
    "iap",  # SSH
    "logging",
    "monitoring",
)
"""What only machines and people use. Where few resources are made at a time, each of these would
take the place of one that the machine waits for."""


class GoogleApisArgs(TypedDict):
    project: pulumi.Input[str]
    services: Sequence[str]
    """`compute` is compute.googleapis.com."""


class GoogleApis(pulumi.ComponentResource):
    """Switches APIs on, and never off: what else lives in the project may need them."""

    project: pulumi.Output[str]
    """The project, once its APIs are on: to take the project from here is to wait for them."""

    def __init__(
        self, name: str, args: GoogleApisArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:GoogleApis", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)

        services = [
            projects.Service(
                f"{name}-{service}",
                project=args["project"],
                service=f"{service}.googleapis.com",
                disable_on_destroy=False,
                opts=child,
            )
            for service in args["services"]
        ]

        self.project = after(args["project"], *services)
        self.register_outputs({"project": self.project})


def called(*, build: bool) -> Sequence[str]:
    """The services that a stack's resources call."""
    return (*CALLED, *CALLED_TO_BUILD) if build else CALLED


def used_later(*, build: bool) -> Sequence[str]:
    """The others."""
    return [service for service in USED_LATER if service not in called(build=build)]
