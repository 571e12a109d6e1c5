"""Who a stack's machines are to Google Cloud, and the little they may do in all of the project."""

from typing import TypedDict

import pulumi
from pulumi_gcp import projects, serviceaccount

from components.place import Place

ROLES = {"logs": "roles/logging.logWriter", "metrics": "roles/monitoring.metricWriter"}
"""What cannot be granted on anything narrower than the project."""


class MachineIdentityArgs(TypedDict):
    place: Place


class MachineIdentity(pulumi.ComponentResource):
    """A service account. What else it may read is granted by the components that hold it."""

    member: pulumi.Output[str]
    """The account as IAM writes it, for granting it more."""
    email: pulumi.Output[str]
    """The account's address. No boot waits for the project-wide roles, which are for later."""

    def __init__(
        self, name: str, args: MachineIdentityArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:MachineIdentity", name, {}, opts)
        place = args["place"]
        child = pulumi.ResourceOptions(parent=self)

        account = serviceaccount.Account(
            f"{name}-account",
            project=place.project,
            account_id=f"{name}-machine",
            display_name=f"{name}: what runs the engine and the tunnel",
            opts=child,
        )
        for purpose, role in ROLES.items():
            projects.IAMMember(
                f"{name}-{purpose}",
                project=place.project,
                role=role,
                member=account.member,
                opts=child,
            )

        self.member = account.member
        self.email = account.email
        self.register_outputs({"member": self.member, "email": self.email})
