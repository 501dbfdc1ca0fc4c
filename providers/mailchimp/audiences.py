"""Planfix lists as Mailchimp audiences of their own.

An audience has no state "not on it" but "unsubscribed". So that our removal is not taken for an opt-out, it leaves
its mark in the member's PLANFIXID field, at Mailchimp itself, in the same call.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from mailchimp_marketing.api.lists_api import ListsApi

from providers.base import Contact, Delivered, Member, OptedOut, Outcome, Postponed, Reason, Refused, Rejected
from providers.mailchimp.client import BadRequest, NotThere
from providers.mailchimp.members import (
    ID_FIELD,
    MEMBER_PARTS,
    REMOVED,
    Members,
    Raw,
    former_of,
    hash_of,
    member_of,
    removed_by_us,
    standing,
    together,
)
from providers.mailchimp.upsert import Upsert


class AudienceLists:
    """Audiences of an account. `defaults` is what Mailchimp wants to know of a new one, by its own names."""

    def __init__(
        self,
        call: Callable[..., Awaitable[Any]],
        api: ListsApi,
        members: Members,
        defaults: Callable[[], Raw],
    ) -> None:
        self._call = call
        self._api = api
        self._members = members
        self._defaults = defaults

    async def find(self, name: str) -> str | None:
        async for audience in self._members.pages("find_audience", "lists", ("id", "name"), self._api.get_all_lists):
            if audience["name"] == name:
                return str(audience["id"])
        return None

    async def create(self, name: str) -> str:
        body = self._defaults() | {"name": name, "email_type_option": False}
        try:
            answer = await self._call("create_audience", self._api.create_list, body)
        except Refused as error:
            if error.reason is Reason.RIGHTS:  # what the service answers beyond the plan's number of audiences
                raise Refused(Reason.LIST_LIMIT, error.detail) from error
            raise
        return str(answer["id"])

    async def delete(self, audience: str) -> None:
        try:
            await self._call("delete_audience", self._api.delete_list, audience)
        except NotThere:
            return

    async def members(self, audience: str) -> AsyncIterator[Member]:
        read = self._api.get_list_members_info
        async for raw in self._members.pages("read_members", "members", MEMBER_PARTS, read, audience):
            if not removed_by_us(raw):
                yield member_of(raw)

    async def upsert(self, audience: str, contacts: Sequence[Contact]) -> list[Outcome]:
        await self._need_room_for_mark(audience)
        return await AudienceUpsert(self._members, audience, contacts).run()

    async def remove(self, audience: str, contacts: Sequence[Contact]) -> list[Outcome]:
        ids = [_ids_of(contact) for contact in contacts]
        try:
            await self._need_room_for_mark(audience)
        except NotThere:
            return [Delivered(present) for present, *_ in ids]
        # All are read before any is written: what fails at the first call has then changed nothing.
        found = await together(
            together(self._members.get(audience, member_id) for member_id in contact_ids) for contact_ids in ids
        )
        told = await together(
            together(take_off(self._members, audience, contact, raw) for raw in raws if raw is not None)
            for contact, raws in zip(contacts, found, strict=True)
        )
        return [
            next((one for one in outcomes if not isinstance(one, Delivered)), Delivered(present))
            for outcomes, (present, *_) in zip(told, ids, strict=True)
        ]

    async def keep_out(self, audience: str, contacts: Sequence[Contact]) -> None:
        await self._members.keep_out(audience, contacts)

    async def _need_room_for_mark(self, audience: str) -> None:
        if ID_FIELD not in await self._members.fields(audience):
            self._members.forget_fields(audience)
            raise Refused(detail=f"no room for the field {ID_FIELD} in the audience: delete a field that is not used")


def _ids_of(contact: Contact) -> list[str]:
    """The members that a removal is about, the present address's first."""
    present = hash_of(contact.address) if contact.address else str(contact.provider_contact_id)
    former = [] if contact.keep_old else former_of(contact)
    return list(dict.fromkeys([present, *former]))


async def take_off(members: Members, audience: str, contact: Contact, raw: Raw) -> Outcome:
    """Unsubscribes a member and marks that it was us. Who is out already keeps that state and gets no mark."""
    told = standing(raw)
    if removed_by_us(raw):
        return Delivered(raw["id"])
    if isinstance(told, OptedOut):
        return told
    body = {"status": "unsubscribed", "merge_fields": {ID_FIELD: f"{REMOVED}{contact.id}"}}
    try:
        await members.patch(audience, raw["id"], body)
    except NotThere:
        return told
    except BadRequest as error:
        return error.outcome
    return told


class AudienceUpsert(Upsert):
    """An upsert into one audience. Of existing members only those are subscribed whom we removed ourselves."""

    async def _write(self, contacts: Sequence[Contact]) -> None:
        bodies = [
            {
                "email_address": contact.address,
                "status": "subscribed",
                "merge_fields": await self._members.merge(self._audience, contact),
            }
            for contact in contacts
        ]
        batch = await self._members.post(self._audience, bodies, update_existing=False)
        existing = []
        for contact in contacts:
            member_id = hash_of(contact.address)
            if member_id in batch.outcomes:
                self._tell(contact, batch.outcomes[member_id])
            elif member_id in batch.members:
                self._saw(contact, batch.members[member_id])
            else:
                existing.append(contact)
        await together(self._place(contact) for contact in existing)

    async def _place(self, contact: Contact) -> None:
        names = await self._members.merge(self._audience, contact)
        own_id = {ID_FIELD: contact.id}
        names.pop(ID_FIELD, None)  # held back: it would wipe out the mark before that is read
        try:
            raw = await self._members.put(self._audience, contact, names)
            held = str((raw.get("merge_fields") or {}).get(ID_FIELD) or "")
            if removed_by_us(raw):
                body = {"status": "subscribed", "merge_fields": own_id}
                raw = await self._members.patch(self._audience, raw["id"], body)
            elif held != contact.id and self._opt_out_of(raw) is None:
                raw = await self._members.patch(self._audience, raw["id"], {"merge_fields": own_id})
        except BadRequest as error:
            self._tell(contact, error.outcome)
        else:
            self._saw(contact, raw)

    async def _rename(self, contact: Contact, raw: Raw) -> None:
        address = {"email_address": contact.address}
        if removed_by_us(raw):  # the mark moves along; then the contact is added under the new address
            await self._members.patch(self._audience, raw["id"], address)
            await self._place(contact)
            return
        merge = await self._members.merge(self._audience, contact)
        self._saw(contact, await self._members.patch(self._audience, raw["id"], address | {"merge_fields": merge}))

    async def _take_off(self, contact: Contact, raw: Raw) -> None:
        told = await take_off(self._members, self._audience, contact, raw)
        if isinstance(told, Rejected | Postponed):  # the old address still gets mail: that must not look done
            self._tell(contact, told)

    def _opt_out_of(self, raw: Raw) -> OptedOut | None:
        told = standing(raw)
        return told if isinstance(told, OptedOut) and told.is_of_person and not removed_by_us(raw) else None

    def _saw(self, contact: Contact, raw: Raw) -> None:
        self._tell(contact, standing(raw))

    def _tell(self, contact: Contact, outcome: Outcome) -> None:
        member_id = hash_of(contact.address)
        self._outcomes[member_id] = OptedOut(outcome.how, member_id) if isinstance(outcome, OptedOut) else outcome
