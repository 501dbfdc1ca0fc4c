"""Planfix lists as tags in one Mailchimp audience. A tag is a "static segment" in the API; its id is the list id.

The tag holds exactly those who get mail: who opted out is taken off it again. No call here changes the status of a
member that exists.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from mailchimp_marketing.api.lists_api import ListsApi

from providers.base import Contact, Delivered, Member, OptedOut, Outcome, Reason, Refused, Rejected, redact
from providers.mailchimp.client import BadRequest, NotThere
from providers.mailchimp.members import (
    BATCH_SIZE,
    MEMBER_PARTS,
    PAGE_SIZE,
    Members,
    Raw,
    by_id,
    changed,
    former_of,
    hash_of,
    member_of,
    standing,
    together,
)
from providers.mailchimp.upsert import Upsert

LOOKED_UP_ALONE = 8  # so many members of unknown state are read one by one; more of them by pages of the tag


class TagLists:
    """Tags of one audience, which is looked up once where the settings name none and the account has only one."""

    def __init__(
        self, call: Callable[..., Awaitable[Any]], api: ListsApi, members: Members, audience: str | None
    ) -> None:
        self._call = call
        self._api = api
        self._members = members
        self._audience = audience
        self._names: dict[str, str] = {}

    async def audience(self) -> str:
        if self._audience is None:
            found = await self.audiences()
            if len(found) != 1:
                names = ", ".join(f"{one['id']} ({one['name']})" for one in found)
                raise Refused(detail=f"set `audience`: the account has {f'several: {names}' if names else 'none'}")
            self._audience = str(found[0]["id"])
        return self._audience

    async def audiences(self) -> list[Raw]:
        """Id and name of each audience of the account, at most a page of them."""
        fields = ["lists.id", "lists.name"]
        answer = await self._call("find_audience", self._api.get_all_lists, count=PAGE_SIZE, fields=fields)
        return list(answer.get("lists") or [])

    async def find(self, name: str) -> str | None:
        read, audience = self._api.list_segments, await self.audience()
        async for tag in self._members.pages("find_tag", "segments", ("id", "name"), read, audience, type="static"):
            if tag["name"] == name:
                return str(tag["id"])
        return None

    async def create(self, name: str) -> str:
        # Without the empty array the service asks for the conditions of a saved segment instead.
        body = {"name": name, "static_segment": []}
        answer = await self._call("create_tag", self._api.create_segment, await self.audience(), body)
        return str(answer["id"])

    async def delete(self, tag: str) -> None:
        try:
            await self._call("delete_tag", self._api.delete_segment, await self.audience(), tag)
        except NotThere:
            return

    async def keep_out(self, tag: str, contacts: Sequence[Contact]) -> None:
        await self._members.keep_out(await self.audience(), contacts)
        with suppress(NotThere):
            await self.retag(tag, [], [contact.address for contact in contacts])

    async def members(self, tag: str) -> AsyncIterator[Member]:
        async for raw in self.raw_members(tag):
            yield member_of(raw)

    async def raw_members(self, tag: str) -> AsyncIterator[Raw]:
        everybody = {"include_cleaned": True, "include_transactional": True, "include_unsubscribed": True}
        read, audience = self._api.get_segment_members_list, await self.audience()
        pages = self._members.pages("read_tag_members", "members", MEMBER_PARTS, read, audience, tag, **everybody)
        async for raw in pages:
            yield raw

    async def kept_out(self) -> AsyncIterator[Member]:
        """Whoever left the audience, or whose mail came back: who opted out is on no tag any more."""
        read, audience = self._api.get_list_members_info, await self.audience()
        for status in ("unsubscribed", "cleaned"):
            pages = self._members.pages("read_members", "members", MEMBER_PARTS, read, audience, status=status)
            async for raw in pages:
                yield member_of(raw)

    async def name_of(self, tag: str) -> str:
        """The tag's name, by which a batch may tag new members; empty once Mailchimp did not tag by it."""
        if tag not in self._names:
            answer = await self._call(
                "read_tag", self._api.get_segment, await self.audience(), tag, fields=["id", "name"]
            )
            self._names[tag] = str(answer["name"])
        return self._names[tag]

    def forget_name(self, tag: str) -> None:
        """From now on new members are tagged by id: batches take no tags, or the tag was renamed."""
        self._names[tag] = ""

    async def retag(self, tag: str, add: Sequence[str], remove: Sequence[str]) -> list[Raw]:
        """Puts addresses on the tag and takes others off, 500 of each a call; the answers."""
        audience = await self.audience()
        answers = []
        for start in range(0, max(len(add), len(remove)), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            parts = {"members_to_add": add[part], "members_to_remove": remove[part]}
            body = {name: addresses for name, addresses in parts.items() if addresses}
            answers.append(await self._call("retag", self._api.batch_segment_members, body, audience, tag))
        return answers

    async def upsert(self, tag: str, contacts: Sequence[Contact]) -> list[Outcome]:
        return await TagUpsert(self, self._members, await self.audience(), tag, contacts).run()

    async def remove(self, tag: str, contacts: Sequence[Contact]) -> list[Outcome]:
        audience = await self.audience()
        addresses: dict[str, str] = {}
        for contact in contacts:
            old = None if contact.keep_old else contact.old_address
            addresses |= {hash_of(address): address for address in (contact.address, old) if address}
        others = {h for c in contacts if not c.keep_old for h in former_of(c)} - addresses.keys()
        try:
            answers = await self.retag(tag, [], list(addresses.values()))
        except NotThere:
            answers, others = [], set()
        await together(self._untag_id(audience, tag, member_id) for member_id in others)
        removed = {h: raw for answer in answers for h, raw in by_id(answer.get("members_removed") or ()).items()}

        def outcome(contact: Contact) -> Outcome:
            present = hash_of(contact.address) if contact.address else str(contact.provider_contact_id)
            seen = [standing(removed[h]) for h in (present, *former_of(contact)) if h in removed]
            return next((one for one in seen if isinstance(one, OptedOut)), Delivered(present))

        return [outcome(contact) for contact in contacts]

    async def _untag_id(self, audience: str, tag: str, member_id: str) -> None:
        try:
            await self._call("untag_member", self._api.remove_segment_member, audience, tag, member_id)
        except NotThere:
            return


class TagUpsert(Upsert):
    """An upsert onto one tag. Tags of all contacts change together, when everybody's state is known."""

    def __init__(self, lists: TagLists, members: Members, audience: str, tag: str, contacts: Sequence[Contact]) -> None:
        super().__init__(members, audience, contacts)
        self._lists = lists
        self._tag = tag
        self._joining: dict[str, str] = {}  # member id → address
        self._leaving: dict[str, str] = {}
        self._refused: dict[str, str] = {}  # member id → why the tag did not take them
        self._stale: dict[str, Contact] = {}  # subscribed and on the tag, with other fields than the contact's
        self._alone: dict[str, Contact] = {}  # to be written one by one, without a status

    async def _write(self, contacts: Sequence[Contact]) -> None:
        if len(contacts) == 1:
            await self._place(contacts[0])
            return
        name = await self._lists.name_of(self._tag)
        tags = {"tags": [name]} if name else {}
        bodies = [await self._body(contact) | tags for contact in contacts]
        batch = await self._members.post(self._audience, bodies, update_existing=False)
        for contact in contacts:
            member_id = hash_of(contact.address)
            if member_id in batch.outcomes:
                self._tell(contact, batch.outcomes[member_id])
            elif member_id in batch.members:
                self._saw(contact, batch.members[member_id])
            else:  # an existing member, whose state the answer does not tell
                self._joining[member_id] = contact.address
        if self._joining.keys() & batch.members.keys():
            self._lists.forget_name(self._tag)

    async def _body(self, contact: Contact) -> Raw:
        merge = await self._members.merge(self._audience, contact)
        return {"email_address": contact.address, "status": "subscribed", "merge_fields": merge}

    async def _place(self, contact: Contact) -> None:
        merge = await self._members.merge(self._audience, contact)
        try:
            self._saw(contact, await self._members.put(self._audience, contact, merge))
        except BadRequest as error:
            self._tell(contact, error.outcome)

    async def _rename(self, contact: Contact, raw: Raw) -> None:
        body = {"email_address": contact.address, "merge_fields": await self._members.merge(self._audience, contact)}
        self._saw(contact, await self._members.patch(self._audience, raw["id"], body))

    async def _take_off(self, contact: Contact, raw: Raw) -> None:
        self._joining.pop(raw["id"], None)
        if self._has_tag(raw):
            self._leaving[raw["id"]] = raw["email_address"]

    def _opt_out_of(self, raw: Raw) -> OptedOut | None:
        told = standing(raw)
        return told if isinstance(told, OptedOut) and told.is_of_person else None

    def _has_tag(self, raw: Raw) -> bool:
        return any(str(tag["id"]) == self._tag for tag in raw.get("tags") or ())

    def _saw(self, contact: Contact, raw: Raw) -> None:
        self._tell(contact, standing(raw), tagged=self._has_tag(raw))

    def _tell(self, contact: Contact, outcome: Outcome, *, tagged: bool | None = None) -> None:
        """Notes an outcome and what it means for the tag; `tagged` is None where nobody told."""
        member_id = hash_of(contact.address)
        if isinstance(outcome, OptedOut):
            outcome = OptedOut(outcome.how, member_id)
        self._outcomes[member_id] = outcome
        self._joining.pop(member_id, None)
        if isinstance(outcome, Delivered) and not tagged:
            self._joining[member_id] = contact.address
        if isinstance(outcome, OptedOut) and tagged is not False:
            self._leaving[member_id] = contact.address

    async def _finish(self) -> None:
        await self._retag()
        unknown = {h: c for h, c in self._contacts.items() if h not in self._outcomes}
        if len(unknown) > LOOKED_UP_ALONE:
            await self._look_through_tag(unknown)
        await together(self._place(contact) for contact in (unknown | self._alone).values())
        if self._stale:
            await self._update_stale()
        await self._retag()
        for member_id, text in self._refused.items():
            if isinstance(self._outcomes.get(member_id), Delivered):
                self._outcomes[member_id] = Rejected(Reason.CONTACT_REFUSED, redact(text))

    async def _retag(self) -> None:
        """Brings the tag up to date; takes in what the answers tell of those who joined."""
        joining, leaving = self._joining, self._leaving
        self._joining, self._leaving = {}, {}
        for answer in await self._lists.retag(self._tag, list(joining.values()), list(leaving.values())):
            for member_id, raw in by_id(answer.get("members_added") or ()).items():
                if member_id in joining:
                    self._refused.pop(member_id, None)
                    await self._compare(member_id, raw)
            for error in answer.get("errors") or ():
                self._refused |= {hash_of(address): str(error["error"]) for address in error["email_addresses"]}

    async def _compare(self, member_id: str, raw: Raw) -> None:
        """Takes in a member that is on the tag, and whether its fields are the contact's."""
        contact = self._contacts[member_id]
        fresh = member_id in self._outcomes  # its fields were written in this call
        self._tell(contact, standing(raw), tagged=True)
        gets_mail = isinstance(self._outcomes[member_id], Delivered)
        if gets_mail and not fresh and changed(raw, await self._members.merge(self._audience, contact)):
            (self._stale if raw["status"] == "subscribed" else self._alone)[member_id] = contact

    async def _look_through_tag(self, unknown: dict[str, Contact]) -> None:
        """Finds members that were on the tag before, whom the retagging does not tell; takes them out of `unknown`."""
        async for raw in self._lists.raw_members(self._tag):
            if raw["id"] in unknown:
                del unknown[raw["id"]]
                await self._compare(raw["id"], raw)
                if not unknown:
                    return

    async def _update_stale(self) -> None:
        """Writes the fields of subscribed members; the only call that sends a status, the one just read."""
        stale = list(self._stale.values())
        bodies = [await self._body(contact) for contact in stale]
        batch = await self._members.post(self._audience, bodies, update_existing=True)
        for contact in stale:
            member_id = hash_of(contact.address)
            if member_id in batch.outcomes:
                self._tell(contact, batch.outcomes[member_id])
            elif member_id in batch.members:
                self._tell(contact, standing(batch.members[member_id]), tagged=True)
