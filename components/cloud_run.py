"""The parts of a Cloud Run service's template, as plain functions of what was chosen."""

import math

from pulumi_gcp import cloudrunv2

from components.engine import TOKEN_FILE, WEIGHTS, EngineContainer

PROBE_PERIOD_S = 10

MOST_CONCURRENCY = 1000
"""Requests at once that Cloud Run takes for an instance."""

REQUEST_TIMEOUT_S = 3600
"""The longest that Cloud Run gives a request; a stream may go on for so long."""


TOKEN_VOLUME = "hugging-face-token"  # noqa: S105 (a name)
WEIGHTS_VOLUME = "weights"


def container(
    engine: EngineContainer, cpus: int, memory_gib: int, start_limit_s: int, *, token: bool
) -> cloudrunv2.ServiceTemplateContainerArgsDict:
    """The only container of an instance. `token`: whether it gets the Hugging Face token."""
    health: cloudrunv2.ServiceTemplateContainerStartupProbeHttpGetArgsDict = {
        "path": engine.health_path,
        "port": engine.port,
    }
    mounts: list[cloudrunv2.ServiceTemplateContainerVolumeMountArgsDict] = []
    if token:
        mounts.append({"name": TOKEN_VOLUME, "mount_path": TOKEN_FILE.rpartition("/")[0]})
    if engine.weights_bucket:
        mounts.append({"name": WEIGHTS_VOLUME, "mount_path": WEIGHTS})
    return {
        "image": engine.image,
        "commands": ["/bin/bash", "-c", engine.script, "engine"] if engine.script else None,
        "args": list(engine.args),
        "envs": [{"name": name, "value": value} for name, value in sorted(engine.env.items())],
        "ports": {"container_port": engine.port},
        "resources": {
            "limits": {"cpu": str(cpus), "memory": f"{memory_gib}Gi", "nvidia.com/gpu": "1"},
            # A GPU is paid for as long as its instance lives, and so is the CPU.
            "cpu_idle": False,
            "startup_cpu_boost": True,
        },
        "startup_probe": {
            "http_get": health,
            "period_seconds": PROBE_PERIOD_S,
            "timeout_seconds": PROBE_PERIOD_S // 2,
            "failure_threshold": math.ceil(start_limit_s / PROBE_PERIOD_S),
        },
        "liveness_probe": {
            "http_get": {"path": engine.health_path, "port": engine.port},
            "period_seconds": 3 * PROBE_PERIOD_S,
            "timeout_seconds": PROBE_PERIOD_S,
            "failure_threshold": 4,
        },
        "volume_mounts": mounts,
    }


def volumes(
    engine: EngineContainer, token: str | None
) -> list[cloudrunv2.ServiceTemplateVolumeArgsDict]:
    """What is mounted: the token's version (`projects/../secrets/../versions/1`), the bucket."""
    found: list[cloudrunv2.ServiceTemplateVolumeArgsDict] = []
    if token:
        secret, version = token.split("/versions/")
        item: cloudrunv2.ServiceTemplateVolumeSecretItemArgsDict = {
            "version": version,
            "path": TOKEN_FILE.rpartition("/")[2],
        }
        found.append(
            {
                "name": TOKEN_VOLUME,
                "secret": {"secret": secret, "items": [item], "default_mode": 0o400},
            }
        )
    if engine.weights_bucket:
        bucket: cloudrunv2.ServiceTemplateVolumeGcsArgsDict = {
            "bucket": engine.weights_bucket,
            "read_only": True,
        }
        found.append({"name": WEIGHTS_VOLUME, "gcs": bucket})
    return found
