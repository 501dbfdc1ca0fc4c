"""What is wanted of a contact on a list, and how a newer wish replaces an undelivered older one. No I/O."""

import enum
import math
from typing import Final

import msgspec
from msgspec.structs import replace


class Kind(enum.StrEnum):
    """The state wanted: the contact is on the list, is not on it, or the whole list is gone."""

    PRESENT = "present"
    ABSENT = "absent"
    DROP = "drop"


DROP_CONTACT_ID = ""
"""The contact id of a DROP, which concerns no contact. Planfix ids are never empty."""

HELD: Final = math.inf
"""`due_at` of a removal that waits until a person releases it."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """One outbox row: the newest wish for one contact of one list.

    `old_addresses` are all addresses under which the contact may be on the list at the ESP, oldest first, never
    `address` itself. They are more than the last one told: a delivery that broke off may have got through.
    `seq` orders the changes of a list; 0 until stored. `created_at` and `due_at` are Unix times.

    An import makes two of each contact: a struct that the garbage collector need not look at costs a tenth of a
    dataclass.
    """

    contact_id: str
    kind: Kind
    address: str = ""
    first_name: str | None = None
    last_name: str | None = None
    old_addresses: tuple[str, ...] = ()
    seq: int = 0
    created_at: float = 0.0
    due_at: float = 0.0


def coalesce(older: Change | None, newer: Change) -> Change:
    """The one change that stands for both: the newer wish, and all that must be known of the older.

    Names that the newer does not tell stay those of the older. Every address of the older one that the newer leaves
    becomes an old address.
    """
    if older is None:
        return newer
    addresses = {a.lower(): a for a in (*older.old_addresses, older.address, *newer.old_addresses) if a}
    addresses.pop(newer.address.lower(), None)
    return replace(
        newer,
        first_name=older.first_name if newer.first_name is None else newer.first_name,
        last_name=older.last_name if newer.last_name is None else newer.last_name,
        old_addresses=tuple(addresses.values()),
        created_at=older.created_at,
    )
