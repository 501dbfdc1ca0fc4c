"""A strict SendPulse, Bulk Email API: address books, a blacklist, API keys and OAuth2 tokens.

python -m tests.fakes.sendpulse --port 9006 --latency-s 0.2
"""

import json
import re
from base64 import b64decode
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

from providers.base import Secret
from providers.sendpulse import SendPulseProvider, SendPulseSettings
from providers.testing.fake import FakeEsp, FakeHarness, Handler, run_forever, running
from tests.specs import Spec, spec

KEY = "sp_apikey_fake0key0of0the0tests0123456789abcdef"
CLIENT_ID, CLIENT_SECRET = "fake0id0of0the0tests", "fake0secret0of0the0tests0123456789"
TOKEN_PATH = "/oauth/access_token"
ACTIVE, WAITING, OUT, OUT_OF_ALL, BROKEN = 1, 2, 4, 6, 9
_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")


@dataclass
class Entry:
    """An address in one book."""

    email: str
    status: int = ACTIVE
    variables: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, code: int, message: str = "refused") -> None:
        super().__init__(code)
        self.answer = web.json_response({"message": message, "error_code": code}, status=status)


@dataclass
class FakeSendPulse(FakeEsp):
    """An address that was added is seen after `looks_until_seen` looks at it."""

    parallel_limit: int = 4
    refused_domain: str = "refused.test"
    looks_until_seen: int = 0
    refuses_unknown: bool = False  # a look at anybody whom no book has is an error
    refuses_additions: bool = False
    books: dict[int, str] = field(default_factory=dict)
    held_books: set[int] = field(default_factory=set)
    entries: dict[int, dict[str, Entry]] = field(default_factory=dict)  # by book, then by address in small letters
    blacklist: set[str] = field(default_factory=set)
    plan: dict[str, int] = field(default_factory=lambda: {"maximum_subscribers": 500, "current_subscribers": 12})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(422_325)
        self._tokens = count(1)
        self._unseen: dict[tuple[int, str], int] = {}
        self.token = ""

    # What tests do by hand

    def make_book(self, name: str) -> str:
        number = next(self._numbers)
        self.books[number] = name
        self.entries[number] = {}
        return str(number)

    def drop_book(self, number: int) -> None:
        self.books.pop(number, None)
        self.entries.pop(number, None)

    def entry(self, list_id: str, address: str) -> Entry:
        return self.entries[int(list_id)].setdefault(address.lower(), Entry(address.lower()))

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        body = {"message": "Unauthorized!" if status == 401 else "see the code", "error_code": status}
        return web.json_response(body, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, Callable[[web.Request], Any]]] = [
            ("POST", "/addressbooks", self._post_book),
            ("GET", "/addressbooks", self._get_books),
            ("GET", "/addressbooks/{id}", self._get_book),
            ("DELETE", "/addressbooks/{id}", self._delete_book),
            ("GET", "/addressbooks/{id}/emails", self._get_emails),
            ("POST", "/addressbooks/{id}/emails", self._add),
            ("DELETE", "/addressbooks/{id}/emails", self._remove),
            ("POST", "/emails", self._look_up),
            ("GET", "/blacklist", self._get_blacklist),
            ("POST", "/blacklist", self._post_blacklist),
            ("GET", "/user/balance/detail", self._get_plan),
        ]
        routes = [web.route(method, path, self._guarded(handler)) for method, path, handler in table]
        return [*routes, web.post(TOKEN_PATH, self._post_token)]

    def _note(self, request: web.Request, body: bytes) -> None:
        described, self.spec = self.spec, None if request.path == TOKEN_PATH else self.spec
        super()._note(request, body)  # the description leaves the token call out
        self.spec = described

    def _guarded(self, handler: Callable[[web.Request], Any]) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") not in (f"Bearer {KEY}", f"Bearer {self.token}"):
                return self.error(401)
            try:
                answer = handler(request)
                return await answer if not isinstance(answer, web.Response) else answer
            except Refusal as refusal:
                return refusal.answer

        return guarded

    async def _post_token(self, request: web.Request) -> web.Response:
        wanted = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        if json.loads(await request.read()) != wanted:
            return self.error(401)
        self.token = f"fake-token-{next(self._tokens)}"
        return web.json_response({"access_token": self.token, "token_type": "Bearer", "expires_in": 3600})

    @staticmethod
    async def _body(request: web.Request, known: set[str]) -> dict[str, Any]:
        told = json.loads(await request.read())
        if unknown := told.keys() - known:
            raise Refusal(422, 422, f"unknown arguments {sorted(unknown)}")
        return dict(told)

    @staticmethod
    def _page(request: web.Request, items: list[dict[str, Any]]) -> web.Response:
        limit, offset = int(request.query["limit"]), int(request.query["offset"])
        if not 0 < limit <= 100:
            raise Refusal(422, 422, "Argument limit may not be greater than 100")
        return web.json_response(items[offset : offset + limit])

    async def _post_book(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"bookName"})
        if body["bookName"] in self.books.values():
            raise Refusal(422, 203, "Name already in use")
        return web.json_response({"id": int(self.make_book(body["bookName"]))})

    def _shown(self, number: int) -> dict[str, Any]:
        return {"id": number, "name": self.books[number], "status": 4 if number in self.held_books else 0}

    def _get_books(self, request: web.Request) -> web.Response:
        return self._page(request, [self._shown(number) for number in self.books])

    def _book_of(self, request: web.Request) -> int:
        number = int(request.match_info["id"])
        if number not in self.books:
            raise Refusal(404, 213, "Book not found")
        return number

    def _get_book(self, request: web.Request) -> web.Response:
        return web.json_response([self._shown(self._book_of(request))])

    def _delete_book(self, request: web.Request) -> web.Response:
        self.drop_book(self._book_of(request))
        return web.json_response({"result": True})

    def _get_emails(self, request: web.Request) -> web.Response:
        entries = self.entries[self._book_of(request)].values()
        inactive_only = request.query.get("not_active") == "true"
        shown = [
            {"email": e.email, "status": e.status, "variables": e.variables or []}
            for e in entries
            if not inactive_only or e.status not in (0, ACTIVE)
        ]
        return self._page(request, shown)

    async def _add(self, request: web.Request) -> web.Response:
        number = self._book_of(request)
        body = await self._body(request, {"emails"})
        if self.refuses_additions:
            raise Refusal(422, 422, "Argument emails is invalid")
        if not isinstance(body["emails"], list):
            return web.Response(status=500)
        for row in body["emails"]:
            address = row["email"].lower()
            known = self.entries[number].get(address)
            if known is not None and known.status not in (0, ACTIVE):
                self.violations.append(f"{address} of status {known.status} was added again")
            if not _ADDRESS.fullmatch(address) or address.endswith("@" + self.refused_domain):
                continue  # it is left out, and nothing is said of it
            if known is None:
                known = self.entries[number][address] = Entry(address, 0)
                self._unseen[number, address] = self.looks_until_seen
            known.variables |= row["variables"]
        return web.json_response({"result": True})

    async def _remove(self, request: web.Request) -> web.Response:
        number = self._book_of(request)
        addresses = (await self._body(request, {"emails"}))["emails"]
        if len(addresses) > 100:
            raise Refusal(422, 422, "Limit is exceeded. Max count: 100")
        gone = [self.entries[number].pop(address.lower(), None) for address in addresses]
        if not any(gone):
            raise Refusal(422, 303, "No emails")
        return web.json_response({"result": True})

    async def _look_up(self, request: web.Request) -> web.Response:
        addresses = (await self._body(request, {"emails"}))["emails"]
        if len(addresses) > 100:
            self.violations.append(f"a look at {len(addresses)} addresses")
        told: dict[str, list[dict[str, Any]]] = {}
        for address in (address.lower() for address in addresses):
            for number, entries in self.entries.items():
                if address in entries and self._is_seen(number, address):
                    entry = entries[address]
                    one = {"book_id": number, "status": entry.status, "variables": []}
                    told.setdefault(address, []).append(one)
        if self.refuses_unknown and len(told) < len(addresses):
            raise Refusal(422, 502, "Email address not found")
        return web.json_response(told or [])

    def _is_seen(self, number: int, address: str) -> bool:
        left = self._unseen.get((number, address), 0)
        self._unseen[number, address] = left - 1
        return left <= 0

    def _get_blacklist(self, request: web.Request) -> web.Response:
        return web.json_response(sorted(self.blacklist))

    async def _post_blacklist(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"emails", "comment"})
        self.blacklist |= {address.lower() for address in b64decode(body["emails"]).decode().split(",")}
        return web.json_response({"result": True})

    def _get_plan(self, request: web.Request) -> web.Response:
        return web.json_response({"email": {"tariff_name": "Free", **self.plan}})


