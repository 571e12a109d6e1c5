"""What the installed SDKs say of a resource type, and what is wrong with a set of inputs."""

import hashlib
import importlib
import inspect
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args, get_origin

from pulumi import _types as sdk  # pyright: ignore[reportPrivateUsage] no public way to a class's types
from pulumi.runtime.rpc import UNKNOWN
from pydantic import BaseModel

Kind = Literal["string", "integer", "number", "boolean", "array", "map", "object", "any"]

_KINDS: dict[Any, Kind] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_VALUES = re.compile(r"(?:Possible|Available) values(?: are)?: ((?:[`\"][^`\"]+[`\"](?:, *)?)+)")
"""How the documentation lists the values that the plugin's own validator knows.

Lists in other words ("Possible values are STANDARD, SPOT") have no validator behind them.
"""


class Failure(NamedTuple):
    """One refused property; `path` is empty when the resource as a whole is refused."""

    path: str
    reason: str


class Property(BaseModel):
    """An input property: its type, and what its documentation says it may be."""

    kind: Kind
    of: "Property | None" = None
    """Element of an array or a map."""
    object: str | None = None
    """Key into `Schema.objects`."""
    required: bool = False
    values: tuple[str, ...] = ()


class Schema(BaseModel):
    """The types of one package, as far as the rehearsal has rows for them."""

    inputs: dict[str, dict[str, Property]] = {}
    outputs: dict[str, list[str]] = {}
    objects: dict[str, dict[str, Property]] = {}
    ignore_case: bool = False
    """Whether the plugin's validators take a value in any case; Cloudflare's do."""

    def computed(self, token: str) -> set[str]:
        """Outputs that are never inputs."""
        return set(self.outputs[token]) - set(self.inputs[token])

    def failures(self, token: str, inputs: Mapping[str, Any]) -> list[Failure]:
        """Everything that the plugin's Check refuses about `inputs`. Unknown values pass."""
        return list(self._object(self.inputs[token], inputs, ""))

    def _object(
        self, properties: Mapping[str, Property], value: Mapping[str, Any], path: str
    ) -> Iterator[Failure]:
        for name in value.keys() - properties.keys():
            if not name.startswith("__"):
                yield Failure(join(path, name), f'An argument named "{name}" is not expected here')
        for name, expected in properties.items():
            if value.get(name) is not None:
                yield from self._value(expected, value[name], join(path, name))
            elif expected.required:
                yield Failure("", f"Missing required property '{join(path, name)}'")

    def _value(self, expected: Property, value: Any, path: str) -> Iterator[Failure]:
        if value == UNKNOWN or expected.kind == "any":
            return
        if not _fits(expected.kind, value):
            yield Failure(path, f"Inappropriate value: {expected.kind} required, got: {value!r}")
        elif expected.kind == "object":
            yield from self._object(self.objects[expected.object or ""], value, path)
        elif expected.of and expected.kind == "array":
            for index, item in enumerate(as_array(value)):
                yield from self._value(expected.of, item, f"{path}[{index}]")
        elif expected.of:
            for key, item in value.items():
                yield from self._value(expected.of, item, join(path, key))
        elif expected.values and not self._allowed(str(value), expected.values):
            listed = " ".join(f'"{each}"' for each in expected.values)
            yield Failure(path, f"expected value to be one of [{listed}], got {value}")

    def _allowed(self, value: str, values: tuple[str, ...]) -> bool:
        return value in values or (self.ignore_case and value.lower() in map(str.lower, values))


def as_object(value: Any) -> dict[str, Any]:
    """A JSON object, typed; empty when the value is none."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_array(value: Any) -> list[Any]:
    """A JSON array, typed; empty when the value is none."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def join(path: str, name: str) -> str:
    """The path of property `name` of the object at `path`, in Pulumi's spelling."""
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        return f'{path}["{name}"]'
    return f"{path}.{name}" if path else name


