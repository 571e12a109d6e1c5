"""What a resource type is (a row), and the one life that every resource of a cloud leads."""

import copy
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple, Protocol

from pulumi.runtime.rpc import UNKNOWN

from rehearsal import figures
from rehearsal.errors import CloudError, OperationFailed
from rehearsal.providers.outages import Outage, Patience, Refusal
from rehearsal.providers.schema import Failure, Schema, as_array, as_object, join
from rehearsal.store import Body
from rehearsal.world import World

DEFAULTS = "__defaults"
"""Where Pulumi's bridge notes which inputs it filled in itself: such a name may change."""


class Log(Protocol):
    """Writes a line to the engine's display: "info" in passing, "warning" to stay."""

    async def __call__(self, severity: str, message: str) -> None: ...


@dataclass(frozen=True)
class Operation:
    """One call by the engine: where, for which resource, with which provider configuration."""

    world: World
    config: Mapping[str, str]
    urn: str
    log: Log

    @property
    def type(self) -> str:
        """The resource's type token."""
        return self.urn.split("::")[2].split("$")[-1]

    @property
    def name(self) -> str:
        """The resource's name in the program."""
        return self.urn.split("::", 3)[3]


@dataclass(frozen=True)
class Reference:
    """A property that names another resource, which must exist."""

    types: tuple[str, ...]
    keys: tuple[str, ...] = ("name",)
    """Outputs of the other resource, besides id and selfLink, by which it may be named."""
    only: str = ""
    """A pattern: values that do not match it name something that the rehearsal does not play."""
    deletion: str = "refused"
    """What becomes of the other resource's deletion: refused, cascades, or allowed."""
    missing: tuple[int, str, str] | None = None
    """Status, message (`{value}` is filled in) and reason when it does not exist."""
    linked: bool | str = True
    """Whether the service answers with the other's link or id, however the program spelled it; or
    a format over the other's outputs, with which it answers."""


@dataclass(frozen=True)
class Life:
    """Names of rows in figures.py: how long an operation takes in life."""

    create: str
    update: str
    delete: str


PluginCheck = Callable[[Body], Iterable[Failure]]
ServiceCheck = Callable[[Operation, Body], None]


@dataclass(frozen=True, kw_only=True)
class ResourceType:
    """One row: everything that the lifecycle below must know of a type."""

    token: str
    id: str
    """Format of the id, over the outputs: `projects/{project}/global/networks/{name}`."""
    life: Life
    api: str = ""
    """Google's service that must be enabled."""
    configured: tuple[str, ...] = ()
    """Inputs that Check takes from the provider's configuration where the program has none."""
    autoname: tuple[str, int] | None = None
    """(property, longest name), for a type that Pulumi names by itself."""
    defaults: Body = field(default_factory=dict[str, Any])
    """Inputs that the plugin's Check fills in."""
    outputs: Body = field(default_factory=dict[str, Any])
    """What the service answers where the program says nothing."""
    computed: Callable[[Operation, Body], Body] | None = None
    """Outputs of this type alone that the service makes once, at creation."""
    updated: Callable[[Operation, Body, Body], None] | None = None
    """`updated(operation, old, new)` changes such outputs in `new` where an update makes it so."""
    references: Mapping[str, Reference] = field(default_factory=dict[str, Reference])
    """Property path (`networkInterfaces[].subnetwork`) -> what it must name."""
    replaces: tuple[str, ...] = ()
    """Property paths whose change replaces the resource."""
    conflict: tuple[str, str] | None = None
    """Message (a format over the outputs) and reason when it exists; else it is written over."""
    preview: tuple[PluginCheck, ...] = ()
    """What the plugin refuses, at preview."""
    service: tuple[ServiceCheck, ...] = ()
    """What the service refuses, during up."""
    created: ServiceCheck | None = None
    """What the service does besides, once the resource exists."""
    answered: Callable[[Body], None] | None = None
    """Adds to the outputs, in place, what `outputs` cannot say: what the service fills into
    lists."""
    settled: Callable[[Operation, str], Awaitable[None]] | None = None
    """Waits until the service has done what was asked. Raises OperationFailed when it cannot."""
    deleting: Callable[[Operation, str, Body], Awaitable[None]] | None = None
    """Deletes the resource, in place of removing it from the store."""
    remembered: bool = False
    """Whether the plugin notes the resource before it has waited for the creation to end; one that
    it does not note is forgotten when it gives up."""


