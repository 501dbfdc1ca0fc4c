"""HubSpot: static lists of contacts (CRM API v3). Quirks: docs/providers/hubspot.md."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from providers.answers import CallRefused, ErrorTable
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
    Outcome,
    Postponed,
    Reason,
    Rejected,
    Secret,
    Settings,
    redact,
)
from providers.concurrency import chunks
from providers.http import Auth, HeaderAuth, Query
from providers.hubspot.preferences import OptOuts, Preferences
from providers.hubspot.records import PLANFIX_ID, members_in, reason_of
from providers.names import name_fields, without
from providers.pace import Rate
from providers.paging import by_cursor
from providers.plan import Found
from providers.rest import Check, Needed, RestProvider

AT_ONCE: Final = 100  # contacts in one upsert or read
_CONTACTS: Final = "/crm/v3/objects/contacts"
_LISTS: Final = "/crm/v3/lists"
_PROPERTIES: Final = "/crm/v3/properties/contacts"
_KIND_OF_OBJECT: Final = "0-1"  # contacts
_MISSING_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Kept:
    """What of a record decides over a change of address: its main address, and the subscription types that the
    person has unsubscribed from."""

    main_address: str
    types: Sequence[int] = ()


class HubSpotSettings(Settings, frozen=True, kw_only=True):
    token: Annotated[Secret, Meta(description="access token of a private app (Settings, Integrations, Private Apps)")]


class HubSpotProvider(RestProvider[HubSpotSettings]):
    """Static lists. A list says nothing of consent: HubSpot keeps opt-outs by address, apart from contacts, for one
    subscription type or for all mail. Nothing here subscribes anybody; only a new address must be given the opt-outs
    of the old one."""

    name = "hubspot"
    title = "HubSpot"
    settings_type = HubSpotSettings
    capabilities = Capabilities(
        list_is="a static list of contacts",
        renames_address=True,
        tells_opt_outs=False,
        equal_names=False,
        takes_opt_outs=True,
        unsupported=(
            "Making contacts marketing contacts: HubSpot lets no API do that. Contacts that are none get no marketing"
            " mail until somebody sets them, or a workflow or the settings of new contacts do.",
            "Telling another service of opt-outs that no contact of HubSpot has, or only as an additional address.",
        ),
    )
    limits = Limits(
        batch_size=1000,
        parallel_calls=4,
        list_name_chars=200,
        calls="100 in 10 seconds, and 250,000 a day, on the smallest plans",
    )
    default_base_url = "https://api.hubapi.com"
    errors = ErrorTable(
        codes=lambda body: (body[key] for key in ("subCategory", "category") if body.get(key)) if body else (),
        by_code={"ILS.DUPLICATE_LIST_NAMES": Reason.NAME_TAKEN},
        marks=frozenset({"correlationId"}),
    )
    rates: ClassVar = {"": [Rate(95, 10)]}  # of 100: other apps may call too
    key_advice = Message(
        "Make a private app in HubSpot (Settings, Integrations, Private Apps) with the scopes crm.lists.read,"
        " crm.lists.write, crm.objects.contacts.read, crm.objects.contacts.write, crm.schemas.contacts.read,"
        " crm.schemas.contacts.write and communication_preferences.read_write."
    )

    def __init__(self, settings: HubSpotSettings) -> None:
        super().__init__(settings)
        self._preferences = Preferences(self.call)
        self._property = Needed(self._find_property, self._make_property)

    def auth(self) -> Auth:
        return HeaderAuth(self.settings.token, prefix="Bearer ")

    # Lists

    def list_name(self, name: str, number: int = 1) -> str:
        return super().list_name(without(name, "/"), number)  # a slash would not reach `find_list` whole

    async def find_list(self, name: str) -> str | None:
        path = f"{_LISTS}/object-type-id/{{}}/name/{{}}"
        answer = await self.call("find_list", "GET", path, _KIND_OF_OBJECT, name, accept=[404])
        if answer.status == 404:
            return None
        found = answer.json()["list"]
        return str(found["listId"]) if found["name"] == name else None

    async def has_list(self, list_id: str) -> bool:
        return (await self.call("list", "GET", f"{_LISTS}/{{}}", list_id, accept=[404])).status != 404

    async def create_list(self, name: str) -> str:
        body = {"name": name, "objectTypeId": _KIND_OF_OBJECT, "processingType": "MANUAL"}
        return str((await self.call("create_list", "POST", _LISTS, json=body)).json()["list"]["listId"])

    async def delete_list(self, list_id: str) -> None:
        if self.is_list(list_id):
            await self.call("delete_list", "DELETE", f"{_LISTS}/{{}}", list_id, accept=[404])

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        """Records, and what their addresses have opted out of; of an address that no record has, its opt-outs alone."""
        records = await self.look_up_leaving(list_id, contacts)
        return await self.one_by_one(list(zip(contacts, records, strict=True)), lambda pair: self._with_opt_outs(*pair))

    async def _with_opt_outs(self, contact: Contact, record: Found | None) -> Found | None:
        found = record or Found("", contact.address, raw=_Kept(contact.address.lower()))
        opt_outs = OptOuts()
        for address in {found.address.lower(), found.raw.main_address} - {""}:
            opt_outs |= await self._preferences.of(address)
        if record is None and opt_outs == OptOuts():
            return None
        kept = replace(found.raw, types=sorted(opt_outs.types))
        return replace(found, opted_out="unsubscribed" if opt_outs.of_all else None, raw=kept)

    async def look_up_leaving(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        addresses = [contact.address for contact in contacts if contact.address]
        ids = [str(contact.provider_contact_id) for contact in contacts if not contact.address]
        properties = ["email", "hs_additional_emails"]
        found: dict[str, Found] = {}
        for person in [*await self._read(addresses, properties, "email"), *await self._read(ids, properties)]:
            main, more = ((person["properties"].get(name) or "").lower() for name in properties)
            for key, address in (person["id"], main), (main, main), *((one, one) for one in more.split(";")):
                found[str(key)] = Found(str(person["id"]), address, raw=_Kept(main))
        return [found.get(contact.known_by.lower()) for contact in contacts]

    async def _read(self, ids: Sequence[str], properties: Sequence[str], id_property: str = "") -> list[Any]:
        """The records of these ids, in no order; who is not there is left out."""

        async def part(some: Sequence[str]) -> list[Any]:
            body: dict[str, Any] = {"inputs": [{"id": one} for one in some], "properties": properties}
            if id_property:
                body["idProperty"] = id_property
            answer = await self.call("read", "POST", f"{_CONTACTS}/batch/read", json=body)
            return list(answer.json()["results"])

        parts = await self.one_by_one(chunks(ids, AT_ONCE), part)
        return [record for some in parts for record in some]

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        await self._property.get()
        told = [one for part in await self.one_by_one(chunks(contacts, AT_ONCE), self._upsert) for one in part]
        ids = [one for one in told if isinstance(one, str)]
        missing = await self._add(list_id, ids) if ids else set()
        gone = Postponed(_MISSING_AGAIN_S, Reason.CONTACT_REFUSED, "HubSpot did not know the contact any more")
        return [(gone if one in missing else Delivered(one)) if isinstance(one, str) else one for one in told]

    async def _upsert(self, contacts: Sequence[Contact]) -> list[str | Rejected]:
        """The ids of these contacts' records, made or updated.

        HubSpot marks results and errors with the `objectWriteTraceId` that came with the input.
        """
        inputs = [
            {
                "idProperty": "email",
                "id": contact.address,
                "objectWriteTraceId": str(index),
                "properties": {"email": contact.address, PLANFIX_ID: contact.id}
                | name_fields(contact, "firstname", "lastname"),
            }
            for index, contact in enumerate(contacts)
        ]
        try:
            answer = await self.call("upsert", "POST", f"{_CONTACTS}/batch/upsert", json={"inputs": inputs})
        except CallRefused as refused:
            if refused.status not in (400, 409):
                raise
            self._property.forget()  # somebody may have deleted it
            raise ContactRefused(reason_of(refused.answer.text()), refused.detail) from refused
        told = answer.json()
        ids = {result["objectWriteTraceId"]: str(result["id"]) for result in told["results"]}
        refusals = {
            trace: Rejected(reason_of(str(error)), redact(str(error.get("message"))))
            for error in told.get("errors") or ()
            for trace in (error.get("context") or {}).get("objectWriteTraceId") or ()
        }
        if len(ids.keys() | refusals.keys()) < len(contacts):
            raise ContactRefused(detail=f"upsert: {answer.status} {answer.text()}")
        return [ids.get(str(index)) or refusals[str(index)] for index in range(len(contacts))]

    async def _add(self, list_id: str, ids: Sequence[str]) -> set[str]:
        """Puts records on the list; the ids that HubSpot does not know."""
        try:
            answer = await self.call("add", "PUT", f"{_LISTS}/{{}}/memberships/add", list_id, json=ids)
        except CallRefused as refused:
            if refused.status == 404:
                await self.require_there(list_id, refused)
            raise
        return {str(one) for one in answer.json().get("recordIdsMissing") or ()}

    async def carry_over(self, list_id: str, moving_on: Sequence[tuple[Found, Contact]]) -> None:
        copies = [(contact.address, type_id) for record, contact in moving_on for type_id in record.raw.types]
        await self.one_by_one(copies, lambda copy: self._preferences.unsubscribe(*copy))

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        await self.one_by_one(contacts, lambda contact: self._preferences.unsubscribe(contact.address))

    async def rename(self, list_id: str, record: Found, contact: Contact) -> bool:
        if not record.id or record.address != record.raw.main_address:
            return False  # the contact keeps its main address
        body, path = {"properties": {"email": contact.address}}, f"{_CONTACTS}/{{}}"
        return (await self.call("rename", "PATCH", path, record.id, json=body, accept=[400, 404, 409])).ok

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        ids = [record.id for record in records if record.id]
        if ids:
            await self.call("remove", "PUT", f"{_LISTS}/{{}}/memberships/remove", list_id, json=ids, accept=[404])

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        opt_outs = await self._preferences.properties()
        properties = ["email", "firstname", "lastname", PLANFIX_ID, *opt_outs]
        async for page in self._pages("members", f"{_LISTS}/{{}}/memberships", list_id, query={"limit": 250}):
            for member in members_in(await self._read([str(one["recordId"]) for one in page], properties), opt_outs):
                yield member

    async def kept_out(self) -> AsyncIterator[Member]:
        """Of all contacts: a search, which could be for those who are out alone, ends after 10,000. Addresses without a
        contact are in the legacy subscriptions timeline alone, every change of it, which wants another scope."""
        opt_outs = await self._preferences.properties()
        query: Query = {"limit": AT_ONCE, "properties": ",".join(["email", *opt_outs])}
        async for page in self._pages("kept_out", _CONTACTS, query=query):
            for member in members_in(page, opt_outs):
                if member.state is MemberState.OPTED_OUT:
                    yield member

    def _pages(self, operation: str, template: str, *parts: object, query: Query) -> AsyncIterator[list[Any]]:
        async def page_after(after: str | None) -> tuple[list[list[Any]], str | None]:
            asked = {**query, "after": after} if after else query
            page = (await self.call(operation, "GET", template, *parts, query=asked)).json()
            return [page["results"]], ((page.get("paging") or {}).get("next") or {}).get("after")

        return by_cursor(page_after)

    def checks(self) -> Sequence[Check]:
        return (self._check_contacts, self._check_lists, self._check_preferences, self._check_property)

    async def _check_contacts(self) -> Finding:
        answer = await self.call("check", "GET", _CONTACTS, query={"limit": 1})
        left = answer.headers.get("x-hubspot-ratelimit-daily-remaining")
        if not left:
            return Finding(True, Message("the token may read contacts"))
        return Finding(True, Message("the token may read contacts; %(count)s calls are left today", count=left))

    async def _check_lists(self) -> Finding:
        answer = await self.call("check", "POST", f"{_LISTS}/search", json={"count": 1, "processingTypes": ["MANUAL"]})
        count = answer.json().get("total", 0)
        return Finding(True, Message("the token may read lists; the account has %(count)s static ones", count=count))

    async def _check_preferences(self) -> Finding:
        count = len(await self._preferences.types())
        return Finding(True, Message("the token may read opt-outs, of %(count)s subscription types", count=count))

    async def _check_property(self) -> Finding:
        if await self._find_property():
            return Finding(True, Message("the property %(name)s is there", name=PLANFIX_ID))
        return Finding(True, Message("the property %(name)s will be made with the first contact", name=PLANFIX_ID))

    # What the rest is made of

    async def _find_property(self) -> str | None:
        answer = await self.call("property", "GET", f"{_PROPERTIES}/{{}}", PLANFIX_ID, accept=[404])
        return None if answer.status == 404 else PLANFIX_ID

    async def _make_property(self) -> str:
        body = {"name": PLANFIX_ID, "label": "Planfix ID", "groupName": "contactinformation", "type": "string"}
        await self.call("create_property", "POST", _PROPERTIES, json=body | {"fieldType": "text"})
        return PLANFIX_ID
