"""GetResponse as a provider: what becomes of contacts, and of those who left."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from providers.answers import CallRefused
from providers.base import (
    Capabilities,
    Contact,
    ContactRefused,
    Delivered,
    Finding,
    Limits,
    Member,
    MemberState,
    Message,
    OptedOut,
    Outcome,
    Reason,
    Rejected,
)
from providers.concurrency import chunks
from providers.getresponse.api import PLANFIX_ID, GetResponseApi, GetResponseSettings
from providers.getresponse.records import (
    BLOCKED,
    FORBIDDEN,
    KNOWN_ALREADY,
    LIST_NAME_CHARS,
    NAME_CHARS,
    is_blocked,
    list_name,
    name_of,
)
from providers.jobs import Overdue, follow
from providers.plan import Found, for_the_rest
from providers.rest import Check

ADDED_AT_ONCE: Final = 1000
LISTS: Final = 1000


class GetResponseProvider(GetResponseApi):
    """Lists of an account. A contact is of one list: an address on two lists is two contacts. Who leaves is kept apart,
    with a reason that tells our removal from the person's own. Adding tells no id, so the address is the id."""

    name = "getresponse"
    title = "GetResponse"
    settings_type = GetResponseSettings
    capabilities = Capabilities(
        list_is="a list (campaign)",
        renames_address=True,
        tells_opt_outs=True,
        equal_names=False,
        asynchronous=True,
        takes_opt_outs=True,
        one_name=True,
        unsupported=(
            "A list cannot be deleted: the bridge empties it and renames it, or says so (`delete_list`).",
            "A name cannot be emptied: it stays as it was.",
        ),
    )
    limits = Limits(
        batch_size=10_000,
        parallel_calls=10,
        list_name_chars=LIST_NAME_CHARS,
        name_chars=NAME_CHARS,
        lists=LISTS,
        calls="80 a second and 30,000 in 10 minutes; 80 of up to 1,000 new contacts in 10 minutes",
    )

    def list_name(self, name: str, number: int = 1) -> str:
        return list_name(name, number)

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        here = await self.here(list_id, contacts)
        left = await self.left(list_id, [c.known_by for c in contacts if c.known_by.lower() not in here])
        masks = await self.blocklist(list_id)

        def found(address: str) -> Found | None:
            record = here.get(address.lower())
            # A domain that is blocked says nothing of the person.
            how = BLOCKED if address.lower() in masks else None if record else left.get(address.lower())
            return _found(address, record, how) if record or how else None

        return [found(contact.known_by) for contact in contacts]

    async def look_up_leaving(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        here = await self.here(list_id, contacts)
        records = [(contact.known_by, here.get(contact.known_by.lower())) for contact in contacts]
        return [_found(address, record) if record else None for address, record in records]

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        here = await self.here(list_id, contacts)
        missing = [contact for contact in contacts if contact.address.lower() not in here]
        left = await self.left(list_id, [contact.address for contact in missing])
        told: dict[str, Outcome] = {}
        for contact in missing:
            address = contact.address.lower()
            was_here = contact.provider_contact_id == address and not contact.id_is_old
            # Who was on the list and is not, and nothing says that we removed them, has left it.
            if how := left.get(address, "unsubscribed" if was_here else None):
                told[address] = OptedOut(how, address)
        new = [contact for contact in missing if contact.address.lower() not in told]
        if new:
            async with self.job(list_id, new):
                told |= await self._add(list_id, new, here)
        settled = {i: told[c.address.lower()] for i, c in enumerate(contacts) if c.address.lower() in told}
        return await for_the_rest(
            settled,
            contacts,
            lambda rest: self.one_by_one(rest, lambda contact: self._renamed(contact, here[contact.address.lower()])),
        )

    async def _add(self, list_id: str, new: Sequence[Contact], here: dict[str, Any]) -> dict[str, Outcome]:
        """Adds contacts and waits until they are on the list; `here` gets their records. The outcomes of those who did
        not come there."""
        told: dict[str, Outcome] = {}
        field = await self.id_field.get()
        if len(new) == 1:
            told = await self._add_one(list_id, new[0], field)
        else:
            masks = await self.blocklist(list_id)
            told = {c.address.lower(): OptedOut(BLOCKED) for c in new if is_blocked(c.address, masks)}
            good = [contact for contact in new if contact.address.lower() not in told]
            for some in chunks(good, ADDED_AT_ONCE):
                await self._add_many(list_id, some, field)
        waiting = {c.address.lower(): c for c in new if c.address.lower() not in told}

        async def look() -> bool:
            here.update(await self.here(list_id, list(waiting.values())))
            for address in here:
                waiting.pop(address, None)
            return not waiting

        if waiting:
            try:
                await follow(look, bool, self.polling)
            except Overdue:
                told |= await self._overdue(list_id, list(waiting))
        return told

    async def _add_one(self, list_id: str, contact: Contact, field: str) -> dict[str, Outcome]:
        body = _row(contact, field) | {"campaign": {"campaignId": list_id}}
        try:
            await self.call("add", "POST", "/contacts", json=body)
        except CallRefused as refused:
            if refused.code == KNOWN_ALREADY:  # it is on its way by an earlier call
                return {}
            await self.require_fault_of_contact(list_id, refused, self.id_field)
            if refused.code == FORBIDDEN and is_blocked(contact.address, await self.blocklist(list_id)):
                return {contact.address.lower(): OptedOut(BLOCKED)}
            return {contact.address.lower(): Rejected(Reason.INVALID_ADDRESS, refused.detail)}
        return {}

    async def _add_many(self, list_id: str, contacts: Sequence[Contact], field: str) -> None:
        body = {"campaignId": list_id, "contacts": [_row(contact, field) for contact in contacts]}
        try:
            await self.call("add", "POST", "/contacts/batch", json=body, bucket="additions")
        except CallRefused as refused:
            await self.require_fault_of_contact(list_id, refused, self.id_field)
            raise ContactRefused(detail=refused.detail) from refused

    async def _overdue(self, list_id: str, addresses: Sequence[str]) -> dict[str, Outcome]:
        """What became of those whom GetResponse took and did not put on the list: on a list with double opt-in they
        wait for their own confirmation."""
        waiting = {one["email"].lower() for one in await self.search(list_id, "unconfirmed", [list_id], addresses)}
        refused = Rejected(
            Reason.CONTACT_REFUSED, "taken by GetResponse, and not on the list after a quarter of an hour"
        )
        return {address: Delivered(address) if address in waiting else refused for address in addresses}

    async def _renamed(self, contact: Contact, record: Any) -> Outcome:
        name = name_of(contact)
        if name and name != record.get("name"):
            try:
                await self._update(record["contactId"], {"name": name})
            except CallRefused as refused:
                return Rejected(Reason.CONTACT_REFUSED, refused.detail)
        return Delivered(contact.address.lower())

    async def rename(self, list_id: str, record: Found, contact: Contact) -> bool:
        try:
            return await self._update(record.raw, {"email": contact.address})
        except CallRefused:
            return False  # taken, blocked or not allowed: the new one is added, the old one deleted

    async def _update(self, contact_id: str, change: Mapping[str, str]) -> bool:
        """Changes a contact; whether it is still there."""
        answer = await self.call("update", "POST", "/contacts/{}", contact_id, json=change, accept=[404])
        return answer.status != 404

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        for some in chunks([contact.address for contact in contacts], ADDED_AT_ONCE):
            # Without this flag the masks would replace the whole blocklist.
            await self.call(
                "keep_out", "POST", "/accounts/blocklists", query={"additionalFlags": "add"}, json={"masks": some}
            )
        there = await self.look_up_leaving(list_id, contacts)
        await self.take_off(list_id, [record for record in there if record is not None])

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        await self.one_by_one([record.raw for record in records if record.on_list], self.delete)

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        """Those who are on the list, then those who left it by themselves. Memory holds the addresses of all."""
        await self.require_there(list_id)
        masks = await self.blocklist(list_id)
        seen: set[str] = set()
        async for one in self.contacts(list_id):
            address = one["email"].lower()
            seen.add(address)
            if address in masks:
                yield Member(address, MemberState.OPTED_OUT, provider_contact_id=address, how=BLOCKED)
            else:
                yield Member(address, MemberState.SUBSCRIBED, one.get("name") or "", provider_contact_id=address)
        for address, how in (await self.all_who_left(list_id)).items():
            if how is not None and address not in seen:
                yield Member(address, MemberState.OPTED_OUT, provider_contact_id=address, how=how)

    async def kept_out(self) -> AsyncIterator[Member]:
        """Whom the account's blocklist names: all in one answer, by the API description. Who left a list may be on
        another, and is told by the members of the one."""
        for mask in sorted(await self.account_blocklist()):
            if not mask.startswith("@"):  # a domain that is blocked says nothing of the person
                yield Member(mask, MemberState.OPTED_OUT, how=BLOCKED)

    # Check

    def checks(self) -> Sequence[Check]:
        return (
            self._check_key,
            self._check_lists,
            lambda: self.id_field.finding(Message("custom field %(field)s", field=PLANFIX_ID)),
        )

    async def _check_key(self) -> Finding:
        await self.call("account", "GET", "/accounts")
        return Finding(True, Message("the API key works"))

    async def _check_lists(self) -> Finding:
        count = len([one async for one in self.campaigns()])
        text = Message("the account has %(count)s of at most %(most)s lists", count=count, most=LISTS)
        return Finding(count < LISTS, text, Message("Delete lists in GetResponse that nobody needs any more."))


def _found(address: str, record: Any, how: str | None = None) -> Found:
    """`raw` is GetResponse's own id of the contact, None for who is not on the list."""
    return Found(address.lower(), address, how, on_list=record is not None, raw=record and record["contactId"])


def _row(contact: Contact, field: str) -> dict[str, Any]:
    row = {"email": contact.address, "customFieldValues": [{"customFieldId": field, "value": [contact.id]}]}
    name = name_of(contact)
    return row | ({"name": name} if name else {})
