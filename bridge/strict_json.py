"""JSON as a request may hold it: no key twice, nothing beyond JSON, not too deep. No I/O.

A long array may be left unread: as objects a million contacts take six times their bytes.
"""

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec

NESTING_MAX_LEVELS: Final = 20


class BadRequest(Exception):
    """The request cannot be understood. `code` is a key of `bridge.texts`, `field` a path such as `data.contacts[3].id`
    or empty; neither quotes what the client sent."""

    status: Final = 400

    def __init__(self, code: str, field: str = "") -> None:
        super().__init__(f"{code} {field}".rstrip())
        self.code = code
        self.field = field


def read(content: bytes, levels: int = NESTING_MAX_LEVELS) -> Any:
    """The value of a JSON text in UTF-8, nested at most so deep. Raises BadRequest."""
    try:
        value = _STRICT.decode(content.decode())
    except RecursionError as error:
        raise BadRequest("too_deep") from error
    except ValueError as error:  # also an integer of thousands of digits
        raise BadRequest("malformed") from error
    level: list[Any] = [[value]]
    for _ in range(levels + 1):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return value
    raise BadRequest("too_deep")


class _Data(msgspec.Struct):
    contacts: msgspec.Raw


class _Body(msgspec.Struct):
    data: _Data


_DATA: Final = msgspec.json.Decoder(_Data)
_BODY: Final = msgspec.json.Decoder(_Body)
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])


def read_body(content: bytes) -> Any:
    """As `read`, of a whole body. The contacts in its data stay as they are written: `read_item` reads one."""
    return _read_around(content, lambda: _BODY.decode(content).data.contacts, lambda body: body["data"])


def read_data(content: bytes) -> Any:
    """As `read_body`, of the data alone."""
    return _read_around(content, lambda: _DATA.decode(content).contacts, lambda data: data)


def _read_around(content: bytes, find: Callable[[], msgspec.Raw], data_of: Callable[[Any], Any]) -> Any:
    """Reads the text with an empty array in the place of the contacts, and puts them there as they are written."""
    try:
        contacts = find()
        items = _ITEMS.decode(contacts)
    except (msgspec.MsgspecError, RecursionError):  # there are none, or something is wrong
        return read(content)
    written = bytes(contacts)
    start = content.find(written)
    value = read(content[:start] + b"[]" + content[start + len(written) :])
    data = data_of(value)
    if data["contacts"]:  # another field holds the very same, and stands before them
        return read(content)
    data["contacts"] = items
    return value


def read_item(item: Any) -> Any:
    """The value of an item that was left as it is written; of any other one the item itself. Raises BadRequest."""
    return read(bytes(item), NESTING_MAX_LEVELS - 3) if isinstance(item, msgspec.Raw) else item


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise BadRequest("duplicate_key")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_STRICT: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