def _fits(kind: Kind, value: Any) -> bool:
    """Whether Terraform's conversion of types accepts the value: scalars convert, others not."""
    match kind:
        case "array":
            return isinstance(value, list)
        case "map" | "object":
            return isinstance(value, dict)
        case "boolean":
            return isinstance(value, bool) or value in ("true", "false")
        case "integer":
            return not isinstance(value, bool) and bool(re.fullmatch(r"-?\d+", str(value)))
        case "number":
            return not isinstance(value, bool) and bool(re.fullmatch(r"-?\d+\.?\d*", str(value)))
        case "string":
            return isinstance(value, str | int | float)
        case "any":
            return True


def load(package: str, tokens: Iterable[str]) -> Schema:
    """The schema of the given resource types of `pulumi_<package>`, from a cache when there is one.

    Importing the SDKs takes seconds (pulumi_cloudflare alone 2.6 s), reading the cache
    milliseconds; the cache is keyed by the SDK's version, the tokens and this file.
    """
    tokens = sorted(tokens)
    key = f"{package}{version(f'pulumi-{package}')}{tokens}{Path(__file__).read_text()}"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / f"llm-endpoint/schema/{package}-{hashlib.sha256(key.encode()).hexdigest()}.json"
    if cache.exists():
        return Schema.model_validate_json(cache.read_text())
    schema = read(package, tokens)
    cache.parent.mkdir(parents=True, exist_ok=True)
    unfinished = cache.with_suffix(f".{os.getpid()}")
    unfinished.write_text(schema.model_dump_json())
    unfinished.replace(cache)
    return schema


def read(package: str, tokens: Iterable[str]) -> Schema:
    """The schema of the given resource types, read off the installed SDK's classes."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return _read(package, tokens)  # the SDKs deprecate parts of themselves on import


def _read(package: str, tokens: Iterable[str]) -> Schema:
    schema = Schema(ignore_case=package == "cloudflare")
    for token in tokens:
        _, module, name = token.split(":")
        module = module.split("/")[0]
        classes = importlib.import_module(
            f"pulumi_{package}" if module == "index" else f"pulumi_{package}.{module}"
        )
        schema.inputs[token] = _properties(schema, getattr(classes, f"{name}Args"))
        schema.outputs[token] = list(sdk.resource_types(getattr(classes, name)))
    return schema


def _properties(schema: Schema, args: type) -> dict[str, Property]:
    parameters = inspect.signature(args).parameters
    types = sdk.input_type_types(args)
    properties: dict[str, Property] = {}
    for python_name, name in sdk.input_type_py_to_pulumi_names(args).items():
        found = _property(schema, types[name])
        found.required = parameters[python_name].default is inspect.Parameter.empty
        text = inspect.getdoc(getattr(args, python_name)) or ""
        match = _VALUES.search(text.replace("\n", " "))
        if found.kind == "string" and match and not found.values:
            # The generator of Cloudflare's documentation writes some underscores as asterisks.
            found.values = tuple(re.findall(r"[\w-]+", match[1].replace("*", "_")))
        properties[name] = found
    return properties


def _property(schema: Schema, type_: Any) -> Property:
    type_ = sdk.unwrap_type(type_)
    if type_ in _KINDS:
        return Property(kind=_KINDS[type_])
    if isinstance(type_, type) and issubclass(type_, Enum):
        return Property(kind="string", values=tuple(str(each.value) for each in type_))
    if isinstance(type_, type) and sdk.is_input_type(type_):
        name = f"{type_.__module__}.{type_.__qualname__}"
        if name not in schema.objects:
            schema.objects[name] = {}  # some refer to themselves
            schema.objects[name].update(_properties(schema, type_))
        return Property(kind="object", object=name)
    origin = get_origin(type_)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return Property(kind="map", of=_property(schema, get_args(type_)[1]))
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return Property(kind="array", of=_property(schema, get_args(type_)[0]))
    return Property(kind="any")
