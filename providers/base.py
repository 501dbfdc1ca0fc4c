"""What an email service provider is to the bridge: the words, the promises and the errors.

A provider turns "these people belong on that list" into calls of one email service (ESP). It keeps no state
of its own between calls that a restart could lose, never retries (the bridge does, in one place) and never
guesses: what it cannot say it raises as one of the errors below.

    ProviderError
    ├── Transient          try again later; the change is kept
    ├── AuthFailed         key or rights refused; the change is kept until somebody mends the key
    ├── Refused            the request is wrong for good: plan limit, list gone
    ├── ContactRefused     some contact of the batch is wrong for good and the ESP does not say which
    └── Unsupported        the ESP cannot express this
"""

import enum
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, ClassVar, Final, Generic, Self, TypeAlias, TypeVar

import msgspec

ADDRESS_MAX_CHARS = 254  # RFC 5321, 4.5.3.1.3, less the angle brackets

_PART = r"[^\s@<>\"'(),;:=/?&\[\]]"
_ADDRESS_IN_TEXT = re.compile(rf"({_PART}?){_PART}{{0,64}}(?:@|%40)({_PART}){_PART}*", re.IGNORECASE)
_KEY_IN_TEXT = re.compile(r"(SG\.[\w.-]{8,}|[0-9a-f]{32,}(?:-us\d+)?|(?:Bearer|Basic)\s+[\w.~+/=-]{8,})", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with every email address cut to its first letters and every key replaced; safe to log and to show."""
    text = _ADDRESS_IN_TEXT.sub(r"\1***@\2***", text)
    return _KEY_IN_TEXT.sub("<secret>", text)


class Secret:
    """A text that prints as `<secret>`; `reveal()` gives it back to the one place that needs it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "<secret>"


class Reason(enum.StrEnum):
    """Why something was refused for good. People read it in their language (`bridge.texts`)."""

    # one contact
    NO_ADDRESS = "no_address"
    INVALID_ADDRESS = "invalid_address"
    FORGOTTEN = "forgotten"  # deleted at the ESP for good: only the person can come back
    TOO_OFTEN = "too_often"  # the ESP sees too many sign-ups of this address right now
    CONTACT_REFUSED = "contact_refused"
    # a whole request
    LIST_GONE = "list_gone"
    LIST_LIMIT = "list_limit"
    PLAN_LIMIT = "plan_limit"
    RIGHTS = "rights"
    NAME_TAKEN = "name_taken"
    REQUEST_REFUSED = "request_refused"


class ProviderError(Exception):
    """The root of all that a provider raises.

    `detail` is for the log: what the ESP said, redacted here, with status and request id where known.
    """

    def __init__(self, detail: str = "") -> None:
        self.detail = redact(detail)
        super().__init__(self.detail)


class Transient(ProviderError):
    """Worth repeating unchanged. `retry_after_s` is the ESP's own wish, None when it gave none."""

    def __init__(self, detail: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class AuthFailed(ProviderError):
    """The ESP refused the key or its rights. Nothing about the contacts is known."""


class Refused(ProviderError):
    """The ESP refused the whole request for good."""

    def __init__(self, reason: Reason = Reason.REQUEST_REFUSED, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason


class ContactRefused(Refused):
    """The ESP refused a batch because of a contact that it did not name. The bridge halves the batch and repeats."""

    def __init__(self, reason: Reason = Reason.CONTACT_REFUSED, detail: str = "") -> None:
        super().__init__(reason, detail)


class Unsupported(ProviderError):
    """The ESP cannot express what was asked; `detail` says what and what to do instead."""


@dataclass(frozen=True, slots=True)
class Contact:
    """A person as the caller knows them.

    `id` is the caller's id (Planfix), kept at the ESP where it has a place for it. `address` is stripped and holds
    one `@`; only in `remove` may it be empty, when `provider_contact_id` is known. None as a name means "not told":
    the ESP's own is left alone.

    `old_address` is the address that the contact had on this list before: after an upsert it is off the list, its
    opt-out holds for the new address too (a bounce does not). With `keep_old` another contact still uses the old
    address: its opt-out is read, but it is neither renamed nor removed.

    `provider_contact_id` is what an earlier outcome gave, None when unknown. It may belong to an earlier address.
    """

    id: str
    address: str
    first_name: str | None = None
    last_name: str | None = None
    old_address: str | None = None
    keep_old: bool = False
    provider_contact_id: str | None = None


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
    """This contact is refused for good; the others of the batch are not touched by it."""

    reason: Reason
    detail: str = ""


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
    """A contact as the ESP holds it on a list. `id` is the caller's id where the ESP keeps it."""

    address: str
    state: MemberState
    first_name: str = ""
    last_name: str = ""
    id: str | None = None
    provider_contact_id: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check: what was looked at, whether it is well, and what to do when it is not."""

    ok: bool
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the ESP can express. Shown in the matrix; switches what the conformance kit expects."""

    list_is: str  # what a Planfix list becomes, in words
    renames_address: bool  # a changed address keeps the ESP's contact; otherwise it is a new one
    tells_opt_outs: bool  # upsert answers OptedOut; otherwise the ESP keeps people out by itself, unsaid
    equal_names: bool  # two lists may have one name at the ESP
    asynchronous: bool = False  # the ESP works changes off after its answer; the provider waits for the result


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the ESP allows. `batch_size` contacts go into one upsert or removal."""

    batch_size: int
    parallel_calls: int
    list_name_chars: int
    name_chars: int | None = None  # of a first or last name; None: no limit known


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What every provider takes from YAML. A provider's own settings are a subclass; help texts are the docs."""

    base_url: Annotated[
        str | None, msgspec.Meta(description="another address of the service, for a proxy or region")
    ] = None
    timeout_s: Annotated[
        float, msgspec.Meta(gt=0, le=600, description="longest wait for one answer of the service")
    ] = 30.0
    parallel_calls: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=100)] | None,
        msgspec.Meta(description="calls at one time; the default is what the service allows"),
    ] = None


