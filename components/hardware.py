"""What a virtual machine is made of."""

from dataclasses import dataclass

from components.catalogue import Provisioning

TRIED_IMAGE = (
    "projects/deeplearning-platform-release/global/images/family/"
    "common-cu129-ubuntu-2404-nvidia-580"
)
"""A boot image that has what scripts/startup.sh needs: driver, Docker, container toolkit."""


@dataclass(frozen=True)
class Hardware:
    """A machine, and the terms on which it is rented."""

    machine_type: str
    boot_image: str
    """What machines boot from, or what theirs is made from."""
    boot_disk_gb: int
    boot_disk_type: str
    provisioning: Provisioning = "standard"
    max_run_hours: int = 0
    """Life of a flex-start machine; the other kinds have no end."""
    gpu: str = ""
    """Google's accelerator type; empty for a machine without one."""
    attached_gpus: int = 0
    """GPUs to ask for, where the machine type does not bring them."""


CONNECTOR = Hardware(
    machine_type="e2-micro",
    # It has Docker and curl, and nothing besides.
    boot_image="projects/cos-cloud/global/images/family/cos-stable",
    boot_disk_gb=10,
    boot_disk_type="pd-balanced",
)
"""A service cannot be woken by a cloudflared that sleeps with it, so one runs outside, always."""
