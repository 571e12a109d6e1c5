"""What the values of vLLM's flags may be, read as vLLM reads them."""

import json
import operator
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any, NamedTuple, cast

BEYOND = 2**63
"""Numbers from here on are nobody's; infinity and what is no number are not below it either."""
LONGEST_SIZE = 20
"""Digits before a unit."""


class Value(NamedTuple):
    """What may follow a flag."""

    kind: str
    """int, float, size (8k), length (a size or auto), str, word (in any case), json, object (in
    JSON), mixed (text or an object), lora (NAME=PATH or an object)."""
    optional: bool
    """Whether nothing and None are values, too."""
    among: tuple[str, ...]
    """Choices of a text or number, or its limits (`>=0,<1`); keys of an object."""

    def choices(self) -> list[Any] | None:
        """What it must be one of, as `read` returns it; None where that is not counted."""
        if not self.among or self.kind in ("object", "lora") or self.among[0].startswith(SIGNS):
            return None
        nothing = [None] if self.optional else []
        return list(dict.fromkeys([*map(self.read, self.among), *nothing]))

    def read(self, text: str) -> Any:
        """The value. Raises ArgumentTypeError."""
        if self.optional and text in ("", "None"):
            return None
        match self.kind:
            case "int" | "float" | "size" | "length":
                return self._number(text)
            case "word":
                return text.lower().replace("-", "_")
            case "str":
                return text
            case "mixed" if not re.fullmatch(r"\s*\{.*\}\s*", text):
                return text
            case "lora" if not text or ("=" in text and "," not in text):
                return text
            case _:
                return self._json(text)

    def _number(self, text: str) -> float:
        convert = NUMBERS[self.kind]
        try:
            number = convert(text)
        except ValueError:
            raise ArgumentTypeError(f"invalid {convert.__name__} value: {text!r}") from None
        if not abs(number) < BEYOND:
            raise ArgumentTypeError("expected a number of ordinary size")
        for limits in self.among:
            for sign, limit in re.findall("([<>]=?)([-0-9.]+)", limits):
                if not SIGNIFY[sign](number, float(limit)):
                    raise ArgumentTypeError(f"expected a number {limits}")
        return number

    def _json(self, text: str) -> Any:
        """JSON, which no error repeats: it may hold somebody's credentials."""
        try:
            value = json.loads(_without_units(text) if self.among else text)
        except ValueError as error:
            raise ArgumentTypeError(f"expected JSON: {error}") from None
        except RecursionError:
            raise ArgumentTypeError("expected JSON that is nested less deeply") from None
        if self.kind == "json":
            return value
        if not isinstance(value, dict):
            raise ArgumentTypeError("expected a JSON object")
        found = cast("dict[str, Any]", value)
        if unknown := [key for key in found if self.among and key not in self.among]:
            raise ArgumentTypeError(f"it has no {', '.join(unknown)}")
        return found


def human_readable_int(text: str) -> int:
    """vLLM's sizes: 4096, 32k (decimal), 32K (binary), 25.6k. ValueError otherwise."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtKMGT])", text.strip())
    if not found:
        return int(text)
    power = "kmgt".index(found[2].lower()) + 1
    if len(found[1]) > LONGEST_SIZE:
        raise ValueError(text)
    return int(float(found[1]) * 1000**power) if found[2].islower() else int(found[1]) * 1024**power


def human_readable_int_or_auto(text: str) -> int:
    """The same, or auto, which is -1."""
    return -1 if text.strip().lower() == "auto" else human_readable_int(text)


def _without_units(text: str) -> str:
    """JSON in which sizes outside of texts (80m), which vLLM lets pass, are plain numbers."""
    parts = re.split(r'("(?:[^"\\]|\\.)*")', text)
    size = re.compile(r"\b\d+(?:\.\d+)?[kKmMgGtT]\b")
    for index in range(0, len(parts), 2):
        parts[index] = size.sub(lambda it: str(human_readable_int(it[0])), parts[index])
    return "".join(parts)


NUMBERS: dict[str, Callable[[str], float]] = {
    "int": int,
    "float": float,
    "size": human_readable_int,
    "length": human_readable_int_or_auto,
}
SIGNIFY: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
SIGNS = tuple(SIGNIFY)