class SendPulseHarness(FakeHarness):
    fake: FakeSendPulse

    async def lists(self) -> dict[str, str]:
        return {str(number): name for number, name in self.fake.books.items()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        return {
            address: (entry.variables.get("Name", ""), entry.variables.get("LastName", ""))
            for address, entry in self.fake.entries.get(int(list_id), {}).items()
            if entry.status in (0, ACTIVE) and address not in self.fake.blacklist
        }

    async def opt_out(self, address: str) -> None:
        books = [entries for entries in self.fake.entries.values() if address.lower() in entries]
        for entries in books:
            entries[address.lower()].status = OUT
        if not books:
            self.fake.blacklist.add(address.lower())

    async def make_list(self, name: str) -> str:
        return self.fake.make_book(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_book(int(list_id))

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def _mend(document: dict[str, Any]) -> None:
    """What the description leaves out: a schema that it refers to, the rows of an addition, and what tells an addition
    with a confirmation from one without."""
    schemas = document["components"]["schemas"]
    schemas["Error"] = {"type": "object"}
    variables = {"type": "object", "additionalProperties": {"type": "string"}}
    row = {
        "type": "object",
        "required": ["email"],
        "properties": {"email": {"type": "string"}, "variables": variables},
        "additionalProperties": False,
    }
    single, double = schemas["AddEmailsSingleOptIn"], schemas["AddEmailsDoubleOptIn"]
    single |= {"required": ["emails"], "additionalProperties": False}
    single["properties"]["emails"]["items"] = row
    double["required"] = ["emails", "confirmation"]


def sendpulse_spec() -> Spec | None:
    """SendPulse's own description, mended."""
    return spec("sendpulse", "sendpulse-bulk-email-openapi.yml", mend=_mend)


def sendpulse(*, oauth: bool = False, **knobs: Any) -> AbstractAsyncContextManager[SendPulseHarness]:
    """A running fake and an open provider on it, with an API key or with OAuth2."""
    fake = FakeSendPulse(spec=sendpulse_spec(), **knobs)

    def harness() -> SendPulseHarness:
        settings = SendPulseSettings(base_url=fake.base_url, api_key=Secret(KEY))
        if oauth:
            secret = Secret(CLIENT_SECRET)
            settings = SendPulseSettings(base_url=fake.base_url, client_id=CLIENT_ID, client_secret=secret)
        return SendPulseHarness(fake, SendPulseProvider(settings), [KEY, CLIENT_SECRET])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeSendPulse, key=KEY)
