"""What goes wrong on a machine."""

from rehearsal.fault_library.fault import NOT_READY, Fault, damages, kills, sets

SYSTEMD = "https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html#Restart="
VLLM = "vllm-project/vllm 0.33, vllm/v1/engine/core.py and its issues"

ENGINE = "rehearsal.containers.vllm"
COMPILED = "root/.cache/vllm/torch_compile_cache/**/artifact"

PHASES = (
    "prepare",
    "tunnel-token",
    "tunnel-image",
    "gpu",
    "engine-image",
    "tunnel-start",
    "engine-start",
    "engine-ready",
    "prune",
)
"""The startup script's, that a machine of the stack goes through."""

MORE_PHASES = {
    "hugging-face-token": {"weights": "hub"},
    "compile-cache": {"compileCache": "bucket"},
    "weights": {"bootImage": "prepared-with-weights"},
    "disk-prepared": {"bootImage": "prepared"},
}
"""Those that other machines go through, and the configuration that makes such ones."""

RESTARTS = (
    "https://docs.cloud.google.com/compute/docs/instances/host-maintenance-overview:"
    " a machine may restart at any time"
)

REBOOTS = tuple(
    Fault(
        name=f"reboot-at-{phase}",
        life=f"A new machine reboots when its startup script has just done {phase}.",
        source=RESTARTS,
        when="serving",
        begin=(sets(f"reboot-at-{phase}:1", "preemption:1"),),
    )
    for phase in PHASES
) + tuple(
    Fault(
        name=f"reboot-at-{phase}",
        life=f"The first machine reboots when its startup script has just done {phase}.",
        source=RESTARTS,
        when="up",
        config=config,
        begin=(sets(f"reboot-at-{phase}:1"),),
    )
    for phase, config in MORE_PHASES.items()
)

FAULTS = (
    Fault(
        name="driver-missing",
        life="The boot image has no NVIDIA driver that works.",
        source="https://docs.cloud.google.com/compute/docs/gpus/install-drivers-gpu",
        when="update",
        begin=(sets("no-driver"),),
        says=NOT_READY,
    ),
    Fault(
        name="driver-late",
        life="A first boot is still loading the driver when the script asks for it.",
        source="https://docs.cloud.google.com/deep-learning-vm/docs/troubleshooting",
        when="update",
        begin=(sets("no-driver:3"),),
    ),
    Fault(
        name="disk-full",
        life="The boot disk has no room for the engine's image.",
        source="https://docs.docker.com/engine/storage/ (no space left on device)",
        when="update",
        begin=(sets("disk-full"),),
        says=NOT_READY,
    ),
    Fault(
        name="engine-out-of-memory",
        life="The GPU's memory does not suffice when the engine starts.",
        source=VLLM,
        when="update",
        begin=(sets("engine-out-of-memory"),),
        says=NOT_READY,
    ),
    Fault(
        name="engine-crash-loop",
        life="The engine dies with the first request, every time.",
        source=f"{VLLM}; {SYSTEMD}",
        when="update",
        begin=(sets("engine-crashes"),),
        says=NOT_READY,
    ),
    Fault(
        name="engine-crashes-once",
        life="The engine dies of an illegal memory access while it serves.",
        source=f"{VLLM}; {SYSTEMD}",
        when="serving",
        begin=(sets("engine-crashes:1"),),
    ),
    Fault(
        name="engine-hangs",
        life="The engine stops answering, and lives.",
        source=VLLM,
        when="serving",
        begin=(sets("engine-hangs:12"),),
    ),
    Fault(
        name="engine-killed",
        life="The kernel kills the engine's container.",
        source="https://docs.docker.com/engine/containers/resource_constraints/",
        when="serving",
        begin=(kills(ENGINE),),
    ),
    Fault(
        name="cloudflared-killed",
        life="The kernel kills cloudflared's container.",
        source="https://docs.docker.com/engine/containers/resource_constraints/",
        when="serving",
        begin=(kills("rehearsal.containers.cloudflared"),),
    ),
    Fault(
        name="clock-skew",
        life="The machine's clock is wrong, so that no token of Access's is valid yet.",
        source="coreos/go-oidc, oidc/verify.go, by which cloudflared checks tokens (nbf, exp)",
        when="update",
        begin=(sets("clock-skew"),),
        says=NOT_READY,
    ),
    Fault(
        name="weights-truncated",
        life="A file of the weights ends too early.",
        source="https://github.com/huggingface/safetensors (InvalidHeader, MetadataIncomplete)",
        when="update",
        begin=(sets("weights-truncated"),),
        says=NOT_READY,
    ),
    Fault(
        name="cache-corrupt",
        life="What vLLM has compiled is cut off on the disk, and the engine starts again.",
        source="https://github.com/vllm-project/vllm/issues/31199 and 24915: it dies of that",
        when="serving",
        begin=(damages(ENGINE, COMPILED), kills(ENGINE)),
    ),
    *REBOOTS,
)
