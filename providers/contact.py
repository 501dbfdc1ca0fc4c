"""The people that travel between the bridge and a provider, and what became of them."""

import enum
from dataclasses import dataclass
from typing import Final, TypeAlias

from providers.errors import Reason, redact

ADDRESS_MAX_CHARS = 254  # RFC 5321, 4.5.3.1.3, less the angle brackets


@dataclass(frozen=True, slots=True)
class Contact:
    """A person as the caller knows them.

    `id` is the caller's id (Planfix), kept at the ESP where it has a place for it. `address` is stripped and holds
    one `@`; only in `remove` may it be empty, when `provider_contact_id` is known. None as a name means "not told":
    the ESP's own is left alone.

    `old_address` is the address that the contact had on this list before: after an upsert it is off the list, its
    opt-out holds for the new address too (a bounce does not). With `keep_old` another contact still uses the old
    address: its opt-out is read, but it is neither renamed nor removed.

    `provider_contact_id` is what an earlier outcome gave, None when unknown. With `id_is_old` it belongs to an earlier
    address, of which the same holds as of `old_address`.
    """

    id: str
    address: str
    first_name: str | None = None
    last_name: str | None = None
    old_address: str | None = None
    keep_old: bool = False
    provider_contact_id: str | None = None
    id_is_old: bool = False

    @property
    def known_by(self) -> str:
        """The address; without one the service's id, which is the address at services that have no other."""
        return self.address or str(self.provider_contact_id)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The ESP holds what was asked. `provider_contact_id` is the ESP's id, or the address where it has no other."""

    provider_contact_id: str | None = None


BOUNCED: Final = "bounced"


@dataclass(frozen=True, slots=True)
class OptedOut:
    """The ESP keeps this address out: unsubscribed, bounced, complained. It gets no mail by this call or after it.

    An opt-out is the person's and holds for every address of theirs. Only what is `how=BOUNCED` is the address's
    alone: a person whose mail bounced may be reached under another one.
    """

    how: str = "unsubscribed"
    provider_contact_id: str | None = None

    @property
    def is_of_person(self) -> bool:
        return self.how != BOUNCED


@dataclass(frozen=True, slots=True)
class Rejected:
    """This contact is refused for good; the others of the batch are not touched by it. `detail` is redacted here."""

    reason: Reason
    detail: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", redact(self.detail))


@dataclass(frozen=True, slots=True)
class Postponed:
    """This contact is refused for now; the bridge tries it again alone after `retry_after_s` seconds."""

    retry_after_s: float
    reason: Reason
    detail: str = ""


Outcome: TypeAlias = Delivered | OptedOut | Rejected | Postponed


class MemberState(enum.StrEnum):
    SUBSCRIBED = "subscribed"
    OPTED_OUT = "opted_out"
    PENDING = "pending"  # waits for the person to confirm


@dataclass(frozen=True, slots=True)
class Member:
    """A contact as the ESP holds it on a list. `id` is the caller's id where the ESP keeps it; `how` tells of who is
    OPTED_OUT how that came, as `OptedOut.how` does."""

    address: str
    state: MemberState
    first_name: str = ""
    last_name: str = ""
    id: str | None = None
    provider_contact_id: str | None = None
    how: str = "unsubscribed"
