"""A secret in Secret Manager, and the few who may read it."""

from typing import TypedDict

import pulumi
from pulumi_gcp import secretmanager

from components.ordering import after
from components.place import Place


class StoredSecretArgs(TypedDict):
    place: Place
    value: pulumi.Input[str]
    """Must be marked secret."""
    reader: pulumi.Input[str]
    """The IAM member that may read it; nobody else is added."""
    protect: bool


class StoredSecret(pulumi.ComponentResource):
    """A secret, its one version, and the right to read it. A new value makes a new version."""

    version: pulumi.Output[str]
    """The version's full name (`projects/../secrets/../versions/1`), once it can be read."""

    def __init__(
        self, name: str, args: StoredSecretArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:StoredSecret", name, {}, opts)
        place = args["place"]
        child = pulumi.ResourceOptions(parent=self)

        # The version is not protected: a rotated value could not replace it.
        secret = secretmanager.Secret(
            f"{name}-secret",
            project=place.project,
            secret_id=name,
            replication={"auto": {}},
            labels=place.labels,
            opts=pulumi.ResourceOptions(parent=self, protect=args["protect"]),
        )
        version = secretmanager.SecretVersion(
            f"{name}-version", secret=secret.id, secret_data=args["value"], opts=child
        )
        reader = secretmanager.SecretIamMember(
            f"{name}-reader",
            project=place.project,
            secret_id=secret.secret_id,
            role="roles/secretmanager.secretAccessor",
            member=args["reader"],
            opts=child,
        )

        self.version = after(version.name, reader)
        self.register_outputs({"version": self.version})


def configured_secret(key: str) -> pulumi.Output[str] | None:
    """A secret of the stack's configuration; None where it is unset or empty."""
    config = pulumi.Config()
    given = pulumi.runtime.get_config(config.full_key(key))
    return config.require_secret(key) if given else None
