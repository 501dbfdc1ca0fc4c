"""The wire, inwards: bytes of Planfix become a typed request. No I/O. What goes back is in `bridge.replies`.

Reading has two steps, so that the caller can check the token before anything inside `data` is judged:

    envelope = open_envelope(body)       # BadRequest when the body is no JSON object: bridge.envelope
    ...                                  # wrong `envelope.token`: unauthorized_reply
    request = read_request(envelope)     # BadRequest when action or data is wrong

Neither step raises anything but BadRequest, whatever the bytes. Both cost time in step with the body: on one core of a
small server 100,000 contacts take about half a second, so read a large body in a thread.

All text in a request is stripped and free of control characters and lone surrogates. Wrong JSON types refuse the whole
request; an address that cannot be used is a problem of its contact only.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import msgspec

from bridge.envelope import UNSAFE, Envelope
from bridge.strict_json import BadRequest, read_item
from providers.base import ADDRESS_MAX_CHARS, Reason

CONTACT_ID_MAX_CHARS: Final = 100
LIST_ID_MAX_CHARS: Final = 500  # our own ids: a provider's name and whatever that provider calls an id
LIST_NAME_MAX_CHARS: Final = 500

# What RFC 5322, 3.2.3 allows outside quotes, and any letter of any script. Everything else is for the ESP to judge.
_ATOM = r'[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff<>()\[\]\\,;:"@]+'
_ADDRESSES = re.compile(rf"[\s,;]*({_ATOM}@{_ATOM})(?:[\s,;]+{_ATOM}@{_ATOM})*[\s,;]*")
_ANGLED_ADDRESS = re.compile(rf"<\s*({_ATOM}@{_ATOM})\s*>")

ChangeAction: TypeAlias = Literal["add", "update", "delete"]
_CHANGE_ACTIONS: Final[Mapping[str, ChangeAction]] = {"add": "add", "update": "update", "delete": "delete"}


class WireContact(msgspec.Struct, frozen=True, gc=False):
    """A contact as Planfix tells it. With a `problem` the address is empty. None as a name: not told."""

    id: str
    address: str
    first_name: str | None
    last_name: str | None
    problem: Reason | None = None

    def __repr__(self) -> str:
        return f"WireContact(id={self.id!r}, problem={self.problem})"


@dataclass(frozen=True, slots=True)
class CreateList:
    list_name: str


@dataclass(frozen=True, slots=True)
class DeleteList:
    list_id: str


@dataclass(frozen=True, slots=True)
class ImportContacts:
    """`contacts` are without a problem; `refused` are the others, by id. Contacts as objects take more room than as
    they came: each is made when it is asked for."""

    list_id: str
    contacts: Iterable[WireContact] = field(repr=False)
    refused: Sequence[tuple[str, Reason]] = ()


@dataclass(frozen=True, slots=True)
class UpdateContact:
    """`old_address` is None unless it can be used and differs from the new one by more than case."""

    list_id: str
    change: ChangeAction
    contact: WireContact
    old_address: str | None = field(repr=False)


Request: TypeAlias = CreateList | DeleteList | ImportContacts | UpdateContact


def read_request(envelope: Envelope) -> Request:
    """What is asked, complete and valid. Unknown fields are ignored. Raises BadRequest."""
    reader = _READERS.get(envelope.action)
    if reader is None:
        raise BadRequest("unknown_action", "action")
    return reader(_Fields(envelope.read_data(), "data"))


class _Fields:
    """The fields of one JSON object, by type. Null is the same as absent. A fault names its path."""

    __slots__ = ("_path", "_values")

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise BadRequest("missing_field" if value is None else "not_object", path)
        self._values = value
        self._path = path

    def _fault(self, code: str, name: str) -> BadRequest:
        return BadRequest(code, f"{self._path}.{name}")

    def raw_text(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is None or isinstance(value, str):
            return value
        raise self._fault("not_text", name)

    def text(self, name: str) -> str | None:
        value = self.raw_text(name)
        if value is None:
            return None
        return (value if value.isprintable() else UNSAFE.sub(" ", value)).strip()

    def required_text(self, name: str, max_chars: int) -> str:
        value = self.text(name)
        if not value:
            raise self._fault("missing_field", name)
        if len(value) > max_chars:
            raise self._fault("too_long", name)
        return value

    def id(self, name: str, max_chars: int) -> str:
        value = self._values.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise self._fault("missing_field" if value is None else "not_id", name)
        value = value.strip()
        if not value:
            raise self._fault("missing_field", name)
        # An id is never mended: the mended one might be somebody else's.
        if len(value) > max_chars or not (value.isprintable() or UNSAFE.search(value) is None):
            raise self._fault("not_id", name)
        return value

    def fields(self, name: str) -> "_Fields":
        return _Fields(self._values.get(name), f"{self._path}.{name}")

    def items(self, name: str) -> list[Any]:
        value = self._values.get(name)
        if not isinstance(value, list):
            raise self._fault("missing_field" if value is None else "not_array", name)
        return value


def _address(value: str | None) -> tuple[str, Reason | None]:
    """The address in a text, or why there is none.

    Merged contacts hold several addresses: the first counts. Other words may stand there only when the address is in
    angle brackets: "ivan petrov@example.com" and "ivan@example.co m" are slips, and the rest is somebody else's.
    """
    if value is None or not value.strip():
        return "", Reason.NO_ADDRESS
    found = _ADDRESSES.fullmatch(value) or _ANGLED_ADDRESS.search(value)
    if found is None or len(found[1]) > ADDRESS_MAX_CHARS:
        return "", Reason.INVALID_ADDRESS
    return found[1], None


def _contact(fields: _Fields) -> WireContact:
    address, problem = _address(fields.raw_text("email"))
    return WireContact(
        fields.id("id", CONTACT_ID_MAX_CHARS), address, fields.text("firstName"), fields.text("lastName"), problem
    )


def _create_list(data: _Fields) -> CreateList:
    return CreateList(data.required_text("listName", LIST_NAME_MAX_CHARS))


def _delete_list(data: _Fields) -> DeleteList:
    return DeleteList(data.id("listId", LIST_ID_MAX_CHARS))


class _Contacts:
    """Contacts as they are written, which were read once and found well."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[WireContact]:
        return (_contact(_Fields(read_item(item), "")) for item in self._items)


def _import_contacts(data: _Fields) -> ImportContacts:
    list_id = data.id("listId", LIST_ID_MAX_CHARS)
    well: list[Any] = []
    refused: list[tuple[str, Reason]] = []
    for index, item in enumerate(data.items("contacts")):
        contact = _contact(_Fields(read_item(item), f"data.contacts[{index}]"))
        if contact.problem is None:
            well.append(item)
        else:
            refused.append((contact.id, contact.problem))
    return ImportContacts(list_id, _Contacts(well), tuple(refused))


def _update_contact(data: _Fields) -> UpdateContact:
    change = _CHANGE_ACTIONS.get(data.raw_text("action") or "")
    if change is None:
        raise BadRequest("unknown_change", "data.action")
    contact = _contact(data.fields("contact"))
    old_address, _ = _address(data.raw_text("oldEmail"))
    changed = old_address.lower() != contact.address.lower()
    return UpdateContact(
        data.id("listId", LIST_ID_MAX_CHARS), change, contact, old_address if old_address and changed else None
    )


_READERS: Final[Mapping[str, Callable[[_Fields], Request]]] = {
    "createList": _create_list,
    "deleteList": _delete_list,
    "importContacts": _import_contacts,
    "updateContact": _update_contact,
}
