"""A strict Mailman core: the part of its REST API 3.1 that the provider calls, as core 3.3.10 answers (its source, and
`tests/live/test_mailman3.py`, which puts the same promises to a real one).

python -m tests.fakes.mailman3 --port 9003 --latency-s 0.02
"""

import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from aiohttp import web

from providers.base import Secret
from providers.mailman3 import Mailman3Provider, Mailman3Settings
from providers.testing.fake import FakeEsp, FakeHarness, Handler, run_forever, running

DOMAIN = "lists.test"
USER = "restadmin"
PASSWORD = "made-up password of the tests"
ROLES = ("member", "owner", "moderator", "nonmember")  # in the order of listings
MODES = ("regular", "plaintext_digests", "mime_digests", "summary_digests")
POLICY_FLAGS = ("pre_verified", "pre_confirmed", "pre_approved")
_LOCAL = re.compile(r"[-0-9a-z!#$%&'*+./=?@_`{}~]+", re.IGNORECASE)
_LABEL = re.compile(r"[a-z0-9][-a-z0-9]*", re.IGNORECASE)


@dataclass
class MailingList:
    list_name: str
    config: dict[str, Any]


@dataclass
class Address:
    display_name: str
    user_name: str | None = None  # of the user who owns it; None without one


@dataclass
class Membership:
    list_id: str
    email: str
    role: str
    delivery_mode: str = "regular"
    delivery_status: str = "enabled"
    id: str = field(default_factory=lambda: uuid4().hex)


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, description: str = "") -> None:
        super().__init__(description)
        titles = {400: "400 Bad Request", 404: "404 Not Found", 409: "409 Conflict"}
        body = {"title": titles.get(status, "500 Internal Server Error")}
        self.answer = web.json_response(body | ({"description": description} if description else {}), status=status)