@dataclass(frozen=True)
class Change:
    """One changed input: added, deleted or updated; and whether that replaces the resource."""

    kind: str
    replaces: bool


@dataclass(frozen=True)
class Diff:
    """What differs between two sets of inputs, by property path."""

    changes: Mapping[str, Change]
    delete_before_replace: bool = False


Generator = Callable[[Operation, ResourceType, Body], Any]
Function = Callable[[World, Mapping[str, str], Body], Body]


class Package:
    """A provider plugin over the store; subclasses say what its cloud adds.

    Methods raise CloudError for what the service refuses.
    """

    name: str
    rows: Mapping[str, ResourceType]
    functions: Mapping[str, Function]
    generated: Mapping[str, Generator]
    """Output, in whatever type -> how the service makes it."""
    volatile: frozenset[str] = frozenset()
    """Generated outputs that every update makes anew."""
    schema: Schema
    patience: Patience
    refusals: Mapping[str, Refusal]
    """What the services say in an outage."""
    interruptible: bool = False
    """Whether the plugin gives up on what runs when it is told to; bridged ones do not."""

    def plays(self, token: str) -> bool:
        """Whether there is a row for this type."""
        return token in self.rows

    def check_config(self, config: Mapping[str, str]) -> list[str]:
        """What is wrong with the provider's configuration."""
        return []

    def words(self, error: CloudError, operation: Operation, verb: str, body: Body) -> str:
        """A service's refusal to create, read, update or delete, as the plugin prints it."""
        raise NotImplementedError

    def authorise(self, operation: Operation, row: ResourceType, body: Body) -> None:
        """Refuse what the caller may not touch: unknown projects and accounts, disabled APIs."""

    def replaces(self, row: ResourceType) -> tuple[str, ...]:
        """Property paths whose change replaces a resource of this type."""
        return row.replaces

    def absent(self, value: str) -> CloudError:
        """The refusal of a reference to something that does not exist."""
        raise NotImplementedError

    def in_use(self, row: ResourceType, id: str, by: str) -> CloudError:
        """The refusal to delete what `by` still uses."""
        raise NotImplementedError

    # Checking and comparing

    def check(
        self, operation: Operation, olds: Body, news: Body, seed: bytes
    ) -> tuple[Body, list[Failure]]:
        """The inputs with the plugin's defaults, and what it refuses about them."""
        row = self.rows[operation.type]
        inputs = {key: value for key, value in copy.deepcopy(news).items() if value is not None}
        for key in row.configured:
            if key in operation.config:
                inputs.setdefault(key, operation.config[key])
        if row.autoname and row.autoname[0] not in inputs and "namePrefix" not in inputs:
            key, longest = row.autoname
            named_before = key in olds.get(DEFAULTS, [])
            inputs[key] = (
                olds[key] if named_before else autoname(operation.name, longest, seed, self.name)
            )
        fill(inputs, row.defaults)
        failures = self.schema.failures(row.token, inputs)
        for check in row.preview:
            failures += check(inputs)
        inputs[DEFAULTS] = sorted(inputs.keys() - news.keys() - {DEFAULTS})
        return inputs, failures

    def diff(self, operation: Operation, olds: Body, news: Body) -> Diff:
        """What a change of inputs means for the resource."""
        row = self.rows[operation.type]
        rules = self.replaces(row)
        changes = {
            path: Change(kind, any(within(each, rule) for each in below for rule in rules))
            for path, kind, below in compare(olds, news)
        }
        name = row.autoname[0] if row.autoname else ""
        fixed = name in news and news[name] == olds.get(name) and name not in news.get(DEFAULTS, [])
        replaced = any(change.replaces for change in changes.values())
        return Diff(changes, delete_before_replace=fixed and replaced)

    # Life

    async def create(self, operation: Operation, inputs: Body, preview: bool) -> tuple[str, Body]:
        """The new resource's id and outputs; at preview no id, and unknown where it must be."""
        row = self.rows[operation.type]
        body = self._outputs(operation, row, inputs)
        if preview:
            missing = self.schema.outputs[row.token]
            return "", dict.fromkeys(missing, UNKNOWN) | body
        outage = self._outage(operation, "create")
        await outage.before()
        self._refuse(operation, row, body, None)
        self._refuse_twins(operation, row, body)
        await operation.world.take(f"create {operation.name}", figures.seconds(row.life.create))
        await outage.meanwhile()
        self._refuse(operation, row, body, None)  # the world went on meanwhile
        self._refuse_twins(operation, row, body)
        id = self._generate(operation, row, body)
        if row.created:
            row.created(operation, body)
        operation.world.store.put(row.token, id, body)
        try:
            await outage.end()
        except CloudError as error:
            if not row.remembered:
                raise
            raise OperationFailed(error.code, error.message, id, body) from error
        return id, await self._settle(operation, row, id, body)

    async def read(
        self, operation: Operation, id: str, olds: Body, inputs: Body
    ) -> tuple[str, Body, Body]:
        """Id (empty when it is gone), outputs, and the inputs that they now stand for."""
        row = self.rows[operation.type]
        await self._outage(operation, "read").before()
        body = operation.world.store.get(row.token, id)
        self.authorise(operation, row, body or inputs)
        if body is None:
            return "", {}, {}
        if not inputs:  # an import: the program has said nothing yet
            inputs = {key: body[key] for key in self.schema.inputs[row.token] if key in body}
        expected = self._outputs(operation, row, inputs)
        actual = {
            key: value if key == DEFAULTS or body.get(key) == expected.get(key) else body[key]
            for key, value in inputs.items()
            if key == DEFAULTS or key in body
        }
        return id, self.look(operation, row, id, body), actual

    def look(self, operation: Operation, row: ResourceType, id: str, body: Body) -> Body:
        """The outputs as a GET answers them just now."""
        return body

    async def update(
        self, operation: Operation, id: str, olds: Body, inputs: Body, preview: bool
    ) -> Body:
        """The outputs after an update in place."""
        row = self.rows[operation.type]
        store = operation.world.store
        kept = {
            key: value
            for key, value in (store.get(row.token, id) or olds).items()
            if key in {"id", *self.generated, *self.schema.computed(row.token)} - self.volatile
        }
        body = kept | self._outputs(operation, row, inputs)
        if preview:
            return body | dict.fromkeys(
                self.volatile & set(self.schema.outputs[row.token]), UNKNOWN
            )
        outage = self._outage(operation, "update")
        await outage.before()
        self._refuse(operation, row, body, id)
        await operation.world.take(f"update {operation.name}", figures.seconds(row.life.update))
        await outage.meanwhile()
        self._refuse(operation, row, body, id)
        self._generate(operation, row, body)
        if row.updated:
            row.updated(operation, store.get(row.token, id) or olds, body)
        store.put(row.token, id, body)
        await outage.end()
        return await self._settle(operation, row, id, body)

    async def delete(self, operation: Operation, id: str, olds: Body) -> None:
        """Delete the resource; no error when it is gone already."""
        row = self.rows[operation.type]
        store = operation.world.store
        outage = self._outage(operation, "delete")
        await outage.before()
        self.authorise(operation, row, olds)
        self._refuse_in_use(operation.world, row, id)
        await operation.world.take(f"delete {operation.name}", figures.seconds(row.life.delete))
        await outage.meanwhile()
        self._refuse_in_use(operation.world, row, id)
        if row.deleting:
            await row.deleting(operation, id, store.get(row.token, id) or olds)
        else:
            for token, dependent, reference in list(self._users(operation.world, row, id)):
                if reference.deletion == "cascades":
                    store.delete(token, dependent)
            store.delete(row.token, id)
        await outage.end()

    def _outage(self, operation: Operation, verb: str) -> Outage:
        type = operation.type.rpartition(":")[2]
        return Outage(operation.world, verb, type, self.patience, self.refusals)

    async def _settle(self, operation: Operation, row: ResourceType, id: str, body: Body) -> Body:
        """The outputs once the service is done."""
        if row.settled is None:
            return body
        await row.settled(operation, id)
        return operation.world.store.get(row.token, id) or body

    # The service's rules

    def complete(self, operation: Operation, row: ResourceType, body: Body) -> None:
        """Add the outputs that follow from the inputs and the configuration, known at preview."""

    def _outputs(self, operation: Operation, row: ResourceType, inputs: Body) -> Body:
        body = copy.deepcopy({key: value for key, value in inputs.items() if key != DEFAULTS})
        self.complete(operation, row, body)
        fill(body, row.outputs, whole=True)
        if row.answered:
            row.answered(body)
        for path, reference in row.references.items():
            for holder, key in places(body, path):
                found = find(operation.world, reference, holder[key], body)
                if found and isinstance(reference.linked, str):
                    holder[key] = reference.linked.format_map(found[1])
                elif found and reference.linked:
                    holder[key] = found[1].get("selfLink") or found[0]
        return body

    def _refuse(self, operation: Operation, row: ResourceType, body: Body, id: str | None) -> None:
        self.authorise(operation, row, body)
        for path, reference in row.references.items():
            for holder, key in places(body, path):
                value = holder[key]
                if re.search(reference.only, value) and not find(
                    operation.world, reference, value, body
                ):
                    if not reference.missing:
                        raise self.absent(value)
                    code, message, reason = reference.missing
                    raise CloudError(code, message.format(value=value), reason)
        for check in row.service:
            check(operation, body | {"id": id} if id else body)

    def _refuse_twins(self, operation: Operation, row: ResourceType, body: Body) -> None:
        id = self._generate(operation, row, copy.deepcopy(body))
        taken = operation.world.store.get(row.token, id)
        if row.conflict and taken:
            message, reason = row.conflict
            raise CloudError(409, message.format_map(taken), reason)

    def _generate(self, operation: Operation, row: ResourceType, body: Body) -> str:
        """Add what the service makes, where it is not there yet, and return the id."""
        if row.computed:
            fill(body, row.computed(operation, body), whole=True)
        for key in (self.generated.keys() & {"id", *self.schema.outputs[row.token]}) - body.keys():
            body[key] = self.generated[key](operation, row, body)
        body["id"] = row.id.format_map(body)
        return body["id"]

    def _users(
        self, world: World, row: ResourceType, id: str
    ) -> Iterator[tuple[str, str, Reference]]:
        """Every (token, id, reference) of a resource that names this one."""
        for user in self.rows.values():
            for path, reference in user.references.items():
                if row.token not in reference.types:
                    continue
                for user_id, body in world.store.all(user.token).items():
                    for holder, key in places(body, path):
                        found = find(world, reference, holder[key], body)
                        if found and found[0] == id:
                            yield user.token, user_id, reference

    def _refuse_in_use(self, world: World, row: ResourceType, id: str) -> None:
        for _, by, reference in self._users(world, row, id):
            if reference.deletion == "refused":
                raise self.in_use(row, id, by)


