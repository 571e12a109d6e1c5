"""Faults: set, cleared and counted alike by everybody in a world, guests included."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rehearsal.faults import Faults, parse


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults")


def test_a_fault_strikes_until_it_is_cleared(faults: Faults) -> None:
    """And not before it was set, nor by another's name."""
    assert not faults.strikes("stockout")
    faults.set("stockout")
    assert [faults.strikes("stockout") for _ in range(3)] == [True] * 3
    assert not faults.strikes("stock")
    faults.clear("stockout")
    assert not faults.strikes("stockout")
    faults.clear("stockout")


def test_a_fault_with_a_number_strikes_so_often(faults: Faults) -> None:
    """Twice, and the third time all is well."""
    faults.set("hub-busy", 2)
    assert faults.all() == {"hub-busy": "2"}
    assert [faults.strikes("hub-busy") for _ in range(3)] == [True, True, False]
    assert faults.all() == {}


def test_whether_a_fault_has_happened_is_known_afterwards(faults: Faults) -> None:
    """Also of one that is used up or cleared; set anew, it has not happened yet."""
    faults.set("hub-busy", 1)
    assert not faults.struck("hub-busy")
    faults.strikes("hub-busy")
    assert faults.struck("hub-busy")
    faults.set("hub-busy", 1)
    assert not faults.struck("hub-busy")
    faults.set("quota-1")
    faults.number("quota", 16)
    assert faults.struck("quota-1")


def test_what_one_process_sets_strikes_in_another(faults: Faults) -> None:
    """A guest's stand-in sees what a test has set, and uses it up for all."""
    faults.set("no-driver", 1)
    code = "import sys; from pathlib import Path; from rehearsal.faults import Faults; "
    code += "print(Faults(Path(sys.argv[1])).strikes('no-driver'))"
    command = [sys.executable, "-c", code, str(faults.folder)]

    assert subprocess.run(command, capture_output=True, text=True).stdout == "True\n"
    assert not faults.strikes("no-driver")


def test_many_who_ask_at_once_are_not_struck_too_often(faults: Faults) -> None:
    """Twenty ask ten times each; thirty strikes are all there are."""
    faults.set("busy", 30)
    struck: list[bool] = []

    def ask() -> None:
        struck.extend(faults.strikes("busy") for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(struck), sum(struck)) == (200, 30)


def test_a_limit_is_a_fault_with_a_number_in_its_name(faults: Faults) -> None:
    """`quota-1` is a quota of one, and nothing to `cloud-run-quota`."""
    faults.set("cloud-run-quota-0")
    assert faults.number("quota", 16) == 16
    faults.set("quota-1")
    assert faults.number("quota", 16) == 1
    assert faults.number("cloud-run-quota", 3) == 0


def test_a_fault_is_named_as_on_the_command_line() -> None:
    """NAME, or NAME:TIMES; nothing that could be another file's name."""
    assert parse("stockout") == ("stockout", None)
    assert parse("hub-busy:2") == ("hub-busy", 2)


@pytest.mark.parametrize("text", ["", ":2", "hub-busy:", "hub-busy:0", "hub:x", "../daemon", ".x"])
def test_what_is_no_fault_is_refused(faults: Faults, text: str) -> None:
    """Before a file is written."""
    with pytest.raises(ValueError, match="expected"):
        parse(text)
    with pytest.raises(ValueError, match="expected"):
        faults.set(text)
    assert not faults.folder.exists()
