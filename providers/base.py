"""What an email service provider is to the bridge: its words, its promises, and the class that keeps them.

A provider turns "these people belong on that list" into calls of one email service (ESP). It keeps no state
of its own between calls that a restart could lose, never retries (the bridge does, in one place) and never
guesses: what it cannot say it raises as one of `providers.errors`.

An author of a provider finds here all names that its module needs.
"""

import enum
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, ClassVar, Generic, Self, TypeAlias, TypeVar

import msgspec

from providers.contact import (
    ADDRESS_MAX_CHARS,
    BOUNCED,
    Contact,
    Delivered,
    Member,
    MemberState,
    OptedOut,
    Outcome,
    Postponed,
    Rejected,
)
from providers.errors import (
    AuthFailed,
    ContactRefused,
    ProviderError,
    Reason,
    Refused,
    Secret,
    Transient,
    Unsupported,
    redact,
)
from providers.jobs import UnderWay, UnderWayInMemory
from providers.messages import Message

__all__ = ["ADDRESS_MAX_CHARS", "BOUNCED", "AuthFailed", "CallObserver", "Capabilities", "Choice", "Contact"]
__all__ += [
    "ContactRefused",
    "Delivered",
    "Finding",
    "Limits",
    "Member",
    "MemberState",
    "Message",
    "OptedOut",
    "Outcome",
]
__all__ += ["Postponed", "Proof", "Provider", "ProviderError", "Reason", "Refused", "Rejected", "Secret", "Settings"]
__all__ += ["SettingsT", "Transient", "Unsupported", "redact"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check: what was looked at, whether it is well, and what to do when it is not."""

    ok: bool
    text: Message
    advice: Message | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that the account offers for a setting, and how people know it there."""

    value: str
    title: str


class Proof(enum.StrEnum):
    """What a provider was tried against, the best of it. No live account was used for any of these."""

    REAL_SERVER = "real server"
    OFFICIAL_SPEC = "official API description"
    DOCUMENTATION = "documentation only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the ESP can express. Shown in the matrix; switches what the conformance kit expects.

    `unsupported` are sentences: what cannot be done, and what the bridge does or says then.
    """

    list_is: str  # what a Planfix list becomes, in words
    renames_address: bool  # a changed address keeps the ESP's contact; otherwise it is a new one
    tells_opt_outs: bool  # upsert answers OptedOut; otherwise the ESP keeps people out by itself, unsaid
    equal_names: bool  # two lists may have one name at the ESP
    asynchronous: bool = False  # the ESP works changes off after its answer; the provider waits for the result
    takes_opt_outs: bool = False  # `keep_out` marks people at the ESP; otherwise only the bridge remembers them
    forgets_opt_outs: bool = False  # an opt-out is told once, then only the bridge remembers it
    one_name: bool = False  # first and last name share one field
    unsupported: tuple[str, ...] = ()
    proof: Proof = Proof.DOCUMENTATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the ESP allows. `batch_size` contacts go into one upsert or removal."""

    batch_size: int
    parallel_calls: int
    list_name_chars: int
    name_chars: int | None = None  # of a first or last name, or of the one field of both; None: no limit known
    lists: int | None = None  # in one account; None: no limit known
    calls: str = "not published"  # in a time, in words; for people


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What every provider takes from YAML. A provider's own settings are a subclass; help texts are the docs."""

    base_url: Annotated[
        str | None,
        msgspec.Meta(
            description="another address of the service, for a proxy or region", examples=["https://esp.example"]
        ),
    ] = None
    timeout_s: Annotated[
        float, msgspec.Meta(gt=0, le=600, description="longest wait for one answer of the service")
    ] = 30.0
    parallel_calls: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=100)] | None,
        msgspec.Meta(description="calls at one time; the default is what the service allows", examples=[4]),
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
        self.under_way: UnderWay = UnderWayInMemory()  # whoever can keep it for longer than the process gives another

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

    async def choices(self) -> dict[str, list[Choice]]:
        """What the account offers for settings that may be chosen from it, by setting. Changes nothing."""
        return {}

    def list_name(self, name: str, number: int = 1) -> str:
        """`name` as the ESP can hold it; from the second on with its number: "Clients (2)". Where the ESP takes fewer
        characters than Planfix, a subclass replaces them first. What comes out is a name that stays as it is."""
        suffix = f" ({number})" if number > 1 else ""
        return name[: self.limits.list_name_chars - len(suffix)].rstrip() + suffix

    async def room_for_lists(self) -> int | None:
        """How many more lists the account takes, None where no limit is known. Changes nothing."""
        return None

    @abstractmethod
    async def find_list(self, name: str) -> str | None:
        """The id of a list of exactly this name, None when there is none. "Could not look" raises."""

    @abstractmethod
    async def create_list(self, name: str) -> str:
        """Makes a list and gives its id. `name` is as `list_name` gives it.

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

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        """Makes the ESP send these people nothing, or nothing to this list where it knows opt-outs of lists only,
        whoever adds them later; who is unknown there is made known as opted out. Safe to repeat. Raises Unsupported
        where `capabilities.takes_opt_outs` is False.
        """
        raise Unsupported(f"{self.title} takes no opt-outs from outside; the bridge's own memory keeps them")

    @abstractmethod
    def members(self, list_id: str) -> AsyncIterator[Member]:
        """All members of a list page by page, those who opted out included where the ESP shows them."""

    async def kept_out(self) -> AsyncIterator[Member]:
        """Whoever the account sends no mail for having opted out, on any list or on none: what a move to another
        service must know and `members` does not show. Bounces too, where the ESP tells them along. Nobody where the
        ESP knows opt-outs of lists only."""
        nobody: tuple[Member, ...] = ()
        for member in nobody:
            yield member

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
        remaining = deque(range(len(contacts)))
        while remaining:
            batch, twins = _next_batch(contacts, remaining, self.limits.batch_size)
            told = await call(list_id, [contacts[index] for index in batch])
            outcomes.update(zip(batch, told, strict=True))
            outcomes.update((index, outcomes[first]) for index, first in twins)
        return [outcomes[index] for index in range(len(contacts))]


def _next_batch(
    contacts: Sequence[Contact], remaining: deque[int], size: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Takes from `remaining` the contacts of the next call; and who only repeats one of them, with that one."""
    batch: dict[str, int] = {}
    twins: list[tuple[int, int]] = []
    later: list[int] = []
    in_batch: set[str] = set()
    in_later: set[str] = set()
    while remaining and len(batch) < size:
        index = remaining.popleft()
        contact = contacts[index]
        key = contact.address.lower() or f"id {contact.provider_contact_id}"
        addresses = {key, (contact.old_address or key).lower()}
        first = batch.get(key)
        if first is not None and key not in in_later and _repeats(contact, contacts[first]):
            twins.append((index, first))
        elif in_batch.isdisjoint(addresses) and in_later.isdisjoint(addresses):
            batch[key] = index
            in_batch |= addresses
        else:
            later.append(index)
            in_later |= addresses
    remaining.extendleft(reversed(later))
    return list(batch.values()), twins


def _repeats(contact: Contact, earlier: Contact) -> bool:
    """Whether `contact` asks for nothing about addresses that `earlier`, of the same address, does not ask for."""
    return contact.old_address is None and contact.provider_contact_id in (None, earlier.provider_contact_id)
