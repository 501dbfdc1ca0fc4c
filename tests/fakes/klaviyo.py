"""A strict Klaviyo: lists, profiles with their subscriptions, jobs, as the fact page and the spec say.

python -m tests.fakes.klaviyo --port 9005 --latency-s 0.2
"""

import json
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from providers.base import Secret
from providers.klaviyo import KlaviyoProvider, KlaviyoSettings
from providers.testing.fake import Call, FakeEsp, FakeHarness, Handler, run_forever, running
from tests.specs import SPECS, Spec, spec

KEY = "pk_fake_key_of_the_tests_0123456789abcdef"
MEDIA_TYPE = "application/vnd.api+json"
REVISION = "2026-07-15"
IMPORTED = 10_000
IMPORT_BYTES = 5_000_000
RELATED = 1000
SUPPRESSED = 100
ROWS_HELD_AGAINST_THE_SPEC = 20  # of an import: its rows are alike

_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")
_ANY = re.compile(r"any\(email,(\[.*\])\)")
_SUPPRESSED = re.compile(r"greater-than\(subscriptions\.email\.marketing\.suppression\.timestamp,[\d-]{10}T[\d:]{8}Z\)")
_LEFT = re.compile(r'equals\(subscriptions\.email\.marketing\.list_suppressions\.list_id,"(\w+)"\)')
_IDENTIFIERS = {"email", "phone_number", "external_id"}
_NAMES = ("first_name", "last_name")


@dataclass
class Person:
    id: str
    email: str
    attributes: dict[str, Any] = field(default_factory=dict)  # names and properties
    lists: set[str] = field(default_factory=set)
    suppressed: set[str] = field(default_factory=set)  # reasons, for all mail
    list_suppressed: dict[str, str] = field(default_factory=dict)  # reasons, by list
    consent: str = "NEVER_SUBSCRIBED"

    def shown(self, *, subscriptions: bool) -> dict[str, Any]:
        told = {"email": self.email, **dict.fromkeys(_NAMES), "properties": {}, **self.attributes}
        if subscriptions:
            marketing = {
                "can_receive_email_marketing": not self.suppressed,
                "consent": self.consent,
                "suppression": [{"reason": reason, "timestamp": ""} for reason in sorted(self.suppressed)],
                "list_suppressions": [
                    {"list_id": list_id, "reason": reason, "timestamp": ""}
                    for list_id, reason in self.list_suppressed.items()
                ],
            }
            told["subscriptions"] = {"email": {"marketing": marketing}}
        return {"type": "profile", "id": self.id, "attributes": told}


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, code: str, *pointers: str, **meta: str) -> None:
        super().__init__(code)
        errors = [
            {"id": "1", "status": status, "code": code, "title": code, "detail": f"{code}: {pointer}"}
            | {"source": {"pointer": pointer}, "meta": meta}
            for pointer in pointers or ("/data",)
        ]
        self.answer = web.json_response({"errors": errors}, status=status, content_type=MEDIA_TYPE)


