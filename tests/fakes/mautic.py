"""A strict Mautic: segments, contacts in several copies, marks, batches, as the fact page and the source say.

python -m tests.fakes.mautic --port 9006 --latency-s 0.2
"""

import csv
import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

from providers.base import Secret
from providers.mautic import MauticProvider, MauticSettings
from providers.mautic.records import NAME_CHARS
from providers.testing.fake import FakeEsp, FakeHarness, Handler, run_forever, running

USER = "planfix"
KEY = "password-of-the-tests-0123456789abcdef"
TOKEN = "token-of-the-tests-0123456789abcdef"
UNSUBSCRIBED, BOUNCED, BY_HAND = 1, 2, 3

_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")
_TAG = re.compile(r"<[^>]*>")
_OWN_FIELDS = ("email", "firstname", "lastname")


@dataclass
class Person:
    id: int
    fields: dict[str, str]
    segments: set[int] = field(default_factory=set)
    marks: list[tuple[str, int]] = field(default_factory=list)  # channel and reason

    @property
    def email(self) -> str:
        return self.fields["email"]

    @property
    def mailable(self) -> bool:
        return all(channel != "email" for channel, _ in self.marks)

    def shown(self) -> dict[str, Any]:
        marks = [
            {"id": n, "reason": reason, "comments": "", "channel": channel, "channelId": None}
            for n, (channel, reason) in enumerate(self.marks)
        ]
        return {"id": self.id, "fields": {"all": {"id": self.id, **self.fields}}, "doNotContact": marks}


@dataclass
class Segment:
    id: int
    name: str
    alias: str
    is_preference_center: bool = False
    filters: list[Any] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "alias": self.alias, "filters": self.filters}


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, message: str = "", **details: Any) -> None:
        super().__init__(message)
        self.told = {"code": status, "message": message, "details": details or [], "type": None}

    def answer(self) -> web.Response:
        return web.json_response({"errors": [self.told]}, status=int(self.told["code"]))


def php(array: Mapping[int, Any]) -> Any:
    """An array of PHP as JSON: a list where its keys are 0, 1, 2…, else an object."""
    if list(array) == list(range(len(array))):
        return list(array.values())
    return {str(key): value for key, value in array.items()}


