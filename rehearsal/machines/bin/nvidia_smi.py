#!/run/rehearsal/python -IS
"""nvidia-smi, on the GPUs that machine.json gives this machine."""

import json
import sys
from pathlib import Path
from typing import Any

MACHINE: dict[str, Any] = json.loads(Path("/run/rehearsal/machine.json").read_text())
sys.path.insert(0, MACHINE["pythonpath"])

from rehearsal.faults import Faults  # noqa: E402 -- found by the path above

NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that"
    " the latest NVIDIA driver is installed and running.\n"
)
CUDA = {"535": "12.2", "580": "13.0"}
"""Driver branch -> the newest CUDA that it runs."""
NAMES = {
    "nvidia-tesla-t4": "Tesla T4",
    "nvidia-l4": "NVIDIA L4",
    "nvidia-tesla-a100": "NVIDIA A100-SXM4-40GB",
    "nvidia-a100-80gb": "NVIDIA A100-SXM4-80GB",
    "nvidia-h100-80gb": "NVIDIA H100 80GB HBM3",
    "nvidia-h200-141gb": "NVIDIA H200",
    "nvidia-b200": "NVIDIA B200",
    "nvidia-rtx-pro-6000": "NVIDIA RTX PRO 6000 Blackwell Server Edition",
}
"""Accelerator type -> product name, as the driver spells it."""


def main(arguments: list[str]) -> int:
    """The exit code."""
    gpu: dict[str, Any] = MACHINE["gpu"]
    if Faults(Path(MACHINE["faults"])).strikes("no-driver"):
        print(NO_DRIVER)
        return 9
    if not gpu["count"]:
        print("No devices were found")
        return 6
    fields: dict[str, str] = {
        "name": NAMES.get(str(gpu["type"]), str(gpu["type"])),
        "memory.total": f"{round(gpu['memory_gib'] * 1024)} MiB",
        "driver_version": gpu["driver"],
        "count": str(gpu["count"]),
    }
    query, formats = "", ""
    for argument in arguments:
        option, _, value = argument.partition("=")
        if option == "--query-gpu":
            query = value
        elif option == "--format":
            formats = value
        else:
            print("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n")
            return 2
    if not query:
        driver: str = gpu["driver"]
        cuda = CUDA[driver.partition(".")[0]]
        print(f"NVIDIA-SMI {driver}   Driver Version: {driver}   CUDA Version: {cuda}")
        for index in range(gpu["count"]):
            print(f"| {index}  {fields['name']}  {fields['memory.total']} |")
        return 0
    wanted = [it.strip() for it in query.split(",")]
    for name in wanted:
        if name not in (*fields, "index"):
            print(f'Field "{name}" is not a valid field to query.\n')
            return 2
    if "csv" not in formats.split(","):
        print('"--format=" switch is missing. Should specify "csv".')
        return 2
    if "noheader" not in formats.split(","):
        print(", ".join(wanted))
    for index in range(gpu["count"]):
        print(", ".join({**fields, "index": str(index)}[name] for name in wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