@dataclass
class FakeKlaviyo(FakeEsp):
    """Jobs are done when they are looked at for the time `job_looks`. A bad row is left out by an import, or, with
    `strict_imports`, refuses it whole and is named."""

    parallel_limit: int = 8
    job_looks: int = 1
    lost_rows: int = 0  # of an import, which neither went well nor failed
    tells_subscriptions: bool = True
    job_status: str = "complete"
    strict_imports: bool = False
    unnamed_failures: bool = False  # the errors of an import say nothing of the rows
    refused_domain: str = "refused.test"
    revision_ended: bool = False
    refused_rights: frozenset[str] = frozenset()  # the first words of paths that the key may not use
    lists: dict[str, str] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)  # by address in small letters
    import_bytes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(1)
        self._jobs: dict[str, list[Any]] = {}  # looks left, work, errors

    # What tests do by hand

    def make_list(self, name: str) -> str:
        list_id = f"Y6nR{next(self._numbers)}"
        self.lists[list_id] = name
        return list_id

    def drop_list(self, list_id: str) -> None:
        self.lists.pop(list_id, None)
        for person in self.people.values():
            person.lists.discard(list_id)

    def person(self, address: str) -> Person:
        address = address.lower()
        if address not in self.people:
            self.people[address] = Person(f"01GD{next(self._numbers)}", address)
        return self.people[address]

    def leave(self, address: str, list_id: str) -> None:
        """The person unsubscribes from one list, where the account lets people do that."""
        person = self.person(address)
        person.lists.discard(list_id)
        person.list_suppressed[list_id] = "UNSUBSCRIBE"

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        code = {401: "not_authenticated", 403: "permission_denied", 429: "throttled"}.get(status, "error")
        answer = Refusal(status, code).answer
        answer.headers.update(headers or ({"Retry-After": "7"} if status == 429 else {}))
        return answer

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, Callable[[web.Request, Any], web.Response]]] = [
            ("GET", "/lists", self._get_lists),
            ("POST", "/lists", self._post_list),
            ("GET", "/lists/{list_id}", self._get_list),
            ("DELETE", "/lists/{list_id}", self._delete_list),
            ("GET", "/lists/{list_id}/profiles", self._get_members),
            ("POST", "/lists/{list_id}/relationships/profiles", self._relate),
            ("DELETE", "/lists/{list_id}/relationships/profiles", self._relate),
            ("GET", "/profiles", self._get_profiles),
            ("PATCH", "/profiles/{profile_id}", self._patch_profile),
            ("POST", "/profile-import", self._post_profile),
            ("POST", "/profile-bulk-import-jobs", self._post_import),
            ("GET", "/profile-bulk-import-jobs/{job_id}", self._get_job),
            ("GET", "/profile-bulk-import-jobs/{job_id}/import-errors", self._get_errors),
            ("POST", "/profile-suppression-bulk-create-jobs", self._post_suppression),
            ("GET", "/profile-suppression-bulk-create-jobs/{job_id}", self._get_job),
        ]
        return [web.route(method, f"/api{path}", self._guarded(handler)) for method, path, handler in table]

    def _note(self, request: web.Request, body: bytes) -> None:
        told = json.loads(body) if body else None
        self.calls.append(Call(request.method, request.path, dict(request.query), told))
        if self.spec is None or request.path.startswith("/api/profile-suppression"):  # not among the spec's files here
            return
        if len(body) > 100_000:
            whole = told["data"]["attributes"]["profiles"]
            profiles = {"data": whole["data"][:ROWS_HELD_AGAINST_THE_SPEC]}
            told = {"data": told["data"] | {"attributes": {"profiles": profiles}}}
            body = json.dumps(told).encode()
        path = request.raw_path.split("?")[0]
        self.violations += self.spec.faults(request.method, path, dict(request.query), request.headers, body)

    def _guarded(self, handler: Callable[[web.Request, Any], web.Response]) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != f"Klaviyo-API-Key {KEY}":
                return self.error(401)
            if request.path.split("/")[2] in self.refused_rights:
                return self.error(403)
            if request.headers.get("revision") != REVISION or self.revision_ended:
                return self.error(410 if self.revision_ended else 400)
            body = await request.read()
            if body and request.headers.get("Content-Type") != MEDIA_TYPE:
                return self.error(415)
            try:
                return handler(request, json.loads(body)["data"] if body else None)
            except Refusal as refusal:
                return refusal.answer

        return guarded

    @staticmethod
    def _told(data: Any, status: int = 200, **more: Any) -> web.Response:
        return web.json_response({"data": data, **more}, status=status, content_type=MEDIA_TYPE)

    def _page(self, request: web.Request, items: list[Any], most: int, shown: Callable[[Any], Any]) -> web.Response:
        size, start = int(request.query.get("page[size]", 20)), int(request.query.get("page[cursor]", 0))
        if not 0 < size <= most:
            raise Refusal(400, "invalid", "page[size]")
        following = None
        if start + size < len(items):
            query = urlencode({**request.query, "page[cursor]": str(start + size)})
            following = f"{self.base_url}{request.path}?{query}"
        return self._told([shown(item) for item in items[start : start + size]], links={"self": "", "next": following})

    def _list_of(self, request: web.Request) -> str:
        list_id = request.match_info["list_id"]
        if list_id not in self.lists:
            raise Refusal(404, "not_found")
        return list_id

    # Lists

    def _list_shown(self, list_id: str) -> dict[str, Any]:
        return {"type": "list", "id": list_id, "attributes": {"name": self.lists[list_id]}}

    def _get_lists(self, request: web.Request, data: Any) -> web.Response:
        return self._page(request, list(self.lists), 10, self._list_shown)

    def _post_list(self, request: web.Request, data: Any) -> web.Response:
        if not data["attributes"]["name"]:
            raise Refusal(400, "invalid", "/data/attributes/name")
        return self._told(self._list_shown(self.make_list(data["attributes"]["name"])), status=201)

    def _get_list(self, request: web.Request, data: Any) -> web.Response:
        return self._told(self._list_shown(self._list_of(request)))

    def _delete_list(self, request: web.Request, data: Any) -> web.Response:
        self.drop_list(self._list_of(request))
        return web.Response(status=204)

    def _relate(self, request: web.Request, data: Any) -> web.Response:
        list_id = self._list_of(request)
        by_id = {person.id: person for person in self.people.values()}
        if not 0 < len(data) <= RELATED:
            raise Refusal(400, "invalid")
        if any(one["id"] not in by_id for one in data):
            raise Refusal(404, "not_found")
        for one in data:
            lists = by_id[one["id"]].lists
            lists.add(list_id) if request.method == "POST" else lists.discard(list_id)
        return web.Response(status=204)

    # Profiles

    def _shown_as(self, request: web.Request) -> Callable[[Person], dict[str, Any]]:
        asked = request.query.get("additional-fields[profile]") == "subscriptions"
        subscriptions = asked and self.tells_subscriptions
        return lambda person: person.shown(subscriptions=subscriptions)

    def _get_members(self, request: web.Request, data: Any) -> web.Response:
        list_id = self._list_of(request)
        members = [person for person in self.people.values() if list_id in person.lists]
        return self._page(request, members, 100, self._shown_as(request))

    def _get_profiles(self, request: web.Request, data: Any) -> web.Response:
        people = list(self.people.values())
        if _SUPPRESSED.fullmatch(request.query.get("filter", "")):
            people = [person for person in people if person.suppressed]
        elif left := _LEFT.fullmatch(request.query.get("filter", "")):
            people = [person for person in people if left[1] in person.list_suppressed]
        elif "filter" in request.query:
            match = _ANY.fullmatch(request.query["filter"])
            if match is None:
                raise Refusal(400, "invalid", "filter")
            asked = json.loads(match[1])
            if not all(self._takes(address) for address in asked):
                raise Refusal(400, "invalid", "filter")
            if not 0 < len(asked) <= 100 or len(request.raw_path) > 8000:
                raise Refusal(400, "invalid", "filter")
            people = [self.people[address] for address in asked if address in self.people]
        return self._page(request, people, 100, self._shown_as(request))

    def _takes(self, address: str) -> bool:
        return bool(_ADDRESS.fullmatch(address)) and not address.lower().endswith("@" + self.refused_domain)

    def _write(self, person: Person, told: dict[str, Any]) -> None:
        """Keeps the names that are told and all properties that are not."""
        person.attributes.update((name, told[name]) for name in _NAMES if name in told)
        person.attributes.setdefault("properties", {}).update(told.get("properties", {}))

    def _post_profile(self, request: web.Request, data: Any) -> web.Response:
        told = data["attributes"]
        if told.keys() & _IDENTIFIERS != {"email"}:
            self.violations.append("a profile with other identifiers than the address may be refused as a duplicate")
        if not self._takes(told["email"]):
            raise Refusal(400, "invalid", "/data/attributes/email")
        known = told["email"].lower() in self.people
        person = self.person(told["email"])
        self._write(person, told)
        return self._told(self._shown_as(request)(person), status=200 if known else 201)

    def _patch_profile(self, request: web.Request, data: Any) -> web.Response:
        person = next((p for p in self.people.values() if p.id == request.match_info["profile_id"]), None)
        if person is None or data["id"] != person.id:
            raise Refusal(404, "not_found")
        address = data["attributes"].get("email", person.email).lower()
        if not self._takes(address):
            raise Refusal(400, "invalid", "/data/attributes/email")
        if self.people.get(address, person) is not person:
            raise Refusal(409, "duplicate_profile", duplicate_profile_id=self.people[address].id)
        self.people[address] = self.people.pop(person.email)
        person.email = address
        self._write(person, data["attributes"])
        return self._told(self._shown_as(request)(person))

    # Jobs

    def _started(
        self, kind: str, work: Callable[[], None], errors: Iterable[Any] = (), rows: int | None = None
    ) -> web.Response:
        job_id = f"01GS{next(self._numbers)}"
        self._jobs[job_id] = [self.job_looks, work, list(errors), rows]
        return self._told({"type": kind, "id": job_id, "attributes": {"status": "queued"}}, status=202)

    def _post_import(self, request: web.Request, data: Any) -> web.Response:
        self.import_bytes.append(request.content_length or 0)
        rows = [row["attributes"] for row in data["attributes"]["profiles"]["data"]]
        list_ids = [one["id"] for one in data["relationships"]["lists"]["data"]]
        if self.import_bytes[-1] > IMPORT_BYTES or not 0 < len(rows) <= IMPORTED:
            raise Refusal(400, "invalid")
        if not set(list_ids) <= self.lists.keys():
            raise Refusal(404, "not_found", "/data/relationships/lists/data/0/id")
        bad = [index for index, row in enumerate(rows) if not self._takes(row["email"])]
        if bad and self.strict_imports:
            place = "/data/attributes/profiles/data/{}/attributes/email"
            raise Refusal(400, "invalid", *(place.format(index) for index in bad))

        def work() -> None:
            for row in rows:
                if self._takes(row["email"]):
                    person = self.person(row["email"])
                    self._write(person, {key: value for key, value in row.items() if value is not None})
                    person.lists.update(list_ids)

        errors = [None if self.unnamed_failures else {"email": rows[index]["email"]} for index in bad]
        return self._started("profile-bulk-import-job", work, errors, len(rows))

    def _post_suppression(self, request: web.Request, data: Any) -> web.Response:
        rows = data["attributes"]["profiles"]["data"]
        if data["type"] != "profile-suppression-bulk-create-job" or not 0 < len(rows) <= SUPPRESSED:
            raise Refusal(400, "invalid")
        if any(row.keys() != {"type", "attributes"} or row["attributes"].keys() != {"email"} for row in rows):
            raise Refusal(400, "invalid")
        if bad := [index for index, row in enumerate(rows) if not self._takes(row["attributes"]["email"])]:
            raise Refusal(400, "invalid", *(f"/data/attributes/profiles/data/{i}/attributes/email" for i in bad))

        def work() -> None:
            for row in rows:
                self.person(row["attributes"]["email"]).suppressed.add("USER_SUPPRESSED")

        return self._started(data["type"], work)

    def _get_job(self, request: web.Request, data: Any) -> web.Response:
        job_id = request.match_info["job_id"]
        if job_id not in self._jobs:
            raise Refusal(404, "not_found")
        job = self._jobs[job_id]
        job[0] -= 1
        if job[0] == 0 and self.job_status == "complete":
            job[1]()
        told = {"status": self.job_status if job[0] <= 0 else "processing", "failed_count": len(job[2])}
        if job[3] is not None:
            told |= {"total_count": job[3], "completed_count": job[3] - len(job[2]) - self.lost_rows}
        return self._told({"type": request.path.split("/")[2][:-1], "id": job_id, "attributes": told})

    def _get_errors(self, request: web.Request, data: Any) -> web.Response:
        def shown(payload: Any) -> dict[str, Any]:
            told = {
                "code": "invalid",
                "title": "Invalid input.",
                "detail": f"Invalid email address: {(payload or {}).get('email')}",
            }
            source = {"pointer": "/data/attributes/email"}
            return {
                "type": "import-error",
                "id": "1",
                "attributes": told | {"source": source, "original_payload": payload},
            }

        return self._page(request, self._jobs[request.match_info["job_id"]][2], 100, shown)


