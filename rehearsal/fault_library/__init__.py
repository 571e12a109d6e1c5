"""What goes wrong in life, as tables: a row a fault, a file a part of the world."""

from rehearsal.fault_library import cloudflare, google, machine, person
from rehearsal.fault_library.fault import Fault

PARTS: dict[str, tuple[Fault, ...]] = {
    "Google": google.FAULTS,
    "the machine": machine.FAULTS,
    "Cloudflare": cloudflare.FAULTS,
    "people": person.FAULTS,
}
FAULTS: dict[str, Fault] = {fault.name: fault for part in PARTS.values() for fault in part}
