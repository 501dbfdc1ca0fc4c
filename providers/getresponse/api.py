"""GetResponse's API v3 as far as it is about the account, its lists, and who is on them or was."""

from abc import ABC
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta

from providers.answers import CallRefused
from providers.base import Contact, Message, Reason, Refused, Secret, Settings, Unsupported
from providers.concurrency import chunks
from providers.getresponse.records import (
    ERRORS,
    SEARCHED_AT_ONCE,
    KeyAndDomain,
    is_retired,
    masks_in,
    retired_name,
    search_of,
    who_left,
)
from providers.http import Auth
from providers.jobs import Polling
from providers.pace import Rate
from providers.paging import by_page
from providers.rest import Needed, RestProvider

READ_FOR_MORE_THAN: Final = 50  # contacts that are looked up: the list is read instead of asking for each
PLANFIX_ID: Final = "planfix_id"
_PAGE: Final = 1000


class GetResponseSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret, Meta(description="an API key (Tools, Integrations and API, API)")]
    domain: Annotated[
        str | None, Meta(description="the domain of a GetResponse MAX account", examples=["example.com"])
    ] = None
    delete_list: Annotated[
        Literal["empty_and_rename", "refuse"],
        Meta(description="GetResponse cannot delete lists: empty the list and rename it, or say that it cannot be"),
    ] = "empty_and_rename"


