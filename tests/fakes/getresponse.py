"""A strict GetResponse: lists with contacts of their own, a queue of additions, people who left, blocklists.

python -m tests.fakes.getresponse --port 9005 --latency-s 0.2
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

from providers.base import Secret
from providers.getresponse import GetResponseProvider, GetResponseSettings
from providers.testing.fake import FakeEsp, FakeHarness, Handler, run_forever, running

KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")
_FORBIDDEN_IN_NAMES = re.compile(r"[/\\@\[\]\U00010000-\U0010ffff]")
_ROW = {"email", "name", "customFieldValues"}
_CYCLES = ["receiving_autoresponder", "not_receiving_autoresponder"]


@dataclass
class Contact:
    id: str
    email: str
    name: str | None
    fields: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Campaign:
    name: str
    contacts: dict[str, Contact] = field(default_factory=dict)  # by id, the oldest first
    by_address: dict[str, Contact] = field(default_factory=dict)  # in small letters
    removed: list[dict[str, Any]] = field(default_factory=list)
    unconfirmed: dict[str, Contact] = field(default_factory=dict)
    masks: list[str] = field(default_factory=list)
    double_opt_in: bool = False


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, code: int, message: str = "refused") -> None:
        super().__init__(message)
        self.answer = refused(status, code, message)


def refused(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"httpStatus": status, "code": code, "codeDescription": "see the code", "message": message}
    context = {"currentLimit": 30000, "timeToReset": "7 seconds"} if status == 429 else {}
    return web.json_response(body | {"moreInfo": "", "context": context, "uuid": "u"}, status=status, headers=headers)


@dataclass
class FakeGetResponse(FakeEsp):
    """Additions come to their list when its contacts are looked at for the time `queue_looks`; those of `lost_domain`
    never do."""

    parallel_limit: int = 10
    queue_looks: int = 1
    refused_domain: str = "refused.test"
    lost_domain: str = "lost.test"
    may_change_addresses: bool = True
    contacts_allowed: int = 1_000_000
    domain: str = ""
    campaigns: dict[str, Campaign] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)  # id → name
    masks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(1)
        self._queue: dict[tuple[str, str], list[Any]] = {}  # by list and address: looks left, contact

    # What tests do by hand

    def new_id(self) -> str:
        return f"p{next(self._numbers)}V"

    def make_list(self, name: str) -> str:
        list_id = self.new_id()
        self.campaigns[list_id] = Campaign(name)
        return list_id

    def remove(self, list_id: str, address: str, reason: str | None) -> None:
        campaign = self.campaigns[list_id]
        contact = campaign.by_address.pop(address.lower())
        del campaign.contacts[contact.id]
        left = {"contactId": contact.id, "email": contact.email, "name": contact.name, "reason": reason}
        campaign.removed.append(left | {"deletedOn": "2026-11-25T12:00:00+0000"})

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        return refused(status, {401: 1014, 429: 1015}.get(status, 1), "see the code", headers)

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, Callable[[web.Request], Any]]] = [
            ("GET", "/accounts", self._get_account),
            ("GET", "/accounts/blocklists", self._get_blocklist),
            ("POST", "/accounts/blocklists", self._post_blocklist),
            ("GET", "/campaigns", self._get_campaigns),
            ("POST", "/campaigns", self._post_campaign),
            ("GET", "/campaigns/{list_id}", self._get_campaign),
            ("POST", "/campaigns/{list_id}", self._rename_campaign),
            ("GET", "/campaigns/{list_id}/contacts", self._get_members),
            ("GET", "/campaigns/{list_id}/blocklists", self._get_list_blocklist),
            ("GET", "/contacts", self._find),
            ("POST", "/contacts", self._add),
            ("POST", "/contacts/batch", self._add_many),
            ("POST", "/contacts/{contact_id}", self._update),
            ("DELETE", "/contacts/{contact_id}", self._delete),
            ("POST", "/search-contacts/contacts", self._search),
            ("GET", "/custom-fields", self._get_fields),
            ("POST", "/custom-fields", self._post_field),
        ]
        return [web.route(method, f"/v3{path}", self._guarded(handler)) for method, path, handler in table]

    def _guarded(self, handler: Callable[[web.Request], Any]) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.get("X-Auth-Token") != f"api-key {KEY}":
                return self.error(401)
            if request.headers.get("X-Domain", "") != self.domain:
                return refused(404, 1024, "Domain not found")
            if re.search(r"[\[\]+]", request.raw_path):
                self.violations.append("a query that is not percent-encoded")
            try:
                answer = handler(request)
                answer = await answer if not isinstance(answer, web.Response) else answer
            except Refusal as refusal:
                answer = refusal.answer
            answer.headers["X-RateLimit-Reset"] = "432 seconds"
            return answer

        return guarded

    @staticmethod
    async def _body(request: web.Request, known: set[str]) -> dict[str, Any]:
        if request.content_type != "application/json":
            raise Refusal(400, 1021)
        told = json.loads(await request.read())
        if unknown := told.keys() - known:
            raise Refusal(400, 1000, f"unknown {sorted(unknown)}")
        return dict(told)

    def _page(
        self, request: web.Request, items: list[Any], known: set[str], show: Callable[[Any], Any] = lambda item: item
    ) -> web.Response:
        if unknown := request.query.keys() - known - {"page", "perPage"}:
            raise Refusal(400, 1000, f"unknown {sorted(unknown)}")
        page, size = int(request.query.get("page", 1)), int(request.query.get("perPage", 100))
        if page < 1 or not 0 < size <= 1000:
            raise Refusal(400, 1000, "page")
        shown = [show(item) for item in items[(page - 1) * size : page * size]]
        return web.json_response(shown, headers={"TotalCount": str(len(items))})

    def _campaign_of(self, request: web.Request) -> Campaign:
        campaign = self.campaigns.get(request.match_info["list_id"])
        if campaign is None:
            raise Refusal(404, 1013, "Resource not found")
        return campaign

    # Account and lists

    def _get_account(self, request: web.Request) -> web.Response:
        return web.json_response({"accountId": "a", "email": "owner@post.test"})

    def _get_blocklist(self, request: web.Request) -> web.Response:
        return web.json_response({"masks": self.masks})

    def _get_list_blocklist(self, request: web.Request) -> web.Response:
        return web.json_response({"masks": self._campaign_of(request).masks})

    async def _post_blocklist(self, request: web.Request) -> web.Response:
        masks = (await self._body(request, {"masks"}))["masks"]
        if request.query.get("additionalFlags") != "add":
            self.violations.append("the whole blocklist was replaced")
        self.masks += [mask for mask in masks if mask not in self.masks]
        return web.json_response({"masks": self.masks})

    def _get_campaigns(self, request: web.Request) -> web.Response:
        shown = [{"campaignId": list_id, "name": one.name} for list_id, one in self.campaigns.items()]
        return self._page(request, shown, set())

    def _check_name(self, name: str) -> None:
        if not 3 <= len(name) <= 64 or _FORBIDDEN_IN_NAMES.search(name):
            raise Refusal(400, 1000, "name")
        if name in {one.name for one in self.campaigns.values()}:
            raise Refusal(409, 1008, "Property value is already taken")

    async def _post_campaign(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"name", "optinTypes"})
        self._check_name(body["name"])
        if body["optinTypes"] != {"api": "single"}:
            raise Refusal(400, 1000, "optinTypes")
        list_id = self.make_list(body["name"])
        return web.json_response({"campaignId": list_id, "name": body["name"]}, status=201)

    def _get_campaign(self, request: web.Request) -> web.Response:
        return web.json_response({"campaignId": request.match_info["list_id"], "name": self._campaign_of(request).name})

    async def _rename_campaign(self, request: web.Request) -> web.Response:
        campaign = self._campaign_of(request)
        name = (await self._body(request, {"name"}))["name"]
        self._check_name(name)
        campaign.name = name
        return self._get_campaign(request)

    # Contacts

    @staticmethod
    def _shown(list_id: str, contact: Contact) -> dict[str, Any]:
        shown = {"contactId": contact.id, "email": contact.email, "name": contact.name, "origin": "api"}
        return shown | {"campaign": {"campaignId": list_id}, "note": None}

    def _work_off(self) -> None:
        """One look at contacts goes by."""
        queue, self._queue = self._queue, {}
        for (list_id, address), (looks, contact) in queue.items():
            if looks > 1:
                self._queue[list_id, address] = [looks - 1, contact]
            elif list_id in self.campaigns:
                self._arrive(self.campaigns[list_id], contact)

    def _arrive(self, campaign: Campaign, contact: Contact) -> None:
        address = contact.email.lower()
        if address in campaign.by_address or address.endswith("@" + self.lost_domain):
            return
        if campaign.double_opt_in:
            campaign.unconfirmed[address] = contact
        else:
            campaign.contacts[contact.id] = campaign.by_address[address] = contact

    def _get_members(self, request: web.Request) -> web.Response:
        self._work_off()
        list_id = request.match_info["list_id"]
        newest = list(reversed(self._campaign_of(request).contacts.values()))
        if request.query.get("sort[createdOn]") != "DESC":
            raise Refusal(400, 1000, "sort")
        return self._page(request, newest, {"sort[createdOn]"}, lambda contact: self._shown(list_id, contact))

    def _find(self, request: web.Request) -> web.Response:
        self._work_off()
        list_id, address = request.query["query[campaignId]"], request.query["query[email]"].lower()
        if request.query.get("additionalFlags") != "exactMatch":
            self.violations.append("a search for addresses that are like another")
        campaign = self.campaigns.get(list_id)
        found = campaign.by_address.get(address) if campaign else None
        known = {"query[email]", "query[campaignId]", "additionalFlags"}
        return self._page(request, [self._shown(list_id, found)] if found else [], known)

    def _take(self, list_id: str, row: dict[str, Any]) -> Contact:
        """A row as a contact, or the refusal of it."""
        if unknown := row.keys() - _ROW:
            raise Refusal(400, 1000, f"unknown {sorted(unknown)}")
        if list_id not in self.campaigns:
            raise Refusal(400, 1001, "campaign")
        campaign, address = self.campaigns[list_id], row["email"].lower()
        if not _ADDRESS.fullmatch(address):
            raise Refusal(400, 1003, f"email {address}")
        if address.endswith("@" + self.refused_domain):
            raise Refusal(400, 1002, f"The domain of {address} takes no mail")
        if {address, address[address.index("@") :]} & {mask.lower() for mask in [*self.masks, *campaign.masks]}:
            raise Refusal(400, 1002, "Cannot add contact that is blocked")
        if not 1 <= len(row.get("name", "x")) <= 128:
            raise Refusal(400, 1000, "name")
        fields = {one["customFieldId"]: one["value"] for one in row.get("customFieldValues", [])}
        if fields.keys() - self.fields.keys():
            raise Refusal(400, 1001, "customFieldId")
        if address in campaign.by_address or (list_id, address) in self._queue:
            raise Refusal(409, 1008, "Contact already added")
        return Contact(self.new_id(), address, row.get("name"), fields)

    def _start(self, list_id: str, contacts: list[Contact]) -> web.Response:
        if sum(len(one.contacts) for one in self.campaigns.values()) + len(contacts) > self.contacts_allowed:
            raise Refusal(400, 1027, "Contact limit reached")
        self._queue |= {(list_id, contact.email): [self.queue_looks, contact] for contact in contacts}
        return web.Response(status=202)

    async def _add(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"campaign", *_ROW})
        list_id = body.pop("campaign")["campaignId"]
        return self._start(list_id, [self._take(list_id, body)])

    async def _add_many(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"campaignId", "contacts"})
        if not 0 < len(body["contacts"]) <= 1000:
            raise Refusal(400, 1004, "contacts")
        return self._start(body["campaignId"], [self._take(body["campaignId"], row) for row in body["contacts"]])

    def _contact_of(self, request: web.Request) -> tuple[str, Contact]:
        for list_id, campaign in self.campaigns.items():
            if found := campaign.contacts.get(request.match_info["contact_id"]):
                return list_id, found
        raise Refusal(404, 1013, "Resource not found")

    async def _update(self, request: web.Request) -> web.Response:
        list_id, contact = self._contact_of(request)
        body = await self._body(request, {"name", "email"})
        campaign = self.campaigns[list_id]
        if not 1 <= len(body.get("name", "x")) <= 128:
            raise Refusal(400, 1000, "name")
        contact.name = body.get("name", contact.name)
        if "email" in body and body["email"].lower() != contact.email:
            if not self.may_change_addresses:
                raise Refusal(400, 1028, "email")
            new = self._take(list_id, {"email": body["email"]})
            campaign.by_address[new.email] = campaign.by_address.pop(contact.email)
            contact.email = new.email
        return web.json_response(self._shown(list_id, contact))

    def _delete(self, request: web.Request) -> web.Response:
        list_id, contact = self._contact_of(request)
        if request.query:
            self.violations.append("a removal that counts as the person's")
        self.remove(list_id, contact.email, "api")
        return web.Response(status=204)

    # Searches and fields

    async def _search(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"subscribersType", "sectionLogicOperator", "section"})
        (kind,) = body["subscribersType"]
        found = {str(id(one)): one for section in self._sections(body) for one in self._matches(kind, section)}
        return self._page(request, list(found.values()), set())

    @staticmethod
    def _sections(body: dict[str, Any]) -> list[dict[str, Any]]:
        sections = body["section"]
        if not 1 <= len(sections) <= 8 or body["sectionLogicOperator"] != "or":
            raise Refusal(400, 1000, "section")
        for section in sections:
            if section.keys() != {
                "campaignIdsList", "logicOperator", "subscriberCycle", "subscriptionDate", "conditions",
            }:  # fmt: skip
                raise Refusal(400, 1000, "section")
            if len(section["conditions"]) > 8 or section["logicOperator"] != "or":
                raise Refusal(400, 1000, "conditions")
            if section["subscriberCycle"] != _CYCLES or section["subscriptionDate"] != "all_time":
                raise Refusal(400, 1000, "section")
        return list(sections)

    def _matches(self, kind: str, section: dict[str, Any]) -> Iterator[dict[str, Any]]:
        wanted = set()
        for condition in section["conditions"]:
            of = {name: condition[name] for name in ("conditionType", "operatorType", "operator")}
            if of != {"conditionType": "email", "operatorType": "string_operator", "operator": "is"}:
                raise Refusal(400, 1000, "conditions")
            wanted.add(condition["value"].lower())
        for list_id in section["campaignIdsList"]:
            if list_id not in self.campaigns:
                raise Refusal(400, 1001, "campaignIdsList")
            campaign = self.campaigns[list_id]
            people: list[dict[str, Any]] = campaign.removed
            if kind == "unconfirmed":
                people = [self._shown(list_id, one) for one in campaign.unconfirmed.values()]
            elif kind != "removed":
                raise Refusal(400, 1000, "subscribersType")
            yield from (one for one in people if not wanted or one["email"] in wanted)

    def _get_fields(self, request: web.Request) -> web.Response:
        wanted = request.query.get("query[name]", "")
        shown = [{"customFieldId": an_id, "name": name} for an_id, name in self.fields.items() if wanted in name]
        return self._page(request, shown, {"query[name]"})

    async def _post_field(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"name", "type", "format", "hidden", "values"})
        if body["hidden"] not in ("true", "false") or not re.fullmatch(r"[a-z0-9_]{1,128}", body["name"]):
            raise Refusal(400, 1000, "field")
        if body["name"] in self.fields.values():
            raise Refusal(409, 1008)
        field_id = self.new_id()
        self.fields[field_id] = body["name"]
        return web.json_response({"customFieldId": field_id, **body}, status=201)


class GetResponseHarness(FakeHarness):
    fake: FakeGetResponse

    async def lists(self) -> dict[str, str]:
        return {i: one.name for i, one in self.fake.campaigns.items() if not one.name.startswith(f"deleted-{i}")}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        campaign = self.fake.campaigns[list_id]
        masks = {*self.fake.masks, *campaign.masks}
        return {one.email: (one.name or "", "") for one in campaign.contacts.values() if one.email not in masks}

    async def opt_out(self, address: str) -> None:
        on = [i for i, one in self.fake.campaigns.items() if address.lower() in one.by_address]
        for list_id in on:
            self.fake.remove(list_id, address, "unsubscribe")
        if not on:
            self.fake.masks.append(address.lower())

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.campaigns.pop(list_id)

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def getresponse(
    settings: dict[str, Any] | None = None, **knobs: Any
) -> AbstractAsyncContextManager[GetResponseHarness]:
    """A running fake and an open provider on it; `settings` replace those of the provider."""
    fake = FakeGetResponse(**knobs)

    def harness() -> GetResponseHarness:
        made = GetResponseSettings(api_key=Secret(KEY), base_url=f"{fake.base_url}/v3", **(settings or {}))
        return GetResponseHarness(fake, GetResponseProvider(made), [KEY])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeGetResponse, key=KEY)