# Bodies


def places(body: Any, path: str) -> Iterator[tuple[Body, str]]:
    """Every (object, key) at `path` in `body` that holds a known text."""
    key, _, rest = path.partition(".")
    value = as_object(body).get(key.removesuffix("[]"))
    for each in as_array(value) if key.endswith("[]") else [value] if rest else []:
        yield from places(each, rest)
    if not rest and isinstance(value, str) and value != UNKNOWN:
        yield body, key


def plain(value: str) -> str:
    """A link or id without host, API version and query; a bucket's also without its `b/`."""
    link = r"^(https://[^/]*googleapis\.com/((compute|storage)/)?(v1|beta)/)?(b/)?"
    return re.sub(link, "", value).split("?")[0]


def find(world: World, reference: Reference, value: str, body: Body) -> tuple[str, Body] | None:
    """The (id, outputs) of the resource that `value` names, seen from a resource `body`."""
    wanted = plain(value)
    candidates = [pair for type in reference.types for pair in world.store.all(type).items()]
    for id, found in candidates:
        named = any(found.get(key) == wanted for key in reference.keys)
        near = all(
            found.get(key) == body.get(key)
            for key in ("project", "region", "location")
            if key in found and key in body
        )
        if wanted == id or (named and near):
            return id, found
    return None


