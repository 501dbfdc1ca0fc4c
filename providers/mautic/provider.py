"""Mautic 4 and 5, on a server of one's own: segments without filters. Quirks: docs/providers/mautic.md."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta

from providers.answers import CallRefused, ErrorTable
from providers.base import (
    Capabilities,
    Contact,
    Delivered,
    Finding,
    Limits,
    Member,
    Message,
    OptedOut,
    Outcome,
    Secret,
    Settings,
    Transient,
)
from providers.concurrency import chunks
from providers.http import Auth, BasicAuth, ClientCredentials, Query, chunks_in_query
from providers.mautic.records import (
    NAME_CHARS,
    PLANFIX_ID,
    UNSUBSCRIBED,
    by_index,
    field_of,
    found_in,
    member_of,
    opted_out,
    outcome_of,
    row_of,
)
from providers.names import without
from providers.paging import by_offset
from providers.plan import Found, for_the_rest
from providers.rest import Check, NeededFields, RestProvider

BATCH_LIMIT: Final = 200  # Mautic's own default of api_batch_max_limit
LOOKED_UP_AT_ONCE: Final = 100
_PAGE: Final = 200


class MauticSettings(Settings, frozen=True, kw_only=True):
    base_url: Annotated[
        str, Meta(min_length=1, description="address of Mautic", examples=["https://mautic.example.com"])
    ]
    login: Annotated[
        Literal["basic", "oauth2"], Meta(description="how the bridge logs in: as a user, or with OAuth2 credentials")
    ] = "basic"
    user: Annotated[
        str,
        Meta(
            min_length=1,
            description="name of a Mautic user; with oauth2 the client id (public key)",
            examples=["planfix-bridge"],
        ),
    ]
    password: Annotated[Secret, Meta(description="the user's password; with oauth2 the client secret")]
    contacts_per_call: Annotated[
        int, Meta(ge=1, le=1000, description="fewer for a slow server; at most Mautic's api_batch_max_limit")
    ] = 100


class MauticProvider(RestProvider[MauticSettings]):
    """Segments. A contact is the account's and is in any number of segments. "Do not contact" is a mark of the contact
    that no segment lifts, but of the contact: an address may be in the account several times."""

    name = "mautic"
    title = "Mautic"
    settings_type = MauticSettings
    capabilities = Capabilities(
        list_is="a segment without filters",
        renames_address=True,
        tells_opt_outs=True,
        equal_names=True,
        takes_opt_outs=True,
    )
    limits = Limits(
        batch_size=BATCH_LIMIT,
        parallel_calls=2,
        list_name_chars=191,
        name_chars=NAME_CHARS,
        calls="as many as the server can do; Mautic has no limit unless it is set",
    )
    errors = ErrorTable(marks=frozenset({"errors", "error"}))
    key_advice: ClassVar = Message(
        "Look at user and password. In Mautic, switch on the API and HTTP basic auth (Configuration, API Settings) and"
        " clear the cache after that. The user's role needs all rights to contacts, segments and custom fields."
    )

    def __init__(self, settings: MauticSettings) -> None:
        super().__init__(settings)
        self._fields = NeededFields([PLANFIX_ID], self._account_fields, self._make_field)

    def auth(self) -> Auth:
        if self.settings.login == "basic":
            return BasicAuth(self.settings.user, self.settings.password)
        return ClientCredentials("/oauth/v2/token", self.settings.user, self.settings.password)

    # Lists

    def list_name(self, name: str, number: int = 1) -> str:
        return super().list_name(without(name, "<>"), number)  # Mautic drops what looks like a tag

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async for one in self._pages("segments", "/api/segments", "lists"):
            if not one.get("filters"):  # Mautic itself puts contacts into the others and takes them out
                yield str(one["id"]), one["name"]

    async def has_list(self, list_id: str) -> bool:
        return (await self.call("segment", "GET", "/api/segments/{}", list_id, accept=[404])).status != 404

    async def create_list(self, name: str) -> str:
        # Global, so that the bridge may use it whoever it logs in as later. Not for the preference center: who left
        # there could not be told from whom the bridge removed.
        body = {"name": name, "isPublished": True, "isGlobal": True, "isPreferenceCenter": False}
        answer = await self.call("create_segment", "POST", "/api/segments/new", json=body)
        return str(answer.json()["list"]["id"])

    async def delete_list(self, list_id: str) -> None:
        if self.is_list(list_id):
            await self.call("delete_segment", "DELETE", "/api/segments/{}/delete", list_id, accept=[404])

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        copies: dict[str, list[Any]] = {}
        for raw in await self._where("email", [contact.address for contact in contacts if contact.address]):
            copies.setdefault(field_of(raw, "email").lower(), []).append(raw)
        for raw in await self._where("id", [contact.known_by for contact in contacts if not contact.address]):
            copies[str(raw["id"])] = [raw]
        return [found_in(copies.get(contact.known_by.lower())) for contact in contacts]

    async def _where(self, column: str, values: Sequence[str]) -> list[Any]:
        """All contacts that have one of the values in a column."""

        async def some(part: Sequence[str]) -> list[Any]:
            listed = ",".join('"' + value.replace('"', '""') + '"' for value in part)
            query = {"where[0][col]": column, "where[0][expr]": "in", "where[0][val]": listed}
            return [raw async for raw in self._pages("find", "/api/contacts", "contacts", query)]

        parts = await self.one_by_one(chunks_in_query(dict.fromkeys(values), LOOKED_UP_AT_ONCE), some)
        return [raw for part in parts for raw in part]

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """Only those of whom no copy is out: Mautic writes one of the copies, and looks at the marks of that alone."""
        await self._fields.get()
        found = await self.look_up(list_id, contacts)
        out = {i: OptedOut(one.opted_out, one.id) for i, one in enumerate(found) if one and one.opted_out}
        known = {one.address.lower(): one for one in found if one}

        async def add(others: Sequence[Contact]) -> list[Outcome]:
            parts = chunks(others, self.settings.contacts_per_call)
            told = [outcome for part in await self.one_by_one(parts, write) for outcome in part]
            ids = [int(outcome.provider_contact_id or 0) for outcome in told if isinstance(outcome, Delivered)]
            await self.one_by_one(chunks(ids, self.settings.contacts_per_call), lambda some: self._join(list_id, some))
            return told

        async def write(part: Sequence[Contact]) -> list[Outcome]:
            return await self._write([row_of(contact, known.get(contact.address.lower())) for contact in part])

        return await for_the_rest(out, contacts, add)

    async def _write(self, rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """Makes contacts, or updates those whose address is known."""
        answer = await self.call("upsert", "POST", "/api/contacts/batch/new", json=rows)
        told = answer.json()
        written, errors = by_index(told.get("contacts")), by_index(told.get("errors"))
        return [outcome_of(written.get(index), errors.get(index)) for index in range(len(rows))]

    async def _join(self, list_id: str, contact_ids: Sequence[int]) -> None:
        path = "/api/segments/{}/contacts/add"
        try:
            answer = await self.call("add", "POST", path, list_id, json={"ids": list(contact_ids)})
        except CallRefused as refused:
            await self.require_there(list_id, refused)
            raise
        details = answer.json().get("details") or {}
        if failed := [one for one in contact_ids if not (details.get(str(one)) or {}).get("success")]:
            raise Transient(f"add: {len(failed)} contacts were not put into the segment")

    async def rename(self, list_id: str, record: Found, contact: Contact) -> bool:
        if len(record.raw) > 1:
            return False  # the others would stay in the segment under the old address
        answer = await self.call(
            "rename",
            "PATCH",
            "/api/contacts/{}/edit",
            record.id,
            json={"email": contact.address},
            accept=[400, 404, 422],
        )
        return answer.ok

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        found = await self.look_up(list_id, contacts)
        ids = [str(raw["id"]) for one in found if one for raw in one.raw]
        strangers = [{"email": c.address} for c, one in zip(contacts, found, strict=True) if one is None]
        for part in chunks(strangers, self.settings.contacts_per_call):
            ids += [str(o.provider_contact_id) for o in await self._write(part) if isinstance(o, Delivered)]

        async def mark(contact_id: str) -> None:
            await self.call(
                "keep_out", "POST", "/api/contacts/{}/dnc/email/add", contact_id, json={"reason": UNSUBSCRIBED}
            )

        await self.one_by_one(ids, mark)

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        path = "/api/segments/{}/contact/{}/remove"

        async def remove(contact_id: int) -> None:
            await self.call("remove", "POST", path, list_id, contact_id, accept=[404])

        await self.one_by_one([int(raw["id"]) for record in records for raw in record.raw], remove)

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        segment = (await self.call("segment", "GET", "/api/segments/{}", list_id)).json()["list"]
        query = {"search": f"segment:{segment['alias']}"}
        async for raw in self._pages("members", "/api/contacts", "contacts", query):
            if field_of(raw, "email"):
                yield member_of(raw)

    async def kept_out(self) -> AsyncIterator[Member]:
        # Of all contacts: the search for marks (`dnc`) is of newer versions, and older ones would find nobody by it.
        async for raw in self._pages("kept_out", "/api/contacts", "contacts"):
            if field_of(raw, "email") and opted_out([raw]):
                yield member_of(raw)

    def checks(self) -> Sequence[Check]:
        return (self._check_api, self._check_fields)

    async def _check_api(self) -> Finding:
        try:
            await self.call("segments", "GET", "/api/segments", query={"limit": 1})
        except CallRefused as refused:
            if refused.status != 404:
                raise
            advice = Message(
                "Look at base_url; switch on the API (Configuration, API Settings) and clear Mautic's cache."
            )
            return Finding(False, Message("there is no API at this address"), advice)
        return Finding(True, Message("the login works and may see segments"))

    async def _check_fields(self) -> Finding:
        fields = await self._account_fields()
        email = fields.get("email", {})
        # Mautic itself wrote the name wrong for years.
        if not email.get("isUniqueIdentifier", email.get("isUniqueIdentifer", True)):
            advice = Message("Make the custom field Email a unique identifier in Mautic.")
            return Finding(False, Message("each change of a contact would make another contact"), advice)
        if PLANFIX_ID in fields:
            text = Message("contacts are known by their address; the field %(field)s is there", field=PLANFIX_ID)
        else:
            text = Message(
                "contacts are known by their address; the field %(field)s will be made with the first contact",
                field=PLANFIX_ID,
            )
        return Finding(True, text)

    # What the rest is made of

    async def _account_fields(self) -> dict[str, Any]:
        return {field["alias"]: field async for field in self._pages("fields", "/api/fields/contact", "fields")}

    async def _make_field(self, alias: str) -> None:
        body = {"label": "Planfix ID", "alias": alias, "type": "text"}
        await self.call("create_field", "POST", "/api/fields/contact/new", json=body)

    def _pages(self, operation: str, path: str, key: str, query: Query | None = None) -> AsyncIterator[Any]:
        async def page_at(offset: int) -> list[Any]:
            asked = {**(query or {}), "start": offset, "limit": _PAGE, "orderBy": "id"}
            told = (await self.call(operation, "GET", path, query=asked)).json()
            if not isinstance(told, dict) or key not in told:
                raise Transient(f"{operation}: an answer without {key}, which does not say that there are none")
            return list(by_index(told[key]).values())

        return by_offset(page_at, _PAGE)
