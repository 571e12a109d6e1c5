"""What goes wrong in life, as tables: a row a fault, a file a part of the world."""

from rehearsal.fault_library import cloudflare, google, machine
from rehearsal.fault_library.fault import Fault

FAULTS: dict[str, Fault] = {
    fault.name: fault for fault in (*google.FAULTS, *machine.FAULTS, *cloudflare.FAULTS)
}
