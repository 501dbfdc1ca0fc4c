"""listmonk 6.1 and newer, on a server of one's own: lists. Quirks: docs/providers/listmonk.md."""

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import chain
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from providers.answers import CallRefused
from providers.base import (
    Capabilities,
    Contact,
    Delivered,
    Finding,
    Limits,
    Member,
    MemberState,
    Message,
    OptedOut,
    Outcome,
    Proof,
    Reason,
    Refused,
    Rejected,
    Secret,
    Settings,
    Transient,
)
from providers.concurrency import chunks
from providers.http import Auth, BasicAuth, chunks_in_query
from providers.jobs import Polling
from providers.listmonk.imports import has_ended, import_new
from providers.listmonk.records import NAME_CHARS, NO_LIST, Record, changed_names, found_in, member_of, new_subscriber
from providers.paging import by_page
from providers.plan import Found
from providers.rest import Check, RestProvider

SINGLE_UP_TO: Final = 500  # new people that are made one by one: of every import listmonk sends its admins a mail
SEARCHED_AT_ONCE: Final = 100
CHANGED_AT_ONCE: Final = 5000
OLDEST_VERSION: Final = (6, 1)
_PAGE: Final = 500

# Without it listmonk may write to people again who have not confirmed another list. It changes no subscription here.
_SILENT: Final = {"preconfirm_subscriptions": True}


class ListmonkSettings(Settings, frozen=True, kw_only=True):
    base_url: Annotated[
        str, Meta(min_length=1, description="address of listmonk", examples=["https://listmonk.example.com"])
    ]
    user: Annotated[str, Meta(min_length=1, description="name of an API user (Admin, Users)", examples=["planfix"])]
    token: Annotated[Secret, Meta(description="the token that listmonk showed when the API user was made")]


