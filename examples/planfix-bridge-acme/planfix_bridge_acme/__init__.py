"""Acme Mail, a made-up service, as a provider: the example of docs/adding-a-provider.md."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final

from anyascii import anyascii
from msgspec import Meta

from providers.answers import CallRefused, ErrorTable
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
    Reason,
    Rejected,
    Secret,
    Settings,
    Transient,
)
from providers.concurrency import chunks
from providers.http import Auth, HeaderAuth
from providers.names import name_fields
from providers.paging import by_page
from providers.plan import Found
from providers.rest import Check, RestProvider

BATCH_SIZE: Final = 100
PAGE_SIZE: Final = 100


class AcmeSettings(Settings, frozen=True, kw_only=True):
    token: Annotated[Secret, Meta(description="a token of Acme Mail (Profile, Tokens)")]


class AcmeProvider(RestProvider[AcmeSettings]):
    """A Planfix list is a list of Acme Mail. A contact is the account's; who unsubscribes does so from everything."""

    name = "acme"
    title = "Acme Mail"
    settings_type = AcmeSettings
    capabilities = Capabilities(
        list_is="a list", renames_address=True, tells_opt_outs=True, equal_names=False, takes_opt_outs=True
    )
    limits = Limits(batch_size=BATCH_SIZE, parallel_calls=4, list_name_chars=80, name_chars=60)
    default_base_url = "https://api.acme.example/v1"
    errors = ErrorTable(
        marks=frozenset({"error"}),
        codes=lambda body: [body["error"]["code"]],
        by_code={"name_taken": Reason.NAME_TAKEN, "plan_full": Reason.PLAN_LIMIT, "busy": Transient},
    )
    key_advice = Message("Make a token in Acme Mail (Profile, Tokens) and put it into `token`.")

    def auth(self) -> Auth:
        return HeaderAuth(self.settings.token, prefix="Bearer ")

    # Lists

    def list_name(self, name: str, number: int = 1) -> str:
        return super().list_name(anyascii(name), number)  # Acme Mail takes names in ASCII only

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async for one in self._pages("lists", "/lists"):
            yield str(one["id"]), one["name"]

    async def has_list(self, list_id: str) -> bool:
        return (await self.call("list", "GET", "/lists/{}", list_id, accept=[404])).status != 404

    async def create_list(self, name: str) -> str:
        return str((await self.call("create_list", "POST", "/lists", json={"name": name})).json()["id"])

    async def delete_list(self, list_id: str) -> None:
        if self.is_list(list_id):
            await self.call("delete_list", "DELETE", "/lists/{}", list_id, accept=[404])

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        return await self.one_by_one(contacts, self._find)

    async def _find(self, contact: Contact) -> Found | None:
        key = contact.address or contact.provider_contact_id
        answer = await self.call("find", "GET", "/contacts/{}", key, accept=[404])
        if answer.status == 404:
            return None
        told = answer.json()
        return Found(str(told["id"]), told["email"], "unsubscribed" if told["unsubscribed"] else None)

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        rows = [
            {"email": contact.address, "external_id": contact.id}
            | {key: name[:60] for key, name in name_fields(contact, "first_name", "last_name").items()}
            for contact in contacts
        ]
        try:
            answer = await self.call("upsert", "PUT", "/lists/{}/contacts", list_id, json={"contacts": rows})
        except CallRefused as refused:
            await self.require_there(list_id, refused)
            raise
        return [_outcome(row) for row in answer.json()["results"]]

    async def rename(self, list_id: str, record: Found, contact: Contact) -> bool:
        body = {"email": contact.address}
        answer = await self.call("rename", "PATCH", "/contacts/{}", record.id, json=body, accept=[404, 409])
        return answer.ok

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        for some in chunks(contacts, BATCH_SIZE):
            await self.call("keep_out", "PUT", "/suppressions", json={"emails": [contact.address for contact in some]})

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        for some in chunks(records, BATCH_SIZE):
            body = {"ids": [int(record.id) for record in some]}
            await self.call("remove", "POST", "/lists/{}/contacts/remove", list_id, json=body, accept=[404])

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        async for one in self._pages("members", "/lists/{}/contacts", list_id):
            yield Member(
                address=one["email"],
                state=MemberState.OPTED_OUT if one["unsubscribed"] else MemberState.SUBSCRIBED,
                first_name=one["first_name"],
                last_name=one["last_name"],
                id=one["external_id"],
                provider_contact_id=str(one["id"]),
            )

    async def kept_out(self) -> AsyncIterator[Member]:
        async for one in self._pages("kept_out", "/suppressions"):
            yield Member(address=one["email"], state=MemberState.OPTED_OUT)

    def checks(self) -> Sequence[Check]:
        return (self._check_lists,)

    async def _check_lists(self) -> Finding:
        await self.call("lists", "GET", "/lists", query={"page": 1})
        return Finding(True, Message("the token works"))

    def _pages(self, operation: str, template: str, *parts: object) -> AsyncIterator[Any]:
        async def page(number: int) -> list[Any]:
            return (await self.call(operation, "GET", template, *parts, query={"page": number})).json()["items"]

        return by_page(page, PAGE_SIZE)


def _outcome(row: dict[str, Any]) -> Outcome:
    match row["status"]:
        case "ok":
            return Delivered(str(row["id"]))
        case "unsubscribed":
            return OptedOut(provider_contact_id=str(row["id"]))
        case "invalid":
            return Rejected(Reason.INVALID_ADDRESS)
    raise Transient(f"upsert: a status that is not documented: {row['status']}")
