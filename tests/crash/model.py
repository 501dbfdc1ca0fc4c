"""What the ESP must hold, worked out from the answers alone."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.crash.esp import EspState

Place: TypeAlias = tuple[str, str, str] | None
"""Address, first and last name of a contact on its list; None: it is not on it."""


@dataclass(eq=False)
class Person:
    """A contact of one list. `allowed` is one place, or several after requests that were never answered."""

    id: int
    address: str
    first: str
    last: str
    allowed: set[Place] = field(default_factory=lambda: {None})
    opted_out: bool = False
    addresses: set[str] = field(default_factory=set)  # all that were ever sent
    busy: bool = False

    @property
    def place(self) -> Place:
        """Where Planfix wants the contact when it is in the filter."""
        return self.address, self.first, self.last

    @property
    def is_on(self) -> bool:
        return None not in self.allowed

    def mailable(self) -> set[Place]:
        """The places at which mail may reach the contact."""
        return {None} if self.opted_out else self.allowed


@dataclass(eq=False)
class Mailing:
    """A list whose id Planfix was told. `asked_to_go`: a deleteList was sent; `gone`: it was answered."""

    public_id: str
    name: str
    people: list[Person] = field(default_factory=list)
    touched: bool = False  # an answered change: a new list of this name is another one
    in_use: int = 0
    asked_to_go: bool = False
    gone: bool = False

    @property
    def provider_id(self) -> str:
        return self.public_id.partition(":")[2]


@dataclass
class Model:
    """All mailings of one account."""

    mailings: list[Mailing] = field(default_factory=list)
    given_up: dict[str, int] = field(default_factory=dict)  # by name: createLists without an answer
    existing: frozenset[str] = frozenset()  # ids of lists that were there before

    @property
    def people(self) -> list[Person]:
        return [person for mailing in self.mailings for person in mailing.people]

    def expected(self) -> tuple[int, int]:
        """How many contacts must be mailable now, and how many besides may be."""
        places = [p.mailable() for m in self.mailings if not m.asked_to_go for p in m.people]
        sure = sum(None not in allowed for allowed in places)
        return sure, sum(allowed != {None} for allowed in places) - sure

    def found(self, state: EspState) -> int:
        """How many contacts are mailable on the lists that are to be there."""
        return sum(len(state.mailable.get(m.provider_id, {})) for m in self.mailings if not m.asked_to_go)

    def out(self) -> list[Person]:
        """Who has opted out by now."""
        return [person for person in self.people if person.opted_out]

    def differences(self, state: EspState) -> list[str]:
        """What is not as answered, when nothing is pending."""
        found = [*state.violations, *undone_opt_outs(self.out(), state)]
        known = {mailing.provider_id: mailing for mailing in self.mailings}
        if len(known) < len(self.mailings):
            found.append("one list stands for two mailings")
        for mailing in self.mailings:
            if mailing.provider_id in state.lists:
                if mailing.gone:
                    found.append(f"list {mailing.public_id} was deleted and is there")
                else:
                    found += _of_list(mailing, state.mailable[mailing.provider_id])
            elif not mailing.asked_to_go:
                found.append(f"list {mailing.public_id} is missing")
        strays: dict[str, int] = {}
        for list_id, name in state.lists.items():
            if list_id not in known and list_id not in self.existing:
                name = name.partition(" (")[0]
                strays[name] = strays.get(name, 0) + 1
                if state.mailable[list_id]:
                    found.append(f"list {list_id} was told to nobody and has contacts")
        found += [
            f"{count} lists named {name} that nobody was told of, {self.given_up.get(name, 0)} createLists given up"
            for name, count in strays.items()
            if count > self.given_up.get(name, 0)
        ]
        return found


def undone_opt_outs(out: Iterable[Person], state: EspState) -> list[str]:
    """Who of these, who had opted out before the ESP was looked at, can be mailed. There must be none at any moment."""
    by_address = {address: person for person in out for address in person.addresses}
    return [
        f"contact {by_address[address].id} opted out and is mailable as {address} on {list_id}"
        for list_id, members in state.mailable.items()
        for address in members
        if address in by_address
    ]


def _of_list(mailing: Mailing, members: dict[str, tuple[str, str]]) -> list[str]:
    left = dict(members)
    found = []
    for person in mailing.people:
        places: list[Place] = [(a, *left.pop(a)) for a in person.addresses if a in left]
        if len(places) > 1:
            found.append(f"contact {person.id} is on {mailing.public_id} {len(places)} times")
        elif (place := places[0] if places else None) not in person.mailable():
            found.append(f"contact {person.id} on {mailing.public_id} is {place}, may be {person.mailable()}")
    return [*found, *(f"{address} on {mailing.public_id} was never asked for" for address in left)]