@dataclass
class FakeMailman3(FakeEsp):
    """`unfinished_lists`: making a list fails after the list is there, as without a mail server to tell of it."""

    parallel_limit: int = 2
    version: str = "GNU Mailman 3.3.10 (Tom Sawyer)"
    domains: set[str] = field(default_factory=lambda: {DOMAIN})
    lists: dict[str, MailingList] = field(default_factory=dict)
    addresses: dict[str, Address] = field(default_factory=dict)
    roster: dict[str, dict[str, dict[str, Membership]]] = field(default_factory=lambda: defaultdict(dict))
    bans: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by list, "" for the site
    pending: set[str] = field(default_factory=set)  # who has asked to join and not confirmed yet
    unfinished_lists: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._memberships: dict[str, Membership] = {}

    # What people and the core do

    def make_list(self, list_name: str, name: str | None = None) -> str:
        list_id = f"{list_name}.{DOMAIN}"
        prefix = f"[{list_name.capitalize()}] "
        self.lists[list_id] = MailingList(
            list_name,
            {
                "display_name": list_name.capitalize() if name is None else name,
                "subject_prefix": prefix,
                "advertised": True,
                "default_member_action": "defer",
            },
        )
        return list_id

    def drop_list(self, list_id: str) -> None:
        self.lists.pop(list_id, None)
        self.bans.pop(list_id, None)
        for roles in self.roster.pop(list_id, {}).values():
            for membership in roles.values():
                del self._memberships[membership.id]

    def join(self, membership: Membership) -> Membership:
        self.roster[membership.list_id].setdefault(membership.email, {})[membership.role] = membership
        self._memberships[membership.id] = membership
        return membership

    def leave(self, membership: Membership) -> None:
        del self._memberships[membership.id]
        del self.roster[membership.list_id][membership.email][membership.role]

    def at(self, list_id: str, address: str) -> dict[str, Membership]:
        """What an address is on a list, by role."""
        return self.roster[list_id].get(address.lower(), {})

    def shown_name(self, address: str) -> str:
        known = self.addresses[address]
        return known.display_name or known.user_name or ""

    def is_banned(self, list_id: str, address: str) -> bool:
        for ban in self.bans[list_id] | self.bans[""]:
            if ban == address or (ban.startswith("^") and re.match(ban, address, re.IGNORECASE)):
                return True
        return False

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        body = {"title": f"{status} of the core"}
        if status == 401:
            body = {"title": "401 Unauthorized", "description": "REST API authorization failed"}
        return web.json_response(body, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, Callable[[web.Request], Any]]] = [
            ("GET", "/system/versions", self._versions),
            ("GET", "/domains/{domain}", self._domain),
            ("GET", "/domains/{domain}/lists", self._get_lists),
            ("POST", "/lists", self._post_list),
            ("GET", "/lists/{list_id}", self._get_list),
            ("DELETE", "/lists/{list_id}", self._delete_list),
            ("PATCH", "/lists/{list_id}/config", self._patch_config),
            ("DELETE", "/lists/{list_id}/roster/{role}", self._delete_roster),
            ("GET", "/bans", self._get_bans),
            ("GET", "/lists/{list_id}/bans", self._get_bans),
            ("GET", "/lists/{list_id}/bans/{address}", self._get_ban),
            ("GET", "/members/find", self._find),
            ("POST", "/members", self._post_member),
            ("PATCH", "/members/{member_id}", self._patch_member),
            ("DELETE", "/members/{member_id}", self._delete_member),
            ("GET", "/members/{member_id}/all/preferences", self._preferences),
            ("PATCH", "/addresses/{address}", self._patch_address),
            ("PATCH", "/users/{address}", self._patch_user),
        ]
        return [web.route(method, f"/3.1{path}", self._guarded(handler)) for method, path, handler in table]

    def _guarded(self, handler: Callable[[web.Request], Any]) -> Handler:
        login = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()

        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != login:
                return self.error(401)
            try:
                answer = handler(request)
                return await answer if not isinstance(answer, web.Response) else answer
            except Refusal as refusal:
                return refusal.answer

        return guarded

    @staticmethod
    async def _body(request: web.Request, needed: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
        """The parameters of a request, none missing, none unknown."""
        if request.content_type != "application/json":
            raise Refusal(400, "Missing Parameter: the tests send JSON")
        told = dict(await request.json())
        if unknown := told.keys() - {*needed, *optional}:
            raise Refusal(400, f"Unexpected parameters: {', '.join(sorted(unknown))}")
        if missing := set(needed) - told.keys():
            raise Refusal(400, f"Missing Parameter: {', '.join(sorted(missing))}")
        return told

    @staticmethod
    def _collection(request: web.Request, items: list[dict[str, Any]]) -> web.Response:
        told: dict[str, Any] = {"start": 0, "total_size": len(items), "http_etag": '"made up"'}
        if "count" in request.query or "page" in request.query:
            if not {"count", "page"} <= request.query.keys() or int(request.query["page"]) < 1:
                raise Refusal(500)
            count = int(request.query["count"])
            told["start"] = (int(request.query["page"]) - 1) * count
            items = items[told["start"] : told["start"] + count]
        return web.json_response(told | ({"entries": items} if items else {}))

    def _created(self, path: str) -> web.Response:
        return web.Response(status=201, headers={"Location": f"{self.base_url}/3.1/{path}"})

    def _list_of(self, request: web.Request) -> str:
        list_id = request.match_info["list_id"]
        if list_id not in self.lists:
            raise Refusal(404)
        return list_id

    def _versions(self, request: web.Request) -> web.Response:
        return web.json_response({"mailman_version": self.version, "api_version": "3.1"})

    def _domain(self, request: web.Request) -> web.Response:
        if request.match_info["domain"] not in self.domains:
            raise Refusal(404, "404 Not Found")
        return web.json_response({"mail_host": request.match_info["domain"]})

    def _shown_list(self, list_id: str) -> dict[str, Any]:
        known = self.lists[list_id]
        return {"list_id": list_id, "list_name": known.list_name, "display_name": known.config["display_name"]}

    def _get_lists(self, request: web.Request) -> web.Response:
        self._domain(request)
        return self._collection(request, [self._shown_list(list_id) for list_id in sorted(self.lists)])

    async def _post_list(self, request: web.Request) -> web.Response:
        body = await self._body(request, ["fqdn_listname"], ["style_name"])
        list_name, _, domain = body["fqdn_listname"].lower().partition("@")
        if domain not in self.domains:
            raise Refusal(400, f"Domain does not exist: {domain}")
        if not re.fullmatch(r"[-_.+=!$*{}~0-9a-z]+", list_name):
            raise Refusal(400, f"Invalid list name: {list_name}")
        if f"{list_name}.{domain}" in self.lists:
            raise Refusal(400, "Mailing list exists")
        if body.get("style_name") not in ("legacy-announce", "legacy-default", "private-default", None):
            raise Refusal(500)
        list_id = self.make_list(list_name)
        if self.unfinished_lists:
            raise Refusal(500)
        return self._created(f"lists/{list_id}")

    def _get_list(self, request: web.Request) -> web.Response:
        return web.json_response(self._shown_list(self._list_of(request)))

    def _delete_list(self, request: web.Request) -> web.Response:
        self.drop_list(self._list_of(request))
        return web.Response(status=204)

    async def _patch_config(self, request: web.Request) -> web.Response:
        config = self.lists[self._list_of(request)].config
        body = await request.json()
        if unknown := body.keys() - config.keys():
            raise Refusal(400, f"Unknown attribute: {min(unknown)}")
        if body.get("default_member_action") not in ("hold", "reject", "discard", "accept", "defer", None):
            raise Refusal(400, "default_member_action")
        config |= body
        return web.Response(status=204)

    async def _delete_roster(self, request: web.Request) -> web.Response:
        list_id = self._list_of(request)
        if request.match_info["role"] not in ROLES:
            raise Refusal(404)
        body = await self._body(request, ["emails"])
        told: dict[str, Any] = {"http_etag": '"made up"'}
        for email in body["emails"]:
            # Members leave, whatever role the path names; addresses are compared as they are written.
            membership = self.roster[list_id].get(email, {}).get("member")
            told[email] = membership is not None
            if membership is not None:
                self.leave(membership)
        return web.json_response(told)

    def _get_bans(self, request: web.Request) -> web.Response:
        list_id = self._list_of(request) if "list_id" in request.match_info else ""
        return self._collection(request, [{"email": ban} for ban in sorted(self.bans[list_id])])

    def _get_ban(self, request: web.Request) -> web.Response:
        list_id, address = self._list_of(request), request.match_info["address"]
        if not self.is_banned(list_id, address):
            raise Refusal(404, f"Email is not banned: {address}")
        return web.json_response({"email": address, "list_id": list_id})

    def _find(self, request: web.Request) -> web.Response:
        query = request.query
        if unknown := query.keys() - {"list_id", "subscriber", "role", "fields", "count", "page"}:
            raise Refusal(400, f"Unexpected parameters: {', '.join(sorted(unknown))}")
        people = self.roster.get(query["list_id"], {})
        wanted = query.get("subscriber", "*").lower()
        if "*" in wanted:
            pattern = re.compile(re.escape(wanted).replace(r"\*", ".*"))
            found = sorted(email for email in people if pattern.fullmatch(email))
        else:
            found = [wanted] if wanted in people else []
        fields = query.getall("fields")
        return self._collection(
            request,
            [
                self._row(people[email][role], fields)
                for email in found
                for role in ROLES
                if role in people[email] and query.get("role", role) == role
            ],
        )

    def _row(self, membership: Membership, fields: list[str]) -> dict[str, Any]:
        row = {
            "email": membership.email,
            "role": membership.role,
            "list_id": membership.list_id,
            "delivery_mode": membership.delivery_mode,
            "display_name": self.shown_name(membership.email),
            "member_id": membership.id,
        }
        if unknown := set(fields) - row.keys():
            raise Refusal(400, f'Unknown field "{min(unknown)}" for Member resource.')
        return {name: row[name] for name in fields} | {"http_etag": '"made up"'}

    async def _post_member(self, request: web.Request) -> web.Response:
        optional = ("display_name", "role", "delivery_mode", "delivery_status", "send_welcome_message", *POLICY_FLAGS)
        body = await self._body(request, ["list_id", "subscriber"], optional)
        for name, allowed in (("role", ROLES), ("delivery_mode", MODES)):
            if body.get(name, allowed[0]) not in allowed:
                raise Refusal(400, f'Invalid Parameter "{name}": Accepted Values are: {", ".join(allowed)}.')
        if not _is_address(body["subscriber"]):
            raise Refusal(400, 'Invalid Parameter "subscriber": .')
        list_id, email, role = body["list_id"], body["subscriber"].lower(), body.get("role", "member")
        if list_id not in self.lists:
            raise Refusal(400, "No such list")
        known = self.addresses.setdefault(email, Address(body.get("display_name", "")))
        if role in self.at(list_id, email):
            if role == "member":
                raise Refusal(409, "Member already subscribed")
            raise Refusal(400, f"{email} is already an {role} of {self.lists[list_id].list_name}@{DOMAIN}")
        if self.is_banned(list_id, email):
            raise Refusal(400, "Membership is banned")
        if email == f"{self.lists[list_id].list_name}@{DOMAIN}":
            raise Refusal(400, "List posting address cannot subscribe")
        if role == "member" and email in self.pending:
            raise Refusal(409, "Subscription request already pending")
        if role == "member":
            if not all(body.get(flag) is True for flag in POLICY_FLAGS):
                self.violations.append("a subscription may wait for the person or a moderator")
            if body.get("send_welcome_message") is not False:
                self.violations.append("a welcome message goes out")
        if known.user_name is None:
            known.user_name = known.display_name
        membership = self.join(Membership(list_id, email, role, body.get("delivery_mode", "regular")))
        return self._created(f"members/{membership.id}")

    def _membership_of(self, request: web.Request) -> Membership:
        membership = self._memberships.get(request.match_info["member_id"])
        if membership is None:
            raise Refusal(404, "404 Not Found")
        return membership

    async def _patch_member(self, request: web.Request) -> web.Response:
        membership = self._membership_of(request)
        body = await self._body(request, [], ["address", "delivery_mode", "moderation_action"])
        membership.delivery_mode = body.get("delivery_mode", membership.delivery_mode)
        return web.Response(status=204)

    def _delete_member(self, request: web.Request) -> web.Response:
        self.leave(self._membership_of(request))
        return web.Response(status=204)

    def _preferences(self, request: web.Request) -> web.Response:
        membership = self._membership_of(request)
        told = {"delivery_mode": membership.delivery_mode, "delivery_status": membership.delivery_status}
        return web.json_response(told)

    def _address_of(self, request: web.Request) -> Address:
        known = self.addresses.get(request.match_info["address"].lower())
        if known is None:
            raise Refusal(404, "404 Not Found")
        return known

    async def _patch_address(self, request: web.Request) -> web.Response:
        self._address_of(request).display_name = (await self._body(request, ["display_name"]))["display_name"]
        return web.Response(status=204)

    async def _patch_user(self, request: web.Request) -> web.Response:
        self._address_of(request).user_name = (await self._body(request, ["display_name"]))["display_name"]
        return web.Response(status=204)


def _is_address(text: str) -> bool:
    """What the core's own validator takes."""
    local, _, domain = text.rpartition("@")
    labels = domain.split(".")
    return bool(_LOCAL.fullmatch(local)) and len(labels) > 1 and all(map(_LABEL.fullmatch, labels))


class Mailman3Harness(FakeHarness):
    fake: FakeMailman3

    async def lists(self) -> dict[str, str]:
        return {list_id: known.config["display_name"] for list_id, known in self.fake.lists.items()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        return {
            email: (self.fake.shown_name(email), "")
            for email, roles in self.fake.roster.get(list_id, {}).items()
            if "member" in roles and roles["member"].delivery_status == "enabled"
        }

    async def opt_out(self, address: str) -> None:
        memberships = [at["member"] for id_ in self.fake.lists if "member" in (at := self.fake.at(id_, address))]
        for membership in memberships:
            self.fake.leave(membership)
        if not memberships:
            self.fake.bans[""].add(address.lower())

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(f"news{len(self.fake.lists)}", name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(list_id)

    def refused_address(self) -> str:
        return "анна@post.test"


def mailman3(**knobs: Any) -> AbstractAsyncContextManager[Mailman3Harness]:
    """A running fake and an open provider on it."""
    fake = FakeMailman3(**knobs)

    def harness() -> Mailman3Harness:
        settings = Mailman3Settings(base_url=fake.base_url, domain=DOMAIN, user=USER, password=Secret(PASSWORD))
        return Mailman3Harness(fake, Mailman3Provider(settings), [PASSWORD])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeMailman3, key=PASSWORD)
