"""Mailchimp: the conformance kit in both modes, and what is special about this service."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Literal

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from providers.answers import Answer
from providers.base import (
    AuthFailed,
    Contact,
    ContactRefused,
    Delivered,
    MemberState,
    OptedOut,
    Postponed,
    Reason,
    Refused,
    Rejected,
    Secret,
    Transient,
)
from providers.mailchimp import MailchimpProvider, MailchimpSettings
from providers.mailchimp.client import AlreadyMember, BadRequest, NotThere, base_url_of, error_from
from providers.testing import EspHarness, ProviderConformance
from providers.testing.base import BridgeSide
from tests.fakes.mailchimp import (
    FIELDS_MAX,
    FakeMember,
    MailchimpHarness,
    Problem,
    mailchimp,
    member_id,
    settings_for,
)


@pytest.fixture(params=[(True, True), (False, False)], ids=["knobs on", "knobs off"])
async def tagged(request: pytest.FixtureRequest) -> AsyncIterator[MailchimpHarness]:
    """Tag mode, with both readings of what no source settles."""
    batch_tags, opted_out_may_join = request.param
    async with mailchimp("tag", batch_tags=batch_tags, opted_out_may_join=opted_out_may_join) as harness:
        yield harness
    assert harness.violations() == []


@pytest.fixture
async def audiences() -> AsyncIterator[MailchimpHarness]:
    async with mailchimp("audience") as harness:
        yield harness
    assert harness.violations() == []


class TestTagConformance(ProviderConformance):
    @pytest.fixture
    async def esp(self, tagged: MailchimpHarness) -> MailchimpHarness:
        return tagged


class TestAudienceConformance(ProviderConformance):
    @pytest.fixture
    async def esp(self, audiences: MailchimpHarness) -> MailchimpHarness:
        return audiences

    # Of somebody whom we took off before, Mailchimp shows no opt-out: they were unsubscribed already.
    @pytest.mark.parametrize("last", ["the removal"])
    async def test_an_opt_out_of_somebody_on_no_list_goes_along_to_another_service(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, last: str
    ) -> None:
        await super().test_an_opt_out_of_somebody_on_no_list_goes_along_to_another_service(esp, bridge, list_id, last)


def person(number: int = 1, **fields: Any) -> Contact:
    made_up = {"id": str(number), "address": f"p{number}@post.test", "first_name": "Анна", "last_name": f"Л{number}"}
    return Contact(**made_up | fields)


def people(count: int, first: int = 1) -> list[Contact]:
    return [person(number) for number in range(first, first + count)]


def moved(contact: Contact, **fields: Any) -> Contact:
    return replace(contact, address="new@post.test", old_address=contact.address, **fields)


async def warm(harness: MailchimpHarness) -> str:
    """A list on which the provider has learnt what it asks only once."""
    list_id = await harness.provider.create_list("Клиенты")
    await harness.provider.upsert(list_id, people(2, first=900_001))
    await harness.provider.remove(list_id, people(2, first=900_001))
    harness.fake.calls.clear()
    return list_id


def made(harness: MailchimpHarness) -> Counter[str]:
    """Calls since the last look, as method and the kind of place."""
    kinds = Counter()
    for call in harness.fake.calls:
        parts = call.path.removeprefix("/3.0/").split("/")
        kinds[f"{call.method} {'/'.join(parts[::2])}"] += 1
    harness.fake.calls.clear()
    return kinds


def members_of(harness: MailchimpHarness, list_id: str) -> dict[str, FakeMember]:
    audience = harness.audience if harness.in_tags else harness.fake.audiences[list_id]
    return {member.address: member for member in audience.members.values()}


class TestCalls:
    """The call plan of docs/providers/mailchimp.md, number by number, after the first use of a list."""

    async def test_lists(self, tagged: MailchimpHarness) -> None:
        await warm(tagged)
        list_id = await tagged.provider.create_list("Другой")
        assert made(tagged) == {"POST lists/segments": 1}
        await tagged.provider.find_list("Другой")
        assert made(tagged) == {"GET lists/segments": 1}
        await tagged.provider.delete_list(list_id)
        assert made(tagged) == {"DELETE lists/segments": 1}

    async def test_one_contact(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, [person()])
        assert made(tagged) == {"PUT lists/members": 1, "POST lists/segments": 1}
        await tagged.provider.upsert(list_id, [person(first_name="Новое")])
        assert made(tagged) == {"PUT lists/members": 1}
        await tagged.provider.remove(list_id, [person()])
        assert made(tagged) == {"POST lists/segments": 1}

    async def test_a_thousand_new_contacts(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, people(1000))
        tagging = {} if tagged.fake.batch_tags else {"POST lists/segments": 2}
        assert made(tagged) == {"POST lists": 2} | tagging
        await tagged.provider.remove(list_id, people(1000))
        assert made(tagged) == {"POST lists/segments": 2}

    @pytest.mark.parametrize("renamed", [False, True])
    async def test_a_thousand_who_are_on_another_list(self, tagged: MailchimpHarness, renamed: bool) -> None:
        list_id = await warm(tagged)
        contacts = people(1000)
        await tagged.provider.upsert(await tagged.provider.create_list("Другой"), contacts)
        made(tagged)
        changed = [replace(c, first_name="Новое") for c in contacts] if renamed else contacts
        await tagged.provider.upsert(list_id, changed)
        assert made(tagged) == {"POST lists": 4 if renamed else 2, "POST lists/segments": 2}
        assert {names[0] for names in (await tagged.mailable(list_id)).values()} == {"Новое" if renamed else "Анна"}

    async def test_a_burst_of_changes_on_one_list(self, tagged: MailchimpHarness) -> None:
        """The answers do not tell members who had the tag before: they are read by pages, not one by one."""
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, people(1000))
        made(tagged)
        await tagged.provider.upsert(list_id, people(1000))
        assert made(tagged) == {"POST lists": 2, "POST lists/segments": 2, "GET lists/segments/members": 2}
        await tagged.provider.upsert(list_id, [replace(c, last_name="Новая") for c in people(1000)])
        assert made(tagged) == {"POST lists": 4, "POST lists/segments": 2, "GET lists/segments/members": 2}
        assert {names[1] for names in (await tagged.mailable(list_id)).values()} == {"Новая"}

    async def test_a_changed_address(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, [person()])
        made(tagged)
        await tagged.provider.upsert(list_id, [moved(person())])
        assert made(tagged) == {"GET lists/members": 1, "PATCH lists/members": 1}

    async def test_a_hundred_thousand_contacts(self) -> None:
        async with mailchimp("tag", spec=False) as harness:
            list_id = await warm(harness)
            outcomes = await harness.provider.upsert(list_id, people(100_000))
            assert {type(outcome) for outcome in outcomes} == {Delivered}
            assert made(harness) == {"POST lists": 200}
            assert len(await harness.mailable(list_id)) == 100_000

    async def test_first_use_reads_audience_fields_and_tag_once(self, tagged: MailchimpHarness) -> None:
        list_id = await tagged.make_list("Клиенты")
        await tagged.provider.upsert(list_id, people(1000))
        calls = made(tagged)
        once = ("GET lists", "GET lists/merge-fields", "POST lists/merge-fields", "GET lists/segments")
        assert {kind: calls[kind] for kind in once} == dict.fromkeys(once, 1)

    async def test_audience_mode(self) -> None:
        async with mailchimp("audience", spec=False) as audiences:
            list_id = await warm(audiences)
            await audiences.provider.upsert(list_id, [person()])
            assert made(audiences) == {"POST lists": 1}
            await audiences.provider.upsert(list_id, [person()])
            assert made(audiences) == {"POST lists": 1, "PUT lists/members": 1}
            await audiences.provider.upsert(list_id, [moved(person())])
            assert made(audiences) == {"GET lists/members": 1, "PATCH lists/members": 1}
            await audiences.provider.upsert(list_id, [person()])
            made(audiences)
            await audiences.provider.remove(list_id, [person()])
            assert made(audiences) == {"GET lists/members": 1, "PATCH lists/members": 1}
            await audiences.provider.upsert(list_id, people(1000, first=2))
            assert made(audiences) == {"POST lists": 2}
            await audiences.provider.upsert(list_id, people(1000, first=2))
            assert made(audiences) == {"POST lists": 2, "PUT lists/members": 1000}
            await audiences.provider.remove(list_id, people(1000, first=2))
            assert made(audiences) == {"GET lists/members": 1000, "PATCH lists/members": 1000}


class TestStates:
    @pytest.mark.parametrize("count", [1, 2, 20])
    @pytest.mark.parametrize("on_tag", [True, False])
    @pytest.mark.parametrize(
        ("status", "how"),
        [
            ("unsubscribed", "unsubscribed"),
            ("cleaned", "bounced"),
            ("transactional", "never_subscribed"),
            ("archived", "archived"),
        ],
    )
    async def test_who_gets_no_mail_is_told_and_leaves_the_tag(
        self, tagged: MailchimpHarness, status: str, how: str, on_tag: bool, count: int
    ) -> None:
        list_id = await warm(tagged)
        contacts = people(count)
        if on_tag:
            await tagged.provider.upsert(list_id, contacts)
        for contact in contacts:
            tagged.fake.opt_out(tagged.audience, contact.address, status)
        outcomes = await tagged.provider.upsert(list_id, [*contacts, person(99)] if count > 1 else contacts)
        assert outcomes[:count] == [OptedOut(how, member_id(c.address)) for c in contacts]
        members = members_of(tagged, list_id)
        assert {members[c.address].status for c in contacts} == {status}
        assert [c.address for c in contacts if members[c.address].tags] == []

    @pytest.mark.parametrize("count", [1, 2, 20])
    async def test_who_has_yet_to_confirm_is_delivered_and_keeps_waiting(
        self, tagged: MailchimpHarness, count: int
    ) -> None:
        list_id = await warm(tagged)
        for contact in people(count):
            tagged.fake.opt_out(tagged.audience, contact.address, "pending")
        for _ in range(2):
            assert {type(o) for o in await tagged.provider.upsert(list_id, people(count))} == {Delivered}
        waiting = [m for m in members_of(tagged, list_id).values() if m.status == "pending" and int(list_id) in m.tags]
        assert len(waiting) == count
        told = {m.address: m.state async for m in tagged.provider.members(list_id)}
        assert set(told.values()) == {MemberState.PENDING}
        assert {m.merge.get("FNAME") for m in waiting} == {"Анна"}

    @pytest.mark.parametrize("count", [1, 2, 20])
    async def test_who_was_unsubscribed_by_the_account_stays_so(self, tagged: MailchimpHarness, count: int) -> None:
        """Mailchimp itself would subscribe them again without a word."""
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, people(count))
        for contact in people(count):
            members_of(tagged, list_id)[contact.address].status = "unsubscribed"
        outcomes = await tagged.provider.upsert(list_id, [replace(c, first_name="Новое") for c in people(count)])
        assert {type(outcome) for outcome in outcomes} == {OptedOut}
        assert await tagged.mailable(list_id) == {}

    async def test_an_opt_out_in_the_very_moment_of_a_bulk_update(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, people(20))

        def opt_out(method: str, path: str, body: Any) -> None:
            if method == "POST" and (body or {}).get("update_existing"):
                tagged.fake.opt_out(tagged.audience, person(3).address)

        tagged.fake.before = opt_out
        outcomes = await tagged.provider.upsert(list_id, [replace(c, first_name="Новое") for c in people(20)])
        assert [n for n, o in enumerate(outcomes, 1) if isinstance(o, OptedOut)] == [3]
        assert not members_of(tagged, list_id)[person(3).address].tags

    @pytest.mark.parametrize("list_as", ["tag", "audience"])
    async def test_who_bounced_is_reached_under_a_new_address(self, list_as: Literal["tag", "audience"]) -> None:
        async with mailchimp(list_as) as harness:
            list_id = await harness.provider.create_list("Клиенты")
            await harness.provider.upsert(list_id, [person()])
            audience = harness.audience if list_as == "tag" else harness.fake.audiences[list_id]
            harness.fake.opt_out(audience, person().address, "cleaned")
            assert [type(o) for o in await harness.provider.upsert(list_id, [moved(person())])] == [Delivered]
            assert set(await harness.mailable(list_id)) == {moved(person()).address}

    @pytest.mark.parametrize(("status", "how"), [("cleaned", "bounced"), ("unsubscribed", "unsubscribed")])
    async def test_members_tells_how_somebody_came_to_be_out(
        self, tagged: MailchimpHarness, status: str, how: str
    ) -> None:
        list_id = await tagged.provider.create_list("Клиенты")
        await tagged.provider.upsert(list_id, [person()])
        tagged.fake.opt_out(tagged.audience, person().address, status)
        (member,) = [member async for member in tagged.provider.members(list_id)]
        assert (member.state, member.how) == (MemberState.OPTED_OUT, how)

    async def test_members_shows_who_opted_out(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, people(4))
        for number, status in ((1, "unsubscribed"), (2, "cleaned"), (3, "transactional")):
            tagged.fake.opt_out(tagged.audience, person(number).address, status)
        states = [member.state async for member in tagged.provider.members(list_id)]
        assert states == [MemberState.OPTED_OUT] * 3 + [MemberState.SUBSCRIBED]

    async def test_removal_tells_an_opt_out(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, people(2))
        await tagged.opt_out(person(1).address)
        outcomes = await tagged.provider.remove(list_id, people(3))
        assert [type(outcome) for outcome in outcomes] == [OptedOut, Delivered, Delivered]

    async def test_removal_takes_earlier_addresses_off_too(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, people(3))
        now = person(1, address="now@post.test", old_address=person(1).address)
        by_id = person(2, address="other@post.test", provider_contact_id=member_id(person(2).address))
        kept = person(3, address="third@post.test", old_address=person(3).address, keep_old=True)
        await tagged.provider.remove(list_id, [now, by_id, kept])
        assert set(await tagged.mailable(list_id)) == {person(3).address}


CONTACT_ERRORS = [
    ("forgotten", Rejected, Reason.FORGOTTEN),
    ("fake", Rejected, Reason.INVALID_ADDRESS),
    ("too_often", Postponed, Reason.TOO_OFTEN),
    ("bad_field", Rejected, Reason.CONTACT_REFUSED),
]


class TestKeepOut:
    @pytest.fixture(params=["tag", "audience"])
    async def harness(self, request: pytest.FixtureRequest) -> AsyncIterator[MailchimpHarness]:
        async with mailchimp(request.param) as harness:
            yield harness
        assert harness.violations() == []

    async def test_strangers_are_made_known_five_hundred_a_call(self, harness: MailchimpHarness) -> None:
        list_id = await warm(harness)
        await harness.provider.keep_out(list_id, people(600))
        calls = made(harness)
        assert calls["POST lists"] == 2
        assert calls.total() == 2 + 2 * harness.in_tags  # and they leave the tag, if they have it
        members = members_of(harness, list_id)
        assert {members[contact.address].status for contact in people(600)} == {"unsubscribed"}

    @pytest.mark.parametrize("status", ["unsubscribed", "cleaned", "transactional", "archived"])
    async def test_who_gets_no_mail_already_is_left_alone(self, harness: MailchimpHarness, status: str) -> None:
        list_id = await warm(harness)
        await harness.provider.upsert(list_id, [person()])
        members_of(harness, list_id)[person().address].status = status
        made(harness)
        await harness.provider.keep_out(list_id, [person()])
        assert members_of(harness, list_id)[person().address].status == status
        assert made(harness)["PATCH lists/members"] == 0

    async def test_whom_we_removed_ourselves_counts_as_opted_out_from_then_on(
        self, audiences: MailchimpHarness
    ) -> None:
        list_id = await warm(audiences)
        await audiences.provider.upsert(list_id, [person()])
        await audiences.provider.remove(list_id, [person()])
        await audiences.provider.keep_out(list_id, [person()])
        (outcome,) = await audiences.provider.upsert(list_id, [person()])
        assert isinstance(outcome, OptedOut)
        assert await audiences.mailable(list_id) == {}

    async def test_an_address_that_mailchimp_does_not_take_stops_nobody(self, harness: MailchimpHarness) -> None:
        list_id = await warm(harness)
        await harness.provider.keep_out(list_id, [person(1, address="fake@example.com"), person(2)])
        assert members_of(harness, list_id)[person(2).address].status == "unsubscribed"

    async def test_a_batch_refused_as_a_whole_is_halved(self, harness: MailchimpHarness) -> None:
        list_id = await warm(harness)
        bad = person(3).address

        def refuse(method: str, path: str, body: Any) -> None:
            addresses = [one["email_address"] for one in (body or {}).get("members", [])]
            if bad in addresses:
                raise Problem(400, "Invalid Resource", "The resource submitted could not be validated.")

        harness.fake.before = refuse
        await harness.provider.keep_out(list_id, people(5))
        members = members_of(harness, list_id)
        assert {c.address for c in people(5)} & members.keys() == {c.address for c in people(5)} - {bad}

    async def test_a_list_that_is_gone_keeps_nobody_from_being_kept_out(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        await tagged.drop_list(list_id)
        await tagged.provider.keep_out(list_id, [person()])
        assert members_of(tagged, list_id)[person().address].status == "unsubscribed"


class TestRefusals:
    @pytest.mark.parametrize("others", [0, 2])
    @pytest.mark.parametrize(("case", "kind", "reason"), CONTACT_ERRORS)
    @pytest.mark.parametrize("mode", ["tag", "audience"])
    async def test_what_mailchimp_says_of_one_contact(
        self, mode: Any, case: str, kind: type, reason: Reason, others: int
    ) -> None:
        async with mailchimp(mode) as harness:
            list_id = await warm(harness)
            bad = person(5, address="bad@example.com" if case == "fake" else "bad@post.test")
            for audience in harness.fake.audiences.values():
                if case == "forgotten":
                    audience.forgotten.add(member_id(bad.address))
            if case == "too_often":
                harness.fake.too_often.add(bad.address)
            if case == "bad_field":
                bad = replace(bad, first_name=7)  # type: ignore[arg-type]  # the fake refuses such a value
            outcomes = await harness.provider.upsert(list_id, [*people(others), bad])
            *good, told = outcomes
            assert [type(outcome) for outcome in good] == [Delivered] * others
            assert isinstance(told, kind)
            assert told.reason is reason
            assert bad.address not in told.detail
            assert not isinstance(told, Postponed) or told.retry_after_s == 86_400
            assert len(await harness.mailable(list_id)) == others

    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize("count", [1, 3, 20])
    async def test_whom_the_tag_does_not_take_is_refused_by_name(
        self, tagged: MailchimpHarness, count: int, known: bool
    ) -> None:
        tagged.fake.batch_tags = False
        list_id = await warm(tagged)
        if known:
            await tagged.provider.upsert(await tagged.provider.create_list("Другой"), people(count))
        tagged.fake.untaggable.add(person().address)
        bad, *good = await tagged.provider.upsert(list_id, people(count))
        assert isinstance(bad, Rejected)
        assert "cannot join" in bad.detail
        assert {type(outcome) for outcome in good} <= {Delivered}
        assert len(await tagged.mailable(list_id)) == count - 1

    async def test_a_batch_refused_as_a_whole(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)

        def refuse(method: str, path: str, body: Any) -> None:
            raise Problem(400, "Bad Request", "The resource submitted could not be validated.")

        tagged.fake.before = refuse
        with pytest.raises(ContactRefused):
            await tagged.provider.upsert(list_id, people(2))
        (outcome,) = await tagged.provider.upsert(list_id, [person()])
        assert isinstance(outcome, Rejected)

    @pytest.mark.parametrize("there", [True, False])
    async def test_member_exists_means_look_again(self, tagged: MailchimpHarness, there: bool) -> None:
        list_id = await warm(tagged)

        def race(method: str, path: str, body: Any) -> None:
            if method == "PUT":
                if there:
                    tagged.audience.members[member_id(person().address)] = FakeMember(person().address, "subscribed")
                raise Problem(400, "Member Exists", f"{person().address} is already a list member.")

        tagged.fake.before = race
        (outcome,) = await tagged.provider.upsert(list_id, [person()])
        assert isinstance(outcome, Delivered if there else Rejected)
        assert set(await tagged.mailable(list_id)) == ({person().address} if there else set())

    @pytest.mark.parametrize("text", ["already exists", "name is in use"])
    async def test_a_name_that_is_taken(self, tagged: MailchimpHarness, text: str) -> None:
        def refuse(method: str, path: str, body: Any) -> None:
            if method == "POST":
                raise Problem(400, "Bad Request", text)

        tagged.fake.before = refuse
        with pytest.raises(Refused) as refused:
            await tagged.provider.create_list("Клиенты")
        assert refused.value.reason is Reason.NAME_TAKEN

    @pytest.mark.parametrize("list_id", ["17/members", "..", "", "7?x=1", "клиенты"])
    async def test_an_id_that_mailchimp_never_gave(self, tagged: MailchimpHarness, list_id: str) -> None:
        with pytest.raises(Refused) as refused:
            await tagged.provider.upsert(list_id, people(2))
        assert refused.value.reason is Reason.LIST_GONE
        await tagged.provider.delete_list(list_id)
        assert [type(o) for o in await tagged.provider.remove(list_id, people(2))] == [Delivered] * 2


class TestChangedAddress:
    async def test_a_rename_keeps_the_member_and_its_other_tags(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        other = await tagged.provider.create_list("Другой")
        for one in (list_id, other):
            await tagged.provider.upsert(one, [person()])
        await tagged.provider.upsert(list_id, [moved(person())])
        members = members_of(tagged, list_id)
        assert members["new@post.test"].tags == {int(list_id), int(other)}
        assert person().address not in members

    async def test_an_old_address_that_carries_another_contacts_id_is_not_renamed(
        self, tagged: MailchimpHarness
    ) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, [person(2, address=person().address)])
        await tagged.provider.upsert(list_id, [moved(person())])
        assert set(await tagged.mailable(list_id)) == {"new@post.test"}
        assert person().address in members_of(tagged, list_id)

    async def test_an_old_address_leaves_though_the_new_one_is_refused(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, [person()])
        bad = replace(person(), address="new@example.com", old_address=person().address)
        (outcome,) = await tagged.provider.upsert(list_id, [bad])
        assert isinstance(outcome, Rejected)
        assert await tagged.mailable(list_id) == {}

    async def test_an_opted_out_person_is_renamed_and_stays_out_without_any_memory_of_ours(
        self, tagged: MailchimpHarness
    ) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, [person()])
        await tagged.opt_out(person().address)
        assert await tagged.provider.upsert(list_id, [moved(person())]) == [
            OptedOut("unsubscribed", member_id("new@post.test"))
        ]
        assert members_of(tagged, list_id)["new@post.test"].in_compliance_state

    async def test_a_new_address_on_the_tag_leaves_it_when_the_old_one_opted_out(
        self, tagged: MailchimpHarness
    ) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, [person(), person(2, address="new@post.test")])
        await tagged.opt_out(person().address)
        (outcome,) = await tagged.provider.upsert(list_id, [moved(person())])
        assert isinstance(outcome, OptedOut)
        assert await tagged.mailable(list_id) == {}
        new = members_of(tagged, list_id)["new@post.test"]
        assert (new.status, new.merge["PLANFIXID"]) == ("subscribed", "2")

    async def test_a_new_address_becomes_known_as_unsubscribed_where_the_old_one_stays(
        self, tagged: MailchimpHarness
    ) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, [person()])
        await tagged.opt_out(person().address)
        await tagged.provider.upsert(list_id, [moved(person(), keep_old=True)])
        assert members_of(tagged, list_id)["new@post.test"].status == "unsubscribed"

    async def test_a_contact_takes_an_address_that_another_leaves(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        anna, ivan = person(1), person(2)
        await tagged.provider.upsert(list_id, [anna, ivan])
        chain = [replace(anna, address=ivan.address, old_address=anna.address), moved(ivan, keep_old=True)]
        await tagged.provider.upsert(list_id, chain)
        assert set(await tagged.mailable(list_id)) == {ivan.address, "new@post.test"}
        ids = {m.address: m.merge["PLANFIXID"] for m in members_of(tagged, list_id).values()}
        assert (ids[ivan.address], ids["new@post.test"]) == ("1", "2")

    @pytest.mark.parametrize("free", [True, False])
    async def test_an_old_address_known_by_its_id_that_another_contact_takes(
        self, tagged: MailchimpHarness, free: bool
    ) -> None:
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, [person(), *([] if free else [person(3, address="new@post.test")])])
        leaving = replace(person(), address="new@post.test", provider_contact_id=member_id(person().address))
        await tagged.provider.upsert(list_id, [leaving, person(2, address=person().address)])
        assert set(await tagged.mailable(list_id)) == {"new@post.test", person().address}


class TestAudienceMode:
    async def test_our_removal_leaves_a_mark_at_mailchimp_and_re_adding_takes_it_away(
        self, audiences: MailchimpHarness
    ) -> None:
        list_id = await warm(audiences)
        await audiences.provider.upsert(list_id, [person()])
        await audiences.provider.remove(list_id, [person()])
        member = members_of(audiences, list_id)[person().address]
        assert (member.status, member.merge["PLANFIXID"]) == ("unsubscribed", "removed 1")
        assert [m async for m in audiences.provider.members(list_id) if m.address == person().address] == []
        assert await audiences.provider.upsert(list_id, [person()]) == [Delivered(member_id(person().address))]
        assert (member.status, member.merge["PLANFIXID"]) == ("subscribed", "1")

    @pytest.mark.parametrize("count", [1, 2])
    async def test_without_our_mark_nobody_is_subscribed_again(self, audiences: MailchimpHarness, count: int) -> None:
        """Not even whom an administrator unsubscribed, whom Mailchimp would subscribe without a word."""
        list_id = await warm(audiences)
        await audiences.provider.upsert(list_id, people(count))
        for contact in people(count):
            members_of(audiences, list_id)[contact.address].status = "unsubscribed"
        assert {type(o) for o in await audiences.provider.upsert(list_id, people(count))} == {OptedOut}
        assert {type(o) for o in await audiences.provider.remove(list_id, people(count))} == {OptedOut}
        assert {type(o) for o in await audiences.provider.upsert(list_id, people(count))} == {OptedOut}
        assert await audiences.mailable(list_id) == {}

    async def test_an_opt_out_between_reading_and_removing_is_kept(self, audiences: MailchimpHarness) -> None:
        list_id = await warm(audiences)
        await audiences.provider.upsert(list_id, [person()])

        def opt_out(method: str, path: str, body: Any) -> None:
            if method == "PATCH":
                audiences.fake.opt_out(audiences.fake.audiences[list_id], person().address)

        audiences.fake.before = opt_out
        await audiences.provider.remove(list_id, [person()])
        assert [type(o) for o in await audiences.provider.upsert(list_id, [person()])] == [OptedOut]

    @pytest.mark.parametrize("opted_out", [True, False])
    async def test_a_removed_person_comes_back_under_another_address(
        self, audiences: MailchimpHarness, opted_out: bool
    ) -> None:
        list_id = await warm(audiences)
        await audiences.provider.upsert(list_id, [person()])
        await audiences.provider.remove(list_id, [person()])
        if opted_out:
            await audiences.opt_out(person().address)
        (outcome,) = await audiences.provider.upsert(list_id, [moved(person())])
        assert isinstance(outcome, OptedOut if opted_out else Delivered)
        assert set(await audiences.mailable(list_id)) == (set() if opted_out else {"new@post.test"})

    async def test_a_removal_never_archives_or_deletes(self, audiences: MailchimpHarness) -> None:
        list_id = await warm(audiences)
        await audiences.provider.upsert(list_id, people(3))
        made(audiences)
        await audiences.provider.remove(list_id, people(3))
        assert not any(kind.startswith("DELETE") for kind in made(audiences))

    async def test_the_field_for_the_mark_is_made_again_before_a_removal(self, audiences: MailchimpHarness) -> None:
        list_id = await warm(audiences)
        await audiences.provider.upsert(list_id, people(2))
        audiences.fake.audiences[list_id].fields.remove("PLANFIXID")
        with pytest.raises(Transient):
            await audiences.provider.remove(list_id, [person(1)])
        await audiences.provider.remove(list_id, [person(1)])
        audiences.fake.audiences[list_id].fields.remove("PLANFIXID")
        await audiences.restart()
        await audiences.provider.remove(list_id, [person(2)])
        assert await audiences.mailable(list_id) == {}
        assert {type(o) for o in await audiences.provider.upsert(list_id, people(2))} == {Delivered}

    async def test_a_removal_that_mailchimp_refuses_stops_nobody_else(self, audiences: MailchimpHarness) -> None:
        list_id = await warm(audiences)
        await audiences.provider.upsert(list_id, people(2))

        def refuse(method: str, path: str, body: Any) -> None:
            if method == "PATCH" and path.endswith(member_id(person(1).address)):
                raise Problem(400, "Bad Request", "no")

        audiences.fake.before = refuse
        outcomes = await audiences.provider.remove(list_id, people(2))
        assert [type(outcome) for outcome in outcomes] == [Rejected, Delivered]
        (outcome,) = await audiences.provider.upsert(list_id, [moved(person(1))])
        assert isinstance(outcome, Rejected)

    async def test_more_audiences_than_the_plan_has(self, audiences: MailchimpHarness) -> None:
        audiences.fake.audiences_max = 0
        with pytest.raises(Refused) as refused:
            await audiences.provider.create_list("Клиенты")
        assert refused.value.reason is Reason.LIST_LIMIT

    async def test_missing_settings_are_named(self, audiences: MailchimpHarness) -> None:
        settings = MailchimpSettings(
            api_key=audiences.provider.settings.api_key, base_url=audiences.fake.base_url, list_as="audience", city="B"
        )
        async with MailchimpProvider(settings) as provider:
            with pytest.raises(Refused, match="company, address, country, permission_reminder, from_name"):
                await provider.create_list("Клиенты")
            (finding,) = [f for f in await provider.check() if not f.ok]
        assert "from_email" in str(finding.advice)

    async def test_no_room_for_the_mark_is_told_before_anybody_is_added(self, audiences: MailchimpHarness) -> None:
        list_id = await audiences.make_list("Full")
        audiences.fake.audiences[list_id].fields += [f"F{n}" for n in range(FIELDS_MAX - 4)]
        with pytest.raises(Refused, match="PLANFIXID"):
            await audiences.provider.upsert(list_id, [person()])
        assert await audiences.mailable(list_id) == {}


class TestFields:
    @pytest.mark.parametrize("count", [1, 2])
    async def test_names_that_the_audience_has_no_field_for_are_left_out(
        self, tagged: MailchimpHarness, count: int
    ) -> None:
        tagged.audience.fields.remove("LNAME")
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, people(count))
        assert members_of(tagged, list_id)[person().address].merge == {"FNAME": "Анна", "PLANFIXID": "1"}

    async def test_the_id_field_is_made_once_and_told_by_members(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        assert tagged.audience.fields.count("PLANFIXID") == 1
        await tagged.provider.upsert(list_id, [person()])
        assert [m.id async for m in tagged.provider.members(list_id)] == ["1"]

    async def test_tags_work_without_room_for_the_id_field(self, tagged: MailchimpHarness) -> None:
        tagged.audience.fields += [f"F{n}" for n in range(FIELDS_MAX - 4)]
        assert [f.ok for f in await tagged.provider.check()].count(False) == 1
        list_id = await warm(tagged)
        await tagged.provider.upsert(list_id, [person()])
        assert set(await tagged.mailable(list_id)) == {person().address}

    @pytest.mark.parametrize("count", [1, 2])
    async def test_a_field_deleted_meanwhile_is_noticed(self, tagged: MailchimpHarness, count: int) -> None:
        list_id = await warm(tagged)
        tagged.audience.fields.remove("LNAME")
        with pytest.raises(Transient):
            await tagged.provider.upsert(list_id, people(count))
        assert {type(o) for o in await tagged.provider.upsert(list_id, people(count))} == {Delivered}
        assert len(await tagged.mailable(list_id)) == count


class TestAudiencePick:
    async def test_the_only_audience_is_found(self, tagged: MailchimpHarness) -> None:
        assert all(finding.ok for finding in await tagged.provider.check())

    @pytest.mark.parametrize("count", [0, 2])
    async def test_none_or_several_are_told(self, tagged: MailchimpHarness, count: int) -> None:
        tagged.fake.audiences.clear()
        made_ones = [tagged.fake.add_audience(f"Аудитория {n}") for n in range(count)]
        with pytest.raises(Refused) as refused:
            await tagged.provider.create_list("Клиенты")
        assert all(f"{one.id} ({one.name})" in refused.value.detail for one in made_ones)
        (finding,) = [f for f in await tagged.provider.check() if not f.ok]
        assert "`audience`" in str(finding.advice)

    @pytest.mark.parametrize("known", [True, False])
    async def test_a_configured_audience_is_used_or_told_as_missing(
        self, tagged: MailchimpHarness, known: bool
    ) -> None:
        other = tagged.fake.add_audience("Other")
        settings = settings_for(tagged.fake, audience=other.id if known else "feedc0ffee")
        async with MailchimpProvider(settings) as provider:
            assert all(f.ok for f in await provider.check()) is known
            if known:
                assert int(await provider.create_list("Клиенты")) in other.tags


class TestNames:
    @pytest.mark.parametrize("mode", ["tag", "audience"])
    async def test_a_list_is_found_behind_a_thousand_others(self, mode: Any) -> None:
        async with mailchimp(mode) as harness:
            for number in range(1000):
                await harness.make_list(f"{number}")
            list_id = await harness.make_list("Клиенты")
            assert await harness.provider.find_list("Клиенты") == list_id

    async def test_a_renamed_tag_keeps_its_id_and_gets_the_people(self, tagged: MailchimpHarness) -> None:
        list_id = await warm(tagged)
        tagged.audience.tags[int(list_id)] = "Renamed"
        for start in (1, 11):
            await tagged.provider.upsert(list_id, people(5, first=start))
        assert len(await tagged.mailable(list_id)) == 10
        strays = [m for m in members_of(tagged, list_id).values() if m.tags - {int(list_id)}]
        assert len(strays) == (5 if tagged.fake.batch_tags else 0)  # only of the call that found it out


def answer(status: int, problem: dict[str, Any] | None = None, body: bytes = b"") -> Answer:
    return Answer(status, {"retry-after": "5"}, json.dumps(problem).encode() if problem is not None else body)


class TestErrors:
    @pytest.mark.parametrize(
        ("told", "kind", "reason"),
        [
            (answer(400, {"title": "Bad Request", "detail": "x"}), BadRequest, Reason.REQUEST_REFUSED),
            (answer(400, {"title": "Member Exists", "detail": "x"}), AlreadyMember, Reason.REQUEST_REFUSED),
            (
                answer(400, {"title": "Bad Request", "detail": "a@b.c is already in this list with a status of X"}),
                AlreadyMember,
                Reason.REQUEST_REFUSED,
            ),
            (answer(405, {"title": "Method Not Allowed", "detail": ""}), BadRequest, Reason.REQUEST_REFUSED),
            (answer(401, {"title": "API Key Invalid", "detail": ""}), AuthFailed, None),
            (answer(401), AuthFailed, None),
            (answer(403), Transient, None),
            (answer(403, {}), Transient, None),
            (answer(403, body=b"<html>"), Transient, None),
            (answer(403, {"title": "Forbidden", "detail": "role"}), Refused, Reason.RIGHTS),
            (answer(403, {"title": "User action not permitted", "detail": ""}), Refused, Reason.RIGHTS),
            (answer(403, {"title": "Forbidden", "detail": "Upgrade your account"}), Refused, Reason.PLAN_LIMIT),
            (answer(403, {"title": "User Disabled", "detail": ""}), AuthFailed, None),
            (answer(403, {"title": "Wrong Datacenter", "detail": ""}), AuthFailed, None),
            (answer(404, {"title": "Resource Not Found", "detail": ""}), NotThere, Reason.LIST_GONE),
            (answer(404, body=b"<html>"), Transient, None),
            (answer(414, {"title": "x", "detail": ""}), Refused, Reason.REQUEST_REFUSED),
            (answer(422, {"title": "x", "detail": ""}), Refused, Reason.REQUEST_REFUSED),
            (answer(426, {"title": "x", "detail": ""}), Refused, Reason.REQUEST_REFUSED),
            (answer(429, {"title": "Too Many Requests", "detail": ""}), Transient, None),
            (answer(429), Transient, None),
            (answer(500, {"title": "x", "detail": ""}), Transient, None),
            (answer(503, {"title": "Compliance Related", "detail": ""}), Transient, None),
            (answer(302), Transient, None),
        ],
    )
    def test_every_kind_of_answer(self, told: Answer, kind: type[Exception], reason: Reason | None) -> None:
        error = error_from(told)
        assert type(error) is kind
        assert getattr(error, "reason", None) is reason
        if isinstance(error, Transient):
            assert error.retry_after_s == 5

    @pytest.mark.parametrize(
        ("title", "detail", "kind"),
        [
            ("Member In Compliance State", "x", OptedOut),
            ("Bad Request", "a@b.c is in a compliance state due to unsubscribe", OptedOut),
            ("Forgotten Email Not Subscribed", "x", Rejected),
            ("Invalid Resource", "Please provide a valid email address.", Rejected),
        ],
    )
    def test_what_it_means_for_one_contact(self, title: str, detail: str, kind: type) -> None:
        error = error_from(answer(400, {"title": title, "detail": detail, "instance": "i-1"}))
        assert isinstance(error, BadRequest)
        assert type(error.outcome) is kind
        assert "i-1" in error.detail

    @pytest.mark.parametrize(
        ("key", "url"),
        [
            ("0123-us21", "https://us21.api.mailchimp.com/3.0"),
            ("0123", None),
            ("0123-evil.test/", None),
            ("0123-us21\n", None),
        ],
    )
    def test_the_address_comes_from_the_key_and_leads_nowhere_else(self, key: str, url: str | None) -> None:
        assert base_url_of(key) == url

    async def test_a_key_without_a_data_centre_is_told(self) -> None:
        async with MailchimpProvider(MailchimpSettings(api_key=Secret("0123"))) as provider:
            (finding,) = await provider.check()
            assert not finding.ok
            assert "-us21" in str(finding.text)
            with pytest.raises(AuthFailed):
                await provider.find_list("Клиенты")


class TestWire:
    """What the package does with answers, mended."""

    @pytest.mark.parametrize(
        "reply",
        [
            {"status": 200},
            {"status": 200, "text": "{}", "content_type": "application/json"},
            {"status": 200, "text": "[]", "content_type": "application/json"},
            {"status": 200, "text": "<html>", "content_type": "text/html"},
            {"status": 403},
            {"status": 403, "text": "{}", "content_type": "application/json"},
            {"status": 429},
            {"status": 500},
        ],
    )
    async def test_an_answer_without_content_is_no_success(self, reply: dict[str, Any]) -> None:
        async def handle(request: web.Request) -> web.Response:
            return web.Response(**reply)

        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", handle)
        async with TestServer(app, host="127.0.0.1") as server:
            settings = MailchimpSettings(api_key=Secret("k-us1"), base_url=str(server.make_url("/3.0")), audience="a1")
            async with MailchimpProvider(settings) as provider:
                for call in (
                    provider.find_list("x"),
                    provider.create_list("x"),
                    provider.upsert("1", [person()]),
                    provider.remove("1", [person()]),
                ):
                    with pytest.raises(Transient):
                        await call

    async def test_the_word_server_in_an_id_is_left_alone(self, tagged: MailchimpHarness) -> None:
        audience = tagged.fake.add_audience("Server")
        tagged.fake.audiences["server1"] = audience
        async with MailchimpProvider(settings_for(tagged.fake, audience="server1")) as provider:
            assert int(await provider.create_list("server")) in audience.tags

    async def test_names_travel_as_utf_8(self, tagged: MailchimpHarness) -> None:
        bodies: list[bytes] = []
        list_id = await warm(tagged)
        note = tagged.fake._note
        tagged.fake._note = lambda request, body: (bodies.append(body), note(request, body))[1]  # type: ignore[method-assign]  # to see raw bytes
        await tagged.provider.upsert(list_id, [person(first_name="Zoë 👩‍🚀")])
        assert "Zoë 👩‍🚀".encode() in bodies[0]
