"""Members of Mailchimp audiences: what their states mean, the fields they carry, and the calls that write them."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

from mailchimp_marketing.api.lists_api import ListsApi

from providers.base import (
    BOUNCED,
    Contact,
    ContactRefused,
    Delivered,
    Member,
    MemberState,
    OptedOut,
    Outcome,
    Refused,
    Transient,
)
from providers.concurrency import chunks
from providers.mailchimp.client import AlreadyMember, BadRequest, NotThere, contact_outcome

PAGE_SIZE = 1000
BATCH_SIZE = 500
ID_FIELD = "PLANFIXID"
REMOVED = "removed "  # stands before the id in PLANFIXID while we hold a person off an audience

Raw: TypeAlias = dict[str, Any]
"""A member, segment or audience as Mailchimp's JSON says it."""

T = TypeVar("T")

MEMBER_PARTS = ("id", "email_address", "status", "merge_fields")

_HOW = {"cleaned": BOUNCED, "transactional": "never_subscribed"}


@lru_cache(maxsize=10_000)  # a batch asks five times for each of its addresses
def hash_of(address: str) -> str:
    """A member's id: MD5 of the lower-case address (Mailchimp's contract)."""
    return hashlib.md5(address.lower().encode(), usedforsecurity=False).hexdigest()


def former_of(contact: Contact) -> list[str]:
    """The ids under which the contact may still be known, its present address's not among them."""
    told = [hash_of(contact.old_address) if contact.old_address else None, contact.provider_contact_id]
    if told == [None, None]:
        return []
    present = hash_of(contact.address) if contact.address else None
    return list(dict.fromkeys(h for h in told if h and h != present))


def standing(raw: Raw) -> Delivered | OptedOut:
    """What a member's status means: subscribed and waiting for confirmation are well, all else gets no mail."""
    member_id, status = str(raw["id"]), str(raw["status"])
    if status in ("subscribed", "pending"):
        return Delivered(member_id)
    return OptedOut(_HOW.get(status, status), member_id)


def owner_of(raw: Raw) -> str:
    """The Planfix id that a member carries, empty when it carries none."""
    return str((raw.get("merge_fields") or {}).get(ID_FIELD) or "").removeprefix(REMOVED)


def has_bounced(raw: Raw) -> bool:
    """Whether Mailchimp keeps the address out because mail to it came back."""
    return str(raw["status"]) == "cleaned"


def removed_by_us(raw: Raw) -> bool:
    """Whether a member is unsubscribed only because we took them off the audience."""
    mark = str((raw.get("merge_fields") or {}).get(ID_FIELD) or "")
    return raw["status"] == "unsubscribed" and mark.startswith(REMOVED)


