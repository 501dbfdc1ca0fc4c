"""Settings as they are declared, and their reading from YAML.

A setting is a field of a msgspec Struct: its type, its default and `msgspec.Meta(description=...)`, which is its help.
Understood are numbers, texts, booleans, literals and enums, `Secret`, nested Structs, `X | None`, and `tuple[X, ...]`,
for which one value stands for a list of one. `Meta(extra={"check": function})` may judge the value that was read: the
function answers what is wrong, without quoting a secret, or None.
"""

import math
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec

from bridge.nearest import did_you_mean
from bridge.yaml_reader import Document, Items, Node, Scalar, Section, quoted
from providers.base import Secret, redact

StructT = TypeVar("StructT", bound=msgspec.Struct)
Check = Callable[[Any], str | None]


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting. `key` is its name in YAML, `field` in Python; `shape` says in words what it takes.
    `example` is a value for people to see, from `Meta(examples=[...])`, else the default."""

    key: str
    field: str
    help: str
    shape: str
    required: bool
    default: Any  # None for a required one
    example: Any
    secret: bool
    hint: Any


def settings_of(struct: type[msgspec.Struct]) -> list[Setting]:
    """The settings that a Struct declares, in order."""
    return [_setting(field) for field in msgspec.structs.fields(struct)]


def _setting(field: msgspec.structs.FieldInfo) -> Setting:
    default = None if field.default is msgspec.NODEFAULT else field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    kind = _kind(field.type)
    return Setting(
        key=field.encode_name,
        field=field.name,
        help=kind.help,
        shape=kind.shape,
        required=field.required,
        default=default,
        example=default if kind.example is None else kind.example,
        secret=kind.secret,
        hint=field.type,
    )


class SettingsReader:
    """Reads settings out of a document and adds what is wrong to its faults."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def section(self, node: Node) -> Section | None:
        """The node as a mapping; nothing written is an empty one. None after a fault."""
        if isinstance(node, Scalar) and node.null:
            return Section(node.place)
        if isinstance(node, Section):
            return node
        if not (isinstance(node, Scalar) and node.text is None):
            self._document.fault(node.place, "must hold settings, one `name: value` per line")
        return None

    def fields(
        self,
        section: Section,
        struct: type[msgspec.Struct],
        *,
        without: Collection[str] = (),
        also: Collection[str] = (),
    ) -> dict[str, Any]:
        """The values of a Struct's fields, read or by default; one with a fault is left out.

        Fields named in `without` are no settings: the caller fills them in. Keys named in `also` the caller reads.
        """
        settings = [setting for setting in settings_of(struct) if setting.field not in without]
        known = [*(setting.key for setting in settings), *also]
        for key, place in section.keys.items():
            if key not in known:
                self._document.fault(place, f"unknown key; {did_you_mean(key, known)}")
        values = {}
        for setting in settings:
            if setting.key in section.nodes:
                try:
                    values[setting.field] = self._value(section.nodes[setting.key], setting.hint, setting.key)
                except _Wrong:
                    continue
            elif setting.required:
                self._document.fault(section.place, f"`{setting.key}` is missing ({setting.help})")
            else:
                values[setting.field] = setting.default
        return values

    def build(self, section: Section, struct: type[StructT], values: dict[str, Any]) -> StructT | None:
        """The Struct of these values; None when one is missing, or after what its own `__post_init__` refused."""
        if any(setting.field not in values for setting in settings_of(struct)):
            return None
        try:
            return struct(**values)
        except (TypeError, ValueError) as error:
            self._document.fault(section.place, " ".join(redact(str(error)).split()))
            return None

    def text(self, node: Node, name: str) -> str | None:
        """The node as a text, None after a fault."""
        try:
            return str(self._value(node, str, name))
        except _Wrong:
            return None

    def _value(self, node: Node, hint: Any, name: str) -> Any:
        """The node's value, or _Wrong after its faults were added."""
        kind = _kind(hint)
        nothing = isinstance(node, Scalar) and node.null
        if nothing and kind.optional:
            return None
        if kind.struct:
            return self._struct(node, kind.struct)
        if nothing:
            raise self._wrong(node, f"`{name}` is empty: it takes {kind.shape}")
        value = self._items(node, kind, name) if kind.many else self._scalar(node, kind, name)
        for check in kind.checks:
            if wrong := check(value):
                raise self._wrong(node, f"`{name}` {wrong}")
        return value

    def _struct(self, node: Node, struct: type[msgspec.Struct]) -> msgspec.Struct:
        section = self.section(node)
        value = self.build(section, struct, self.fields(section, struct)) if section else None
        if value is None:
            raise _Wrong
        return value

    def _items(self, node: Node, kind: "_Kind", name: str) -> Any:
        values, wrong = [], False
        for item in node.nodes if isinstance(node, Items) else (node,):
            try:
                values.append(self._value(item, kind.item, name))
            except _Wrong:
                wrong = True
        if wrong:
            raise _Wrong
        return kind.many(values)

    def _scalar(self, node: Node, kind: "_Kind", name: str) -> Any:
        if not isinstance(node, Scalar):
            raise self._wrong(node, f"`{name}` must be {kind.shape}")
        if node.text is None:
            raise _Wrong
        if node.text == "":
            raise self._wrong(node, f"`{name}` is empty: it takes {kind.shape}")
        try:
            value = msgspec.convert(node.text, kind.leaf, strict=False)
            if isinstance(value, float) and not math.isfinite(value):
                raise msgspec.ValidationError("infinity, or not a number at all")
        except msgspec.ValidationError:
            # As it is written: a `${NAME}` is not shown filled in.
            instead = "" if kind.secret else f", not {quoted(node.written)}"
            raise self._wrong(node, f"`{name}` must be {kind.shape}{instead}") from None
        return Secret(value) if kind.secret else value

    def _wrong(self, node: Node, text: str) -> "_Wrong":
        self._document.fault(node.place, text)
        return _Wrong()


