"""ActiveCampaign, API v3: tags on the contacts of one list. Quirks: docs/providers/activecampaign.md."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from providers.activecampaign.answers import ACTIVE, ERRORS, UNSUBSCRIBED, is_gone, kept_out, members_on, row_of
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
    Refused,
    Rejected,
    Secret,
    Settings,
)
from providers.http import Auth, HeaderAuth, Query
from providers.jobs import Polling, follow
from providers.names import name_fields, without
from providers.pace import Rate
from providers.paging import by_cursor, by_offset
from providers.plan import Found, for_the_rest
from providers.rest import Check, Needed, RestProvider

SINGLE_UP_TO: Final = 10  # contacts that go one by one: imports are meant for more
FIELD: Final = "Planfix ID"
_API: Final = "/api/3"
_PAGE: Final = 100
_ANY_STATUS: Final[Query] = {"status": -1, "include": "contactLists,fieldValues", "limit": _PAGE, "orders[id]": "ASC"}
_JOB_ENDED: Final = frozenset({"completed", "failed", "interrupted"})  # "status" is false until a job has one


class ActiveCampaignSettings(Settings, frozen=True, kw_only=True):
    base_url: Annotated[
        str,
        Meta(
            min_length=1,
            description="the account's API URL (Settings, Developer)",
            examples=["https://name.api-us1.com"],
        ),
    ]
    api_key: Annotated[Secret, Meta(description="the API key of a user (Settings, Developer)")]
    list_id: Annotated[
        str,
        Meta(
            pattern=r"^\d+$",
            description="number of the list that all contacts are subscribed to: listid in its URL",
            examples=["1"],
        ),
    ]


class ActiveCampaignProvider(RestProvider[ActiveCampaignSettings]):
    """Tags in the account, its contacts all on the list of the settings.

    ActiveCampaign can take a contact off a list only by unsubscribing it, which nobody could tell from the person's
    own doing. So a removal takes the tag away, this provider never unsubscribes but to keep somebody out, and
    "unsubscribed" is always an opt-out. The address is the id: imports tell no other.
    """

    name = "activecampaign"
    title = "ActiveCampaign"
    settings_type = ActiveCampaignSettings
    capabilities = Capabilities(
        list_is="a tag on contacts of one list",
        renames_address=True,
        tells_opt_outs=False,  # imports leave out who unsubscribed without saying so
        equal_names=False,
        asynchronous=True,
        takes_opt_outs=True,
        unsupported=(
            "Taking a contact off the ActiveCampaign list: it would read as unsubscribed. The contact loses the tag and"
            " stays on the list, so mail must go to the list's contacts with the tag, not to the whole list.",
        ),
    )
    limits = Limits(
        batch_size=250,
        parallel_calls=4,
        list_name_chars=100,
        calls="5 a second for the account; 100 imports a minute",
    )
    default_base_url = ""  # each account has its own, which the settings need
    errors = ERRORS
    rates: ClassVar = {"": [Rate(5)], "imports": [Rate(100, 60)]}
    key_advice = Message(
        "Copy URL and key from ActiveCampaign (Settings, Developer); the key is that of a user who may do this."
    )
    polling: ClassVar = Polling(first_s=2, longest_s=60, budget_s=3600)

    def __init__(self, settings: ActiveCampaignSettings) -> None:
        super().__init__(settings)
        self._field = Needed(self._find_field, self._make_field)

    def auth(self) -> Auth:
        return HeaderAuth(self.settings.api_key, "Api-Token")

    # Lists

    def list_name(self, name: str, number: int = 1) -> str:
        return super().list_name(without(name, ","), number)

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async for tag in self._pages("tags", f"{_API}/tags"):
            if tag.get("tagType") == "contact":
                yield str(tag["id"]), tag["tag"]

    async def has_list(self, list_id: str) -> bool:
        return await self._tag_name(list_id) is not None

    async def _tag_name(self, list_id: str) -> str | None:
        answer = await self.call("tag", "GET", f"{_API}/tags/{{}}", list_id, accept=[404])
        return None if is_gone(answer) else str(answer.json()["tag"]["tag"])

    async def create_list(self, name: str) -> str:
        tag = {"tag": name, "tagType": "contact", "description": "A Planfix mailing list"}
        return str((await self.call("create_tag", "POST", f"{_API}/tags", json={"tag": tag})).json()["tag"]["id"])

    async def delete_list(self, list_id: str) -> None:
        if self.is_list(list_id):
            answer = await self.call("delete_tag", "DELETE", f"{_API}/tags/{{}}", list_id, accept=[404])
            is_gone(answer)  # raises where the 404 is not ActiveCampaign's own

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        return await self.one_by_one(contacts, lambda contact: self._find(contact, with_status=True))

    async def look_up_leaving(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        return await self.one_by_one(contacts, lambda contact: self._find(contact, with_status=False))

    async def _find(self, contact: Contact, *, with_status: bool) -> Found | None:
        address = contact.address or str(contact.provider_contact_id)
        told = (await self.call("find", "GET", f"{_API}/contacts", query={"email": address})).json()["contacts"]
        person = next((one for one in told if one["email"].lower() == address.lower()), None)
        if person is None:
            return None
        status = await self._status(person["id"]) if with_status else None
        return Found(str(person["id"]), person["email"], kept_out(status))

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """One by one, or as an import. Nobody is ever set active who has any status on the list already."""
        tag_name = await self._tag_name(list_id)
        if tag_name is None:
            raise Refused(Reason.LIST_GONE, "no such tag")
        field_id = await self._field.get()
        if len(contacts) <= SINGLE_UP_TO:
            return await self.one_by_one(contacts, lambda contact: self._put_one(list_id, field_id, contact))
        return await self._import(list_id, tag_name, field_id, contacts)

    async def _put_one(self, list_id: str, field_id: str, contact: Contact) -> Outcome:
        fields: dict[str, Any] = {"fieldValues": [{"field": field_id, "value": contact.id}]}
        try:
            person_id = await self._sync(contact.address, fields | name_fields(contact, "firstName", "lastName"))
        except CallRefused as refused:
            if refused.status != 422:
                raise
            return Rejected(refused.reason, refused.detail)
        status = await self._status(person_id)
        if how := kept_out(status):
            return OptedOut(how, contact.address.lower())
        if status is None:
            await self._set_status(person_id, ACTIVE)
        tagged = {"contact": int(person_id), "tag": int(list_id)}
        await self.call("add_tag", "POST", f"{_API}/contactTags", json={"contactTag": tagged})
        return Delivered(contact.address.lower())

    async def _import(self, list_id: str, tag_name: str, field_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """One job for all. It subscribes nobody who has unsubscribed from the list. Whom it could not take goes alone,
        which tells why."""
        rows = [row_of(contact, tag_name, field_id, self.settings.list_id) for contact in contacts]
        async with self.job(list_id, contacts) as known_as:
            path = f"{_API}/import/bulk_import"
            started = await self.call("import", "POST", path, json={"contacts": rows}, bucket="imports")
            batch_id = str(started.json()["batchId"])
            await known_as(batch_id)
            job = await follow(lambda: self._job(batch_id), lambda job: job["status"] in _JOB_ENDED, self.polling)
            if job["status"] != "completed":
                # Perhaps for one of the rows, so the same again could end so for ever.
                raise ContactRefused(detail=f"an import ended as {job['status']}")
        failed = {address.lower() for address in job.get("failure") or ()}
        if failed - {contact.address.lower() for contact in contacts}:
            raise ContactRefused(detail="an import left out somebody who cannot be told")
        taken = {i: Delivered(a) for i, c in enumerate(contacts) if (a := c.address.lower()) not in failed}

        async def alone(some: Sequence[Contact]) -> list[Outcome]:
            return await self.one_by_one(some, lambda contact: self._put_one(list_id, field_id, contact))

        return await for_the_rest(taken, contacts, alone)

    async def has_ended(self, list_id: str, job_id: str) -> bool:
        return (await self._job(job_id))["status"] in _JOB_ENDED

    async def _job(self, batch_id: str) -> Any:
        return (await self.call("job", "GET", f"{_API}/import/info", query={"batchId": batch_id})).json()

    async def rename(self, list_id: str, record: Found, contact: Contact) -> bool:
        body = {"contact": {"email": contact.address}}
        answer = await self.call("rename", "PUT", f"{_API}/contacts/{{}}", record.id, json=body, accept=[404, 422])
        return answer.ok

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        async def unsubscribe(contact: Contact) -> None:
            try:
                person_id = await self._sync(contact.address, {})
            except CallRefused as refused:
                if refused.status == 422:  # an address that is not taken gets no mail either
                    return
                raise
            await self._set_status(person_id, UNSUBSCRIBED)

        await self.one_by_one(contacts, unsubscribe)

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        await self.one_by_one(records, lambda record: self._remove_tag(list_id, record.id))

    async def _remove_tag(self, list_id: str, person_id: str) -> None:
        async for one in self._pages("tags_of_contact", f"{_API}/contacts/{{}}/contactTags", person_id):
            if str(one["tag"]) == list_id:
                await self.call("remove_tag", "DELETE", f"{_API}/contactTags/{{}}", one["id"], accept=[404])
                return

    async def _sync(self, address: str, fields: dict[str, Any]) -> str:
        """Makes or updates the contact of an address; its id."""
        body = {"contact": {"email": address, **fields}}
        return str((await self.call("sync", "POST", f"{_API}/contact/sync", json=body)).json()["contact"]["id"])

    async def _status(self, person_id: str) -> str | None:
        """The contact's status on the list of the settings, None when it never had one."""
        async for one in self._pages("lists_of_contact", f"{_API}/contacts/{{}}/contactLists", person_id):
            if str(one["list"]) == self.settings.list_id:
                return str(one["status"])
        return None

    async def _set_status(self, person_id: str, status: str) -> None:
        body = {"list": int(self.settings.list_id), "contact": int(person_id), "status": int(status)}
        await self.call("set_status", "POST", f"{_API}/contactLists", json={"contactList": body})

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        async for member in self._people("members", tagid=list_id):
            yield member

    async def kept_out(self) -> AsyncIterator[Member]:
        # `listid` and `status` are of the reference of GET /contacts. Any status is asked for: the filters 2 and 3
        # would leave out those that nobody documents.
        async for member in self._people("kept_out", listid=self.settings.list_id):
            if member.state is MemberState.OPTED_OUT:
                yield member

    async def _people(self, operation: str, **of: str) -> AsyncIterator[Member]:
        """The contacts of a tag or list that have any status on the list of the settings."""
        field_id = await self._find_field()

        async def page_after(last_id: str | None) -> tuple[list[Member], str | None]:
            query = {**of, **_ANY_STATUS, "id_greater": last_id or "0"}
            page = (await self.call(operation, "GET", f"{_API}/contacts", query=query)).json()
            people = page["contacts"]
            members = list(members_on(page, self.settings.list_id, field_id))
            return members, str(people[-1]["id"]) if len(people) == _PAGE else None

        async for member in by_cursor(page_after):
            yield member

    def checks(self) -> Sequence[Check]:
        return (self._check_key, self._check_list)

    async def _check_key(self) -> Finding:
        await self.call("check", "GET", f"{_API}/users/me")
        return Finding(True, Message("the API key works"))

    async def _check_list(self) -> Finding:
        number = self.settings.list_id
        answer = await self.call("check", "GET", f"{_API}/lists/{{}}", number, accept=[404])
        if not is_gone(answer):
            name = answer.json()["list"]["name"]
            return Finding(True, Message('contacts are subscribed to the list "%(name)s"', name=name))
        missing = Message("there is no list %(number)s: nobody could be subscribed", number=number)
        advice = Message("Open the list in ActiveCampaign and put the number behind listid= in its URL into list_id.")
        return Finding(False, missing, advice)

    # What the rest is made of

    async def _find_field(self) -> str | None:
        async for field in self._pages("fields", f"{_API}/fields"):
            if field["title"] == FIELD:
                return str(field["id"])
        return None

    async def _make_field(self) -> str:
        field = {"type": "text", "title": FIELD, "perstag": "PLANFIX_ID", "visible": 1}
        made = await self.call("create_field", "POST", f"{_API}/fields", json={"field": field})
        return str(made.json()["field"]["id"])

    def _pages(self, operation: str, template: str, *parts: object) -> AsyncIterator[Any]:
        """All items of a listing, which stand under the last word of its path."""

        async def page_at(offset: int) -> list[Any]:
            answer = await self.call(operation, "GET", template, *parts, query={"limit": _PAGE, "offset": offset})
            items: list[Any] = answer.json()[template.rpartition("/")[2]]
            return items

        return by_offset(page_at, _PAGE)