def member_of(raw: Raw) -> Member:
    told = standing(raw)
    merge = raw.get("merge_fields") or {}
    waits = MemberState.PENDING if raw["status"] == "pending" else MemberState.SUBSCRIBED
    return Member(
        address=raw["email_address"],
        state=MemberState.OPTED_OUT if isinstance(told, OptedOut) else waits,
        first_name=str(merge.get("FNAME") or ""),
        last_name=str(merge.get("LNAME") or ""),
        id=owner_of(raw) or None,
        provider_contact_id=raw["id"],
        how=told.how if isinstance(told, OptedOut) else "unsubscribed",
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch call told, by member id: `members` that it wrote, `outcomes` of those that it refused."""

    members: dict[str, Raw]
    outcomes: dict[str, Outcome]


class Members:
    """Reads and writes of members. The status of an existing member changes only where the caller passes one."""

    def __init__(self, call: Callable[..., Awaitable[Any]], api: ListsApi) -> None:
        self._call = call
        self._api = api
        self._tags: dict[str, frozenset[str]] = {}
        self._reading = asyncio.Lock()

    async def fields(self, audience: str) -> frozenset[str]:
        """The audience's merge tags that we fill; read once, PLANFIXID made when it is missing and there is room."""
        async with self._reading:
            if audience not in self._tags:
                tags = await self.read_tags(audience)
                if ID_FIELD not in tags:
                    tags |= await self._make_id_field(audience)
                self._tags[audience] = tags & {"FNAME", "LNAME", ID_FIELD}
            return self._tags[audience]

    def forget_fields(self, audience: str) -> None:
        """The next call reads the fields anew."""
        self._tags.pop(audience, None)

    async def read_tags(self, audience: str) -> frozenset[str]:
        answer = await self._call(
            "read_fields", self._api.get_list_merge_fields, audience, count=PAGE_SIZE, fields=["merge_fields.tag"]
        )
        return frozenset(field["tag"] for field in answer.get("merge_fields") or ())

    async def _make_id_field(self, audience: str) -> set[str]:
        body = {"tag": ID_FIELD, "name": "Planfix ID", "type": "text", "public": False}
        try:
            await self._call("make_field", self._api.add_list_merge_field, audience, body)
        except NotThere:
            raise
        except Refused:  # there is no room for another field, or somebody made it in this moment
            return set(await self.read_tags(audience)) & {ID_FIELD}
        return {ID_FIELD}

    async def merge(self, audience: str, contact: Contact) -> dict[str, str]:
        """The merge fields to send for a contact: names that were told, and its id."""
        values = {"FNAME": contact.first_name, "LNAME": contact.last_name, ID_FIELD: contact.id}
        tags = await self.fields(audience)
        return {tag: value for tag, value in values.items() if tag in tags and value is not None}

    async def get(self, audience: str, member_id: str) -> Raw | None:
        try:
            read = self._api.get_list_member
            return dict(await self._call("read_member", read, audience, member_id, fields=[*MEMBER_PARTS, "tags"]))
        except NotThere:
            return None

    async def put(
        self, audience: str, contact: Contact, merge: dict[str, str], status_if_new: str = "subscribed"
    ) -> Raw:
        """Makes or updates the member; `status_if_new` counts only for one that Mailchimp does not know."""
        member_id = hash_of(contact.address)
        body = {"email_address": contact.address, "status_if_new": status_if_new, "merge_fields": merge}
        try:
            return await self._write("put_member", audience, self._api.set_list_member, member_id, body)
        except AlreadyMember as error:
            # Somebody made the member in this moment; then an update works, otherwise the contact is refused.
            try:
                return await self.patch(audience, member_id, {"merge_fields": merge})
            except NotThere:
                raise BadRequest(contact_outcome(error.detail), (), error.detail) from error

    async def patch(self, audience: str, member_id: str, body: Raw) -> Raw:
        return await self._write("patch_member", audience, self._api.update_list_member, member_id, body)

    async def _write(self, operation: str, audience: str, function: Any, member_id: str, body: Raw) -> Raw:
        try:
            return dict(await self._call(operation, function, audience, member_id, body, skip_merge_validation=True))
        except BadRequest as error:
            await self._fields_still_there(audience, error.fields)
            raise

    async def post(self, audience: str, bodies: Sequence[Raw], *, update_existing: bool) -> Batch:
        """Up to 500 members in one call. A member of `bodies` that is in neither part of the answer exists already.

        Raises ContactRefused when the service refuses all without saying whom it means.
        """
        body = {"members": list(bodies), "update_existing": update_existing, "sync_tags": False}
        try:
            answer = await self._call(
                "post_members",
                self._api.batch_list_members,
                audience,
                body,
                skip_merge_validation=True,
                skip_duplicate_check=True,
            )
        except BadRequest as error:
            await self._fields_still_there(audience, error.fields)
            if len(bodies) == 1:
                return Batch({}, {hash_of(bodies[0]["email_address"]): error.outcome})
            raise ContactRefused(detail=error.detail) from error
        errors = [e for e in answer.get("errors") or () if e.get("error_code") != "ERROR_CONTACT_EXISTS"]
        await self._fields_still_there(audience, [e.get("field") or "" for e in errors])
        return Batch(
            by_id([*(answer.get("new_members") or ()), *(answer.get("updated_members") or ())]),
            {
                hash_of(e["email_address"]): contact_outcome(f"{e['error']} {e.get('field_message') or ''}")
                for e in errors
            },
        )

    async def keep_out(self, audience: str, contacts: Sequence[Contact]) -> None:
        """Makes strangers known as unsubscribed, and unsubscribes members who get mail or whom we took off ourselves.
        Whom Mailchimp keeps out already stays as they are. An address that it does not take gets no mail either."""
        by_member = {hash_of(contact.address): contact for contact in contacts}
        bodies = [
            {"email_address": c.address, "status": "unsubscribed", "merge_fields": await self.merge(audience, c)}
            for c in by_member.values()
        ]
        known: list[str] = []
        for some in chunks(bodies, BATCH_SIZE):
            known += await self._add_strangers(audience, some)
        await together(self._unsubscribe(audience, member_id, by_member[member_id]) for member_id in known)

    async def _add_strangers(self, audience: str, bodies: Sequence[Raw]) -> list[str]:
        """Adds those whom Mailchimp does not know; the ids of the others."""
        try:
            batch = await self.post(audience, bodies, update_existing=False)
        except ContactRefused:
            half = len(bodies) // 2
            return [
                *await self._add_strangers(audience, bodies[:half]),
                *await self._add_strangers(audience, bodies[half:]),
            ]
        ids = [hash_of(body["email_address"]) for body in bodies]
        return [h for h in ids if h not in batch.members and h not in batch.outcomes]

    async def _unsubscribe(self, audience: str, member_id: str, contact: Contact) -> None:
        raw = await self.get(audience, member_id)
        if raw is None or (isinstance(standing(raw), OptedOut) and not removed_by_us(raw)):
            return
        body: Raw = {"status": "unsubscribed"}
        if ID_FIELD in await self.fields(audience):
            body["merge_fields"] = {ID_FIELD: contact.id}  # in place of the mark of our own removal
        with suppress(BadRequest, NotThere):  # out, or gone, since it was read
            await self.patch(audience, member_id, body)

    async def _fields_still_there(self, audience: str, complained_of: Iterable[str]) -> None:
        """Raises Transient when a field that the service complains of was deleted since we read the fields."""
        suspects = self._tags.get(audience, frozenset()).intersection(complained_of)
        if suspects and not suspects <= await self.read_tags(audience):
            self.forget_fields(audience)
            raise Transient("the fields of the audience were changed in Mailchimp: they are read anew")

    async def pages(
        self, operation: str, kind: str, parts: Sequence[str], function: Any, *ids: str, **params: Any
    ) -> AsyncIterator[Raw]:
        """All of a paged call's `kind` (members, segments, lists) with these parts, in the service's order."""
        fields = [*(f"{kind}.{part}" for part in parts), "total_items"]
        for offset in itertools.count(0, PAGE_SIZE):
            answer = await self._call(
                operation, function, *ids, count=PAGE_SIZE, offset=offset, fields=fields, **params
            )
            page = answer.get(kind) or []
            for raw in page:
                yield raw
            if not page or offset + PAGE_SIZE >= int(answer["total_items"]):
                return


def by_id(members: Iterable[Raw]) -> dict[str, Raw]:
    return {str(raw["id"]): raw for raw in members}


async def together(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Results of calls made at one time, in order. All end before the first error is raised: none acts behind it."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    good: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        good.append(result)
    return good


def changed(raw: Raw, merge: dict[str, str]) -> bool:
    """Whether a member's fields differ from those to send."""
    held = raw.get("merge_fields") or {}
    return any(str(held.get(tag) or "") != value for tag, value in merge.items())