def fill(body: Body, defaults: Mapping[str, Any], *, whole: bool = False) -> None:
    """Add defaults that `body` lacks; objects only into those it has, unless `whole` is said."""
    for key, value in defaults.items():
        nested = isinstance(value, dict)
        if nested and isinstance(body.get(key), dict):
            fill(body[key], as_object(value), whole=whole)
        elif body.get(key) is None and (whole or not nested):
            body[key] = copy.deepcopy(defaults[key])


class Difference(NamedTuple):
    """One place at which two JSON values differ."""

    path: str
    kind: str
    """add, delete or update."""
    below: list[str]
    """The path, and those of all that came or went with it."""


def compare(old: Any, new: Any, path: str = "") -> Iterator[Difference]:
    """Every difference between two JSON values, as deep as shapes agree.

    Pulumi's bridge names and judges differences the same way (pkg/tfbridge/detailed_diff.go):
    lists by their indices, and a block that comes or goes at its own path, which replaces the
    resource when anything inside it would.
    """
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = as_object(old), as_object(new)
        for key in sorted(before.keys() | after.keys()):
            if not key.startswith("__"):
                yield from compare(before.get(key), after.get(key), join(path, key))
    elif isinstance(old, list) and isinstance(new, list):
        for index, pair in enumerate(zip_longest(as_array(old), as_array(new))):
            yield from compare(*pair, f"{path}[{index}]")
    else:
        kind = "add" if old is None else "delete" if new is None else "update"
        yield Difference(path, kind, [*paths(old if new in (None, UNKNOWN) else new, path)])


def paths(value: Any, path: str) -> Iterator[str]:
    """The path of a JSON value and of everything in it."""
    yield path
    for index, item in enumerate(as_array(value)):
        yield from paths(item, f"{path}[{index}]")
    for key, item in as_object(value).items():
        if item is not None:
            yield from paths(item, join(path, key))


def within(path: str, rule: str) -> bool:
    """Whether `path` is the property that `rule` names or lies inside it, indices aside."""
    bare, rule = re.sub(r"\[[^\]]*\]", "", path), rule.replace("[]", "")
    return bare == rule or bare.startswith(f"{rule}.")


def autoname(name: str, longest: int, seed: bytes, package: str) -> str:
    """Pulumi's own name for a resource: `name-` and seven hexadecimal digits.

    Longer names are refused there, so here: ValueError.
    """
    digest = hashlib.sha256(seed).hexdigest() if seed else secrets.token_hex(4)
    proposed = f"{name.lower()}-{digest[:7]}"
    if len(proposed) > longest:
        raise ValueError(
            f"could not make instance of '{package}': name '{name}' plus 7 random chars is longer"
            f" than maximum length {longest}"
        )
    return proposed