class ListmonkProvider(RestProvider[ListmonkSettings]):
    """Lists. A subscriber is the server's and is on any number of lists; an unsubscription is one list's, a block holds
    for all. Whatever puts people on a list looks at both first."""

    name = "listmonk"
    title = "listmonk"
    settings_type = ListmonkSettings
    capabilities = Capabilities(
        list_is="a private list with single opt-in",
        renames_address=True,
        tells_opt_outs=True,
        equal_names=True,
        asynchronous=True,
        takes_opt_outs=True,
        unsupported=("listmonk before 6.1 cannot change single fields of a subscriber; `check` tells the version",),
        proof=Proof.OFFICIAL_SPEC,
    )
    limits = Limits(
        batch_size=5000,
        parallel_calls=4,
        list_name_chars=NAME_CHARS,
        calls="as many as the server can do; listmonk has no limit",
    )
    key_advice = Message(
        "Look at user and token: they are those of an API user (Admin, Users). Its role needs lists:get_all,"
        " lists:manage_all, subscribers:get, subscribers:get_all, subscribers:manage and subscribers:import."
    )
    polling: ClassVar = Polling(first_s=1, longest_s=30, budget_s=1800)

    def auth(self) -> Auth:
        return BasicAuth(self.settings.user, self.settings.token)

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        data = await self._read("lists", "/api/lists", minimal=True, per_page="all")
        for one in data["results"] if isinstance(data, dict) else data:  # no lists at all are an empty array
            yield str(one["id"]), one["name"]

    async def has_list(self, list_id: str) -> bool:
        return (await self.call("list", "GET", "/api/lists/{}", list_id, accept=[400, 404])).ok

    async def create_list(self, name: str) -> str:
        body = {"name": name, "type": "private", "optin": "single", "tags": ["planfix"]}
        answer = await self.call("create_list", "POST", "/api/lists", json=body)
        return str(answer.json()["data"]["id"])

    async def delete_list(self, list_id: str) -> None:
        if self.is_list(list_id):
            await self.call("delete_list", "DELETE", "/api/lists/{}", list_id, accept=[400, 404])

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        by_address = await self._search(contact.address for contact in contacts if contact.address)

        async def record_of(contact: Contact) -> Record | None:
            if contact.address:
                return by_address.get(contact.address.lower())
            return await self._by_id(str(contact.provider_contact_id))

        records = await self.one_by_one(contacts, record_of)
        return [None if record is None else found_in(record, list_id) for record in records]

    async def _by_id(self, subscriber_id: str) -> Record | None:
        if not subscriber_id.isdigit():
            return None
        answer = await self.call("find", "GET", "/api/subscribers/{}", subscriber_id, accept=[400, 404])
        record: Record | None = answer.json()["data"] if answer.ok else None
        return record

    async def _search(self, addresses: Iterable[str]) -> dict[str, Record]:
        """The subscribers of these addresses, by address in small letters. The search takes a regular expression, and
        compares it with names too."""
        wanted = {address.lower() for address in addresses}

        async def some(patterns: Sequence[str]) -> list[Record]:
            pattern = f"^({'|'.join(patterns)})$"
            found: Any = await self._read("search", "/api/subscribers", search=pattern, per_page="all")
            return found["results"] or []

        parts = chunks_in_query((re.escape(address) for address in sorted(wanted)), SEARCHED_AT_ONCE)
        records = chain.from_iterable(await self.one_by_one(parts, some))
        return {record["email"].lower(): record for record in records if record["email"].lower() in wanted}

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        there = await self._search(contact.address for contact in contacts)
        new = [contact for contact in contacts if contact.address.lower() not in there]
        if len(new) > SINGLE_UP_TO:
            await import_new(self, list_id, new)
            there |= await self._search(contact.address for contact in new)
        await self._join(list_id, there.values())
        return await self.one_by_one(contacts, lambda c: self._put_one(list_id, c, there.get(c.address.lower())))

    async def has_ended(self, list_id: str, job_id: str) -> bool:
        return await has_ended(self, job_id)

    async def _join(self, list_id: str, records: Iterable[Record]) -> None:
        """Puts those on the list who are not on it. Without a status: one would also be set for who is on it, and bring
        back who has unsubscribed since the look."""
        found = [found_in(record, list_id) for record in records]
        joining = [int(one.id) for one in found if not one.on_list and one.opted_out is None]
        if joining:
            await self.require_there(list_id)  # an unknown list would be a fault of the server
            await self._change_lists("add", list_id, joining)

    async def _put_one(self, list_id: str, contact: Contact, record: Record | None) -> Outcome:
        if record is None:
            return await self._create(list_id, contact)
        found = found_in(record, list_id)
        if found.opted_out is not None:
            return OptedOut(found.opted_out, found.id)
        if names := changed_names(record, contact):
            try:
                await self.call("name", "PATCH", "/api/subscribers/{}", found.id, json=names | _SILENT)
            except CallRefused as refused:
                return Rejected(Reason.CONTACT_REFUSED, refused.detail)
        return Delivered(found.id)

    async def _create(self, list_id: str, contact: Contact) -> Outcome:
        body = new_subscriber(contact) | {
            "status": "enabled",
            "lists": [int(list_id)],
            "preconfirm_subscriptions": True,
        }
        try:
            record = (await self.call("create", "POST", "/api/subscribers", json=body)).json()["data"]
        except CallRefused as refused:
            if refused.status == 409:
                raise Transient("somebody else has made this subscriber since the look") from refused
            if refused.status != 400:
                raise
            return Rejected(Reason.INVALID_ADDRESS, refused.detail)
        found = found_in(record, list_id)
        if not found.on_list:  # unknown lists, and those that the API user may not change, are left out without a word
            await self.require_there(list_id)
            raise Refused(Reason.RIGHTS, "the API user may not put anybody on this list")
        return Delivered(found.id)

    async def rename(self, list_id: str, record: Found, contact: Contact) -> bool:
        body = {"email": contact.address} | _SILENT
        return (await self.call("rename", "PATCH", "/api/subscribers/{}", record.id, json=body, accept=[400])).ok

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        there = await self._search(contact.address for contact in contacts)
        ids = [record["id"] for record in there.values() if record["status"] != "blocklisted"]
        for some in chunks(ids, CHANGED_AT_ONCE):
            await self.call("block", "PUT", "/api/subscribers/blocklist", json={"ids": some})

        async def make_blocked(contact: Contact) -> None:
            body = new_subscriber(contact) | {"status": "blocklisted", "lists": []}
            # An address that listmonk does not take gets no mail anyway.
            answer = await self.call("block", "POST", "/api/subscribers", json=body, accept=[400, 409])
            if answer.status == 409:
                raise Transient("somebody else has made this subscriber since the look")

        await self.one_by_one([c for c in contacts if c.address.lower() not in there], make_blocked)

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        going = {int(record.id) for record in records if record.on_list and record.opted_out is None}
        await self._change_lists("remove", list_id, sorted(going))

    async def _change_lists(self, action: str, list_id: str, ids: Sequence[int]) -> None:
        for some in chunks(ids, CHANGED_AT_ONCE):
            body = {"ids": some, "action": action, "target_list_ids": [int(list_id)]}
            await self.call(action, "PUT", "/api/subscribers/lists", json=body)

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        async for record in self._subscribers("members", list_id=list_id):
            yield member_of(record, list_id)

    async def kept_out(self) -> AsyncIterator[Member]:
        """Of all subscribers: a filter by status is SQL, which needs a permission of its own (`cmd/subscribers.go`). An
        unsubscription is one list's, and told by its members."""
        async for record in self._subscribers("kept_out"):
            member = member_of(record, NO_LIST)
            if member.state is MemberState.OPTED_OUT:
                yield member

    def _subscribers(self, operation: str, **query: str) -> AsyncIterator[Record]:
        most = 0

        async def page(number: int) -> list[Record]:
            nonlocal most
            data = await self._read(operation, "/api/subscribers", **query, page=number, per_page=_PAGE)
            if data["total"] < most:
                raise Transient("the list became shorter while it was read, so that members may be missing")
            most = data["total"]
            return data["results"] or []

        return by_page(page, _PAGE)

    def checks(self) -> Sequence[Check]:
        return (self._check_version, self._check_rights)

    async def _check_version(self) -> Finding:
        told = str((await self._read("config", "/api/config")).get("version"))
        version = tuple(int(part) for part in re.findall(r"\d+", told)[:2])
        text = Message("the API user is known; listmonk %(version)s answers", version=told)
        advice = Message("Update listmonk: before 6.1 names and addresses cannot be changed.")
        return Finding(version >= OLDEST_VERSION, text, advice)

    async def _check_rights(self) -> Finding:
        missing = []
        if not (await self.call("members", "GET", "/api/subscribers", query={"per_page": 1}, accept=[403])).ok:
            missing.append("subscribers:get_all")
        if not (await self.call("job", "GET", "/api/import/subscribers", accept=[403])).ok:
            missing.append("subscribers:import")
        if not missing:
            return Finding(True, Message("the API user may read subscribers and import them"))
        text = Message("the API user lacks permissions: %(permissions)s", permissions=", ".join(missing))
        return Finding(False, text, Message("Add them to the user's role (Admin, Users, User roles)."))

    async def _read(self, operation: str, path: str, **query: str | int | bool) -> Any:
        return (await self.call(operation, "GET", path, query=query)).json()["data"]
