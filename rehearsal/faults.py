"""Faults that are set and cleared while a world runs: a file each, which all its processes see."""

import fcntl
import re
from pathlib import Path

ALWAYS = "always"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class Faults:
    """What goes wrong in a world: `faults/NAME` says how often it still does, or `always`.

    Files, because the daemon, the stand-ins inside of guests and the tests are processes of their
    own. On the standard library alone, as those inside of guests are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, name: str, times: int | None = None) -> None:
        """Let a fault strike from now on, so many times or until it is cleared.

        Raises ValueError for what can be no fault's name or number.
        """
        if not NAME.fullmatch(name) or (times is not None and times < 1):
            raise ValueError(f"{name}:{times}: expected a fault's name, and a number above 0")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._struck(name).unlink(missing_ok=True)
        draft = self.folder / f".{name}"
        draft.write_text(ALWAYS if times is None else str(times))
        draft.rename(self.folder / name)

    def clear(self, name: str) -> None:
        """End a fault; no error when it is not set."""
        (self.folder / name).unlink(missing_ok=True)

    def struck(self, name: str) -> bool:
        """Whether a fault has happened since it was set."""
        return self._struck(name).exists()

    def _struck(self, name: str) -> Path:
        return self.folder / f".struck-{name}"

    def all(self) -> dict[str, str]:
        """What is set, and how often each still strikes."""
        files = [*self.folder.iterdir()] if self.folder.is_dir() else []
        return {it.name: it.read_text() for it in sorted(files) if NAME.fullmatch(it.name)}

    def number(self, prefix: str, default: int) -> int:
        """The N of the fault `PREFIX-N` that is set; the default where there is none."""
        wanted = re.compile(re.escape(prefix) + r"-(\d+)")
        for match in filter(None, map(wanted.fullmatch, self.all())):
            self._struck(match[0]).touch()
            return int(match[1])
        return default

    def strikes(self, name: str) -> bool:
        """Whether the fault happens this time; of one that has a number, that is one time less."""
        path = self.folder / name
        try:
            with path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                left = file.read()
                if left != ALWAYS and (not left.isdecimal() or int(left) < 1):
                    return False
                self._struck(name).touch()
                if left == ALWAYS:
                    return True
                file.seek(0)
                file.truncate()
                file.write(str(int(left) - 1))
                if left == "1":
                    path.unlink(missing_ok=True)
                return True
        except FileNotFoundError:
            return False


def parse(text: str) -> tuple[str, int | None]:
    """A fault as a person names it: `NAME`, or `NAME:TIMES`. Raises ValueError otherwise."""
    name, _, times = text.partition(":")
    if not NAME.fullmatch(name) or (":" in text and not re.fullmatch(r"[1-9]\d*", times)):
        raise ValueError(f"{text}: expected NAME or NAME:TIMES")
    return name, int(times) if times else None
