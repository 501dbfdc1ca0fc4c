"""Brevo (formerly Sendinblue), API v3: contact lists. Quirks: docs/providers/brevo.md."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from providers.answers import CallRefused, ErrorTable, addresses_in
from providers.base import (
    Capabilities,
    Choice,
    Contact,
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
    Secret,
    Settings,
    Transient,
)
from providers.concurrency import chunks
from providers.http import Auth, HeaderAuth
from providers.jobs import Polling, follow
from providers.names import name_fields
from providers.pace import Rate
from providers.paging import by_offset
from providers.plan import Found, told_by_report
from providers.rest import Check, Needed, RestProvider

SINGLE_UP_TO: Final = 50  # contacts that go one by one: an import is looked at for the first time after 30 s
REMOVED_AT_ONCE: Final = 150
PLANFIX_ID: Final = "PLANFIX_ID"
_PAGE: Final = 500
_JOB_ENDED: Final = frozenset({"completed", "failed", "cancelled"})


class BrevoSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret, Meta(description="an API key (Settings, SMTP & API, API keys)")]
    folder: Annotated[str, Meta(min_length=1, description="folder of new lists; made when missing")] = "Planfix"
    first_name: Annotated[str, Meta(min_length=1, description="attribute that holds first names")] = "FIRSTNAME"
    last_name: Annotated[str, Meta(min_length=1, description="attribute that holds last names")] = "LASTNAME"


class BrevoProvider(RestProvider[BrevoSettings]):
    """Lists in one folder. A contact is the account's and is on any number of lists; who unsubscribed is blocklisted
    in the whole account. The address is the id: updates and imports tell no other."""

    name = "brevo"
    title = "Brevo"
    settings_type = BrevoSettings
    capabilities = Capabilities(
        list_is="a contact list",
        renames_address=True,
        tells_opt_outs=False,
        equal_names=True,
        asynchronous=True,
        takes_opt_outs=True,
    )
    limits = Limits(
        batch_size=5000,  # about 1 MB; 8 MB are advised as the most
        parallel_calls=4,
        list_name_chars=255,
        calls="10 a second and 36,000 an hour; 100 an hour for looks at imports",
    )
    default_base_url = "https://api.brevo.com/v3"
    errors = ErrorTable(
        codes=lambda body: [body.get("code")],
        by_code={"account_in_process": Transient},
        marks=frozenset({"code"}),
        retry_headers=("retry-after", "x-sib-ratelimit-reset"),
    )
    rates: ClassVar = {"": [Rate(10), Rate(36_000, 3600)], "jobs": [Rate(100, 3600)]}
    key_advice = Message(
        "Make an API key in Brevo (Settings, SMTP & API, API keys). A good key is refused too when the account allows"
        " only known IP addresses (Settings, Security, Authorised IPs) and this machine's is none of them."
    )
    polling: ClassVar = Polling(first_s=30, longest_s=300, budget_s=3600)

    def __init__(self, settings: BrevoSettings) -> None:
        super().__init__(settings)
        self._folder = Needed(self._find_folder, self._make_folder)
        self._id_attribute = Needed(self._find_id_attribute, self._make_id_attribute)

    def auth(self) -> Auth:
        return HeaderAuth(self.settings.api_key, "api-key")

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async for one in self._pages("lists", "/contacts/lists"):
            yield str(one["id"]), one["name"]

    async def has_list(self, list_id: str) -> bool:
        return (await self.call("list", "GET", "/contacts/lists/{}", list_id, accept=[404])).status != 404

    async def create_list(self, name: str) -> str:
        body = {"name": name, "folderId": await self._folder.get()}
        return str((await self.call("create_list", "POST", "/contacts/lists", json=body)).json()["id"])

    async def delete_list(self, list_id: str) -> None:
        if self.is_list(list_id):
            await self.call("delete_list", "DELETE", "/contacts/lists/{}", list_id, accept=[404])

    async def _find_folder(self) -> int | None:
        async for folder in self._pages("folders", "/contacts/folders"):
            if folder["name"] == self.settings.folder:
                return int(folder["id"])
        return None

    async def _make_folder(self) -> int:
        made = await self.call("create_folder", "POST", "/contacts/folders", json={"name": self.settings.folder})
        return int(made.json()["id"])

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        return await self.one_by_one(contacts, lambda contact: self._find(list_id, contact))

    async def _find(self, list_id: str, contact: Contact) -> Found | None:
        address = contact.known_by
        answer = await self.call(
            "find", "GET", "/contacts/{}", address, query={"identifierType": "email_id"}, accept=[404]
        )
        if answer.status == 404:
            return None
        told = answer.json()
        out = told.get("emailBlacklisted") or int(list_id) in (told.get("listUnsubscribed") or ())
        return Found(str(told["email"]).lower(), str(told["email"]), "unsubscribed" if out else None)

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        await self._id_attribute.get()
        if len(contacts) <= SINGLE_UP_TO:
            return await self.one_by_one(contacts, lambda contact: self._put_one(list_id, contact))
        return await self._import(list_id, contacts)

    async def _put_one(self, list_id: str, contact: Contact) -> Outcome:
        """Looks first: whether being added undoes that somebody left this list alone is not documented."""
        try:
            record = await self._find(list_id, contact)
        except CallRefused as refused:
            return await self._refused(list_id, refused)
        if record and record.opted_out:
            return OptedOut(record.opted_out, record.id)
        body = {
            "email": contact.address,
            "attributes": self._attributes(contact),
            "listIds": [int(list_id)],
            "updateEnabled": True,
        }
        try:
            await self.call("upsert", "POST", "/contacts", json=body)
        except CallRefused as refused:
            return await self._refused(list_id, refused)
        return Delivered(contact.address.lower())

    async def _refused(self, list_id: str, refused: CallRefused) -> Outcome:
        """What a refused contact means: the list is gone, or the address is wrong."""
        if refused.code not in ("invalid_parameter", "document_not_found"):
            raise refused
        await self.require_there(list_id, refused)
        return Rejected(Reason.INVALID_ADDRESS, refused.detail)

    async def _import(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """One job for all."""
        async with self.job(list_id, contacts) as known_as:
            try:
                process_id = await self._start_import(list_id, contacts)
            except CallRefused as refused:
                await self.require_there(list_id, refused)
                if refused.code != "invalid_parameter":
                    raise
                return [Rejected(Reason.INVALID_ADDRESS, refused.detail) for _ in contacts]
            await known_as(process_id)
            job = await follow(lambda: self._job(process_id), lambda job: job["status"] in _JOB_ENDED, self.polling)
            if job["status"] != "completed":
                await self.require_there(list_id)
                raise Transient(f"an import of Brevo ended as {job['status']}")
        return told_by_report(contacts, await self._invalid(job), "not valid by Brevo's import report")

    async def _start_import(self, list_id: str, contacts: Sequence[Contact]) -> str:
        """Never with `emailBlacklist`: what false does to who is blocklisted is not documented."""
        rows = [{"email": contact.address, "attributes": self._attributes(contact)} for contact in contacts]
        body = {
            "jsonBody": rows,
            "listIds": [int(list_id)],
            "updateExistingContacts": True,
            "emptyContactsAttributes": False,
            "disableNotification": True,
        }
        return str((await self.call("import", "POST", "/contacts/import", json=body)).json()["processId"])

    async def has_ended(self, list_id: str, job_id: str) -> bool:
        return (await self._job(job_id))["status"] in _JOB_ENDED

    async def _job(self, process_id: str) -> Any:
        return (await self.call("job", "GET", "/processes/{}", process_id, bucket="jobs")).json()

    async def _invalid(self, job: Any) -> set[str]:
        """The addresses that an import left out, by the report that it points to."""
        url = ((job.get("info") or {}).get("import") or {}).get("invalid_emails")
        return addresses_in(await self.download("import_report", url)) if url else set()

    async def rename(self, list_id: str, record: Found, contact: Contact) -> bool:
        # Of a blocklisted contact this would lift the block: such are told by `look_up`, and are not renamed.
        try:
            answer = await self.call(
                "rename", "PUT", "/contacts/{}", record.address, query={"identifierType": "email_id"},
                json={"attributes": {"EMAIL": contact.address}}, accept=[404],
            )  # fmt: skip
        except CallRefused as refused:
            if refused.code in ("duplicate_parameter", "invalid_parameter"):
                return False
            raise
        return answer.status != 404

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        async def block(contact: Contact) -> None:
            body = {"email": contact.address, "emailBlacklisted": True, "updateEnabled": True}
            try:
                await self.call("keep_out", "POST", "/contacts", json=body)
            except CallRefused as refused:
                if refused.code != "invalid_parameter":  # an address that Brevo takes for none gets no mail anyway
                    raise

        await self.one_by_one(contacts, block)

    async def look_up_leaving(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        return [Found(contact.known_by, contact.known_by) for contact in contacts]  # a block stays, whoever leaves

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        await self._remove(list_id, [record.address for record in records])

    async def _remove(self, list_id: str, addresses: Sequence[str]) -> None:
        for some in chunks(addresses, REMOVED_AT_ONCE):
            # 400 when none of them is on the list or in the account.
            await self.call(
                "remove",
                "POST",
                "/contacts/lists/{}/contacts/remove",
                list_id,
                json={"emails": some},
                accept=[400, 404],
            )

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        async for one in self._pages("members", "/contacts/lists/{}/contacts", list_id, size=_PAGE):
            attributes = one.get("attributes") or {}
            yield Member(
                address=one["email"].lower(),
                state=MemberState.OPTED_OUT if one.get("emailBlacklisted") else MemberState.SUBSCRIBED,
                first_name=str(attributes.get(self.settings.first_name) or ""),
                last_name=str(attributes.get(self.settings.last_name) or ""),
                id=attributes.get(PLANFIX_ID),
                provider_contact_id=one["email"].lower(),
            )

    async def kept_out(self) -> AsyncIterator[Member]:
        # "Get all the contacts" of Brevo's reference: every contact of the account, with its block.
        async for one in self._pages("kept_out", "/contacts", size=_PAGE):
            if one.get("emailBlacklisted"):
                yield Member(one["email"].lower(), MemberState.OPTED_OUT)

    async def choices(self) -> dict[str, list[Choice]]:
        return {
            "folder": [Choice(one["name"], one["name"]) async for one in self._pages("folders", "/contacts/folders")]
        }

    def checks(self) -> Sequence[Check]:
        return (self._check_lists, self._check_attributes)

    async def _check_lists(self) -> Finding:
        count = (await self.call("lists", "GET", "/contacts/lists", query={"limit": 1})).json().get("count", 0)
        return Finding(True, Message("the API key works; the account has %(count)s lists", count=count))

    async def _check_attributes(self) -> Finding:
        missing = {self.settings.first_name, self.settings.last_name} - await self._attribute_names()
        if not missing:
            return Finding(True, Message("the attributes for names are there"))
        lost = Message("no attributes %(names)s: names would be lost", names=", ".join(sorted(missing)))
        advice = Message(
            "Put the names of the account's own attributes into first_name and last_name, or make these in Brevo."
        )
        return Finding(False, lost, advice)

    # What the rest is made of

    def _attributes(self, contact: Contact) -> dict[str, str]:
        return name_fields(contact, self.settings.first_name, self.settings.last_name) | {PLANFIX_ID: contact.id}

    async def _attribute_names(self) -> set[str]:
        answer = await self.call("attributes", "GET", "/contacts/attributes")
        return {attribute["name"] for attribute in answer.json()["attributes"]}

    async def _find_id_attribute(self) -> str | None:
        return PLANFIX_ID if PLANFIX_ID in await self._attribute_names() else None

    async def _make_id_attribute(self) -> str:
        path = "/contacts/attributes/normal/{}"
        await self.call("create_attribute", "POST", path, PLANFIX_ID, json={"type": "text"})
        return PLANFIX_ID

    def _pages(self, operation: str, template: str, *parts: object, size: int = 50) -> AsyncIterator[Any]:
        """All items of a listing, which stand under the last word of its path."""

        async def page_at(offset: int) -> list[Any]:
            answer = await self.call(operation, "GET", template, *parts, query={"limit": size, "offset": offset})
            return answer.json().get(template.rpartition("/")[2]) or []

        return by_offset(page_at, size)
