"""UniSender as a provider: what becomes of lists and contacts."""

import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Final

from providers.answers import CallRefused
from providers.base import (
    BOUNCED,
    Capabilities,
    Contact,
    ContactRefused,
    Delivered,
    Limits,
    Member,
    MemberState,
    Message,
    OptedOut,
    Outcome,
    Reason,
    Rejected,
    Transient,
    redact,
)
from providers.concurrency import chunks
from providers.names import name_fields
from providers.plan import Found
from providers.rest import Check, NeededFields
from providers.unisender.api import IMPORTED_AT_ONCE, UniSenderApi, UniSenderSettings
from providers.unisender.records import EXPORTED, NO_LIST, OUT, UNCONFIRMED, found, record_of

SINGLE_UP_TO: Final = 50  # contacts that are read one by one; for more, the list is exported: 20 exports a minute
PLANFIX_ID: Final = "planfix_id"
_SAYS_UNKNOWN: Final = re.compile(r"not found|(can't|cannot) find|not exist", re.IGNORECASE)


class UniSenderProvider(UniSenderApi):
    """A contact is the account's and is on any number of lists. It may have left all mail, or one list.

    The first an import respects. The second is a mark of the membership: `exclude` forgets it, and what an import
    does to it is not documented. So it is read before anybody is added or taken off, and who left a list stays on it.
    """

    name = "unisender"
    title = "UniSender"
    settings_type = UniSenderSettings
    capabilities = Capabilities(
        list_is="a contact list",
        renames_address=False,
        tells_opt_outs=False,
        equal_names=False,
        takes_opt_outs=True,
        unsupported=(
            "An address cannot be changed: the new one is a new contact, and the old one leaves the list.",
            "UniSender imports no addresses such as info@ and sales@: they are reported as problems.",
        ),
    )
    limits = Limits(
        batch_size=10_000,  # twenty imports for one export
        parallel_calls=4,
        list_name_chars=100,
        calls="1,200 a minute; 20 exports a minute",
    )

    def __init__(self, settings: UniSenderSettings) -> None:
        super().__init__(settings)
        names = (settings.first_name, settings.last_name, PLANFIX_ID)
        self._fields = NeededFields(names, self._field_names, self._make_field)

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        for one in await self.ask("getLists"):
            yield str(one["id"]), one["title"]

    async def has_list(self, list_id: str) -> bool:
        return list_id in {its_id async for its_id, _ in self.lists()}

    async def create_list(self, name: str) -> str:
        try:
            return str((await self.ask("createList", [("title", name)]))["id"])
        except CallRefused as refused:
            await self.require_free(name, refused)
            raise

    async def delete_list(self, list_id: str) -> None:
        if not self.is_list(list_id):
            return
        try:
            await self.ask("deleteList", [("list_id", list_id)])
        except CallRefused as refused:
            await self.require_gone(list_id, refused)

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        addresses = [contact.known_by.lower() for contact in contacts]
        on_list = await self._on_list(list_id, addresses) if len(addresses) > SINGLE_UP_TO else {}

        async def find(address: str) -> Found | None:
            return on_list.get(address) or await self._find(list_id, address)

        return await self.one_by_one(addresses, find)

    async def _find(self, list_id: str, address: str) -> Found | None:
        try:
            told = await self.ask("getContact", [("email", address), ("include_lists", "1")])
        except CallRefused as refused:
            if refused.code in (None, "unspecified", "invalid_arg") and _SAYS_UNKNOWN.search(refused.detail):
                return None
            raise
        if "lists" not in told or not all(one.get("status") for one in told["lists"] or ()):
            raise Transient("getContact: a contact without its state on lists: nobody knows whether it left one")
        email = told["email"]
        states = {str(one["id"]): str(one["status"]) for one in told["lists"] or ()}
        return found(address, email.get("status"), email.get("availability"), states.get(list_id))

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        await self.require_there(list_id)  # an import to a list that is gone might say nothing
        await self._fields.get()
        kept_out = await self._kept_out(list_id, contacts)
        outcomes: dict[int, Outcome] = {}
        alike: dict[tuple[str, ...], list[int]] = {}  # the rows of an import have the same columns
        rows = [self._row(list_id, contact) for contact in contacts]
        for index, contact in enumerate(contacts):
            if how := kept_out.get(contact.address.lower()):
                outcomes[index] = OptedOut(how, contact.address.lower())
            else:
                alike.setdefault(tuple(rows[index]), []).append(index)
        complaints: dict[int, str] = {}
        for some in (part for indexes in alike.values() for part in chunks(indexes, IMPORTED_AT_ONCE)):
            try:
                told = await self.import_rows([rows[index] for index in some])
            except CallRefused as refused:
                await self.require_fault_of_contact(list_id, refused, self._fields)
                raise ContactRefused(detail=refused.detail) from refused
            complaints |= {index: why for index, why in zip(some, told, strict=True) if why}
        outcomes |= await self._after_complaints(list_id, contacts, complaints)
        return [outcomes.get(i) or Delivered(contact.address.lower()) for i, contact in enumerate(contacts)]

    async def _kept_out(self, list_id: str, contacts: Sequence[Contact]) -> dict[str, str]:
        """How those are kept out who must not be imported. Strangers to a list need no look: they have left no more
        than all mail, which an import respects."""
        if not self.settings.reads_list_opt_outs:
            return {}
        if len(contacts) > SINGLE_UP_TO:
            known = list((await self._on_list(list_id, [contact.address.lower() for contact in contacts])).values())
        else:
            known = [record for record in await self.look_up(list_id, contacts) if record]
        return {record.id: record.opted_out for record in known if record.opted_out}

    def _row(self, list_id: str, contact: Contact) -> dict[str, str]:
        """Never with `email_status`, which could make somebody active, nor with `delete`."""
        names = name_fields(contact, self.settings.first_name, self.settings.last_name)
        return {"email": contact.address, "email_list_ids": list_id, PLANFIX_ID: contact.id} | names

    async def _after_complaints(
        self, list_id: str, contacts: Sequence[Contact], complaints: Mapping[int, str]
    ) -> dict[int, Outcome]:
        """What became of those that an import complained about: who is not on the list was refused."""
        records = await self.look_up(list_id, [contacts[index] for index in complaints])
        return {
            index: Delivered(record.id)
            if record and record.on_list
            else Rejected(Reason.CONTACT_REFUSED, redact(complaints[index]))
            for index, record in zip(complaints, records, strict=True)
        }

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        """An import makes strangers unsubscribed. A contact whose state is `new` it leaves as it is: such are
        unsubscribed from the list, on which the import has put them."""
        out = {"email_status": "unsubscribed", "email_unsubscribed_list_ids": list_id}
        for some in chunks(contacts, IMPORTED_AT_ONCE):
            await self.import_rows([{"email": contact.address, **out} for contact in some])
        for record in await self.look_up(list_id, contacts):
            if record and record.opted_out in (None, BOUNCED):
                await self.ask("unsubscribe", _one_contact(record.address, list_id))

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        going = [record.address for record in records if record.on_list and record.raw not in OUT]
        if len(going) > SINGLE_UP_TO:
            refused: list[str] = []
            for some in chunks(going, IMPORTED_AT_ONCE):
                told = await self.import_rows(
                    [{"email": address, "email_excluded_list_ids": list_id} for address in some]
                )
                refused += [address for address, why in zip(some, told, strict=True) if why]
            going = refused
        await self.one_by_one(going, lambda address: self._exclude(list_id, address))

    async def _exclude(self, list_id: str, address: str) -> None:
        try:
            await self.ask("exclude", _one_contact(address, list_id))
        except CallRefused:  # as it is for who is not on the list
            record = await self._find(list_id, address)
            if record and record.on_list:
                raise

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        await self._fields.get()
        first, last = self.settings.first_name, self.settings.last_name
        for row in await self.export_rows(list_id, (*EXPORTED, first, last, PLANFIX_ID)):
            record = record_of(row, list_id)
            if not record.on_list:
                continue
            state = MemberState.PENDING if row["email_status"] in UNCONFIRMED else MemberState.SUBSCRIBED
            yield Member(
                address=record.address,
                state=MemberState.OPTED_OUT if record.opted_out else state,
                first_name=row[first],
                last_name=row[last],
                id=row[PLANFIX_ID] or None,
                provider_contact_id=record.id,
                how=record.opted_out or "unsubscribed",
            )

    async def kept_out(self) -> AsyncIterator[Member]:
        """Who left all mail; who left one list is among its members. Without `list_id` an export is of all lists, by
        the page of `async/exportContacts`; that contacts on no list are in it is unverified. The filter `email_status`
        would leave out who put mail into the spam folder."""
        for row in await self.export_rows(NO_LIST, EXPORTED):
            record = record_of(row, NO_LIST)
            if record.address and record.opted_out:
                yield Member(record.address, MemberState.OPTED_OUT, how=record.opted_out)

    async def _on_list(self, list_id: str, addresses: Collection[str]) -> dict[str, Found]:
        """Those of the addresses that are on the list, who left it included; none of a list that is gone."""
        try:
            rows = await self.export_rows(list_id, EXPORTED)
        except CallRefused as refused:
            await self.require_gone(list_id, refused)
            return {}
        wanted = set(addresses)
        records = (record_of(row, list_id) for row in rows if row["email"].lower() in wanted)
        return {record.id: record for record in records if record.on_list}

    # Check

    def checks(self) -> Sequence[Check]:
        return (self.check_lists, lambda: self._fields.finding(Message("fields for names and Planfix ids")))

    # The fields that an import needs

    async def _field_names(self) -> set[str]:
        return {field["name"] for field in await self.ask("getFields")}

    async def _make_field(self, name: str) -> None:
        await self.ask("createField", [("name", name), ("type", "string")])


def _one_contact(address: str, list_id: str) -> list[tuple[str, str]]:
    return [("contact_type", "email"), ("contact", address), ("list_ids", list_id)]
