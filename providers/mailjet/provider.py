"""Mailjet, Email API v3: contact lists."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from providers.answers import CallRefused, addresses_in
from providers.base import (
    Capabilities,
    Choice,
    Contact,
    ContactRefused,
    Delivered,
    Limits,
    Member,
    MemberState,
    Message,
    Outcome,
    Reason,
    Rejected,
    Secret,
    Settings,
    Transient,
)
from providers.concurrency import chunks
from providers.http import Auth, BasicAuth
from providers.jobs import KnownAs, Polling, follow
from providers.mailjet.records import (
    ERRORS,
    PLANFIX_ID,
    UNSUBSCRIBED,
    did_something,
    failure_of,
    first,
    has_ended,
    id_of,
    kept_out,
    row_of,
    yes,
)
from providers.paging import until_empty
from providers.plan import Found, told_by_report
from providers.rest import Check, NeededFields, RestProvider

SINGLE_UP_TO: Final = 10  # contacts that go one by one; more are a job
READ_FOR_MORE_THAN: Final = 50  # removals at one time: the list is read instead of asking for each
ADD: Final = "addnoforce"  # never "addforce", which subscribes again who unsubscribed
REMOVE: Final = "remove"
_PAGE: Final = 1000
_MANAGE_ONE: Final = "/v3/REST/contactslist/{}/managecontact"
_MANAGE_MANY: Final = "/v3/REST/contactslist/{}/managemanycontacts"
_REPORT: Final = "/v3/DATA/batchjob/{}/JSONError/application:json/LAST"


class MailjetSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret, Meta(description="the API key (Account settings, REST API, API key management)")]
    secret_key: Annotated[Secret, Meta(description="the secret key that belongs to it")]
    first_name: Annotated[
        str, Meta(min_length=1, description="contact property that holds first names; made when missing")
    ] = "firstname"
    last_name: Annotated[
        str, Meta(min_length=1, description="contact property that holds last names; made when missing")
    ] = "lastname"


class MailjetProvider(RestProvider[MailjetSettings]):
    """Lists of an account. A contact is the account's and is on any number of lists. Who unsubscribes leaves one list
    and stays on it with a mark; who is excluded gets no campaign at all. The address is the id: jobs tell no other."""

    name = "mailjet"
    title = "Mailjet"
    settings_type = MailjetSettings
    capabilities = Capabilities(
        list_is="a contact list",
        renames_address=False,
        tells_opt_outs=False,
        equal_names=False,
        asynchronous=True,
        takes_opt_outs=True,
        unsupported=(
            "An address cannot be changed: the new one becomes a contact with what Planfix tells, and the old one is"
            " taken off the list.",
        ),
    )
    limits = Limits(batch_size=5000, parallel_calls=4, list_name_chars=100)
    default_base_url = "https://api.mailjet.com"
    errors = ERRORS
    key_advice = Message(
        "Copy the API key and its secret key from Mailjet (Account settings, REST API, API key management). The secret"
        " key is shown only once; a new one can be made there."
    )
    polling: ClassVar = Polling(first_s=1, longest_s=30, budget_s=3600)

    def __init__(self, settings: MailjetSettings) -> None:
        super().__init__(settings)
        self._first_name = settings.first_name.lower()
        self._last_name = settings.last_name.lower()
        names = (self._first_name, self._last_name, PLANFIX_ID)
        self._fields = NeededFields(names, self._properties, self._make_property)

    def auth(self) -> Auth:
        return BasicAuth(self.settings.api_key.reveal(), self.settings.secret_key)

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async for one in self._pages("lists", "contactslist"):
            if not yes(one.get("IsDeleted")):
                yield str(one["ID"]), one["Name"]

    async def has_list(self, list_id: str) -> bool:
        answer = await self.call("list", "GET", "/v3/REST/contactslist/{}", list_id, accept=[404])
        return answer.status != 404 and not yes(first(answer).get("IsDeleted"))

    async def create_list(self, name: str) -> str:
        answer = await self.call("create_list", "POST", "/v3/REST/contactslist", json={"Name": name})
        return str(first(answer)["ID"])

    async def delete_list(self, list_id: str) -> None:
        """Who unsubscribed is excluded first: the mark goes with the list, and on a new list with the same people they
        would be subscribed again."""
        if not self.is_list(list_id):
            return
        if unsubscribed := await self._unsubscribed(list_id):
            await self._exclude([one["Email"] async for one in self._on(list_id) if id_of(one) in unsubscribed])
        await self.call("delete_list", "DELETE", "/v3/REST/contactslist/{}", list_id, accept=[404])

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        return await self.one_by_one(contacts, lambda contact: self._find(list_id, contact.known_by))

    async def _find(self, list_id: str, address: str) -> Found | None:
        answer = await self.call("find", "GET", "/v3/REST/contact/{}", address, accept=[404])
        if answer.status == 404:
            return None
        unsubscribed = await self._has_unsubscribed(list_id, address)
        how = kept_out(first(answer), unsubscribed is True)
        return Found(address.lower(), address, how, on_list=unsubscribed is not None)

    async def look_up_leaving(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        """Only the mark of having unsubscribed from this list would go with the membership."""
        addresses = [contact.known_by for contact in contacts]
        if len(contacts) > READ_FOR_MORE_THAN:
            unsubscribed = await self._unsubscribed(list_id)
            marks = {one["Email"].lower(): id_of(one) in unsubscribed async for one in self._on(list_id)}
            told = [marks.get(address.lower()) for address in addresses]
        else:
            told = await self.one_by_one(addresses, lambda address: self._has_unsubscribed(list_id, address))
        return [
            None if mark is None else Found(address.lower(), address, UNSUBSCRIBED if mark else None)
            for address, mark in zip(addresses, told, strict=True)
        ]

    async def _has_unsubscribed(self, list_id: str, address: str) -> bool | None:
        """Whether somebody unsubscribed from the list; None for who is not on it."""
        path, query = "/v3/REST/contact/{}/getcontactslists", {"Limit": _PAGE}
        answer = await self.call("find_lists", "GET", path, address, query=query, accept=[404])
        if answer.status == 404:
            return None
        lists = answer.json()["Data"]
        mark = next((yes(one["IsUnsub"]) for one in lists if str(one["ListID"]) == list_id), None)
        if mark is None and int(answer.json().get("Total") or 0) > len(lists):
            raise Transient("find_lists: not all lists of a contact were told")
        return mark

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        await self._fields.get()
        if len(contacts) <= SINGLE_UP_TO:
            return await self.one_by_one(contacts, lambda contact: self._put_one(list_id, contact))
        async with self.job(list_id, contacts) as known_as:
            refused = await self._import(list_id, contacts, known_as)
        return told_by_report(contacts, refused, "refused by Mailjet's report")

    async def _put_one(self, list_id: str, contact: Contact) -> Outcome:
        try:
            await self.call("upsert", "POST", _MANAGE_ONE, list_id, json={"Action": ADD, **self._row(contact)})
        except CallRefused as refused:
            await self.require_fault_of_contact(list_id, refused, self._fields)
            return Rejected(Reason.INVALID_ADDRESS, refused.detail)
        return Delivered(contact.address.lower())

    async def _import(self, list_id: str, contacts: Sequence[Contact], known_as: KnownAs) -> set[str]:
        """One job for all; the addresses that it refused. A refusal that names nobody is halved by the bridge."""
        rows = [self._row(contact) for contact in contacts]
        try:
            body = {"Action": ADD, "Contacts": rows}
            number, job = await self._job("import", _MANAGE_MANY, list_id, json=body, known_as=known_as)
        except CallRefused as refused:
            await self.require_fault_of_contact(list_id, refused, self._fields)
            raise ContactRefused(detail=refused.detail) from refused
        failure = failure_of(job)
        if failure is None:
            return set()
        await self.require_fault_of_contact(list_id, failure, self._fields)
        report = await self.call("import_report", "GET", _REPORT, number, accept=[404], reads_json=False)
        named = addresses_in(report)
        if not (named and did_something(job)):
            raise failure
        return named

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        going = [record.address for record in records if record.on_list and record.opted_out != UNSUBSCRIBED]
        if len(going) <= SINGLE_UP_TO:
            await self.one_by_one(going, lambda address: self._take_off_one(list_id, address))
            return
        for some in chunks(going, self.limits.batch_size):
            rows = [{"Email": address} for address in some]
            try:
                _, job = await self._job("remove", _MANAGE_MANY, list_id, json={"Action": REMOVE, "Contacts": rows})
            except CallRefused as refused:
                if refused.status == 404:
                    return
                raise
            if failure := failure_of(job):
                raise Transient(failure.detail)

    async def _take_off_one(self, list_id: str, address: str) -> None:
        body = {"Action": REMOVE, "Email": address}
        await self.call("remove", "POST", _MANAGE_ONE, list_id, json=body, accept=[404])

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        await self._exclude([contact.address for contact in contacts])

    async def _exclude(self, addresses: Sequence[str]) -> None:
        """Keeps addresses out of every campaign of the account; who is unknown there is made."""
        for some in chunks(addresses, self.limits.batch_size):
            rows = [{"Email": address, "IsExcludedFromCampaigns": True} for address in some]
            _, job = await self._job("keep_out", "/v3/REST/contact/managemanycontacts", json={"Contacts": rows})
            if failure := failure_of(job):
                raise failure

    async def _job(
        self, operation: str, path: str, *parts: object, json: Any, known_as: KnownAs | None = None
    ) -> tuple[str, Any]:
        """Starts a job and follows it to its end: its number, and what Mailjet tells of it then."""
        number = str(first(await self.call(operation, "POST", path, *parts, json=json))["JobID"])
        if known_as is not None:
            await known_as(number)
        return number, await follow(lambda: self._look(path, *parts, number), has_ended, self.polling)

    async def has_ended(self, list_id: str, job_id: str) -> bool:
        return has_ended(await self._look(_MANAGE_MANY, list_id, job_id))

    async def _look(self, path: str, *parts: object) -> Any:
        return first(await self.call("job", "GET", path + "/{}", *parts))

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        """Memory holds the properties of all, which Mailjet keeps apart from the contacts."""
        await self.require_there(list_id)
        unsubscribed = await self._unsubscribed(list_id)
        rows = self._pages("members", "contactdata", ContactsList=list_id)
        held = {
            str(one["ContactID"]): {field["Name"].lower(): field["Value"] for field in one["Data"]}
            async for one in rows
        }
        async for one in self._on(list_id):
            properties = held.get(id_of(one), {})
            how = kept_out(one, id_of(one) in unsubscribed)
            yield Member(
                address=one["Email"].lower(),
                state=MemberState.OPTED_OUT if how else MemberState.SUBSCRIBED,
                first_name=properties.get(self._first_name) or "",
                last_name=properties.get(self._last_name) or "",
                id=properties.get(PLANFIX_ID),
                provider_contact_id=one["Email"].lower(),
                how=how or UNSUBSCRIBED,
            )

    async def kept_out(self) -> AsyncIterator[Member]:
        """Of all contacts, 1,000 a call: the reference of `/contact` has a filter for the excluded, but none for who
        complained. Who unsubscribed from a list stays on it, and is told by `members`."""
        async for one in self._pages("kept_out", "contact"):
            if how := kept_out(one, unsubscribed=False):
                yield Member(one["Email"].lower(), MemberState.OPTED_OUT, how=how)

    def _on(self, list_id: str) -> AsyncIterator[Any]:
        """The contacts of a list, those who unsubscribed from it too."""
        return self._pages("members", "contact", ContactsList=list_id)

    async def _unsubscribed(self, list_id: str) -> set[str]:
        """The ids of those who unsubscribed from a list. The filter of that name of `/contact` does not know them."""
        rows = self._pages("unsubscribed", "listrecipient", ContactsList=list_id, Unsub="true")
        return {str(one["ContactID"]) async for one in rows if yes(one["IsUnsubscribed"])}

    def _pages(self, operation: str, resource: str, **filters: str) -> AsyncIterator[Any]:
        """All objects of a kind, or those of one list; none of a list that is gone. Pages shorter than asked for have
        been reported."""

        async def page_at(offset: int) -> list[Any]:
            query: dict[str, str | int] = {**filters, "Limit": _PAGE, "Offset": offset}
            gone = [404] if filters else []
            answer = await self.call(operation, "GET", f"/v3/REST/{resource}", query=query, accept=gone)
            return [] if answer.status == 404 else list(answer.json()["Data"])

        return until_empty(page_at)

    def checks(self) -> Sequence[Check]:
        return (self.check_lists, lambda: self._fields.finding(Message("contact properties")))

    async def choices(self) -> dict[str, list[Choice]]:
        properties = [Choice(name, name) for name in sorted(await self._properties() - {PLANFIX_ID})]
        return {"first_name": properties, "last_name": properties}

    # What the rest is made of

    async def _properties(self) -> set[str]:
        return {one["Name"].lower() async for one in self._pages("properties", "contactmetadata")}

    async def _make_property(self, name: str) -> None:
        body = {"Name": name, "Datatype": "str", "NameSpace": "static"}
        await self.call("create_property", "POST", "/v3/REST/contactmetadata", json=body)

    def _row(self, contact: Contact) -> dict[str, Any]:
        return row_of(contact, self._first_name, self._last_name)
