"""Who a machine is to Google Cloud, and the little that it may do everywhere in the project."""

from typing import TypedDict

import pulumi
from pulumi_gcp import projects, serviceaccount

from components.ordering import after

ROLES = {"logs": "roles/logging.logWriter", "metrics": "roles/monitoring.metricWriter"}
"""What cannot be granted on anything narrower than the project."""


class MachineIdentityArgs(TypedDict):
    project: pulumi.Input[str]
    account_id: str
    """The part of the service account's address before the @."""


class MachineIdentity(pulumi.ComponentResource):
    """A service account. What else it may read is granted by the components that hold it."""

    member: pulumi.Output[str]
    """The account as IAM writes it, for granting it more."""
    email: pulumi.Output[str]
    """The account's address, once it can write logs."""

    def __init__(
        self, name: str, args: MachineIdentityArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:MachineIdentity", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)

        account = serviceaccount.Account(
            f"{name}-account",
            project=args["project"],
            account_id=args["account_id"],
            display_name=f"{name}: the machine that runs the engine",
            opts=child,
        )
        grants = [
            projects.IAMMember(
                f"{name}-{purpose}",
                project=args["project"],
                role=role,
                member=account.member,
                opts=child,
            )
            for purpose, role in ROLES.items()
        ]

        self.member = account.member
        self.email = after(account.email, *grants)
        self.register_outputs({"member": self.member, "email": self.email})
