"""A strict ActiveCampaign, API v3: contacts on lists with a status, tags, one text field, imports.

python -m tests.fakes.activecampaign --port 9004 --latency-s 0.2
"""

import json
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

from providers.activecampaign import ActiveCampaignProvider, ActiveCampaignSettings
from providers.base import Secret
from providers.testing.fake import FakeEsp, FakeHarness, Handler, run_forever, running

KEY = "fake0key0of0the0tests0123456789abcdef0123456789abcdef"
LIST_ID = 3
_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")


@dataclass
class Person:
    id: int
    email: str
    first_name: str = ""
    last_name: str = ""
    fields: dict[int, str] = field(default_factory=dict)
    lists: dict[int, str] = field(default_factory=dict)  # list → status
    tags: dict[int, int] = field(default_factory=dict)  # tag → id of the contactTag


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.answer = web.json_response(body, status=status)


def missing(what: str, number: int) -> Refusal:
    return Refusal(404, {"message": f"No Result found for {what} with id {number}"})


def invalid(code: str, title: str, pointer: str = "/data/attributes/email") -> Refusal:
    error = {"title": title, "detail": "", "code": code, "source": {"pointer": pointer}}
    return Refusal(422, {"errors": [error]})


@dataclass
class FakeActiveCampaign(FakeEsp):
    """Imports are done when they are looked at for the time `job_looks`; until the first look they have no status.

    `import_fails_for` are addresses that an import names as failed although nothing is wrong with them.
    """

    parallel_limit: int = 4
    job_looks: int = 2
    job_status: str = "completed"
    import_fails_for: set[str] = field(default_factory=set)
    imports_limited: bool = False
    sideloads: bool = True
    refused_domain: str = "refused.test"
    lists: dict[int, str] = field(default_factory=lambda: {LIST_ID: "Newsletter"})
    tags: dict[int, str] = field(default_factory=dict)
    template_tags: dict[int, str] = field(default_factory=dict)
    fields: dict[int, str] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)  # by address in small letters

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(11)
        self._by_id: dict[int, Person] = {}
        self._jobs: dict[str, list[Any]] = {}  # looks left, work

    # What tests do by hand

    def make_tag(self, name: str) -> str:
        number = next(self._numbers)
        self.tags[number] = name
        return str(number)

    def drop_tag(self, tag_id: int) -> None:
        self.tags.pop(tag_id, None)
        for person in self.people.values():
            person.tags.pop(tag_id, None)

    def person(self, address: str) -> Person:
        if address.lower() not in self.people:
            person = Person(next(self._numbers), address)
            self.people[address.lower()] = self._by_id[person.id] = person
        return self.people[address.lower()]

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        return web.json_response(
            {"message": "see the status"}, status=403 if status == 401 else status, headers=headers
        )

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, Callable[[web.Request], Any]]] = [
            ("GET", "/users/me", lambda _: web.json_response({"user": {"username": "admin"}})),
            ("GET", "/lists/{id}", self._get_list),
            ("GET", "/tags", self._get_tags),
            ("POST", "/tags", self._post_tag),
            ("GET", "/tags/{id}", self._get_tag),
            ("DELETE", "/tags/{id}", self._delete_tag),
            ("GET", "/fields", self._get_fields),
            ("POST", "/fields", self._post_field),
            ("GET", "/contacts", self._get_contacts),
            ("PUT", "/contacts/{id}", self._put_contact),
            ("GET", "/contacts/{id}/contactLists", self._get_contact_lists),
            ("GET", "/contacts/{id}/contactTags", self._get_contact_tags),
            ("POST", "/contact/sync", self._sync),
            ("POST", "/contactLists", self._post_contact_list),
            ("POST", "/contactTags", self._post_contact_tag),
            ("DELETE", "/contactTags/{id}", self._delete_contact_tag),
            ("POST", "/import/bulk_import", self._import),
            ("GET", "/import/info", self._get_job),
        ]
        return [web.route(method, f"/api/3{path}", self._guarded(handler)) for method, path, handler in table]

    def _guarded(self, handler: Callable[[web.Request], Any]) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Api-Token") != KEY:
                return self.error(401)
            try:
                answer = handler(request)
                return await answer if not isinstance(answer, web.Response) else answer
            except Refusal as refusal:
                return refusal.answer

        return guarded

    async def _body(self, request: web.Request, key: str, known: set[str]) -> Any:
        """What stands under the only key of a body; fields that nobody documents are a violation."""
        told = json.loads(await request.read())
        inner = told[key]
        for one in inner if isinstance(inner, list) else [inner]:
            if unknown := one.keys() - known:
                self.violations.append(f"{request.path}: unknown fields {sorted(unknown)}")
        if told.keys() != {key}:
            self.violations.append(f"{request.path}: a body with {sorted(told)}")
        return inner

    def _page(self, request: web.Request, key: str, items: list[dict[str, Any]]) -> web.Response:
        limit, offset = int(request.query.get("limit", 20)), int(request.query.get("offset", 0))
        if limit > 100:
            self.violations.append(f"{request.path}: limit {limit}")
        return web.json_response({key: items[offset : offset + limit], "meta": {"total": str(len(items))}})

    def _get_list(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"])
        if number not in self.lists:
            raise missing("_List", number)
        return web.json_response({"list": {"id": str(number), "name": self.lists[number]}})

    def _get_tags(self, request: web.Request) -> web.Response:
        kinds = {"contact": self.tags, "template": self.template_tags}
        shown = [{"id": str(n), "tag": t, "tagType": kind} for kind, tags in kinds.items() for n, t in tags.items()]
        return self._page(request, "tags", shown)

    async def _post_tag(self, request: web.Request) -> web.Response:
        body = await self._body(request, "tag", {"tag", "tagType", "description"})
        name = body["tag"]
        if "," in name or body["tagType"] != "contact":
            self.violations.append(f"a tag {name!r} of the type {body['tagType']!r}")
        if name.lower() in {tag.lower() for tag in self.tags.values()}:
            text = f"Duplicate entry 'contact-{name}' for key 'typetag'"
            raise Refusal(422, {"message": "Could not process request", "error": text})
        return web.json_response({"tag": {"id": self.make_tag(name), "tag": name, "tagType": "contact"}}, status=201)

    def _tag_of(self, request: web.Request) -> int:
        number = int(request.match_info["id"])
        if number not in self.tags:
            raise missing("Tag", number)
        return number

    def _get_tag(self, request: web.Request) -> web.Response:
        number = self._tag_of(request)
        return web.json_response({"tag": {"id": str(number), "tag": self.tags[number], "tagType": "contact"}})

    def _delete_tag(self, request: web.Request) -> web.Response:
        self.drop_tag(self._tag_of(request))
        return web.json_response({})

    def _get_fields(self, request: web.Request) -> web.Response:
        return self._page(request, "fields", [{"id": str(n), "title": title} for n, title in self.fields.items()])

    async def _post_field(self, request: web.Request) -> web.Response:
        body = await self._body(request, "field", {"type", "title", "perstag", "visible"})
        number = next(self._numbers)
        self.fields[number] = body["title"]
        return web.json_response({"field": {"id": str(number), "title": body["title"]}}, status=201)

    def _get_contacts(self, request: web.Request) -> web.Response:
        query = request.query
        known = {"email", "listid", "tagid", "status", "include", "limit", "orders[id]", "id_greater"}
        if unknown := query.keys() - known:
            self.violations.append(f"/contacts: unknown parameters {sorted(unknown)}")
        if "email" in query:
            person = self.people.get(query["email"].lower())
            found = [person] if person else []
        else:
            if query["status"] != "-1" or int(query["limit"]) > 100 or query["orders[id]"] != "ASC":
                self.violations.append(f"/contacts: status {query['status']}, limit {query['limit']} or the order")
            after, of = int(query["id_greater"]), int(query.get("listid") or query["tagid"])
            there = [p for p in self.people.values() if of in (p.lists if "listid" in query else p.tags)]
            found = sorted((person for person in there if person.id > after), key=lambda person: person.id)
        shown = found[: int(query.get("limit", 20))]
        body: dict[str, Any] = {"contacts": [self._shown(person) for person in shown]}
        if "include" in query and self.sideloads:
            body["contactLists"] = [one for person in shown for one in self._lists_of(person)]
            body["fieldValues"] = [
                {"contact": str(person.id), "field": str(n), "value": value}
                for person in shown
                for n, value in person.fields.items()
            ]
        return web.json_response(body)

    @staticmethod
    def _shown(person: Person) -> dict[str, Any]:
        return {
            "id": str(person.id),
            "email": person.email,
            "firstName": person.first_name,
            "lastName": person.last_name,
        }

    @staticmethod
    def _lists_of(person: Person) -> list[dict[str, str]]:
        return [{"contact": str(person.id), "list": str(n), "status": status} for n, status in person.lists.items()]

    def _person_of(self, number: int) -> Person:
        if number not in self._by_id:
            raise missing("Subscriber", number)
        return self._by_id[number]

    async def _put_contact(self, request: web.Request) -> web.Response:
        body = await self._body(request, "contact", {"email"})
        person = self._person_of(int(request.match_info["id"]))
        address = self._taken(body["email"])
        owner = self.people.get(address.lower(), person)
        if owner is not person:
            raise invalid("duplicate", "Email address already exists in the system")
        del self.people[person.email.lower()]
        person.email = address
        self.people[address.lower()] = person
        return web.json_response({"contact": self._shown(person)})

    def _get_contact_lists(self, request: web.Request) -> web.Response:
        person = self._person_of(int(request.match_info["id"]))
        return self._page(request, "contactLists", self._lists_of(person))

    def _get_contact_tags(self, request: web.Request) -> web.Response:
        person = self._person_of(int(request.match_info["id"]))
        shown = [{"id": str(n), "contact": str(person.id), "tag": str(tag)} for tag, n in person.tags.items()]
        return self._page(request, "contactTags", shown)

    def _taken(self, address: str) -> str:
        """The address, where the service takes it."""
        if not _ADDRESS.fullmatch(address) or address.lower().endswith("@" + self.refused_domain):
            raise invalid("email_invalid", "Email address is invalid.")
        return address

    async def _sync(self, request: web.Request) -> web.Response:
        body = await self._body(request, "contact", {"email", "firstName", "lastName", "fieldValues"})
        person = self.person(self._taken(body["email"]))
        person.first_name = body.get("firstName", person.first_name)
        person.last_name = body.get("lastName", person.last_name)
        self._write_fields(person, [(one["field"], one["value"]) for one in body.get("fieldValues", [])])
        return web.json_response({"contact": self._shown(person)})

    def _write_fields(self, person: Person, values: list[tuple[Any, str]]) -> None:
        for number, value in values:
            if int(number) not in self.fields:
                self.violations.append(f"no field {number}")
            person.fields[int(number)] = value

    async def _post_contact_list(self, request: web.Request) -> web.Response:
        body = await self._body(request, "contactList", {"list", "contact", "status"})
        person = self._person_of(body["contact"])
        if body["status"] == 1 and person.lists.get(body["list"]) not in (None, "1"):
            self.violations.append(f"{person.email} was subscribed again")
        if body["list"] not in self.lists or body["status"] not in (1, 2):
            raise Refusal(400, {"message": "list or status"})
        person.lists[body["list"]] = str(body["status"])
        return web.json_response({"contactList": self._lists_of(person)[-1]})

    async def _post_contact_tag(self, request: web.Request) -> web.Response:
        body = await self._body(request, "contactTag", {"contact", "tag"})
        person = self._person_of(body["contact"])
        if body["tag"] not in self.tags:
            raise Refusal(404, {"errors": [{"status": 404, "title": "Not Found", "detail": "Tag not found"}]})
        number = person.tags.setdefault(body["tag"], next(self._numbers))
        return web.json_response({"contactTag": {"id": str(number)}}, status=201)

    def _delete_contact_tag(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"])
        for person in self.people.values():
            for tag, its_number in person.tags.items():
                if its_number == number:
                    del person.tags[tag]
                    return web.json_response({})
        raise missing("ContactTag", number)

    async def _import(self, request: web.Request) -> web.Response:
        rows = await self._body(
            request, "contacts", {"email", "first_name", "last_name", "fields", "tags", "subscribe"}
        )
        if self.imports_limited:
            reasons = ["Up to 100 imports may be requested per minute."]
            raise Refusal(400, {"success": 0, "message": "Rate limit exceeded.", "failureReasons": reasons})
        if not 10 < len(rows) <= 250:
            self.violations.append(f"an import of {len(rows)}")
        bad = [i for i, row in enumerate(rows) if not _ADDRESS.fullmatch(row["email"])]
        if bad:
            failures = [{"contact": i, "failureReason": "Field 'email' incorrect format"} for i in bad]
            text = "JSON payload did not pass validation."
            raise Refusal(400, {"success": 0, "message": text, "failureReasons": failures})
        batch_id = f"0641fbdd-{next(self._numbers)}"
        failing = [
            row["email"]
            for row in rows
            if row["email"].lower().endswith("@" + self.refused_domain) or row["email"].lower() in self.import_fails_for
        ]
        self._jobs[batch_id] = [self.job_looks, [row for row in rows if row["email"] not in failing], failing]
        told = {"Success": 1, "queued_contacts": len(rows), "batchId": batch_id, "message": "Contact import queued"}
        return web.json_response(told)

    def _work_off(self, rows: list[dict[str, Any]]) -> list[str]:
        for row in rows:
            person = self.person(row["email"])
            person.first_name = row.get("first_name", person.first_name)
            person.last_name = row.get("last_name", person.last_name)
            self._write_fields(person, [(one["id"], one["value"]) for one in row["fields"]])
            for name in row["tags"]:
                known = next((n for n, tag in self.tags.items() if tag.lower() == name.lower()), None)
                person.tags.setdefault(known or int(self.make_tag(name)), next(self._numbers))
            for one in row["subscribe"]:
                person.lists.setdefault(one["listid"], "1")  # who unsubscribed is not subscribed
        return [str(self.people[row["email"].lower()].id) for row in rows]

    def _get_job(self, request: web.Request) -> web.Response:
        job = self._jobs[request.query["batchId"]]
        job[0] -= 1
        if job[0] > 0:
            return web.json_response({"status": False})
        made = self._work_off(job[1]) if self.job_status == "completed" else []
        return web.json_response({"status": self.job_status, "success": made, "failure": job[2]})


class ActiveCampaignHarness(FakeHarness):
    fake: FakeActiveCampaign

    async def lists(self) -> dict[str, str]:
        return {str(number): name for number, name in self.fake.tags.items()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        return {
            person.email.lower(): (person.first_name, person.last_name)
            for person in self.fake.people.values()
            if int(list_id) in person.tags and person.lists.get(LIST_ID) == "1"
        }

    async def opt_out(self, address: str) -> None:
        self.fake.person(address).lists[LIST_ID] = "2"

    async def make_list(self, name: str) -> str:
        return self.fake.make_tag(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_tag(int(list_id))

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def activecampaign(**knobs: Any) -> AbstractAsyncContextManager[ActiveCampaignHarness]:
    """A running fake and an open provider on it."""
    fake = FakeActiveCampaign(**knobs)

    def harness() -> ActiveCampaignHarness:
        settings = ActiveCampaignSettings(base_url=fake.base_url, api_key=Secret(KEY), list_id=str(LIST_ID))
        return ActiveCampaignHarness(fake, ActiveCampaignProvider(settings), [KEY])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeActiveCampaign, key=KEY)
