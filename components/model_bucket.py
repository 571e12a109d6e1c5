"""The model's weights in a bucket of the region, fetched while no GPU is paid for."""

import hashlib
from collections.abc import Mapping
from typing import TypedDict

import pulumi
from pulumi_command import local
from pulumi_gcp import cloudrunv2, storage

from components.cloud_run import TOKEN_VOLUME
from components.engine import TOKEN_FILE
from components.model_source import ModelSource
from components.ordering import Ready, after, ready
from components.place import Place
from components.scripts import PYTHON_IMAGE, script

KEPT_LABEL = "llm-endpoint-kept"
"""Marks a bucket that outlives its stack, so that whoever looks for what is left knows it by it."""

DOWNLOAD_TIMEOUT_S = 6 * 3600
"""The largest models have 1.5 TB; at 100 MB/s that takes four hours and a bit."""


class ModelBucketArgs(TypedDict):
    place: Place
    source: ModelSource
    stager: pulumi.Input[str]
    """Address of the service account that fetches the weights."""
    token: pulumi.Input[str] | None
    """The hub's token. Must be marked secret."""
    token_version: pulumi.Input[str] | None
    """Full name of the secret's version that holds it."""
    registry: pulumi.Input[str]
    reader: pulumi.Input[str]
    """The IAM member that serves the model."""


class ModelBucket(pulumi.ComponentResource):
    """A bucket that holds one model, and the job that fills it.

    Another model gets another bucket; Pulumi deletes what is no longer declared
    last, so the old weights stay until the machines have changed over.
    """

    location: pulumi.Output[str]
    """`gs://BUCKET`."""
    staged: Ready
    """Every file in it is there, verified, and can be read."""

    def __init__(
        self, name: str, args: ModelBucketArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:ModelBucket", name, {}, opts)
        place, source = args["place"], args["source"]
        child = pulumi.ResourceOptions(parent=self)
        content = digest(source.kind, source.hub, source.model, source.revision)

        bucket = storage.Bucket(
            f"{name}-weights-{content}",
            project=place.project,
            location=place.region,
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            # Weights can be fetched again: nothing of them is worth another copy.
            soft_delete_policy={"retention_duration_seconds": 0},
            force_destroy=True,
            labels={**place.labels, **({KEPT_LABEL: "true"} if source.keep else {})},
            opts=pulumi.ResourceOptions(parent=self, retain_on_delete=source.keep),
        )
        stager = pulumi.Output.concat("serviceAccount:", args["stager"])
        grants = [
            storage.BucketIAMMember(
                f"{name}-weights-{content}-{role}",
                bucket=bucket.name,
                role=f"roles/storage.{role}",
                member=member,
                opts=child,
            )
            for role, member in (("objectViewer", args["reader"]), ("objectUser", stager))
        ]
        job = cloudrunv2.Job(
            f"{name}-staging",
            project=place.project,
            location=place.region,
            deletion_protection=False,
            template={
                "template": download(
                    args, {**source.environment, "BUCKET": after(bucket.name, *grants)}
                )
            },
            labels=place.labels,
            opts=child,
        )
        # The job's resource could run it, too, but never again after a failure, and without a word
        # of what is happening (docs/decisions/0011-weights-are-staged-by-a-job.md).
        staged = local.Command(
            f"{name}-staged",
            create=".venv/bin/python -m scripts.stage_weights",
            environment=source.environment
            | {
                "PROJECT": place.project,
                "REGION": place.region,
                "JOB": job.name,
                "BUCKET": after(bucket.name, *grants),
            }
            | ({"HF_TOKEN": args["token"]} if args["token"] is not None else {}),
            opts=child,
        )

        self.location = pulumi.Output.concat("gs://", bucket.name)
        self.staged = ready(staged, *grants)
        self.register_outputs({"location": self.location})


def digest(*parts: str) -> str:
    """Eight hexadecimal digits that stand for what a bucket holds."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def download(
    args: ModelBucketArgs, environment: Mapping[str, pulumi.Input[str]]
) -> cloudrunv2.JobTemplateTemplateArgsDict:
    """The job's only task, which may be run again at any time: it goes on where it stopped."""
    mounts: list[cloudrunv2.JobTemplateTemplateContainerVolumeMountArgsDict] = []
    volumes: list[cloudrunv2.JobTemplateTemplateVolumeArgsDict] = []
    if args["token_version"] is not None:
        name = pulumi.Output.from_input(args["token_version"]).apply(
            lambda version: version.split("/versions/")
        )
        folder, _, file = TOKEN_FILE.rpartition("/")
        mounts.append({"name": TOKEN_VOLUME, "mount_path": folder})
        volumes.append(
            {
                "name": TOKEN_VOLUME,
                "secret": {
                    "secret": name[0],
                    "items": [{"version": name[1], "path": file}],
                    "default_mode": 0o400,
                },
            }
        )
    return {
        "containers": [
            {
                "image": pulumi.Output.concat(args["registry"], "/", PYTHON_IMAGE),
                "commands": ["python3", "-c", script("download_weights.py")],
                "envs": [{"name": name, "value": value} for name, value in environment.items()],
                "resources": {"limits": {"cpu": "2", "memory": "2Gi"}},
                "volume_mounts": mounts,
            }
        ],
        "volumes": volumes,
        "service_account": args["stager"],
        "max_retries": 3,
        "timeout": f"{DOWNLOAD_TIMEOUT_S}s",
    }
