"""A strict Sendsay: actions, batches of them, lists, the stop list, as the fact page says.

python -m tests.fakes.sendsay --port 9013 --latency-s 0.2
"""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from providers.base import Secret
from providers.sendsay import SendsayProvider, SendsaySettings
from providers.testing.fake import FakeEsp, FakeHarness, run_forever, running

KEY = "19FAKEkeyOfTheTests_only9wDLcu92POg"
ACCOUNT = "my_company"
PATH = "/general/api/v100/json"
MAX_ACTIONS = 101  # in one batch; not published
_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")
_ANSWERS = {"base.firstName", "base.lastName", "custom.planfix_id"}
_PARAMETERS = {
    "group.list": set(),
    "group.get": {"id"},
    "group.create": {"name", "type", "addr_type"},
    "group.delete": {"id"},
    "group.clean": {"id", "list", "sync"},
    "member.get": {"email", "addr_type"},
    "member.set": {"email", "addr_type", "newbie.confirm", "datakey"},
    "member.list": {"group", "group.filter", "addr_type", "page", "pagesize", "sort", "sort.order", "result"},
    "stoplist.add": {"list"},
    "track.get": {"id"},
    "batch": {"stop_on_error", "do"},
}
# A contact that has the day on which it was stopped.
_STOPPED = {"aid": "member", "qid": "lockremove", "qid.type": "dt", "which": "dirtyS", "resp": None}


@dataclass
class Person:
    email: str
    confirmed: bool
    groups: set[str] = field(default_factory=set)
    answers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """Ends an action with an error."""

    def __init__(self, code: str, explain: str = "") -> None:
        super().__init__(code)
        self.told = {"errors": [{"id": code, "explain": explain}]}


