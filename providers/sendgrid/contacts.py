"""Contacts into rows and parts, refusals into outcomes: what the SendGrid provider needs no call for."""

import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from providers.base import Contact, ContactRefused, Outcome, Reason, Rejected, redact
from providers.sendgrid.client import CallRefused, without_addresses

BATCH_SIZE = 30_000
PART_BYTES = 5_500_000  # SendGrid takes 6 MB
NAME_CHARS = 50
PLAN_LIMIT_WORDS = "contact limit"

_BETWEEN_WORDS = re.compile(r"[\s,;\"<>{}\[\]()]+")
_DETAIL_CHARS = 200

Outcomes: TypeAlias = dict[str, Outcome]
"""Lower-case address → outcome. Addresses are unique in a batch."""

Rows: TypeAlias = dict[str, msgspec.Raw]
"""Lower-case address → the contact as SendGrid takes it, encoded: its bytes count."""


def is_list_id(text: str) -> bool:
    """Whether SendGrid could have given this id; no other goes into a call."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def earlier_addresses(contact: Contact) -> list[str]:
    """The addresses that the contact itself says it had before, lower-case. Our id of a contact is its address."""
    told = [(address or "").lower() for address in (contact.old_address, contact.provider_contact_id)]
    return [address for address in dict.fromkeys(told) if address not in ("", contact.address.lower())]


def all_addresses(contact: Contact) -> list[str]:
    """Every address under which the contact may be on a list, lower-case."""
    now = [contact.address.lower()] if contact.address else []
    return now + ([] if now and contact.keep_old else earlier_addresses(contact))


def row_of(contact: Contact, field_id: str) -> msgspec.Raw:
    names = {"first_name": contact.first_name, "last_name": contact.last_name}
    row: dict[str, Any] = {
        "email": contact.address.lower(),
        **{key: name[:NAME_CHARS] for key, name in names.items() if name is not None},
        "custom_fields": {field_id: contact.id},
    }
    return msgspec.Raw(msgspec.json.encode(row))


def parts_of(rows: Rows) -> Iterator[Rows]:
    """Cuts rows so that each part fits into one call, by the bytes of the body and by the number of contacts."""
    part: Rows = {}
    size = 0
    for address, row in rows.items():
        row_bytes = len(bytes(row)) + 1
        if part and (size + row_bytes > PART_BYTES or len(part) == BATCH_SIZE):
            yield part
            part, size = {}, 0
        part[address] = row
        size += row_bytes
    if part:
        yield part


def named_in(refused: CallRefused, addresses: Sequence[str]) -> Outcomes:
    """Outcomes of the contacts that a 400 names by their position in the request."""
    if refused.status != 400:
        return {}
    complaints = {index: text for index, text in refused.contacts().items() if index < len(addresses)}
    if any("custom_field" in text for text in complaints.values()):
        return {}  # the field's fault, which every contact shares
    return {addresses[index]: _rejected(text) for index, text in complaints.items()}


def reported_in(report: str, rows: Rows) -> Outcomes:
    """Outcomes of the contacts in an error file. Its columns are not documented, so an address in a line is enough."""
    outcomes: Outcomes = {}
    for line in report.splitlines():
        for word in _BETWEEN_WORDS.split(line.lower()):
            for address in (word, word.strip("'.:")):
                if address in rows:
                    outcomes[address] = _rejected(line)
    return outcomes


def _rejected(complaint: str) -> Rejected:
    text = complaint.lower()
    if PLAN_LIMIT_WORDS in text:
        reason = Reason.PLAN_LIMIT
    elif "invalid" in text or "not valid" in text:
        reason = Reason.INVALID_ADDRESS
    else:
        reason = Reason.CONTACT_REFUSED
    return Rejected(reason, redact(without_addresses(complaint))[:_DETAIL_CHARS])


def somebody_in(rows: Rows, detail: str) -> Outcomes:
    """What a refusal means that names nobody: it is the only contact, or the bridge must halve the batch."""
    if len(rows) > 1:
        raise ContactRefused(detail=detail)
    return {address: Rejected(Reason.CONTACT_REFUSED, redact(detail)[:_DETAIL_CHARS]) for address in rows}
