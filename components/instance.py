"""The parts of a GPU instance's template, as plain functions of what was chosen."""

import hashlib
from collections.abc import Mapping

import pulumi
from pulumi_gcp import compute

from components.catalogue import Machine, Provisioning
from components.vllm import EngineContainer

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
}


def scheduling(
    provisioning: Provisioning, max_run_hours: int
) -> compute.RegionInstanceTemplateSchedulingArgsDict:
    """On what terms the machine runs. No GPU machine can be moved to another host while it runs."""
    match provisioning:
        case "standard":
            return {
                "provisioning_model": "STANDARD",
                "on_host_maintenance": "TERMINATE",
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
                "max_run_duration": {"seconds": max_run_hours * 3600},
            }


def boot_disk(
    machine: Machine, image: str, size_gb: int
) -> compute.RegionInstanceTemplateDiskArgsDict:
    """The only disk: system, images and weights."""
    return {
        "boot": True,
        "auto_delete": True,
        "source_image": image,
        "disk_size_gb": size_gb,
        "disk_type": machine.boot_disk,
    }


def accelerators(machine: Machine) -> list[compute.RegionInstanceTemplateGuestAcceleratorArgsDict]:
    """GPUs to ask for, where the machine type does not bring them."""
    return [{"type": machine.gpu, "count": machine.count}] if machine.attached else []


def identity(email: pulumi.Input[str]) -> compute.RegionInstanceTemplateServiceAccountArgsDict:
    """Who the machine is. The scope is wide because IAM roles, which are narrow, decide."""
    return {"email": email, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}


def network_interface(
    subnetwork: pulumi.Input[str],
) -> compute.RegionInstanceTemplateNetworkInterfaceArgsDict:
    """The only interface. No access configuration: the machine has no public address."""
    return {"subnetwork": subnetwork}


def engine_metadata(
    engine: EngineContainer, registry: pulumi.Input[str]
) -> dict[str, pulumi.Input[str]]:
    """What scripts/startup.sh reads of the engine; lists are one item a line."""
    return {
        "engine-image": pulumi.Output.concat(registry, "/", engine.image),
        "engine-args": "\n".join(engine.args),
        "engine-env": "\n".join(f"{key}={value}" for key, value in engine.env.items()),
        "engine-port": str(engine.port),
        "engine-health-path": engine.health_path,
        "shutdown-timeout": str(engine.shutdown_timeout_s),
    }


def revision(*parts: object) -> pulumi.Output[str]:
    """A digest of all that makes a machine, twelve hexadecimal digits: it changes when they do."""
    return pulumi.Output.json_dumps(parts, sort_keys=True).apply(
        lambda text: hashlib.sha256(text.encode()).hexdigest()[:12]
    )
