"""The Google APIs that a stack calls, switched on before anything calls them."""

from typing import TypedDict

import pulumi
from pulumi_gcp import projects

from components.ordering import after

SERVICES = (
    "artifactregistry",
    "cloudresourcemanager",  # roles on the project
    "compute",
    "iam",
    "iap",  # SSH
    "logging",
    "monitoring",
    "run",  # the job that fetches the weights, and the platform cloud-run
    "secretmanager",
    "storage",
)
"""What a stack calls; `compute` is compute.googleapis.com."""


class GoogleApisArgs(TypedDict):
    project: pulumi.Input[str]
    build: bool
    """Whether images are built."""


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
            for service in (*SERVICES, *(["cloudbuild"] if args["build"] else []))
        ]

        self.project = after(args["project"], *services)
        self.register_outputs({"project": self.project})