CallObserver: TypeAlias = Callable[[str, str, float], None]
"""Told of every call of the ESP: operation, how it ended (`ok` or an error's class name), seconds."""


def _unobserved(operation: str, ended: str, seconds: float) -> None:
    """The observer of a provider that nobody watches."""


SettingsT = TypeVar("SettingsT", bound=Settings)


class Provider(ABC, Generic[SettingsT]):
    """One email service. A subclass states who it is in class attributes and fills in the abstract methods.

    Use it as an async context manager; every method may then be called from one event loop, concurrently. Any method
    may raise Transient, AuthFailed, Refused or Unsupported. All are safe to repeat except `create_list`: before it is
    repeated, `find_list` tells whether the first try worked.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    capabilities: ClassVar[Capabilities]
    limits: ClassVar[Limits]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        missing = [a for a in ("name", "title", "settings_type", "capabilities", "limits") if not hasattr(cls, a)]
        if missing and ABC not in cls.__bases__:
            raise TypeError(f"provider class {cls.__name__} does not state its {', '.join(missing)}")

    def __init__(self, settings: SettingsT) -> None:
        self.settings = settings
        self.observe: CallObserver = _unobserved

    @property
    def parallel_calls(self) -> int:
        """The most calls that may be under way at one time."""
        return self.settings.parallel_calls or self.limits.parallel_calls

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Gives back connections and threads; calls under way end first."""
        return

    @abstractmethod
    async def check(self) -> list[Finding]:
        """Tests key, rights and what must exist, without changing anything. Raises only Transient."""

    @abstractmethod
    async def find_list(self, name: str) -> str | None:
        """The id of a list of exactly this name, None when there is none. "Could not look" raises."""

    @abstractmethod
    async def create_list(self, name: str) -> str:
        """Makes a list and gives its id. `name` has at most `limits.list_name_chars` characters.

        Raises Refused with NAME_TAKEN where the ESP wants names unique and has this one.
        """

    @abstractmethod
    async def delete_list(self, list_id: str) -> None:
        """Removes the list, never a contact of the account. An unknown list is success."""

    @abstractmethod
    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """`upsert` for at most `limits.batch_size` contacts, no address twice (case aside)."""

    @abstractmethod
    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """`remove` for at most `limits.batch_size` contacts, no address twice (case aside)."""

    @abstractmethod
    def members(self, list_id: str) -> AsyncIterator[Member]:
        """All members of a list page by page, those who opted out included where the ESP shows them."""

    async def upsert(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """Puts contacts on a list, makes or updates them; one outcome per contact, in order.

        Never changes an opt-out: who opted out at the ESP gets no mail through this call. Raises Refused with
        LIST_GONE when the list does not exist, ContactRefused when the ESP does not name the bad contact.
        """
        return await self._in_batches(self.upsert_batch, list_id, contacts)

    async def remove(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """Takes contacts off a list and keeps them in the account; one outcome per contact, in order.

        Who is not on the list is Delivered; OptedOut tells that the ESP also says the person opted out. An unknown
        list is success too.
        """
        return await self._in_batches(self.remove_batch, list_id, contacts)

    async def _in_batches(
        self,
        call: Callable[[str, Sequence[Contact]], Awaitable[list[Outcome]]],
        list_id: str,
        contacts: Sequence[Contact],
    ) -> list[Outcome]:
        """Calls batch by batch; the list ends as if the contacts had come one by one.

        A batch holds no address twice, old addresses included, so the ESP may work it off in any order. Who only
        repeats a contact of the batch shares its outcome.
        """
        outcomes: dict[int, Outcome] = {}
        remaining = list(range(len(contacts)))
        while remaining:
            batch: dict[str, int] = {}
            twins: list[tuple[int, int]] = []
            later: list[int] = []
            in_batch: set[str] = set()
            in_later: set[str] = set()
            for position, index in enumerate(remaining):
                contact = contacts[index]
                key = contact.address.lower() or f"id {contact.provider_contact_id}"
                addresses = {key, (contact.old_address or key).lower()}
                first = batch.get(key)
                if first is not None and key not in in_later and _repeats(contact, contacts[first]):
                    twins.append((index, first))
                elif in_batch.isdisjoint(addresses) and in_later.isdisjoint(addresses):
                    batch[key] = index
                    in_batch |= addresses
                    if len(batch) == self.limits.batch_size:
                        later += remaining[position + 1 :]
                        break
                else:
                    later.append(index)
                    in_later |= addresses
            told = await call(list_id, [contacts[index] for index in batch.values()])
            outcomes.update(zip(batch.values(), told, strict=True))
            outcomes.update((index, outcomes[first]) for index, first in twins)
            remaining = later
        return [outcomes[index] for index in range(len(contacts))]


def _repeats(contact: Contact, earlier: Contact) -> bool:
    """Whether `contact` asks for nothing about addresses that `earlier`, of the same address, does not ask for."""
    return contact.old_address is None and contact.provider_contact_id in (None, earlier.provider_contact_id)