class GetResponseApi(RestProvider[GetResponseSettings], ABC):
    """What is read and written apart from single contacts. GetResponse calls lists campaigns."""

    list_id_pattern = r"\w+"
    default_base_url = "https://api.getresponse.com/v3"
    errors = ERRORS
    rates: ClassVar = {"": [Rate(80), Rate(30_000, 600)], "additions": [Rate(1), Rate(80, 600)]}
    key_advice = Message(
        "Make an API key in GetResponse (Tools, Integrations and API, API). A MAX account also needs its domain, and"
        " base_url with the address of its region."
    )
    polling: ClassVar = Polling(first_s=2, longest_s=60, budget_s=900)

    def __init__(self, settings: GetResponseSettings) -> None:
        super().__init__(settings)
        self.id_field = Needed(self.find_field, self._make_field)

    def auth(self) -> Auth:
        return KeyAndDomain(self.settings.api_key, self.settings.domain)

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async for list_id, name in self.campaigns():
            if not is_retired(list_id, name):
                yield list_id, name

    async def campaigns(self) -> AsyncIterator[tuple[str, str]]:
        async for one in self.pages("lists", "/campaigns"):
            yield one["campaignId"], one["name"]

    async def has_list(self, list_id: str) -> bool:
        return await self._name_of_list(list_id) is not None

    async def _name_of_list(self, list_id: str) -> str | None:
        """The name of a list; None when there is none such, or when it is retired."""
        answer = await self.call("list", "GET", "/campaigns/{}", list_id, accept=[404])
        name = None if answer.status == 404 else answer.json()["name"]
        return None if name is None or is_retired(list_id, name) else str(name)

    async def create_list(self, name: str) -> str:
        body = {"name": name, "optinTypes": {"api": "single"}}
        return str((await self.call("create_list", "POST", "/campaigns", json=body)).json()["campaignId"])

    async def delete_list(self, list_id: str) -> None:
        name = await self._name_of_list(list_id) if self.is_list(list_id) else None
        if name is None:
            return
        if self.settings.delete_list == "refuse":
            raise Unsupported("GetResponse cannot delete lists by its API: delete the list there by hand")
        ids = [one["contactId"] async for one in self.contacts(list_id)]  # all before the first is deleted
        await self.one_by_one(ids, self.delete)
        change = {"name": retired_name(list_id, name)}
        await self.call("rename_list", "POST", "/campaigns/{}", list_id, json=change, accept=[404])

    # Who is on a list, and who was

    async def here(self, list_id: str, contacts: Sequence[Contact]) -> dict[str, Any]:
        """The records of those contacts that are on the list, by address in small letters."""
        wanted = {contact.known_by.lower(): contact.known_by for contact in contacts}
        if len(wanted) <= READ_FOR_MORE_THAN:
            found = await self.one_by_one(list(wanted.values()), lambda address: self._find(list_id, address))
            return {one["email"].lower(): one for one in found if one is not None}
        here: dict[str, Any] = {}
        async for one in self.contacts(list_id):
            if one["email"].lower() in wanted:
                here[one["email"].lower()] = one
                if len(here) == len(wanted):
                    break
        return here

    async def _find(self, list_id: str, address: str) -> Any:
        query = {"query[email]": address, "query[campaignId]": list_id, "additionalFlags": "exactMatch"}
        told = (await self.call("find", "GET", "/contacts", query=query)).json()
        return next((one for one in told if one["email"].lower() == address.lower()), None)

    async def left(self, list_id: str, addresses: Sequence[str]) -> dict[str, str | None]:
        """How people left the list, or one that was retired: a new list with the same people must not bring them back.
        None for who was removed through the API."""
        if not addresses:
            return {}
        retired = [an_id async for an_id, name in self.campaigns() if is_retired(an_id, name)]
        if list_id in retired:
            raise Refused(Reason.LIST_GONE, "the list was retired")
        return who_left(await self.search(list_id, "removed", [list_id, *retired], addresses))

    async def all_who_left(self, list_id: str) -> dict[str, str | None]:
        """How everybody left who left the list, as `left`."""
        removed = self.pages("search", "/search-contacts/contacts", json=search_of("removed", [list_id]))
        return who_left([one async for one in removed])

    async def search(self, list_id: str, kind: str, lists: Sequence[str], addresses: Sequence[str]) -> list[Any]:
        """What GetResponse knows of the people of a kind among some addresses, on any of the lists."""
        bodies = [search_of(kind, lists, some) for some in chunks(addresses, SEARCHED_AT_ONCE)]

        async def search(body: Any) -> list[Any]:
            return [one async for one in self.pages("search", "/search-contacts/contacts", json=body)]

        try:
            return [one for found in await self.one_by_one(bodies, search) for one in found]
        except CallRefused as refused:
            await self.require_there(list_id, refused)
            raise

    async def blocklist(self, list_id: str) -> set[str]:
        """The addresses and domains that the account or the list blocks, in small letters."""
        of_account = await self.account_blocklist()
        of_list = await self.call("blocklist", "GET", "/campaigns/{}/blocklists", list_id, accept=[404])
        return of_account if of_list.status == 404 else of_account | masks_in(of_list)

    async def account_blocklist(self) -> set[str]:
        return masks_in(await self.call("blocklist", "GET", "/accounts/blocklists"))

    async def delete(self, contact_id: str) -> None:
        """Never with a message id, which would make the removal an unsubscription."""
        await self.call("remove", "DELETE", "/contacts/{}", contact_id, accept=[404])

    def contacts(self, list_id: str) -> AsyncIterator[Any]:
        """The contacts of a list, the newest first; none of a list that is gone."""
        query = {"sort[createdOn]": "DESC"}
        return self.pages("members", "/campaigns/{}/contacts", list_id, query=query, accept=[404])

    def pages(
        self,
        operation: str,
        path: str,
        *parts: object,
        query: Mapping[str, str] | None = None,
        json: Any = None,
        accept: Sequence[int] = (),
    ) -> AsyncIterator[Any]:
        async def page(number: int) -> list[Any]:
            answer = await self.call(
                operation, "GET" if json is None else "POST", path, *parts,
                query={**(query or {}), "perPage": _PAGE, "page": number}, json=json, accept=accept,
            )  # fmt: skip
            return [] if answer.status in accept else list(answer.json())

        return by_page(page, _PAGE)

    # The field of Planfix ids

    async def find_field(self) -> str | None:
        async for one in self.pages("fields", "/custom-fields", query={"query[name]": PLANFIX_ID}):
            if one["name"] == PLANFIX_ID:
                return str(one["customFieldId"])
        return None

    async def _make_field(self) -> str:
        body = {"name": PLANFIX_ID, "type": "string", "format": "text", "hidden": "true", "values": []}
        return str((await self.call("create_field", "POST", "/custom-fields", json=body)).json()["customFieldId"])