class _Wrong(Exception):
    """A value that cannot be used and was told as a fault."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a type hint asks for, taken apart. `leaf` is what msgspec converts a single text to."""

    optional: bool
    help: str
    checks: tuple[Check, ...]
    shape: str
    example: Any = None
    secret: bool = False
    leaf: Any = None
    struct: type[msgspec.Struct] | None = None
    many: Any = None
    item: Any = None


def _kind(hint: Any) -> _Kind:
    metas: list[msgspec.Meta] = []
    optional = False
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            metas += (meta for meta in more if isinstance(meta, msgspec.Meta))
        elif get_origin(hint) in (Union, types.UnionType) and types.NoneType in get_args(hint):
            optional = True
            hint = Union[tuple(arg for arg in get_args(hint) if arg is not types.NoneType)]  # noqa: UP007 - made at run time
        else:
            break
    help_text = next((meta.description for meta in metas if meta.description), "")
    checks = tuple(meta.extra["check"] for meta in metas if meta.extra and "check" in meta.extra)
    example = next((meta.examples[0] for meta in metas if meta.examples), None)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _Kind(optional, help_text, checks, "settings of its own", struct=hint)
    if get_origin(hint) in (tuple, list):
        item = get_args(hint)[0]
        return _Kind(optional, help_text, checks, f"{_kind(item).shape}, or a list", many=get_origin(hint), item=item)
    if get_origin(hint) is dict:
        return _Kind(optional, help_text, checks, "settings by name", leaf=hint)
    secret = hint is Secret
    leaf = str if secret else hint
    for meta in metas:
        leaf = Annotated[leaf, meta]
    return _Kind(optional, help_text, checks, _shape(leaf), example, secret=secret, leaf=leaf)


def _shape(leaf: Any) -> str:
    info = msgspec.inspect.type_info(leaf)
    while isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    match info:
        case msgspec.inspect.IntType():
            return "a whole number" + _range(info)
        case msgspec.inspect.FloatType():
            return "a number" + _range(info)
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.LiteralType(values=values):
            return " or ".join(f'"{value}"' for value in values)
        case msgspec.inspect.EnumType(cls=cls):
            return " or ".join(f'"{member.value}"' for member in cls)
        case msgspec.inspect.StrType(max_length=int(most)):
            return f"a text of up to {most} characters"
    return "a text"


def _range(info: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    words = (("above", info.gt), ("from", info.ge), ("below", info.lt), ("up to", info.le))
    said = [f"{word} {bound:g}" for word, bound in words if bound is not None]
    return " " + " ".join(said) if said else ""
