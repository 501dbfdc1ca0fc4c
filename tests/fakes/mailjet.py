"""A strict Mailjet: contacts of an account, lists and their recipients, properties and jobs, as the fact page says.

python -m tests.fakes.mailjet --port 9004 --latency-s 0.2
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

from aiohttp import web

from providers.base import Secret
from providers.mailjet import MailjetProvider, MailjetSettings
from providers.testing.fake import FakeEsp, FakeHarness, Handler, run_forever, running

KEY = "0123456789abcdef0123456789abcdef"
SECRET_KEY = "fedcba9876543210fedcba9876543210"
_AUTHORIZATION = "Basic " + b64encode(f"{KEY}:{SECRET_KEY}".encode()).decode()
_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")
_ACTIONS = {"addforce", "addnoforce", "remove", "unsub"}
_FILTERS = {"contact": {"ContactsList"}, "contactdata": {"ContactsList"}, "listrecipient": {"ContactsList", "Unsub"}}


@dataclass
class Person:
    id: int
    email: str
    name: str = ""
    excluded: bool = False
    complained: bool = False
    properties: dict[str, str] = field(default_factory=dict)


@dataclass
class ContactsList:
    name: str
    recipients: dict[int, bool] = field(default_factory=dict)  # contact → whether they unsubscribed


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = refused(status, message)


def refused(status: int, message: str) -> web.Response:
    return web.json_response({"ErrorInfo": "", "ErrorMessage": message, "StatusCode": status}, status=status)


def told(*data: Any, status: int = 200) -> web.Response:
    return web.json_response({"Count": len(data), "Data": data, "Total": len(data)}, status=status)


@dataclass
class FakeMailjet(FakeEsp):
    """Jobs are done when they are looked at for the time `job_looks`. A bad row ends in the report of its job, or with
    `refuses_whole` refuses the call. Pages may be shorter (`page_max`) than asked for. `spoilt` is what Mailjet says of
    a job that came to nothing."""

    parallel_limit: int = 4
    job_looks: int = 1
    page_max: int = 1000
    refuses_whole: bool = False
    spoilt: dict[str, str] | None = None
    free_contacts: int = 1_000_000
    refused_domain: str = "refused.test"
    lists: dict[int, ContactsList] = field(default_factory=dict)
    deleted: dict[int, ContactsList] = field(default_factory=dict)
    properties: dict[str, tuple[str, str]] = field(default_factory=lambda: {"country": ("str", "static")})
    people: dict[str, Person] = field(default_factory=dict)  # by address in small letters

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(1)
        self._jobs: dict[str, list[Any]] = {}  # looks left, work, what is told at the end, rows in error

    # What tests do by hand

    def make_list(self, name: str) -> int:
        number = next(self._numbers)
        self.lists[number] = ContactsList(name)
        return number

    def drop_list(self, number: int) -> None:
        self.deleted[number] = ContactsList(self.lists.pop(number).name)

    def person(self, address: str) -> Person:
        return self.people.setdefault(address.lower(), Person(next(self._numbers), address.lower()))

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        if status == 401:
            return web.Response(status=401)
        answer = refused(status, "Too many requests" if status == 429 else "An Unexpected Error occurred")
        answer.headers.update(headers or {})
        return answer

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, Callable[[web.Request], Any]]] = [
            ("GET", "/contactslist", self._get_lists),
            ("POST", "/contactslist", self._post_list),
            ("GET", "/contactslist/{list_id}", self._get_list),
            ("DELETE", "/contactslist/{list_id}", self._delete_list),
            ("POST", "/contactslist/{list_id}/managecontact", self._manage_one),
            ("POST", "/contactslist/{list_id}/managemanycontacts", self._manage_many),
            ("GET", "/contactslist/{list_id}/managemanycontacts/{number}", self._get_job),
            ("POST", "/contact/managemanycontacts", self._manage_account),
            ("GET", "/contact/managemanycontacts/{number}", self._get_job),
            ("GET", "/contact", self._get_contacts),
            ("GET", "/contact/{address}", self._get_contact),
            ("GET", "/contact/{address}/getcontactslists", self._get_lists_of),
            ("GET", "/contactdata", self._get_data),
            ("GET", "/listrecipient", self._get_recipients),
            ("GET", "/contactmetadata", self._get_properties),
            ("POST", "/contactmetadata", self._post_property),
        ]
        routes = [web.route(method, f"/v3/REST{path}", self._guarded(handler)) for method, path, handler in table]
        report = "/v3/DATA/batchjob/{number}/JSONError/application:json/LAST"
        return [*routes, web.get(report, self._guarded(self._get_report))]

    def _guarded(self, handler: Callable[[web.Request], Any]) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != _AUTHORIZATION:
                return self.error(401)
            try:
                answer = handler(request)
                return await answer if not isinstance(answer, web.Response) else answer
            except Refusal as refusal:
                return refusal.answer

        return guarded

    @staticmethod
    def _known(body: Any, known: set[str], what: str) -> dict[str, Any]:
        for name in body.keys() - known:
            raise Refusal(400, f'Invalid json input: object ""->"{what}" has no property "{name}"')
        return dict(body)

    async def _body(self, request: web.Request, known: set[str], what: str) -> dict[str, Any]:
        return self._known(json.loads(await request.read()), known, what)

    def _page(self, request: web.Request, items: Any, filters: set[str]) -> web.Response:
        if unknown := request.query.keys() - filters - {"Limit", "Offset"}:
            self.violations.append(f"unknown filters {sorted(unknown)}")
        limit, offset = int(request.query.get("Limit", 10)), int(request.query.get("Offset", 0))
        if not 0 < limit <= 1000:
            raise Refusal(400, "Limit is out of range")
        return told(*islice(items, offset, offset + min(limit, self.page_max)))

    def _list_of(self, request: web.Request) -> ContactsList:
        return self._list(request.match_info["list_id"])

    def _list(self, number: str) -> ContactsList:
        if int(number) not in self.lists:
            raise Refusal(404, "Object not found")
        return self.lists[int(number)]

    # Lists

    def _shown_list(self, number: int, one: ContactsList) -> dict[str, Any]:
        shown = {"ID": number, "Name": one.name, "Address": f"a{number}", "SubscriberCount": len(one.recipients)}
        return shown | {"IsDeleted": number in self.deleted}

    def _get_lists(self, request: web.Request) -> web.Response:
        return self._page(request, [self._shown_list(*item) for item in (self.lists | self.deleted).items()], set())

    async def _post_list(self, request: web.Request) -> web.Response:
        name = (await self._body(request, {"Name"}, "TContactsList"))["Name"]
        if not name:
            raise Refusal(400, "MJ08 Property Name is invalid: MJ04 Value must have at least length 1")
        if name in {one.name for one in (self.lists | self.deleted).values()}:
            raise Refusal(400, f'MJ18 A Contactslist resource with value "{name}" for Name already exists.')
        number = self.make_list(name)
        return told(self._shown_list(number, self.lists[number]), status=201)

    def _get_list(self, request: web.Request) -> web.Response:
        return told(self._shown_list(int(request.match_info["list_id"]), self._list_of(request)))

    def _delete_list(self, request: web.Request) -> web.Response:
        self._list_of(request)
        self.drop_list(int(request.match_info["list_id"]))
        return web.Response(status=204)

    # Contacts

    def _fault_of(self, row: dict[str, Any]) -> str | None:
        self._known(row, {"Email", "Name", "IsExcludedFromCampaigns", "Properties"}, "TContact")
        if not _ADDRESS.fullmatch(row["Email"]) or row["Email"].lower().endswith("@" + self.refused_domain):
            return f'MJ08 Property Email is invalid: "{row["Email"]}" is no email address'
        for name, value in row.get("Properties", {}).items():
            if name not in self.properties or not isinstance(value, str | None):
                return f'Invalid value or no property "{name}"'
        return None

    def _write(self, row: dict[str, Any]) -> Person:
        person = self.person(row["Email"])
        person.name = row.get("Name", person.name)
        person.excluded = row.get("IsExcludedFromCampaigns", person.excluded)
        if "IsExcludedFromCampaigns" in row and not person.excluded:
            self.violations.append("somebody was taken off the exclusion list")
        for name, value in row.get("Properties", {}).items():
            if value is None:
                person.properties.pop(name, None)
            else:
                person.properties[name] = value
        return person

    def _manage(self, one: ContactsList, action: str, row: dict[str, Any]) -> Person | None:
        if action == "remove":
            person = self.people.get(row["Email"].lower())
            if person and one.recipients.pop(person.id, False):
                self.violations.append("the mark of an opt-out was removed")
            return person
        person = self._write(row)
        if action == "addforce":
            self.violations.append("addforce subscribes again who unsubscribed")
        one.recipients[person.id] = action == "unsub" or (
            action == "addnoforce" and one.recipients.get(person.id, False)
        )
        return person

    async def _manage_one(self, request: web.Request) -> web.Response:
        row = await self._body(request, {"Action", "Email", "Name", "Properties"}, "TManageContact")
        one, action = self._list_of(request), row.pop("Action")
        if action not in _ACTIONS:
            raise Refusal(400, "action missing or not valid")
        if fault := self._fault_of(row):
            raise Refusal(400, fault)
        if row["Email"].lower() not in self.people and len(self.people) >= self.free_contacts:
            raise Refusal(400, "Number of contacts exceeds maximum allowed for free accounts")
        person = self._manage(one, action, row)
        return told({"ContactID": person.id if person else 0, "Action": action, **row}, status=201)

    async def _manage_many(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"Action", "Contacts"}, "TManageManyContacts")
        one, action = self._list_of(request), body["Action"]
        if action not in _ACTIONS:
            raise Refusal(400, "action missing or not valid")
        return self._start(body["Contacts"], lambda row: self._manage(one, action, row))

    async def _manage_account(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"Contacts"}, "TManageManyContacts")
        return self._start(body["Contacts"], self._write)

    def _start(self, rows: list[dict[str, Any]], work: Callable[[dict[str, Any]], object]) -> web.Response:
        faults = {row["Email"]: fault for row in rows if (fault := self._fault_of(row))}
        if faults and self.refuses_whole:
            contacts = [{"Email": address, "Error": fault} for address, fault in faults.items()]
            error = {"ErrorInfo": "", "ErrorMessage": {"Contacts": contacts}, "StatusCode": 400}
            return web.json_response(error, status=400)
        number = str(next(self._numbers))
        end = {"Status": "Completed", "Error": "", "ErrorFile": f"{self.base_url}/{number}.csv" if faults else ""}
        if len(self.people.keys() | {row["Email"].lower() for row in rows}) > self.free_contacts:
            end |= {"Status": "Error", "Error": "Number of contacts exceeds maximum allowed for free accounts"}
        elif self.spoilt:
            end |= self.spoilt
        good = [row for row in rows if row["Email"] not in faults] if end["Status"] == "Completed" else []

        def run() -> None:
            for row in good:
                work(row)

        self._jobs[number] = [self.job_looks, run, end, faults]
        return told({"JobID": int(number)}, status=201)

    def _get_job(self, request: web.Request) -> web.Response:
        job = self._jobs.get(request.match_info["number"])
        if job is None:
            raise Refusal(404, "Object not found")
        job[0] -= 1
        if job[0] > 0:
            return told({"Status": "Importing", "Count": 0, "Error": "", "ErrorFile": ""})
        if job[0] == 0:
            job[1]()
        return told(job[2])

    def _get_report(self, request: web.Request) -> web.Response:
        faults = self._jobs[request.match_info["number"]][3]
        if not faults:
            raise Refusal(404, "Object not found")
        return web.json_response([{"Email": address, "Error": fault} for address, fault in faults.items()])

    # Reading

    @staticmethod
    def _shown(person: Person) -> dict[str, Any]:
        return {
            "ID": person.id,
            "Email": person.email,
            "Name": person.name,
            "IsExcludedFromCampaigns": person.excluded,
            "IsOptInPending": False,
            "IsSpamComplaining": person.complained,
            "UnsubscribedAt": "",
        }

    def _on_list(self, request: web.Request) -> list[Person]:
        """Everybody where no list is asked for."""
        if "ContactsList" not in request.query:
            return list(self.people.values())
        recipients = self._list(request.query["ContactsList"]).recipients
        return [person for person in self.people.values() if person.id in recipients]

    def _get_contacts(self, request: web.Request) -> web.Response:
        return self._page(request, map(self._shown, self._on_list(request)), _FILTERS["contact"])

    def _get_data(self, request: web.Request) -> web.Response:
        rows = (
            {"ContactID": p.id, "ID": p.id, "Data": [{"Name": n, "Value": v} for n, v in p.properties.items()]}
            for p in reversed(self._on_list(request))
        )
        return self._page(request, rows, _FILTERS["contactdata"])

    def _get_recipients(self, request: web.Request) -> web.Response:
        recipients = self._list(request.query["ContactsList"]).recipients
        wanted = {"true": (True,), "false": (False,)}.get(request.query.get("Unsub", ""), (True, False))
        rows = (
            {"ID": contact, "ContactID": contact, "IsUnsubscribed": unsubscribed, "IsActive": True}
            for contact, unsubscribed in recipients.items()
            if unsubscribed in wanted
        )
        return self._page(request, rows, _FILTERS["listrecipient"])

    def _person_of(self, request: web.Request) -> Person:
        person = self.people.get(request.match_info["address"].lower())
        if person is None:
            raise Refusal(404, "Object not found")
        return person

    def _get_contact(self, request: web.Request) -> web.Response:
        return told(self._shown(self._person_of(request)))

    def _get_lists_of(self, request: web.Request) -> web.Response:
        person = self._person_of(request)
        shown = [
            {"ListID": number, "IsUnsub": one.recipients[person.id], "IsActive": True, "SubscribedAt": ""}
            for number, one in self.lists.items()
            if person.id in one.recipients
        ]
        some = shown[: min(int(request.query.get("Limit", 10)), self.page_max)]
        return web.json_response({"Count": len(some), "Data": some, "Total": len(shown)})

    def _get_properties(self, request: web.Request) -> web.Response:
        shown = [
            {"ID": n, "Name": name, "Datatype": d, "NameSpace": s}
            for n, (name, (d, s)) in enumerate(self.properties.items())
        ]
        return self._page(request, shown, set())

    async def _post_property(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"Name", "Datatype", "NameSpace"}, "TContactMetaData")
        if body["Name"] in self.properties:
            raise Refusal(400, f'MJ18 A Contactmetadata resource with value "{body["Name"]}" for Name already exists.')
        self.properties[body["Name"]] = body["Datatype"], body["NameSpace"]
        return told({"ID": next(self._numbers), **body}, status=201)


class MailjetHarness(FakeHarness):
    fake: FakeMailjet

    async def lists(self) -> dict[str, str]:
        return {str(number): one.name for number, one in self.fake.lists.items()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        recipients = self.fake.lists[int(list_id)].recipients
        return {
            person.email: (person.properties.get("firstname", ""), person.properties.get("lastname", ""))
            for person in self.fake.people.values()
            if recipients.get(person.id) is False and not person.excluded and not person.complained
        }

    async def opt_out(self, address: str) -> None:
        person = self.fake.person(address)
        on = [one for one in self.fake.lists.values() if person.id in one.recipients]
        for one in on:
            one.recipients[person.id] = True
        person.excluded = person.excluded or not on

    async def make_list(self, name: str) -> str:
        return str(self.fake.make_list(name))

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(int(list_id))

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def mailjet(**knobs: Any) -> AbstractAsyncContextManager[MailjetHarness]:
    """A running fake and an open provider on it."""
    fake = FakeMailjet(**knobs)

    def harness() -> MailjetHarness:
        settings = MailjetSettings(api_key=Secret(KEY), secret_key=Secret(SECRET_KEY), base_url=fake.base_url)
        return MailjetHarness(fake, MailjetProvider(settings), [KEY, SECRET_KEY])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeMailjet, key=f"{KEY}:{SECRET_KEY}")
