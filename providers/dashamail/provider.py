"""DashaMail as a provider: what becomes of bases and their members."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Final

from providers.answers import CallRefused
from providers.base import (
    Capabilities,
    Contact,
    Delivered,
    Limits,
    Member,
    MemberState,
    OptedOut,
    Outcome,
    Reason,
    Rejected,
    Transient,
)
from providers.concurrency import chunks
from providers.dashamail.api import (
    ALREADY_OUT,
    BAD_ADDRESS,
    NO_BASE,
    NO_DATA,
    NO_MEMBER,
    PLANFIX_ID,
    DashaMailApi,
    DashaMailSettings,
    fields_of,
    how_out,
    is_unconfirmed,
)
from providers.names import name_fields
from providers.plan import Found, for_the_rest
from providers.rest import Check, Needed

SINGLE_UP_TO: Final = 100  # contacts that are looked at one by one
HOLDING: Final = "Planfix: не писать"  # the base in which new addresses are unsubscribed before they join a list
_SEPARATORS: Final = frozenset(",;\r\n")  # of the values and rows of a batch, for which there is no escape
_FIRST_COLUMNS: Final = ("merge_1", "merge_2", "merge_3")


class DashaMailProvider(DashaMailApi):
    """A list is an address base, which owns its members: nobody is in two. Who unsubscribed is a member in that state.

    What an update does to the state, and whether a deleted member is remembered, is not documented. So states are read
    before anybody is added or taken off, and who is out is neither updated nor deleted.
    """

    name = "dashamail"
    title = "DashaMail"
    settings_type = DashaMailSettings
    capabilities = Capabilities(
        list_is="an address base (адресная база) with members of its own",
        renames_address=False,
        tells_opt_outs=False,
        equal_names=True,
        takes_opt_outs=True,
        unsupported=(
            "An address cannot be changed: the new one is a new member, and the old one leaves the base.",
            "Members can only be deleted one by one: large removals take long.",
            "A deleted base takes the opt-outs of its members with it; only the bridge remembers those it has learnt.",
            "No method lists DashaMail's black list, where somebody is kept out who is in no base any more: a move to"
            " another service does not hear of it.",
        ),
    )
    limits = Limits(batch_size=10_000, parallel_calls=4, list_name_chars=100)

    def __init__(self, settings: DashaMailSettings) -> None:
        super().__init__(settings)
        self._columns: dict[str, Needed[tuple[str, str, str]]] = {}
        self._holding = Needed(lambda: self.find_list(HOLDING), lambda: self._add_base(HOLDING))

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        for base in await self.ask("lists.get", accept=(NO_DATA,)) or ():
            yield str(base["id"]), base["name"]

    async def has_list(self, list_id: str) -> bool:
        return bool(await self.ask("lists.get", {"list_id": list_id}, (NO_DATA, NO_BASE)))

    async def create_list(self, name: str) -> str:
        list_id = await self._add_base(name)
        await self._add_fields(list_id, self._titles)
        return list_id

    async def _add_base(self, name: str) -> str:
        return str((await self.ask("lists.add", {"name": name}))["list_id"])

    async def delete_list(self, list_id: str) -> None:
        if self.is_list(list_id):
            await self.ask("lists.delete", {"list_id": list_id}, (NO_BASE,))

    # The fields of a base

    @property
    def _titles(self) -> tuple[str, str, str]:
        return self.settings.first_name, self.settings.last_name, PLANFIX_ID

    async def _columns_of(self, list_id: str) -> tuple[str, str, str]:
        """Where the base keeps first name, last name and Planfix id; looked up once after a start."""

        async def find() -> tuple[str, str, str] | None:
            told = await self.ask("lists.get", {"list_id": list_id, "merge_json": 1}, (NO_DATA,))
            fields = fields_of(told[0]) if told else None
            if fields is None:  # nothing is told of fields: they are as `create_list` has made them
                return _FIRST_COLUMNS
            first, last, planfix_id = (fields.get(title) for title in self._titles)
            return (first, last, planfix_id) if first and last and planfix_id else None

        async def make() -> tuple[str, str, str]:
            """A base whose making broke off, or one made by hand: the fields that are missing are added."""
            told = await self.ask("lists.get", {"list_id": list_id, "merge_json": 1})
            there = fields_of(told[0]) or {}
            await self._add_fields(list_id, [title for title in self._titles if title not in there])
            columns = await find()
            if columns is None:
                raise Transient("lists.get: does not tell the fields that were added")
            return columns

        return await self._columns.setdefault(list_id, Needed(find, make)).get()

    async def _add_fields(self, list_id: str, titles: Sequence[str]) -> None:
        for title in titles:
            await self.ask("lists.add_merge", {"list_id": list_id, "type": "text", "title": title})

    # The steps of an upsert and a removal

    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        return await super().upsert_batch(list_id, [_as_stored(contact) for contact in contacts])

    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        return await super().remove_batch(list_id, [_as_stored(contact) for contact in contacts])

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        if len(contacts) <= SINGLE_UP_TO:
            return await self.one_by_one(contacts, lambda contact: self._member(list_id, contact.known_by))
        wanted = {contact.known_by for contact in contacts}
        there: dict[str, Found] = {}
        async for row in self.rows("lists.get_members", list_id):
            record = _record(row)
            if record.id in wanted:
                there[record.id] = record
        return [there.get(contact.known_by) for contact in contacts]

    async def _member(self, list_id: str, address: str) -> Found | None:
        rows = await self.some_rows("lists.get_members", {"list_id": list_id, "email": address})
        records = [_record(row) for row in rows]
        return next((record for record in records if record.id == address), None)

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        columns = await self._columns_of(list_id)
        out: dict[int, Outcome] = {}
        for index, record in (await self._known(list_id, contacts)).items():
            if record.opted_out:
                out[index] = OptedOut(record.opted_out, record.id)

        async def add(rest: Sequence[Contact]) -> list[Outcome]:
            alone = {i: contact for i, contact in enumerate(rest) if not _fits_a_row(contact, columns)}
            told = await self.one_by_one(list(alone.values()), lambda contact: self._add(list_id, columns, contact))
            return await for_the_rest(
                dict(zip(alone, told, strict=True)), rest, lambda some: self._add_all(list_id, columns, some)
            )

        return await for_the_rest(out, contacts, add)

    async def _known(self, list_id: str, contacts: Sequence[Contact]) -> dict[int, Found]:
        """Members among the contacts, by index; of many contacts only those who ever unsubscribed or complained."""
        suspects = dict(enumerate(contacts))
        if len(contacts) > SINGLE_UP_TO:
            gone = {
                _stored(str(row["email"]))
                for method in ("lists.get_unsubscribed", "lists.get_complaints")
                async for row in self.rows(method, list_id)
            }
            suspects = {index: contact for index, contact in suspects.items() if contact.address in gone}
        found = await self.look_up(list_id, list(suspects.values()))
        return {index: record for index, record in zip(suspects, found, strict=True) if record}

    async def _add_all(self, list_id: str, columns: Sequence[str], contacts: Sequence[Contact]) -> list[Outcome]:
        parts = chunks(contacts, self.settings.contacts_per_call)
        told = await self.one_by_one(parts, lambda part: self._add_some(list_id, columns, part))
        return [outcome for part in told for outcome in part]

    async def _add_some(self, list_id: str, columns: Sequence[str], contacts: Sequence[Contact]) -> list[Outcome]:
        """One call; in halves when fewer members came of it than contacts went in, for nothing else tells who was
        refused."""
        if len(contacts) == 1:
            return [await self._add(list_id, columns, contacts[0])]
        rows = [",".join([c.address, c.first_name or "", c.last_name or "", c.id]) + ";" for c in contacts]
        fields = {"list_id": list_id, "batch": "".join(rows), "update": 1, "no_check": 1}
        told = await self.ask("lists.add_member_batch", fields, (BAD_ADDRESS,))
        if told and _count(told.get("member_ids")) >= len(contacts):
            return [Delivered(contact.address) for contact in contacts]
        middle = len(contacts) // 2
        return [
            *await self._add_some(list_id, columns, contacts[:middle]),
            *await self._add_some(list_id, columns, contacts[middle:]),
        ]

    async def _add(self, list_id: str, columns: Sequence[str], contact: Contact) -> Outcome:
        answers = name_fields(contact, columns[0], columns[1]) | {columns[2]: contact.id}
        try:
            await self.ask("lists.add_member", {"list_id": list_id, "email": contact.address, "update": 1, **answers})
        except CallRefused as refused:
            if refused.reason is not Reason.REQUEST_REFUSED:
                raise
            bad = refused.code == BAD_ADDRESS
            return Rejected(Reason.INVALID_ADDRESS if bad else Reason.CONTACT_REFUSED, refused.detail)
        return Delivered(contact.address)

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        """Members are unsubscribed. A stranger cannot be added in that state, and must not be active in the list for a
        moment: it is added to a base that nobody writes to, unsubscribed there, and moved."""

        async def out(contact: Contact) -> None:
            address = _stored(contact.address)
            if await self._unsubscribe(list_id, address):
                return
            holding = await self._holding.get()
            fields = {"list_id": holding, "email": address, "update": 1}
            try:
                added = await self.ask("lists.add_member", fields, (BAD_ADDRESS,))
            except CallRefused as refused:
                if refused.code != NO_BASE:
                    raise
                self._holding.forget()
                raise Transient("the base of opt-outs is gone; it is made again before the next try") from refused
            if added is None:  # no address, so nobody can write to it
                return
            await self._unsubscribe(holding, address)
            member = await self._member(holding, address)
            if member is None or not member.opted_out:
                raise Transient("a member that was unsubscribed is not")
            await self.ask("lists.move_member", {"member_id": member.raw["id"], "list_id": list_id})
            await self._unsubscribe(list_id, address)  # that a move keeps the state is not documented

        await self.one_by_one(contacts, out)

    async def _unsubscribe(self, list_id: str, address: str) -> bool:
        """Whether there is such a member, unsubscribed now."""
        try:
            await self.ask("lists.unsubscribe_member", {"list_id": list_id, "email": address}, (ALREADY_OUT,))
        except CallRefused as refused:
            if refused.code not in (NO_DATA, NO_MEMBER):
                raise
            return False
        return True

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        async def delete(record: Found) -> None:
            await self.ask("lists.delete_member", {"member_id": record.raw["id"]}, (NO_DATA, NO_BASE, NO_MEMBER))

        await self.one_by_one([record for record in records if not record.opted_out], delete)

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        first, last, planfix_id = await self._columns_of(list_id)
        async for row in self.rows("lists.get_members", list_id):
            record = _record(row)
            state = MemberState.PENDING if is_unconfirmed(row) else MemberState.SUBSCRIBED
            yield Member(
                address=record.address,
                state=MemberState.OPTED_OUT if record.opted_out else state,
                first_name=str(row.get(first) or ""),
                last_name=str(row.get(last) or ""),
                id=str(row.get(planfix_id) or "") or None,
                provider_contact_id=record.id,
                how=record.opted_out or "unsubscribed",
            )

    def checks(self) -> Sequence[Check]:
        return (self.check_lists,)


def _stored(address: str) -> str:
    """The address as DashaMail keeps it: one at ya.ru becomes the same at yandex.ru."""
    name, _, domain = address.lower().rpartition("@")
    return f"{name}@yandex.ru" if domain == "ya.ru" else address.lower()


def _as_stored(contact: Contact) -> Contact:
    old = contact.old_address and _stored(contact.old_address)
    return replace(contact, address=contact.address and _stored(contact.address), old_address=old)


def _record(row: dict[str, Any]) -> Found:
    """A member; `raw` is the row of `lists.get_members`."""
    address = _stored(str(row["email"]))
    return Found(address, address, how_out(row), raw=row)


def _count(ids: Any) -> int:
    """How many ids there are, in a text with commas or in a list."""
    return len([one for one in (ids if isinstance(ids, list) else str(ids or "").split(",")) if one])


def _fits_a_row(contact: Contact, columns: Sequence[str]) -> bool:
    """Whether a contact can be a row of a batch, which holds all fields from the first on and has no escape."""
    names = (contact.first_name, contact.last_name)
    return (
        tuple(columns) == _FIRST_COLUMNS
        and all(name is not None and _SEPARATORS.isdisjoint(name) for name in names)
        and _SEPARATORS.isdisjoint(contact.address)
    )