@dataclass
class FakeSendsay(FakeEsp):
    """With `cleans_later` a removal is done when its track is looked at for the time `track_looks`."""

    parallel_limit: int = 2
    cleans_later: bool = False
    track_looks: int = 1
    track_ends: int = -1
    plan_size: int = 10**9  # contacts beyond it are added unconfirmed
    unique_names: bool = False
    id_under_obj: bool = False
    tells_no_id: bool = False
    rows_are: str = "address"  # of member.list: "address", "cells" or "record"
    page_at_most: int = 10**9
    ignores_pages: bool = False
    ignores_filters: bool = False
    always: Any = None  # the answer to every call
    only_counts: bool = False  # contacts are counted and change nothing, for large numbers
    refused_domain: str = "refused.test"
    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)  # by address in small letters
    stopped: set[str] = field(default_factory=set)  # by address, whether or not anybody has it

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(1)
        self._tracks: dict[int, list[Any]] = {}  # looks left, work

    # What tests do by hand

    def make_list(self, name: str, addr_type: str = "email") -> str:
        list_id = f"pl{next(self._numbers)}"
        self.groups[list_id] = {"id": list_id, "name": name, "type": "list", "addr_type": addr_type}
        return list_id

    def drop_list(self, list_id: str) -> None:
        self.groups.pop(list_id, None)
        for person in self.people.values():
            person.groups.discard(list_id)

    def asked(self, action: str) -> list[dict[str, Any]]:
        """The actions of one kind that came, in batches or alone."""
        bodies = [call.body for call in self.calls]
        return [one for body in bodies for one in body.get("do", [body]) if one["action"] == action]

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        if status == 401:
            return web.json_response({"errors": [{"id": "error/auth/failed", "explain": "apikey"}]}, headers=headers)
        return web.json_response({"errors": [{"id": "error/internal"}]}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        return [web.post(f"{PATH}/{{account}}", self._call)]

    async def _call(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            self.violations.append("a call that is no JSON")
        if self.always is not None:
            return web.json_response(self.always)
        if request.headers.get("Authorization") != f"sendsay apikey={KEY}" or request.match_info["account"] != ACCOUNT:
            return self.error(401)
        return web.json_response(self._do(json.loads(await request.read())))

    def _do(self, body: dict[str, Any]) -> Any:
        actions: dict[str, Callable[[dict[str, Any]], Any]] = {
            "group.list": self._group_list,
            "group.get": self._group_get,
            "group.create": self._group_create,
            "group.delete": self._group_delete,
            "group.clean": self._group_clean,
            "member.get": self._member_get,
            "member.set": self._member_set,
            "member.list": self._member_list,
            "stoplist.add": self._stoplist_add,
            "track.get": self._track_get,
            "batch": self._batch,
        }
        action = body.pop("action", None)
        try:
            if action not in actions or body.keys() - _PARAMETERS[action]:
                raise Refusal("wrong_parameter", f"{action} {sorted(body)}")
            return actions[action](body)
        except Refusal as refusal:
            return refusal.told

    def _batch(self, body: dict[str, Any]) -> Any:
        if self.only_counts:
            return {"result": [{} for _ in body["do"]]}
        if not 0 < len(body["do"]) <= MAX_ACTIONS or any(one.get("action") == "batch" for one in body["do"]):
            raise Refusal("wrong_batch")
        return {"result": [self._do(one) for one in body["do"]]}

    def _group_list(self, body: dict[str, Any]) -> Any:
        return {"list": list(self.groups.values())}

    def _group_get(self, body: dict[str, Any]) -> Any:
        return {"obj": self._group(body["id"])}

    def _group(self, list_id: str) -> dict[str, str]:
        if list_id not in self.groups:
            raise Refusal("wrong_group", "there is none")
        return self.groups[list_id]

    def _group_create(self, body: dict[str, Any]) -> Any:
        if body["type"] != "list" or body["addr_type"] != "email" or not body["name"]:
            raise Refusal("wrong_parameter")
        if self.unique_names and body["name"] in [group["name"] for group in self.groups.values()]:
            raise Refusal("group_exists")
        list_id = self.make_list(body["name"])
        return {} if self.tells_no_id else {"obj": {"id": list_id}} if self.id_under_obj else {"id": list_id}

    def _group_delete(self, body: dict[str, Any]) -> Any:
        self._group(body["id"])
        self.drop_list(body["id"])
        return {}

    def _group_clean(self, body: dict[str, Any]) -> Any:
        self._group(body["id"])
        if body.get("sync") != 1:
            self.violations.append("a removal that is not asked to be done at once")

        def work() -> None:
            for address in body["list"]:
                if person := self.people.get(address.lower()):
                    person.groups.discard(body["id"])

        if self.cleans_later:
            number = next(self._numbers)
            self._tracks[number] = [self.track_looks, work]
            return {"track.id": number}
        work()
        return {}

    def _track_get(self, body: dict[str, Any]) -> Any:
        track = self._tracks[body["id"]]
        track[0] -= 1
        if track[0] > 0:
            return {"obj": {"id": body["id"], "status": "2"}}
        if self.track_ends == -1:
            track[1]()
        return {"obj": {"id": body["id"], "status": str(self.track_ends)}}

    def _checked(self, body: dict[str, Any]) -> str:
        address = str(body["email"]).lower()
        if body.get("addr_type") != "email" or not _ADDRESS.fullmatch(address):
            raise Refusal("wrong_email")
        return address

    def _member_get(self, body: dict[str, Any]) -> Any:
        address = self._checked(body)
        if address not in self.people:
            raise Refusal("error/member/notfound", "no such member")
        return {"obj": self._shown(self.people[address])}

    def _shown(self, person: Person) -> dict[str, Any]:
        member = {"email": person.email, "create.time": "2026-01-01 00:00:00"}
        if person.email in self.stopped:
            member["lockremove"] = "2026-02-02"
        if not person.confirmed:
            member["lockconfirm"] = "2026-01-01"
        shown: dict[str, Any] = {"member": member, "-group": dict.fromkeys(person.groups, 1)}
        for key, value in person.answers.items():
            form, question = key.split(".")
            shown.setdefault(form, {})[question] = value
        return shown

    def _member_set(self, body: dict[str, Any]) -> Any:
        address = self._checked(body)
        if address.endswith("@" + self.refused_domain):
            raise Refusal("wrong_email", f"{address} does not exist")
        if body.get("newbie.confirm") != 0:
            self.violations.append("a new contact would be asked to confirm")
        is_new = address not in self.people
        person = self.people.setdefault(address, Person(address, len(self.people) < self.plan_size))
        for key, verb, value in body["datakey"]:
            if verb != "set":
                raise Refusal("wrong_datakey")
            if key.startswith("-group."):
                if key[7:] in self.groups:  # says nothing of a list that does not exist
                    person.groups.add(key[7:])
            elif key in _ANSWERS:
                person.answers[key] = value
            else:
                raise Refusal("wrong_datakey", key)
        return {"member": {"id": 1, "email": address}} if is_new else {}

    def _member_list(self, body: dict[str, Any]) -> Any:
        if "group" in body:
            self._group(body["group"])
            addresses = sorted(p.email for p in self.people.values() if body["group"] in p.groups)
        else:
            if body["group.filter"] != [_STOPPED] or body["addr_type"] != "email":
                raise Refusal("wrong_filter")
            addresses = sorted(self.people.keys() & (self.people.keys() if self.ignores_filters else self.stopped))
        size = min(body["pagesize"], self.page_at_most)
        start = 0 if self.ignores_pages else (body["page"] - 1) * size
        some = addresses[start : start + size]
        rows: dict[str, list[Any]] = {
            "address": list(some),
            "cells": [["2026-01-01", address] for address in some],
            "record": [{"create.time": "2026-01-01", "member.email": address} for address in some],
        }
        return {"list": rows[self.rows_are], "order": [{"anketa": "member", "quest": "email"}]}

    def _stoplist_add(self, body: dict[str, Any]) -> Any:
        for address in body["list"]:
            self.stopped.add(self._checked({"email": address, "addr_type": "email"}))
        return {}


class SendsayHarness(FakeHarness):
    fake: FakeSendsay

    async def lists(self) -> dict[str, str]:
        return {list_id: group["name"] for list_id, group in self.fake.groups.items()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        return {
            p.email: (p.answers.get("base.firstName", ""), p.answers.get("base.lastName", ""))
            for p in self.fake.people.values()
            if list_id in p.groups and p.confirmed and p.email not in self.fake.stopped
        }

    async def opt_out(self, address: str) -> None:
        self.fake.stopped.add(address.lower())

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(list_id)

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def sendsay(settings: Mapping[str, Any] | None = None, **knobs: Any) -> AbstractAsyncContextManager[SendsayHarness]:
    """A running fake and an open provider on it; `settings` replace those that are made up."""
    fake = FakeSendsay(**knobs)

    def harness() -> SendsayHarness:
        made_up = SendsaySettings(api_key=Secret(KEY), account=ACCOUNT, base_url=f"{fake.base_url}{PATH}")
        return SendsayHarness(fake, SendsayProvider(replace(made_up, **settings or {})), [KEY])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeSendsay, key=KEY)
