"""What goes wrong on a machine."""

from rehearsal.fault_library.fault import Fault, kills, sets

FAULTS = (
    Fault(
        name="driver-missing",
        life="The boot image has no NVIDIA driver that works.",
        source="https://docs.cloud.google.com/compute/docs/gpus/install-drivers-gpu",
        when="up",
        begin=(sets("no-driver"),),
        says=r"was not ready after",
    ),
    Fault(
        name="engine-killed",
        life="The kernel kills the engine's container.",
        source="https://docs.docker.com/engine/containers/resource_constraints/",
        when="serving",
        begin=(kills("rehearsal.containers.vllm"),),
    ),
)
