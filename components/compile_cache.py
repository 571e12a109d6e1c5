"""What an engine compiled at its first start, kept for machines that come later."""

from typing import TypedDict

import pulumi
from pulumi_gcp import storage

from components.ordering import after
from components.place import Place

KEPT_DAYS = 30
"""What is older is compiled anew; most of it is of versions, models and flags of long ago."""


class CompileCacheArgs(TypedDict):
    place: Place
    machines: pulumi.Input[str]
    """The IAM member that reads and writes it. What lies there is code that machines run: nobody
    else is let in."""


class CompileCache(pulumi.ComponentResource):
    """A bucket of its own, as machines may not write to the one with the weights."""

    bucket: pulumi.Output[str]
    """Its name, once the machines may use it."""

    def __init__(
        self, name: str, args: CompileCacheArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:CompileCache", name, {}, opts)
        place = args["place"]
        child = pulumi.ResourceOptions(parent=self)

        bucket = storage.Bucket(
            f"{name}-compile-cache",
            project=place.project,
            location=place.region,
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            # It can be compiled again: nothing of it is worth another copy.
            soft_delete_policy={"retention_duration_seconds": 0},
            lifecycle_rules=[{"action": {"type": "Delete"}, "condition": {"age": KEPT_DAYS}}],
            force_destroy=True,
            labels=place.labels,
            opts=child,
        )
        grant = storage.BucketIAMMember(
            f"{name}-compile-cache-objectUser",
            bucket=bucket.name,
            role="roles/storage.objectUser",
            member=args["machines"],
            opts=child,
        )

        self.bucket = after(bucket.name, grant)
        self.register_outputs({"bucket": self.bucket})
