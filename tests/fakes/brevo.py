"""A strict Brevo: contact lists in folders, attributes, imports with reports, as the fact page says.

python -m tests.fakes.brevo --port 9003 --latency-s 0.2
"""

import json
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

from providers.base import Secret
from providers.brevo import BrevoProvider, BrevoSettings
from providers.testing.fake import FakeEsp, FakeHarness, Handler, run_forever, running

KEY = "xkeysib-fake-key-of-the-tests-0123456789abcdef"
MAX_BODY_BYTES = 10 * 1024 * 1024
_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")


@dataclass
class Person:
    id: int
    email: str
    blocked: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    lists: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)  # lists that the person has unsubscribed from


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, code: str, message: str = "refused") -> None:
        super().__init__(code)
        self.answer = web.json_response({"code": code, "message": message}, status=status)


@dataclass
class FakeBrevo(FakeEsp):
    """Imports are done when they are looked at for the time `job_looks`."""

    parallel_limit: int = 4
    job_looks: int = 1
    job_status: str = "completed"
    refused_domain: str = "refused.test"
    rate_limited: bool = False
    report_writes: dict[str, str] = field(default_factory=dict)  # how reports write some addresses
    gateway_404: bool = False  # something before Brevo answers, and knows no path
    folders: dict[int, str] = field(default_factory=dict)
    lists: dict[int, str] = field(default_factory=dict)
    attributes: list[str] = field(default_factory=lambda: ["FIRSTNAME", "LASTNAME", "SMS"])
    people: dict[str, Person] = field(default_factory=dict)  # by address in small letters

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(1)
        self._jobs: dict[int, list[Any]] = {}  # looks left, work, invalid addresses

    # What tests do by hand

    def make_list(self, name: str) -> str:
        number = next(self._numbers)
        self.lists[number] = name
        return str(number)

    def drop_list(self, list_id: int) -> None:
        self.lists.pop(list_id, None)
        for person in self.people.values():
            person.lists.discard(list_id)

    def person(self, address: str) -> Person:
        return self.people.setdefault(address.lower(), Person(next(self._numbers), address.lower()))

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        code = {401: "unauthorized", 429: "too_many_requests"}.get(status, "internal_error")
        if status == 429 and headers is None:
            headers = {"x-sib-ratelimit-limit": "10", "x-sib-ratelimit-remaining": "0", "x-sib-ratelimit-reset": "7"}
        return web.json_response({"code": code, "message": "see the code"}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, Callable[[web.Request], Any]]] = [
            ("GET", "/contacts/folders", self._get_folders),
            ("POST", "/contacts/folders", self._post_folder),
            ("GET", "/contacts/lists", self._get_lists),
            ("POST", "/contacts/lists", self._post_list),
            ("GET", "/contacts/lists/{list_id}", self._get_list),
            ("DELETE", "/contacts/lists/{list_id}", self._delete_list),
            ("GET", "/contacts/lists/{list_id}/contacts", self._get_members),
            ("POST", "/contacts/lists/{list_id}/contacts/remove", self._remove),
            ("GET", "/contacts/attributes", self._get_attributes),
            ("POST", "/contacts/attributes/normal/{name}", self._post_attribute),
            ("GET", "/contacts", self._get_contacts),
            ("POST", "/contacts", self._post_contact),
            ("POST", "/contacts/import", self._import),
            ("GET", "/contacts/{address}", self._get_contact),
            ("PUT", "/contacts/{address}", self._put_contact),
            ("GET", "/processes/{number}", self._get_process),
        ]
        routes = [web.route(method, f"/v3{path}", self._guarded(handler)) for method, path, handler in table]
        return [*routes, web.get("/files/{number}", self._get_file)]

    def _note(self, request: web.Request, body: bytes) -> None:
        super()._note(request, body)
        if request.path.startswith("/files/") and "api-key" in request.headers:
            self.violations.append("the key went to the host of the files")

    def _guarded(self, handler: Callable[[web.Request], Any]) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.get("api-key") != KEY:
                return self.error(401)
            if self.gateway_404:
                return web.json_response({"message": "no Route matched with those values"}, status=404)
            if self.rate_limited:
                return self.error(429)
            try:
                answer = handler(request)
                return await answer if not isinstance(answer, web.Response) else answer
            except Refusal as refusal:
                return refusal.answer

        return guarded

    @staticmethod
    async def _body(request: web.Request, known: set[str]) -> dict[str, Any]:
        body = await request.read()
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(400, "invalid_parameter", "body too large")
        told = json.loads(body)
        if unknown := told.keys() - known:
            raise Refusal(400, "invalid_parameter", f"unknown {sorted(unknown)}")
        return dict(told)

    @staticmethod
    def _page(request: web.Request, key: str, items: list[Any], most: int) -> web.Response:
        limit, offset = int(request.query.get("limit", 10)), int(request.query.get("offset", 0))
        if not 0 < limit <= most:
            raise Refusal(400, "out_of_range")
        return web.json_response({key: items[offset : offset + limit], "count": len(items)})

    def _list_of(self, request: web.Request) -> int:
        list_id = int(request.match_info["list_id"])
        if list_id not in self.lists:
            raise Refusal(404, "document_not_found", "List ID does not exist")
        return list_id

    def _get_folders(self, request: web.Request) -> web.Response:
        return self._page(request, "folders", [{"id": n, "name": name} for n, name in self.folders.items()], 50)

    async def _post_folder(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"name"})
        number = next(self._numbers)
        self.folders[number] = body["name"]
        return web.json_response({"id": number}, status=201)

    def _get_lists(self, request: web.Request) -> web.Response:
        return self._page(request, "lists", [{"id": n, "name": name} for n, name in self.lists.items()], 50)

    async def _post_list(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"name", "folderId"})
        if body.get("folderId") not in self.folders:
            raise Refusal(400, "invalid_parameter", "folderId")
        if not 0 < len(body["name"]) <= 255:
            raise Refusal(400, "invalid_parameter", "name")
        return web.json_response({"id": int(self.make_list(body["name"]))}, status=201)

    def _get_list(self, request: web.Request) -> web.Response:
        list_id = self._list_of(request)
        return web.json_response({"id": list_id, "name": self.lists[list_id]})

    def _delete_list(self, request: web.Request) -> web.Response:
        self.drop_list(self._list_of(request))
        return web.Response(status=204)

    def _get_contacts(self, request: web.Request) -> web.Response:
        return self._page(request, "contacts", [self._shown(person) for person in self.people.values()], 1000)

    def _get_members(self, request: web.Request) -> web.Response:
        list_id = self._list_of(request)
        members = [self._shown(person) for person in self.people.values() if list_id in person.lists]
        return self._page(request, "contacts", members, 500)

    async def _remove(self, request: web.Request) -> web.Response:
        list_id = self._list_of(request)
        body = await self._body(request, {"emails"})
        if not 0 < len(body["emails"]) <= 150:
            raise Refusal(400, "invalid_parameter", "emails")
        gone, failed = [], []
        for address in body["emails"]:
            person = self.people.get(address.lower())
            (gone if person and list_id in person.lists else failed).append(address)
            if person:
                person.lists.discard(list_id)
        if not gone:
            raise Refusal(400, "invalid_parameter", "Contact already removed from list and/or does not exist")
        return web.json_response({"contacts": {"success": gone, "failure": failed}}, status=201)

    def _get_attributes(self, request: web.Request) -> web.Response:
        return web.json_response({"attributes": [{"name": n, "category": "normal"} for n in self.attributes]})

    async def _post_attribute(self, request: web.Request) -> web.Response:
        await self._body(request, {"type"})
        if request.match_info["name"] in self.attributes:
            raise Refusal(400, "duplicate_parameter")
        self.attributes.append(request.match_info["name"])
        return web.Response(status=201)

    @staticmethod
    def _shown(person: Person) -> dict[str, Any]:
        return {
            "id": person.id,
            "email": person.email,
            "emailBlacklisted": person.blocked,
            "attributes": person.attributes,
            "listIds": sorted(person.lists),
            "listUnsubscribed": sorted(person.left),
        }

    def _contact_of(self, request: web.Request) -> Person:
        if request.query.get("identifierType") != "email_id":
            self.violations.append("an address may be read as an id without identifierType")
        person = self.people.get(request.match_info["address"].lower())
        if person is None:
            raise Refusal(404, "document_not_found", "Contact does not exist")
        return person

    def _get_contact(self, request: web.Request) -> web.Response:
        return web.json_response(self._shown(self._contact_of(request)))

    async def _put_contact(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"attributes", "listIds", "emailBlacklisted"})
        person = self._contact_of(request)
        attributes = dict(body.get("attributes", {}))
        address = attributes.pop("EMAIL", person.email).lower()
        if not self._is_taken(address):
            raise Refusal(400, "invalid_parameter", "email")
        if address != person.email:
            if address in self.people:
                raise Refusal(400, "duplicate_parameter", "email")
            del self.people[person.email]
            person.email, person.blocked = address, False  # a new address lifts the block
            self.people[address] = person
        self._write(person, attributes, body.get("listIds", []))
        person.blocked = body.get("emailBlacklisted", person.blocked)
        return web.Response(status=204)

    async def _post_contact(self, request: web.Request) -> web.Response:
        body = await self._body(
            request, {"email", "attributes", "listIds", "updateEnabled", "emailBlacklisted", "ext_id"}
        )
        if not self._is_taken(body["email"]) or not set(body.get("listIds", [])) <= self.lists.keys():
            raise Refusal(400, "invalid_parameter", "email or listIds")
        known = body["email"].lower() in self.people
        if known and not body.get("updateEnabled"):
            raise Refusal(400, "duplicate_parameter", "Contact already exist")
        person = self.person(body["email"])
        self._write(person, body.get("attributes", {}), body.get("listIds", []))
        person.blocked = body.get("emailBlacklisted", person.blocked)
        return web.Response(status=204) if known else web.json_response({"id": person.id}, status=201)

    def _is_taken(self, address: str) -> bool:
        """Whether the service takes the address."""
        return bool(_ADDRESS.fullmatch(address)) and not address.lower().endswith("@" + self.refused_domain)

    def _write(self, person: Person, attributes: dict[str, str], list_ids: list[int]) -> None:
        person.attributes |= {name: value for name, value in attributes.items() if name in self.attributes}
        person.lists |= set(list_ids)
        person.left -= set(list_ids)  # nobody documents it otherwise

    async def _import(self, request: web.Request) -> web.Response:
        known = {"jsonBody", "listIds", "updateExistingContacts", "emptyContactsAttributes", "disableNotification"}
        body = await self._body(request, known)
        rows = body["jsonBody"]
        good = [row for row in rows if self._is_taken(row["email"])]
        if not good or not set(body["listIds"]) <= self.lists.keys():
            raise Refusal(400, "invalid_parameter")

        def work() -> None:
            for row in good:
                self._write(self.person(row["email"]), row["attributes"], body["listIds"])

        number = next(self._numbers)
        bad = [row["email"] for row in rows if not self._is_taken(row["email"])]
        self._jobs[number] = [self.job_looks, work, bad]
        return web.json_response({"processId": number}, status=202)

    def _get_process(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        if number not in self._jobs:
            raise Refusal(404, "document_not_found")
        job = self._jobs[number]
        job[0] -= 1
        if job[0] > 0:
            return web.json_response({"id": number, "status": "in_process"})
        if self.job_status == "completed":
            job[1]()
        report = {"invalid_emails": f"{self.base_url}/files/{number}" if job[2] else None}
        return web.json_response({"id": number, "status": self.job_status, "info": {"import": report}})

    async def _get_file(self, request: web.Request) -> web.Response:
        bad = [self.report_writes.get(one, one) for one in self._jobs[int(request.match_info["number"])][2]]
        return web.Response(text="email;reason\n" + "".join(f"{address};invalid\n" for address in bad))


class BrevoHarness(FakeHarness):
    fake: FakeBrevo

    async def lists(self) -> dict[str, str]:
        return {str(number): name for number, name in self.fake.lists.items()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        return {
            person.email: (person.attributes.get("FIRSTNAME", ""), person.attributes.get("LASTNAME", ""))
            for person in self.fake.people.values()
            if int(list_id) in person.lists and not person.blocked
        }

    async def opt_out(self, address: str) -> None:
        self.fake.person(address).blocked = True

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(int(list_id))

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def brevo(**knobs: Any) -> AbstractAsyncContextManager[BrevoHarness]:
    """A running fake and an open provider on it."""
    fake = FakeBrevo(**knobs)

    def harness() -> BrevoHarness:
        return BrevoHarness(
            fake, BrevoProvider(BrevoSettings(api_key=Secret(KEY), base_url=f"{fake.base_url}/v3")), [KEY]
        )

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeBrevo, key=KEY)