@dataclass
class FakeMautic(FakeEsp):
    parallel_limit: int = 2
    batch_limit: int = 200
    used_segments: frozenset[int] = frozenset()  # that a campaign needs
    foreign_contacts: frozenset[str] = frozenset()  # addresses of contacts that the user may not edit
    closed_segments: frozenset[int] = frozenset()  # that the user may not see
    unsaid: bool = False  # a batch answers nothing of its last row
    says_nothing: bool = False  # an object without what was asked for
    api: str = "on"  # or "off", or "unknown": the cache was not cleared
    unique_email: bool = True
    refused_domain: str = "refused.test"
    segments: dict[int, Segment] = field(default_factory=dict)
    fields: list[str] = field(default_factory=lambda: list(_OWN_FIELDS))
    people: dict[int, Person] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(1)
        self._by_address: dict[str, list[Person]] = {}

    # What tests do by hand

    def make_list(self, name: str, **more: Any) -> str:
        number = next(self._numbers)
        self.segments[number] = Segment(number, _TAG.sub("", name), f"alias-{number}", **more)
        return str(number)

    def drop_list(self, list_id: int) -> None:
        self.segments.pop(list_id, None)
        for person in self.people.values():
            person.segments.discard(list_id)

    def add(self, address: str) -> Person:
        """A new contact, also where the address is there already."""
        person = Person(next(self._numbers), {"email": address})
        self.people[person.id] = person
        self._by_address.setdefault(address.lower(), []).append(person)
        return person

    def copies(self, address: str) -> list[Person]:
        return self._by_address.get(address.lower(), [])

    def forget(self, address: str) -> None:
        """Deletes all contacts of the address."""
        for person in self._by_address.pop(address.lower(), []):
            del self.people[person.id]

    def readdress(self, person: Person, address: str) -> None:
        self._by_address[person.email.lower()].remove(person)
        person.fields["email"] = address
        self._by_address.setdefault(address.lower(), []).append(person)

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        kind = {401: "access_denied", 403: "api_disabled"}.get(status)
        told = {"code": status, "message": "API authorization denied.", "type": kind}
        if status == 429 and headers is None:
            headers = {"Retry-After": "7"}
        return web.json_response({"errors": [told]}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, Callable[[web.Request, Any], Any]]] = [
            ("GET", "/segments", self._get_segments),
            ("POST", "/segments/new", self._post_segment),
            ("GET", "/segments/{segment}", self._get_segment),
            ("DELETE", "/segments/{segment}/delete", self._delete_segment),
            ("POST", "/segments/{segment}/contacts/add", self._add),
            ("POST", "/segments/{segment}/contact/{contact}/remove", self._remove),
            ("GET", "/contacts", self._get_contacts),
            ("POST", "/contacts/batch/new", self._post_contacts),
            ("PATCH", "/contacts/{contact}/edit", self._patch_contact),
            ("POST", "/contacts/{contact}/dnc/email/add", self._mark),
            ("GET", "/fields/contact", self._get_fields),
            ("POST", "/fields/contact/new", self._post_field),
        ]
        routes = [web.route(method, f"/api{path}", self._guarded(handler)) for method, path, handler in table]
        return [*routes, web.post("/oauth/v2/token", self._token)]

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        told = {"grant_type": "client_credentials", "client_id": USER, "client_secret": KEY}
        if dict(form) != told:
            return self.error(400)
        return web.json_response({"access_token": TOKEN, "expires_in": 3600, "token_type": "bearer"})

    def _guarded(self, handler: Callable[[web.Request, Any], Any]) -> Handler:
        basic = "Basic " + b64encode(f"{USER}:{KEY}".encode()).decode()

        async def guarded(request: web.Request) -> web.StreamResponse:
            if self.api == "unknown":
                return web.Response(status=404, text="<!DOCTYPE html><h1>404</h1>", content_type="text/html")
            if self.api == "off":
                return self.error(403)
            if request.headers.get("Authorization") not in (basic, f"Bearer {TOKEN}"):
                return self.error(401)
            if self.says_nothing and request.method == "GET":
                return web.json_response({})
            body = await request.read()
            if body and request.headers.get("Content-Type") != "application/json":
                self.violations.append("a body that Mautic does not read: no Content-Type of JSON")
            try:
                answer = handler(request, json.loads(body) if body else None)
            except Refusal as refusal:
                return refusal.answer()
            status = 201 if request.path.endswith("/new") else 200
            return web.json_response(answer, status=status)

        return guarded

    def _segment_of(self, request: web.Request) -> Segment:
        segment = self.segments.get(int(request.match_info["segment"]))
        if segment is None:
            raise Refusal(404, "Item was not found.")
        return segment

    def _open_segment(self, request: web.Request) -> int:
        segment = self._segment_of(request)
        if segment.id in self.closed_segments:
            raise Refusal(403, "You do not have access to the requested area/action.")
        return segment.id

    def _contact_of(self, request: web.Request) -> Person:
        person = self.people.get(int(request.match_info["contact"]))
        if person is None:
            raise Refusal(404, "Item was not found.")
        return person

    @staticmethod
    def _page(request: web.Request, key: str, items: list[Any], shown: Callable[[Any], Any]) -> dict[str, Any]:
        start, limit = int(request.query.get("start", 0)), int(request.query.get("limit", 30))
        if request.query.get("orderBy") == "id":
            items = sorted(items, key=lambda item: item.id)
        page = {item.id: shown(item) for item in items[start : start + limit]}
        return {"total": str(len(items)), key: php(page)}

    # Segments

    def _get_segments(self, request: web.Request, body: Any) -> Any:
        return self._page(request, "lists", list(self.segments.values()), Segment.shown)

    def _post_segment(self, request: web.Request, body: Any) -> Any:
        if body.keys() - {"name", "isPublished", "isGlobal", "isPreferenceCenter"} or not body["isGlobal"]:
            self.violations.append("a segment of another kind")
        if not 0 < len(body["name"]) <= 191:
            raise Refusal(400, "name: a name is required", name=["a name is required"])
        number = self.make_list(body["name"], is_preference_center=body["isPreferenceCenter"])
        return {"list": self.segments[int(number)].shown()}

    def _get_segment(self, request: web.Request, body: Any) -> Any:
        return {"list": self._segment_of(request).shown()}

    def _delete_segment(self, request: web.Request, body: Any) -> Any:
        segment = self._segment_of(request)
        if segment.id in self.used_segments:
            raise Refusal(409, f"Segment {segment.id} is used by a campaign")
        self.drop_list(segment.id)
        return {"list": segment.shown() | {"id": None}}

    def _add(self, request: web.Request, body: Any) -> Any:
        number = self._open_segment(request)
        details = {}
        for contact_id in body["ids"]:
            person = self.people.get(contact_id)
            if person:
                person.segments.add(number)
            details[str(contact_id)] = {"success": person is not None}
        return {"success": 1, "details": details or []}

    def _remove(self, request: web.Request, body: Any) -> Any:
        number = self._open_segment(request)
        self._contact_of(request).segments.discard(number)
        return {"success": 1}

    # Contacts

    def _get_contacts(self, request: web.Request, body: Any) -> Any:
        if not request.query.keys() - {"start", "limit", "orderBy"}:
            found = list(self.people.values())
        elif "search" in request.query:
            aliases = {f"segment:{segment.alias}": segment.id for segment in self.segments.values()}
            number = aliases.get(request.query["search"])
            found = [person for person in self.people.values() if number in person.segments]
        else:
            column, expression = request.query["where[0][col]"], request.query["where[0][expr]"]
            (values,) = csv.reader([request.query["where[0][val]"]])
            if expression != "in" or len(request.raw_path) > 8000:
                raise Refusal(400, "no such filter")
            if column == "email":
                found = [person for value in values for person in self.copies(value)]
            else:
                found = [self.people[int(value)] for value in values if int(value) in self.people]
        return self._page(request, "contacts", found, Person.shown)

    def _fault_of(self, row: dict[str, Any]) -> Refusal | None:
        if "doNotContact" in row:
            self.violations.append("marks in an import may be lifted by it")
        address = row.get("email") or ""
        if not _ADDRESS.fullmatch(address) or address.lower().endswith("@" + self.refused_domain):
            return Refusal(400, f"email: {address} is not valid", email=["not valid"])
        if address in self.foreign_contacts:
            return Refusal(403, "You do not have access to the requested area/action.")
        for name in ("firstname", "lastname"):
            if len(row.get(name) or "") > NAME_CHARS:
                return Refusal(400, f"{name}: too long", **{name: ["too long"]})
        return None

    def _write(self, person: Person, row: dict[str, Any]) -> None:
        for name in self.fields:
            if row.get(name) or (name in row and row.get("overwriteWithBlank")):
                person.fields[name] = row[name]

    def _post_contacts(self, request: web.Request, rows: Any) -> Any:
        if not isinstance(rows, list) or len(rows) > self.batch_limit:
            raise Refusal(500, f"The batch is limited to {self.batch_limit} items.")
        written, errors, codes = {}, {}, {}
        for index, row in enumerate(rows):
            if fault := self._fault_of(row):
                errors[index] = fault.told
                codes[index] = fault.told["code"]
                continue
            copies = self.copies(row["email"]) if self.unique_email else []
            person = copies[-1] if copies else self.add(row["email"])
            self.readdress(person, row["email"])
            self._write(person, row)
            written[index], codes[index] = person.shown(), 200 if copies else 201
        if self.unsaid:
            written.popitem()
        return {"contacts": php(written), "statusCodes": php(codes)} | ({"errors": php(errors)} if errors else {})

    def _patch_contact(self, request: web.Request, body: Any) -> Any:
        person = self._contact_of(request)
        if fault := self._fault_of(body):
            raise fault
        others = [one for one in self.copies(body["email"]) if one is not person]
        if others:  # both become one
            others[0].segments |= person.segments
            self._by_address[person.email.lower()].remove(person)
            del self.people[person.id]
            person = others[0]
        self.readdress(person, body["email"])
        return {"contact": person.shown()}

    def _mark(self, request: web.Request, body: Any) -> Any:
        person = self._contact_of(request)
        if not body["reason"]:
            raise Refusal(400, "Invalid reason code given")
        person.marks = [*(mark for mark in person.marks if mark[0] != "email"), ("email", body["reason"])]
        return {"contact": person.shown()}

    # Custom fields

    def _get_fields(self, request: web.Request, body: Any) -> Any:
        shown = {
            number: {"id": number, "alias": alias, "isUniqueIdentifer": alias == "email" and self.unique_email}
            for number, alias in enumerate(self.fields, start=1)
        }
        return {"total": len(shown), "fields": php(shown)}

    def _post_field(self, request: web.Request, body: Any) -> Any:
        if body["alias"] in self.fields or body["type"] != "text" or not body["label"]:
            raise Refusal(400, "alias: is there already", alias=["is there already"])
        self.fields.append(body["alias"])
        return {"field": {"id": len(self.fields), "alias": body["alias"]}}


class MauticHarness(FakeHarness):
    fake: FakeMautic

    async def lists(self) -> dict[str, str]:
        return {str(segment.id): segment.name for segment in self.fake.segments.values()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        return {
            person.email.lower(): (person.fields.get("firstname", ""), person.fields.get("lastname", ""))
            for person in self.fake.people.values()
            if int(list_id) in person.segments and person.mailable
        }

    async def opt_out(self, address: str) -> None:
        for person in self.fake.copies(address) or [self.fake.add(address)]:
            person.marks.append(("email", UNSUBSCRIBED))

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(int(list_id))

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def mautic(**knobs: Any) -> AbstractAsyncContextManager[MauticHarness]:
    """A running fake and an open provider on it."""
    fake = FakeMautic(**knobs)

    def harness() -> MauticHarness:
        settings = MauticSettings(base_url=fake.base_url, user=USER, password=Secret(KEY))
        return MauticHarness(fake, MauticProvider(settings), [KEY, TOKEN])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeMautic, key=KEY)