def klaviyo_spec() -> Spec | None:
    """None where `../shared` is not there (a user's machine)."""
    names = sorted(path.name for path in (SPECS / "klaviyo").glob("*.json"))
    return spec("klaviyo", *names) if names else None


class KlaviyoHarness(FakeHarness):
    fake: FakeKlaviyo

    async def lists(self) -> dict[str, str]:
        return dict(self.fake.lists)

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        return {
            person.email: (person.attributes.get("first_name") or "", person.attributes.get("last_name") or "")
            for person in self.fake.people.values()
            if list_id in person.lists and not person.suppressed and list_id not in person.list_suppressed
        }

    async def opt_out(self, address: str) -> None:
        person = self.fake.person(address)
        person.consent = "UNSUBSCRIBED"
        person.suppressed.add("UNSUBSCRIBE")

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(list_id)

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def klaviyo(**knobs: Any) -> AbstractAsyncContextManager[KlaviyoHarness]:
    """A running fake and an open provider on it; each request is held against the spec where that is here."""
    fake = FakeKlaviyo(spec=klaviyo_spec(), **knobs)

    def harness() -> KlaviyoHarness:
        settings = KlaviyoSettings(api_key=Secret(KEY), base_url=f"{fake.base_url}/api")
        return KlaviyoHarness(fake, KlaviyoProvider(settings), [KEY])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeKlaviyo, key=KEY)
