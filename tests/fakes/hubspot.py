"""A strict HubSpot: static lists, contacts with unique addresses, communication preferences by address.

python -m tests.fakes.hubspot --port 9005 --latency-s 0.2
"""

import json
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

from providers.base import Secret
from providers.hubspot import HubSpotProvider, HubSpotSettings
from providers.testing.fake import FakeEsp, FakeHarness, Handler, run_forever, running

KEY = "pat-eu1-fake-token-of-the-tests-0123456789abcdef"
MARKETING, NEWS = 33583163, 39644612  # subscription types
ALL = 0
_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")


@dataclass
class Record:
    id: str
    properties: dict[str, str]
    more_addresses: list[str] = field(default_factory=list)

    def has(self) -> list[str]:
        return [self.properties["email"], *self.more_addresses]


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, category: str, message: str = "refused", sub_category: str | None = None) -> None:
        super().__init__(category)
        body = {"status": "error", "message": message, "correlationId": "c0ffee", "category": category}
        self.answer = web.json_response(body | ({"subCategory": sub_category} if sub_category else {}), status=status)


@dataclass
class FakeHubSpot(FakeEsp):
    """`opt_outs` holds, by address, the subscription types that it is out of, and ALL. A bad address fails the whole
    upsert, or with `names_bad_ones` is named in an answer of 207."""

    parallel_limit: int = 4
    names_bad_ones: bool = False
    refused_domain: str = "refused.test"
    missing_scope: str = ""  # a part of the paths that the token has no right to
    lists: dict[str, str] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    properties: set[str] = field(default_factory=lambda: {"email", "firstname", "lastname"})
    records: dict[str, Record] = field(default_factory=dict)
    opt_outs: dict[str, set[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(101)
        self._owners: dict[str, Record] = {}  # by address

    # What tests do by hand

    def make_list(self, name: str) -> str:
        list_id = str(next(self._numbers))
        self.lists[list_id] = name
        self.members[list_id] = set()
        return list_id

    def drop_list(self, list_id: str) -> None:
        self.lists.pop(list_id, None)
        self.members.pop(list_id, None)

    def drop_record(self, address: str) -> None:
        record = self._owners[address]
        del self.records[record.id]
        self._owners = {a: owner for a, owner in self._owners.items() if owner is not record}
        for ids in self.members.values():
            ids.discard(record.id)

    def record(self, address: str) -> Record:
        if address.lower() not in self._owners:
            record = Record(str(next(self._numbers)), {"email": address.lower()})
            self.records[record.id] = self._owners[address.lower()] = record
        return self._owners[address.lower()]

    def add_address(self, address: str, more: str) -> None:
        record = self.record(address)
        record.more_addresses.append(more)
        self._owners[more] = record

    def is_out(self, address: str) -> bool:
        return bool(self.opt_outs.get(address))

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        category = {401: "INVALID_AUTHENTICATION", 429: "RATE_LIMITS"}.get(status, "INTERNAL_ERROR")
        body = {"status": "error", "message": "see the category", "correlationId": "c0ffee", "category": category}
        return web.json_response(body, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        contacts, statuses = "/crm/v3/objects/contacts", "/communication-preferences/v4/statuses/{address}"
        table: list[tuple[str, str, Callable[[web.Request], Any]]] = [
            ("POST", "/crm/v3/lists", self._post_list),
            ("POST", "/crm/v3/lists/search", self._search_lists),
            ("GET", "/crm/v3/lists/object-type-id/0-1/name/{name}", self._get_list_by_name),
            ("GET", "/crm/v3/lists/{list_id}", self._get_list),
            ("DELETE", "/crm/v3/lists/{list_id}", self._delete_list),
            ("GET", "/crm/v3/lists/{list_id}/memberships", self._get_members),
            ("PUT", "/crm/v3/lists/{list_id}/memberships/add", self._add),
            ("PUT", "/crm/v3/lists/{list_id}/memberships/remove", self._remove),
            ("GET", contacts, self._get_contacts),
            ("POST", f"{contacts}/batch/read", self._read),
            ("POST", f"{contacts}/batch/upsert", self._upsert),
            ("PATCH", f"{contacts}/{{id}}", self._patch),
            ("GET", "/crm/v3/properties/contacts/{name}", self._get_property),
            ("POST", "/crm/v3/properties/contacts", self._post_property),
            ("GET", "/communication-preferences/v4/definitions", self._get_types),
            ("GET", statuses, self._get_statuses),
            ("POST", statuses, self._post_status),
            ("GET", f"{statuses}/unsubscribe-all", self._get_wide),
            ("POST", f"{statuses}/unsubscribe-all", self._post_wide),
        ]
        return [web.route(method, path, self._guarded(handler)) for method, path, handler in table]

    def _guarded(self, handler: Callable[[web.Request], Any]) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != f"Bearer {KEY}":
                return self.error(401)
            try:
                if self.missing_scope and self.missing_scope in request.path:
                    raise Refusal(403, "MISSING_SCOPES", "The scope needed for this API call isn't available")
                answer = handler(request)
                return await answer if not isinstance(answer, web.Response) else answer
            except Refusal as refusal:
                return refusal.answer

        return guarded

    async def _body(self, request: web.Request, known: set[str]) -> dict[str, Any]:
        told = json.loads(await request.read())
        if unknown := told.keys() - known:
            raise Refusal(400, "VALIDATION_ERROR", f"unknown {sorted(unknown)}")
        return dict(told)

    # Lists

    async def _post_list(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"name", "objectTypeId", "processingType"})
        if body["objectTypeId"] != "0-1" or body["processingType"] != "MANUAL":
            raise Refusal(400, "VALIDATION_ERROR", "objectTypeId or processingType")
        if body["name"] in self.lists.values():
            raise Refusal(400, "VALIDATION_ERROR", "the name is in use", "ILS.DUPLICATE_LIST_NAMES")
        list_id = self.make_list(body["name"])
        return web.json_response({"list": {"listId": list_id, "name": body["name"]}})

    async def _search_lists(self, request: web.Request) -> web.Response:
        await self._body(request, {"count", "processingTypes"})
        return web.json_response({"lists": [], "total": len(self.lists)})

    def _get_list_by_name(self, request: web.Request) -> web.Response:
        wanted = request.match_info["name"].lower()
        for list_id, name in self.lists.items():
            if name.lower() == wanted:
                return web.json_response({"list": {"listId": list_id, "name": name}})
        raise Refusal(404, "OBJECT_NOT_FOUND")

    def _list_of(self, request: web.Request) -> str:
        list_id = request.match_info["list_id"]
        if list_id not in self.lists:
            raise Refusal(404, "OBJECT_NOT_FOUND", "List does not exist")
        return list_id

    def _get_list(self, request: web.Request) -> web.Response:
        list_id = self._list_of(request)
        return web.json_response({"list": {"listId": list_id, "name": self.lists[list_id]}})

    def _delete_list(self, request: web.Request) -> web.Response:
        self.drop_list(self._list_of(request))
        return web.Response(status=204)

    def _get_members(self, request: web.Request) -> web.Response:
        ids = sorted(self.members[self._list_of(request)], key=int)
        limit, after = int(request.query["limit"]), int(request.query.get("after", 0))
        if limit > 250:
            raise Refusal(400, "VALIDATION_ERROR", "limit")
        body: dict[str, Any] = {"results": [{"recordId": one} for one in ids[after : after + limit]]}
        if after + limit < len(ids):
            body["paging"] = {"next": {"after": str(after + limit)}}
        return web.json_response(body)

    async def _add(self, request: web.Request) -> web.Response:
        list_id, ids = self._list_of(request), await self._ids(request)
        known = ids & self.records.keys()
        self.members[list_id] |= known
        body = {"recordsIdsAdded": sorted(known), "recordIdsMissing": sorted(ids - known), "recordIdsRemoved": []}
        return web.json_response(body)

    async def _remove(self, request: web.Request) -> web.Response:
        list_id = self._list_of(request)
        self.members[list_id] -= await self._ids(request)
        return web.json_response({"recordsIdsAdded": [], "recordIdsMissing": [], "recordIdsRemoved": []})

    async def _ids(self, request: web.Request) -> set[str]:
        ids = json.loads(await request.read())
        if not ids or not all(isinstance(one, str) for one in ids):
            raise Refusal(400, "VALIDATION_ERROR", "a list of ids is wanted")
        return set(ids)

    # Contacts

    def _get_contacts(self, request: web.Request) -> web.Response:
        if unknown := request.query.keys() - {"limit", "after", "properties"}:
            self.violations.append(f"/contacts: unknown parameters {sorted(unknown)}")
        limit, after = int(request.query.get("limit", 10)), int(request.query.get("after", 0))
        if not 0 < limit <= 100:
            raise Refusal(400, "VALIDATION_ERROR", "limit")
        names = request.query.get("properties", "email,firstname,lastname").split(",")
        records = sorted((one for one in self.records.values() if int(one.id) > after), key=lambda one: int(one.id))
        shown = [{"id": one.id, "properties": self._shown(one, names)} for one in records[:limit]]
        body: dict[str, Any] = {"results": shown}
        if len(records) > limit:
            body["paging"] = {"next": {"after": shown[-1]["id"]}}
        headers = {"X-HubSpot-RateLimit-Daily": "250000", "X-HubSpot-RateLimit-Daily-Remaining": "249000"}
        return web.json_response(body, headers=headers)

    def _inputs(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        inputs: list[dict[str, Any]] = body["inputs"]
        keys = {one["id"].lower() for one in inputs}
        if not 0 < len(inputs) <= 100:
            raise Refusal(400, "VALIDATION_ERROR", "100 inputs at most")
        if len(keys) < len(inputs):
            raise Refusal(409, "CONFLICT", "Duplicate IDs found in batch input")
        return inputs

    async def _read(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"inputs", "properties", "idProperty"})
        by = self._owners if body.get("idProperty") == "email" else self.records
        there = {one["id"]: by[key] for one in self._inputs(body) if (key := one["id"].lower()) in by}
        results = [{"id": r.id, "properties": self._shown(r, body["properties"])} for r in there.values()]
        return web.json_response({"results": results}, status=200 if len(there) == len(body["inputs"]) else 207)

    def _shown(self, record: Record, names: Iterable[str]) -> dict[str, str | None]:
        told: dict[str, str | None] = {name: record.properties.get(name) for name in names}
        if "hs_additional_emails" in told:
            told["hs_additional_emails"] = ";".join(record.more_addresses) or None
        out = self.opt_outs.get(record.properties["email"], set())
        if "hs_email_optout" in told:
            told["hs_email_optout"] = "true" if ALL in out else None
            told |= {f"hs_email_optout_{one}": "true" for one in out if one and f"hs_email_optout_{one}" in told}
        return told

    async def _upsert(self, request: web.Request) -> web.Response:
        inputs = self._inputs(await self._body(request, {"inputs"}))
        for one in inputs:
            if unknown := one["properties"].keys() - self.properties:
                raise Refusal(400, "VALIDATION_ERROR", f"PROPERTY_DOESNT_EXIST {sorted(unknown)}")
            if one["idProperty"] != "email" or one["properties"]["email"] != one["id"]:
                raise Refusal(400, "VALIDATION_ERROR", "idProperty")
        bad = [one for one in inputs if not self._is_taken(one["id"])]
        text = "Email address {} is invalid (INVALID_EMAIL)"
        if bad and not self.names_bad_ones:
            raise Refusal(400, "VALIDATION_ERROR", text.format(bad[0]["id"]))
        results = []
        for one in inputs:
            owner = self._owners.get(one["id"].lower())
            if owner is not None and owner.properties["email"] != one["id"].lower():
                raise Refusal(409, "CONFLICT", f"Contact already exists. Existing ID: {owner.id}")
            if one not in bad:
                record = self.record(one["id"])
                record.properties |= one["properties"] | {"email": one["id"].lower()}
                results.append({"id": record.id, "new": not owner, "objectWriteTraceId": one["objectWriteTraceId"]})
        errors = [
            {
                "status": "error",
                "category": "VALIDATION_ERROR",
                "message": text.format(one["id"]),
                "context": {"objectWriteTraceId": [one["objectWriteTraceId"]]},
            }
            for one in bad
        ]
        body = {"status": "COMPLETE", "results": results} | ({"errors": errors, "numErrors": len(bad)} if bad else {})
        return web.json_response(body, status=207 if bad else 200)

    async def _patch(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"properties"})
        record = self.records.get(request.match_info["id"])
        if record is None:
            raise Refusal(404, "OBJECT_NOT_FOUND")
        address = body["properties"]["email"].lower()
        if not self._is_taken(address):
            raise Refusal(400, "VALIDATION_ERROR", "INVALID_EMAIL")
        owner = self._owners.get(address, record)
        if owner is not record:
            raise Refusal(409, "CONFLICT", f"Contact already exists. Existing ID: {owner.id}")
        del self._owners[record.properties["email"]]
        record.properties["email"] = address
        self._owners[address] = record
        return web.json_response({"id": record.id})

    def _is_taken(self, address: str) -> bool:
        """Whether the service takes the address."""
        return bool(_ADDRESS.fullmatch(address)) and not address.lower().endswith("@" + self.refused_domain)

    def _get_property(self, request: web.Request) -> web.Response:
        if request.match_info["name"] not in self.properties:
            raise Refusal(404, "OBJECT_NOT_FOUND")
        return web.json_response({"name": request.match_info["name"]})

    async def _post_property(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"name", "label", "groupName", "type", "fieldType"})
        if body["name"] in self.properties:
            raise Refusal(409, "CONFLICT", "property exists")
        self.properties.add(body["name"])
        return web.json_response(body, status=201)

    # Preferences

    def _get_types(self, request: web.Request) -> web.Response:
        return web.json_response({"results": [{"id": str(one), "isActive": True} for one in (MARKETING, NEWS)]})

    def _address_of(self, request: web.Request) -> str:
        if request.method == "GET" and request.query.get("channel") != "EMAIL":
            raise Refusal(400, "VALIDATION_ERROR", "channel is missing")
        address = request.match_info["address"].lower()
        if not self._is_taken(address):
            raise Refusal(400, "VALIDATION_ERROR", "not an email address")
        return address

    def _get_statuses(self, request: web.Request) -> web.Response:
        out = self.opt_outs.get(self._address_of(request), set())
        results = [
            {"subscriptionId": one, "status": "UNSUBSCRIBED" if one in out else "NOT_SPECIFIED", "channel": "EMAIL"}
            for one in (MARKETING, NEWS)
        ]
        return web.json_response({"status": "SUCCESS", "results": results})

    async def _post_status(self, request: web.Request) -> web.Response:
        known = {"subscriptionId", "statusState", "legalBasis", "legalBasisExplanation", "channel"}
        body = await self._body(request, known)
        if body["statusState"] != "UNSUBSCRIBED":
            self.violations.append(f"a status was set to {body['statusState']}")
        self._put_out(self._address_of(request), body["subscriptionId"])
        return web.json_response({"status": "COMPLETE", "results": []})

    def _get_wide(self, request: web.Request) -> web.Response:
        address = self._address_of(request)
        wide = {"subscriberIdString": address, "status": "UNSUBSCRIBED", "wideStatusType": "PORTAL_WIDE"}
        return web.json_response({"results": [wide] if ALL in self.opt_outs.get(address, set()) else []})

    async def _post_wide(self, request: web.Request) -> web.Response:
        if request.query.get("channel") != "EMAIL":
            raise Refusal(400, "VALIDATION_ERROR", "channel is missing")
        self._put_out(self._address_of(request), ALL)
        return web.json_response({"status": "COMPLETE", "results": []})

    def _put_out(self, address: str, what: int) -> None:
        out = self.opt_outs.setdefault(address, set())
        if what in out:
            raise Refusal(400, "VALIDATION_ERROR", "is out of it as it is")
        out.add(what)


class HubSpotHarness(FakeHarness):
    """People who opt out are out of all mail, or of the subscription type `opts_out_of`."""

    fake: FakeHubSpot
    opts_out_of = ALL

    async def lists(self) -> dict[str, str]:
        return dict(self.fake.lists)

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        records = [self.fake.records[one] for one in self.fake.members.get(list_id, ())]
        return {
            record.properties["email"]: (
                record.properties.get("firstname", ""),
                record.properties.get("lastname", ""),
            )
            for record in records
            if not self.fake.is_out(record.properties["email"])
        }

    async def opt_out(self, address: str) -> None:
        self.fake.opt_outs.setdefault(address.lower(), set()).add(self.opts_out_of)

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(list_id)

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def hubspot(**knobs: Any) -> AbstractAsyncContextManager[HubSpotHarness]:
    """A running fake and an open provider on it."""
    fake = FakeHubSpot(**knobs)

    def harness() -> HubSpotHarness:
        settings = HubSpotSettings(token=Secret(KEY), base_url=fake.base_url)
        return HubSpotHarness(fake, HubSpotProvider(settings), [KEY])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeHubSpot, key=KEY)
