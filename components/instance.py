"""The parts of an instance template, as plain functions of what was chosen."""

from collections.abc import Mapping

import pulumi
from pulumi_gcp import compute

from components.engine import EngineContainer
from components.hardware import Hardware

SHIELDED: compute.RegionInstanceTemplateShieldedInstanceConfigArgsDict = {
    "enable_vtpm": True,
    "enable_integrity_monitoring": True,
    # Not enforced: the NVIDIA modules of the Deep Learning VM images are not known
    # to be signed, and a kernel that refuses them leaves the machine without its GPU.
    "enable_secure_boot": False,
}

LOGIN_AND_LOGS: Mapping[str, pulumi.Input[str]] = {
    # People log in by their Google identity and its roles; no key is left on a machine.
    "enable-oslogin": "TRUE",
    "block-project-ssh-keys": "TRUE",
    # How the startup script's and the engine's lines reach Cloud Logging with no agent.
    "serial-port-logging-enable": "TRUE",
    # How far a boot is: `up` and scripts/timeline read it.
    "enable-guest-attributes": "TRUE",
}


def scheduling(hardware: Hardware) -> compute.RegionInstanceTemplateSchedulingArgsDict:
    """On what terms the machine runs. No GPU machine can be moved to another host while it runs."""
    match hardware.provisioning:
        case "standard":
            return {
                "provisioning_model": "STANDARD",
                "on_host_maintenance": "TERMINATE" if hardware.gpu else "MIGRATE",
                "automatic_restart": True,
            }
        case "spot":
            return {
                "provisioning_model": "SPOT",
                "preemptible": True,
                "on_host_maintenance": "TERMINATE",
                # The plugin would send true by itself, and Google would refuse it.
                "automatic_restart": False,
                # Not DELETE, which groups were seen to refuse for Spot: a group itself replaces
                # a machine that was stopped, and deletes its disk with it.
                "instance_termination_action": "STOP",
            }
        case "flex-start":
            return {
                "provisioning_model": "FLEX_START",
                "on_host_maintenance": "TERMINATE",
                "automatic_restart": False,
                "instance_termination_action": "DELETE",
                "max_run_duration": {"seconds": hardware.max_run_hours * 3600},
            }


def boot_disk(
    hardware: Hardware, image: pulumi.Input[str]
) -> compute.RegionInstanceTemplateDiskArgsDict:
    """The only disk."""
    return {
        "boot": True,
        "auto_delete": True,
        "source_image": image,
        "disk_size_gb": hardware.boot_disk_gb,
        "disk_type": hardware.boot_disk_type,
    }


def accelerators(
    hardware: Hardware,
) -> list[compute.RegionInstanceTemplateGuestAcceleratorArgsDict]:
    """GPUs to ask for, where the machine type does not bring them."""
    if not hardware.attached_gpus:
        return []
    return [{"type": hardware.gpu, "count": hardware.attached_gpus}]


def identity(email: pulumi.Input[str]) -> compute.RegionInstanceTemplateServiceAccountArgsDict:
    """Who the machine is. The scope is wide because IAM roles, which are narrow, decide."""
    return {"email": email, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}


CONNECTOR_SHUTDOWN_S = 60
"""Seconds that requests in flight get through a machine that only connects the tunnel."""


def network_interface(
    subnetwork: pulumi.Input[str],
) -> compute.RegionInstanceTemplateNetworkInterfaceArgsDict:
    """The only interface. No access configuration: the machine has no public address."""
    return {"subnetwork": subnetwork}


def engine_metadata(
    container: pulumi.Output[EngineContainer],
) -> dict[str, pulumi.Output[str]]:
    """What scripts/startup.sh reads of an engine; lists are one item a line."""
    return {
        "engine-image": container.apply(lambda it: it.image),
        "engine-args": container.apply(lambda it: "\n".join(it.args)),
        "engine-env": container.apply(
            lambda it: "\n".join(f"{key}={value}" for key, value in it.env.items())
        ),
        "engine-script": container.apply(lambda it: it.script),
        "engine-phases": container.apply(
            lambda it: "\n".join(f"{name}\t{words}" for name, words in it.phases)
        ),
        "engine-port": container.apply(lambda it: str(it.port)),
        "engine-health-path": container.apply(lambda it: it.health_path),
        "shutdown-timeout": container.apply(lambda it: str(it.shutdown_timeout_s)),
        "compile-cache": container.apply(lambda it: it.compile_cache),
        "weights-bucket": container.apply(lambda it: it.weights_bucket),
    }
