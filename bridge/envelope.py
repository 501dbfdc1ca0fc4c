"""The wire, inwards, up to the token: bytes become an envelope whose contents nobody has looked at yet. No I/O.

What a body holds is not made into objects before its token is known: of a body of brackets those take twenty times its
size, and a stranger may send one. All costs time in step with the body, so read a large one in a thread.
"""

import binascii
import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from bridge.strict_json import BadRequest, read, read_body, read_data

IMPORT: Final = "importContacts"
ACTIONS: Final = ("createList", "deleteList", IMPORT, "updateContact")
FORM_MAX_FIELDS: Final = 20
UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What no text of a request may hold: control characters, and halves of characters. None of it is printable."""

_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HALVES: Final = tuple(f"\\u{d}{digit}".encode() for d in "dD" for digit in "89abcdefABCDEF")
_CHECKED_AT_ONCE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request whose token is not checked yet.

    `action` is one of the four, or empty. `token` is empty when it is missing or cannot be a token. `read_data` gives
    what is in the field `data`, the contacts of an import as `strict_json.read_body` leaves them, None when there is
    none; it raises BadRequest.
    """

    action: str
    token: str = field(repr=False)
    read_data: Callable[[], Any] = field(repr=False)


def open_envelope(body: bytes) -> Envelope:
    """Reads the body up to the token: JSON, or a form whose only field is that JSON, or a form of the three fields.

    UTF-8 with or without BOM. Raises BadRequest.
    """
    content = body.removeprefix(codecs.BOM_UTF8).strip()
    _require_utf8(content)
    return _open_json(content) if content.startswith(b"{") else _open_form(content.decode())


def _require_utf8(content: bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), _CHECKED_AT_ONCE_BYTES):
            decoder.decode(content[start : start + _CHECKED_AT_ONCE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise BadRequest("not_utf8") from error


class _Head(msgspec.Struct):
    """The top of a JSON body. Everything else in it is looked through for faults and made into nothing."""

    action: msgspec.Raw = msgspec.Raw(b"null")
    token: msgspec.Raw = msgspec.field(name="authToken", default=msgspec.Raw(b"null"))


_HEAD: Final = msgspec.json.Decoder(_Head)


def _open_json(content: bytes) -> Envelope:
    try:
        head = _head(content)
    except RecursionError as error:
        raise BadRequest("too_deep") from error
    except msgspec.MsgspecError as error:
        raise BadRequest("malformed") from error
    action = _text(head.action)
    read_all = read_body if action == IMPORT else read
    return _envelope(action, _text(head.token), lambda: read_all(content).get("data"))


def _head(content: bytes) -> _Head:
    try:
        return _HEAD.decode(content)
    except msgspec.DecodeError:
        # Halves of characters, which a client leaves that cuts a text, are mended later, where they matter.
        for half in _HALVES if b"\\ud" in content.lower() else ():
            content = content.replace(half, b"\\u00")
        return _HEAD.decode(content)


def _text(value: msgspec.Raw) -> str:
    """A JSON text; empty when the value is anything else."""
    try:
        return msgspec.json.decode(value, type=str)
    except msgspec.MsgspecError:
        return ""


def _open_form(content: str) -> Envelope:
    pairs = [field.partition("=") for field in content.split("&", FORM_MAX_FIELDS)]
    if len(pairs) > FORM_MAX_FIELDS or not all(equals for _, equals, _ in pairs):
        raise BadRequest("malformed")
    if len(pairs) == 1:
        return _open_json(_decoded(pairs[0][2]).encode())
    fields = {_decoded(name): _decoded(value) for name, _, value in pairs}
    if len(fields) != len(pairs):
        raise BadRequest("duplicate_key")
    action, data = fields.get("action", ""), fields.get("data")
    read_all = read_data if action == IMPORT else read
    return _envelope(action, fields.get("authToken", ""), lambda: None if data is None else read_all(data.encode()))


def _decoded(written: str) -> str:
    """A name or value of a form. The standard library makes an object of every `%41`: 5 GB of 64 MB."""
    if _NO_ESCAPE.search(written):
        raise BadRequest("malformed")
    quoted_printable = written.replace("+", " ").replace("=", "=3D").replace("%", "=")  # which is decoded at one go
    try:
        return binascii.a2b_qp(quoted_printable.encode()).decode()
    except UnicodeDecodeError as error:
        raise BadRequest("not_utf8") from error


def _envelope(action: str, token: str, read_data: Callable[[], Any]) -> Envelope:
    return Envelope(
        action=action if action in ACTIONS else "",
        token="" if UNSAFE.search(token) else token,  # a lone surrogate cannot even be encoded for the comparison
        read_data=read_data,
    )
