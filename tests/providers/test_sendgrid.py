"""SendGrid: the kit, and what is its own: jobs, parts in bytes, suppressions by address."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

import pytest

from providers.base import (
    BOUNCED,
    AuthFailed,
    Contact,
    ContactRefused,
    Delivered,
    Member,
    MemberState,
    OptedOut,
    Postponed,
    Reason,
    Refused,
    Rejected,
    Secret,
    Transient,
)
from providers.sendgrid.client import CallRefused, RateLimited, RightsMissing
from providers.testing import Fault, ProviderConformance
from providers.testing.opt_outs import OptOutPromises
from tests.fakes.sendgrid import GROUP, KEY, MAX_BODY_BYTES, MAX_LISTS, SendgridHarness

DOMAIN = "post.test"
MARKETING_ONLY = frozenset({"marketing.read", "marketing.update"})


@pytest.fixture
async def esp() -> AsyncIterator[SendgridHarness]:
    """The fake with jobs that are pending at the first look: nothing may count as done before."""
    async with SendgridHarness(job_polls=1) as harness:
        yield harness
        assert harness.violations() == []


@pytest.fixture
async def list_id(esp: SendgridHarness) -> str:
    return await esp.provider.create_list("Клиенты")


class TestSendgrid(ProviderConformance):
    """Everything that every provider promises; the module's `esp` is the harness."""


class TestOptOutOfEverything(OptOutPromises):
    """At SendGrid people unsubscribe from a group or from all mail."""

    @pytest.fixture
    async def esp(self) -> AsyncIterator[SendgridHarness]:
        async with SendgridHarness(opt_out_everywhere=True) as harness:
            yield harness


def person(number: int, **fields: Any) -> Contact:
    made_up = {"id": str(1000 + number), "address": f"person{number}@{DOMAIN}", "first_name": f"Имя{number}"}
    return Contact(**made_up | fields)


def people(count: int) -> list[Contact]:
    return [person(number) for number in range(count)]


def made(esp: SendgridHarness, start: int = 0) -> list[str]:
    """The calls since `start` in words, the ids in them replaced."""
    lists = dict.fromkeys(esp.fake.lists, "L")
    words = []
    for call in esp.fake.calls[start:]:
        segments = [lists.get(s, "JOB" if len(s) == 36 else s) for s in call.path.removeprefix("/v3/").split("/")]
        words.append(f"{call.method} {'/'.join(segments)}")
    return words


def puts(esp: SendgridHarness) -> list[dict[str, Any]]:
    return [call.body for call in esp.fake.calls if call.method == "PUT"]


def kept_addresses(esp: SendgridHarness) -> set[str]:
    return set(esp.fake.people)


class TestCallPlan:
    """The numbers of docs/providers/sendgrid.md."""

    async def test_one_contact(self, esp: SendgridHarness, list_id: str) -> None:
        start = esp.calls()
        await esp.provider.upsert(list_id, people(1))
        look = "GET marketing/contacts/imports/JOB"
        fields = "marketing/field_definitions"
        once = [f"GET {fields}", f"POST {fields}"]
        assert made(esp, start) == [*once, "PUT marketing/contacts", look, look]
        start = esp.calls()
        await esp.provider.upsert(list_id, people(1))
        assert made(esp, start) == ["PUT marketing/contacts", look, look]
        start = esp.calls()
        await esp.provider.remove(list_id, people(1))
        assert made(esp, start) == [
            "POST marketing/contacts/search/emails",
            "DELETE marketing/lists/L/contacts",
            look,
            look,
        ]

    async def test_a_changed_address(self, esp: SendgridHarness, list_id: str) -> None:
        await esp.provider.upsert(list_id, [person(1)])
        start = esp.calls()
        await esp.provider.upsert(list_id, [person(1, address="new@post.test", old_address="person1@post.test")])
        look = "GET marketing/contacts/imports/JOB"
        assert made(esp, start) == [
            "GET asm/suppressions/person1@post.test",
            "GET asm/suppressions/global/person1@post.test",
            "GET suppression/spam_reports/person1@post.test",
            "PUT marketing/contacts",
            look,
            look,
            "POST marketing/contacts/search/emails",
            "DELETE marketing/contacts",
            look,
            look,
        ]

    @pytest.mark.parametrize(("count", "upserts", "removals"), [(1000, 1, 10), (35_000, 2, 350)])
    async def test_many(self, count: int, upserts: int, removals: int) -> None:
        async with SendgridHarness(validate=False) as esp:
            list_id = await esp.provider.create_list("Клиенты")
            await esp.provider.upsert(list_id, people(1))
            start = esp.calls()
            outcomes = await esp.provider.upsert(list_id, people(count))
            assert {type(outcome) for outcome in outcomes} == {Delivered}
            words = made(esp, start)
            assert words.count("PUT marketing/contacts") == upserts
            assert len(words) == 2 * upserts
            assert len(await esp.mailable(list_id)) == count
            if count == 1000:
                start = esp.calls()
                await esp.provider.remove(list_id, people(count))
                assert esp.calls() - start == 3 * removals
                assert await esp.mailable(list_id) == {}
            assert esp.violations() == []


class TestParts:
    async def test_a_part_is_cut_by_the_bytes_of_its_body(self) -> None:
        """30,000 long Cyrillic contacts are more than 6 MB, though no more than one call may hold by number."""
        async with SendgridHarness(validate=False) as esp:
            list_id = await esp.provider.create_list("Клиенты")
            long = [
                person(n, address=f"{'a' * 50}{n}@post.test", first_name="Ж" * 50, last_name="Щ" * 50)
                for n in range(30_000)
            ]
            await esp.provider.upsert(list_id, long)
            assert len(esp.fake.upsert_bytes) == 2
            assert MAX_BODY_BYTES * 0.85 < max(esp.fake.upsert_bytes) <= MAX_BODY_BYTES * 0.95
            assert len(await esp.mailable(list_id)) == 30_000
            assert esp.violations() == []

    async def test_names_go_out_as_utf_8(self, esp: SendgridHarness, list_id: str) -> None:
        """ASCII escapes would make Cyrillic letters three times as long."""
        await esp.provider.upsert(list_id, [person(1, first_name="Ж" * 50)])
        (body,) = puts(esp)
        assert esp.fake.upsert_bytes == [len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())]


class TestJobs:
    async def test_nothing_is_delivered_before_its_job_has_ended(self, esp: SendgridHarness, list_id: str) -> None:
        await esp.provider.upsert(list_id, people(1))
        assert esp.fake.people.keys() == {"person0@post.test"}

    async def test_a_contact_that_the_job_refuses_is_rejected_alone(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.bad_in_job = frozenset({"person1@post.test", "o'hara@post.test"})
        contacts = [*people(3), person(9, address="O'Hara@post.test")]
        outcomes = await esp.provider.upsert(list_id, contacts)
        assert [type(outcome) for outcome in outcomes] == [Delivered, Rejected, Delivered, Rejected]
        rejected = outcomes[1]
        assert isinstance(rejected, Rejected)
        assert rejected.reason is Reason.INVALID_ADDRESS
        assert "person1" not in rejected.detail

    async def test_a_job_that_refuses_all_rejects_all(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.bad_in_job = frozenset(c.address for c in people(2))
        outcomes = await esp.provider.upsert(list_id, people(2))
        assert [type(outcome) for outcome in outcomes] == [Rejected, Rejected]

    async def test_a_job_that_names_nobody_makes_the_bridge_halve(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.bad_in_job = frozenset({"person1@post.test"})
        esp.fake.silent_reports = True
        with pytest.raises(ContactRefused):
            await esp.provider.upsert(list_id, people(2))
        assert [type(o) for o in await esp.provider.upsert(list_id, [person(1)])] == [Rejected]

    async def test_a_job_that_failed_without_a_report_is_tried_once_more(
        self, esp: SendgridHarness, list_id: str
    ) -> None:
        esp.fake.job_endings = ["failed"]
        assert [type(o) for o in await esp.provider.upsert(list_id, people(2))] == [Delivered, Delivered]
        esp.fake.job_endings = ["failed", "failed"]
        with pytest.raises(ContactRefused):
            await esp.provider.upsert(list_id, people(2))

    async def test_a_full_plan(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.contact_limit = 1
        outcomes = await esp.provider.upsert(list_id, people(2))
        assert isinstance(outcomes[0], Delivered)
        assert isinstance(outcomes[1], Rejected)
        assert outcomes[1].reason is Reason.PLAN_LIMIT

    async def test_a_job_that_does_not_end_is_transient_and_its_people_stay_under_way(self) -> None:
        """Or the upsert would put a person back whom a removal did not find yet."""
        async with SendgridHarness(job_polls=1000) as esp:
            await esp.reopen(job_timeout_s=0.05)
            list_id = await esp.provider.create_list("Клиенты")
            with pytest.raises(Transient):
                await esp.provider.upsert(list_id, people(2))
            outcomes = await esp.provider.remove(list_id, [person(1)])
            assert [type(outcome) for outcome in outcomes] == [Postponed]

    async def test_a_removal_waits_for_an_upsert_whose_answer_was_lost(self, esp: SendgridHarness) -> None:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.provider.upsert(list_id, [person(1)])
        esp.fail(Fault.CUT_JSON)
        with pytest.raises(Transient):
            await esp.provider.upsert(list_id, [person(2)])
        outcomes = await esp.provider.remove(list_id, [person(1), person(2)])
        assert [type(outcome) for outcome in outcomes] == [Delivered, Postponed]
        await esp.provider.upsert(list_id, [person(2)])
        assert [type(o) for o in await esp.provider.remove(list_id, [person(2)])] == [Delivered]
        assert await esp.mailable(list_id) == {}

    async def test_a_changed_address_waits_for_an_upsert_of_the_old_one(
        self, esp: SendgridHarness, list_id: str
    ) -> None:
        await esp.provider.upsert(list_id, [person(1)])
        esp.fail(Fault.CUT_JSON)
        with pytest.raises(Transient):
            await esp.provider.upsert(list_id, [person(2)])
        new = person(2, address="new@post.test", old_address="person2@post.test")
        assert [type(o) for o in await esp.provider.upsert(list_id, [new])] == [Postponed]

    @pytest.mark.parametrize("fault", [Fault.RATE_LIMIT_SECONDS, Fault.WRONG_KEY])
    async def test_an_upsert_that_was_not_begun_holds_up_nobody(
        self, esp: SendgridHarness, list_id: str, fault: Fault
    ) -> None:
        await esp.provider.upsert(list_id, [person(1)])
        esp.fail(fault)
        with pytest.raises((Transient, AuthFailed)):
            await esp.provider.upsert(list_id, [person(2)])
        assert [type(o) for o in await esp.provider.remove(list_id, [person(2)])] == [Delivered]

    async def test_added_then_removed_at_once_ends_off_the_list(self, esp: SendgridHarness, list_id: str) -> None:
        for _ in range(3):
            await esp.provider.upsert(list_id, people(2))
            await esp.provider.remove(list_id, people(2))
            assert await esp.mailable(list_id) == {}

    @pytest.mark.parametrize("ending", ["failed", "errored"])
    async def test_a_removal_whose_job_did_not_do_all_is_repeated(
        self, esp: SendgridHarness, list_id: str, ending: str
    ) -> None:
        await esp.provider.upsert(list_id, people(2))
        esp.fake.removal_endings = [ending]
        with pytest.raises(Transient):
            await esp.provider.remove(list_id, people(2))
        await esp.provider.remove(list_id, people(2))
        assert await esp.mailable(list_id) == {}

    async def test_a_contact_deleted_by_hand_during_its_removal_hides_no_other(
        self, esp: SendgridHarness, list_id: str
    ) -> None:
        await esp.provider.upsert(list_id, people(2))
        esp.fake.statuses = [None, 404]  # the search is well, the removal misses one of its ids
        with pytest.raises(Transient):
            await esp.provider.remove(list_id, people(2))

    async def test_a_report_elsewhere_without_tls_is_not_fetched(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.bad_in_job = frozenset({"person0@post.test"})
        esp.fake.files_at = "http://files.invalid"
        with pytest.raises(Refused, match="unsafe place"):
            await esp.provider.upsert(list_id, people(1))


class TestBadContacts:
    @pytest.mark.parametrize("errors_per_answer", [None, 1])
    async def test_a_bad_address_is_dropped_and_the_rest_sent_again(
        self, esp: SendgridHarness, list_id: str, errors_per_answer: int | None
    ) -> None:
        esp.fake.errors_per_answer = errors_per_answer
        contacts = [person(n, address=f"p{n}@refused.test") if n % 3 == 0 else person(n) for n in range(8)]
        outcomes = await esp.provider.upsert(list_id, contacts)
        assert [n for n, o in enumerate(outcomes) if isinstance(o, Rejected)] == [0, 3, 6]
        assert len(puts(esp)) == (2 if errors_per_answer is None else 4)
        rejected = outcomes[3]
        assert isinstance(rejected, Rejected)
        assert rejected.reason is Reason.INVALID_ADDRESS
        assert "refused.test" not in rejected.detail

    async def test_the_rounds_are_bounded(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.errors_per_answer = 1
        with pytest.raises(ContactRefused):
            await esp.provider.upsert(list_id, [person(n, address=f"p{n}@refused.test") for n in range(30)])

    async def test_a_deleted_custom_field_is_made_again_and_nobody_is_rejected(
        self, esp: SendgridHarness, list_id: str
    ) -> None:
        await esp.provider.upsert(list_id, people(1))
        esp.fake.fields.clear()
        esp.fake.make_field("city")
        with pytest.raises(Transient, match="planfix_id"):
            await esp.provider.upsert(list_id, people(2))
        assert [type(o) for o in await esp.provider.upsert(list_id, people(2))] == [Delivered, Delivered]

    async def test_the_field_is_found_whatever_its_case(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.make_field("Planfix_ID")
        await esp.provider.upsert(list_id, people(1))
        assert len(esp.fake.fields) == 1

    async def test_an_address_too_long_for_the_search_is_removed_all_the_same(
        self, esp: SendgridHarness, list_id: str
    ) -> None:
        long = person(1, address=f"{'a' * 64}@{'b' * 60}.post.test")
        await esp.provider.upsert(list_id, [long, person(2)])
        await esp.provider.remove(list_id, [long, person(2)])
        assert await esp.mailable(list_id) == {}

    async def test_an_address_that_the_search_refuses_stops_no_other_removal(
        self, esp: SendgridHarness, list_id: str
    ) -> None:
        await esp.provider.upsert(list_id, people(5))
        outcomes = await esp.provider.remove(list_id, [person(9, address="no@address"), *people(5)])
        assert {type(outcome) for outcome in outcomes} == {Delivered}
        assert await esp.mailable(list_id) == {}

    async def test_somebodys_alternate_address_is_not_that_person(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.add("main@post.test", list_id, alternate_emails=["person1@post.test"])
        await esp.provider.remove(list_id, [person(1)])
        assert set(await esp.mailable(list_id)) == {"main@post.test"}


NEW = "new@post.test"


def changed(**fields: Any) -> Contact:
    return person(1, address=NEW, old_address="person1@post.test", **fields)


class TestChangedAddress:
    @pytest.fixture(autouse=True)
    async def member(self, esp: SendgridHarness, list_id: str) -> None:
        await esp.provider.upsert(list_id, [person(1)])

    @pytest.mark.parametrize("kind", ["group", "unsubscribes", "spam_reports"])
    async def test_the_opt_out_is_there_before_the_new_address(
        self, esp: SendgridHarness, list_id: str, kind: str
    ) -> None:
        place = esp.fake.groups[GROUP] if kind == "group" else esp.fake.suppressed[kind]
        place.add("person1@post.test")
        start = esp.calls()
        outcomes = await esp.provider.upsert(list_id, [changed(), person(2)])
        assert [type(outcome) for outcome in outcomes] == [OptedOut, Delivered]
        words = made(esp, start)
        copied = f"POST asm/groups/{GROUP}/suppressions" if kind == "group" else "POST asm/suppressions/global"
        assert words.index(copied) < words.index("PUT marketing/contacts")
        assert NEW in esp.fake.kept_out()
        assert NEW not in kept_addresses(esp)
        assert not any(NEW in json.dumps(body) for body in puts(esp))

    async def test_an_address_with_a_slash_is_looked_up_as_one(self) -> None:
        old = "sales/moscow?a=1#b%41@post.test"
        async with SendgridHarness(validate=False) as esp:
            list_id = await esp.provider.create_list("Клиенты")
            await esp.opt_out(old)
            new = person(1, address=NEW, old_address=old)
            assert [type(o) for o in await esp.provider.upsert(list_id, [new])] == [OptedOut]

    async def test_an_opt_out_stays_within_its_group(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.groups[GROUP].add("person1@post.test")
        await esp.provider.upsert(list_id, [changed()])
        assert NEW in esp.fake.groups[GROUP]
        assert NEW not in esp.fake.groups[GROUP + 1] | esp.fake.suppressed["unsubscribes"]

    async def test_the_old_contact_leaves_the_account_when_it_was_only_ours(
        self, esp: SendgridHarness, list_id: str
    ) -> None:
        await esp.provider.upsert(list_id, [changed()])
        assert kept_addresses(esp) == {NEW}

    @pytest.mark.parametrize("shared", ["on another list", "another Planfix contact", "no Planfix contact"])
    async def test_the_old_contact_stays_in_the_account_when_it_is_not_only_ours(
        self, esp: SendgridHarness, list_id: str, shared: str
    ) -> None:
        old = esp.fake.people["person1@post.test"]
        if shared == "on another list":
            old.lists.add(esp.fake.make_list("by hand"))
        else:
            old.custom_fields = {"planfix_id": "7"} if shared == "another Planfix contact" else {}
        await esp.provider.upsert(list_id, [changed()])
        assert kept_addresses(esp) == {NEW, "person1@post.test"}
        assert set(await esp.mailable(list_id)) == {NEW}

    async def test_two_who_swap_known_by_their_ids_only_both_stay(self, esp: SendgridHarness, list_id: str) -> None:
        await esp.provider.upsert(list_id, [person(2)])
        one, two = "person1@post.test", "person2@post.test"
        swapped = [person(1, address=two, provider_contact_id=one), person(2, address=one, provider_contact_id=two)]
        await esp.provider.upsert(list_id, swapped)
        assert set(await esp.mailable(list_id)) == {one, two}

    @pytest.mark.parametrize(
        "scopes", [{"marketing.read", "marketing.update"}, {"marketing.read", "marketing.update", "suppression.read"}]
    )
    async def test_without_rights_to_opt_outs_nobody_who_opted_out_is_added(
        self, esp: SendgridHarness, list_id: str, scopes: set[str]
    ) -> None:
        await esp.opt_out("person1@post.test")
        esp.fake.scopes = frozenset(scopes)
        outcomes = await esp.provider.upsert(list_id, [changed(), person(2)])
        assert [type(outcome) for outcome in outcomes] == [Rejected, Delivered]
        assert NEW not in kept_addresses(esp)

    async def test_without_rights_the_owner_may_choose_to_add(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.scopes = MARKETING_ONLY
        await esp.reopen(unknown_opt_outs="add")
        assert [type(o) for o in await esp.provider.upsert(list_id, [changed()])] == [Delivered]
        assert set(await esp.mailable(list_id)) == {NEW}


class TestErrors:
    async def test_the_wait_after_429_lasts_until_the_reset(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.calls_left = 0
        esp.fake.reset_in_s = 3600
        with pytest.raises(RateLimited) as limited:
            await esp.provider.find_list("Клиенты")
        assert limited.value.retry_after_s == pytest.approx(3600, abs=600)

    async def test_the_wait_after_429_is_a_second_at_least(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.calls_left = 0
        esp.fake.reset_in_s = -100
        with pytest.raises(RateLimited) as limited:
            await esp.provider.find_list("Клиенты")
        assert limited.value.retry_after_s == 1

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (302, Transient),
            (401, AuthFailed),
            (403, RightsMissing),
            (404, CallRefused),
            (405, CallRefused),
            (408, Transient),
            (413, CallRefused),
            (429, RateLimited),
            (500, Transient),
            (503, Transient),
        ],
    )
    async def test_every_status_has_its_error(self, esp: SendgridHarness, status: int, error: type[Exception]) -> None:
        esp.fake.statuses = [status]
        with pytest.raises(error) as raised:
            await esp.provider.find_list("Клиенты")
        assert type(raised.value) is error
        assert str(status) in str(raised.value)

    async def test_a_key_that_cannot_be_sent_is_a_wrong_key(self, esp: SendgridHarness) -> None:
        await esp.reopen(api_key=Secret("SG.ключ…"))
        with pytest.raises(AuthFailed):
            await esp.provider.find_list("Клиенты")

    async def test_a_search_that_is_refused_for_another_reason_finds_nobody_missing(
        self, esp: SendgridHarness, list_id: str
    ) -> None:
        esp.fake.statuses = [400]
        with pytest.raises(CallRefused):
            await esp.provider.remove(list_id, people(2))

    @pytest.mark.parametrize("scopes", [frozenset(), frozenset({"marketing.read"})])
    async def test_missing_rights_are_a_matter_of_the_key(
        self, esp: SendgridHarness, list_id: str, scopes: frozenset[str]
    ) -> None:
        esp.fake.scopes = scopes
        with pytest.raises(RightsMissing):
            await esp.provider.upsert(list_id, people(1))

    async def test_a_proxys_404_is_not_taken_for_an_unknown_list(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.html_404 = True
        for operation in (
            esp.provider.delete_list(list_id),
            esp.provider.remove(list_id, people(1)),
            esp.provider.upsert(list_id, people(1)),
        ):
            with pytest.raises(Transient):
                await operation

    async def test_a_refusal_carries_the_whole_answer(self, esp: SendgridHarness) -> None:
        with pytest.raises(CallRefused) as refused:
            await esp.provider.create_list("я" * 101)
        assert refused.value.status == 400
        assert refused.value.answer.headers["x-ratelimit-limit"] == "600"
        esp.fake.violations.clear()  # the spec, where it is at hand, refuses the name too

    async def test_the_list_after_the_last(self, esp: SendgridHarness) -> None:
        for number in range(MAX_LISTS):
            esp.fake.make_list(f"list {number}")
        with pytest.raises(Refused) as refused:
            await esp.provider.create_list("one more")
        assert refused.value.reason is Reason.LIST_LIMIT

    async def test_a_list_on_a_later_page_is_found(self, esp: SendgridHarness) -> None:
        esp.fake.lists_per_page = 2
        ids = [esp.fake.make_list(f"list {number}") for number in range(5)]
        assert await esp.provider.find_list("list 4") == ids[4]

    async def test_an_id_that_is_none_of_sendgrids_goes_into_no_call(self, esp: SendgridHarness) -> None:
        odd = "../contacts?delete_all_contacts=true"
        await esp.provider.delete_list(odd)
        assert [type(o) for o in await esp.provider.remove(odd, people(1))] == [Delivered]
        with pytest.raises(Refused) as refused:
            await esp.provider.upsert(odd, people(1))
        assert refused.value.reason is Reason.LIST_GONE
        assert esp.calls() == 0

    async def test_no_key_and_no_address_in_any_log(
        self, esp: SendgridHarness, list_id: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        esp.fake.bad_in_job = frozenset({"person2@post.test"})
        await esp.provider.upsert(list_id, [person(1), person(2)])
        await esp.provider.upsert(list_id, [changed(), person(3, address="p@refused.test")])
        await esp.provider.remove(list_id, [changed()])
        for fault in (Fault.WRONG_KEY, Fault.SERVER_ERROR):
            esp.fail(fault)
            with pytest.raises((AuthFailed, Transient)):
                await esp.provider.upsert(list_id, [person(1)])
        logged = unquote("".join(f"{record.getMessage()} {record.args}" for record in caplog.records))
        assert [text for text in (KEY, "person1@", "new@", "p@refused", "signature") if text in logged] == []


class TestCheck:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda fake: setattr(fake, "scopes", frozenset({"suppression.read"})), "Marketing"),
            (lambda fake: setattr(fake, "legacy", True), "legacy"),
            (lambda fake: setattr(fake, "scopes", frozenset({"marketing.read"})), "Suppressions"),
            (lambda fake: fake.make_field("planfix_id", "Number"), "Rename"),
            (lambda fake: [fake.make_list(str(n)) for n in range(MAX_LISTS)], "Delete lists"),
        ],
        ids=["no marketing", "legacy account", "no suppressions", "wrong field", "no room"],
    )
    async def test_each_fault_has_its_advice(
        self, esp: SendgridHarness, change: Callable[[Any], object], words: str
    ) -> None:
        change(esp.fake)
        assert words in " ".join(str(f.advice) for f in await esp.provider.check() if not f.ok)

    async def test_opt_outs_that_the_owner_gave_up_are_no_fault(self, esp: SendgridHarness) -> None:
        esp.fake.scopes = MARKETING_ONLY
        await esp.reopen(unknown_opt_outs="add")
        assert [f for f in await esp.provider.check() if not f.ok] == []


class TestKeepOut:
    async def test_all_mail_is_closed_a_hundred_addresses_a_call(self, esp: SendgridHarness, list_id: str) -> None:
        start = esp.calls()
        await esp.provider.keep_out(list_id, people(250))
        assert made(esp, start) == ["POST asm/suppressions/global"] * 3
        assert esp.fake.suppressed["unsubscribes"] == {contact.address for contact in people(250)}

    async def test_a_key_without_the_right_is_told(self, esp: SendgridHarness, list_id: str) -> None:
        esp.fake.scopes = MARKETING_ONLY
        with pytest.raises(RightsMissing):
            await esp.provider.keep_out(list_id, people(1))


class TestMembers:
    @pytest.mark.parametrize("packed", [False, True])
    async def test_members_come_from_all_files_with_their_state(
        self, esp: SendgridHarness, list_id: str, packed: bool
    ) -> None:
        esp.fake.gzip_files = packed
        esp.fake.rows_per_file = 2
        await esp.provider.upsert(list_id, people(5))
        for number, place in enumerate(
            [esp.fake.groups[GROUP], *(esp.fake.suppressed[k] for k in ("unsubscribes", "spam_reports", "bounces"))]
        ):
            place.add(f"person{number}@post.test")
        members = [member async for member in esp.provider.members(list_id)]
        assert [member.state for member in members] == [MemberState.OPTED_OUT] * 4 + [MemberState.SUBSCRIBED]
        assert [member.how for member in members[:4]] == ["unsubscribed", "unsubscribed", "complained", BOUNCED]
        assert members[4] == Member(
            "person4@post.test", MemberState.SUBSCRIBED, "Имя4", "", id="1004", provider_contact_id="person4@post.test"
        )

    async def test_suppressions_are_read_page_by_page(self, esp: SendgridHarness, list_id: str) -> None:
        await esp.provider.upsert(list_id, people(1))
        esp.fake.suppressed["unsubscribes"] = {f"a{n:04}@post.test" for n in range(1000)} | {"person0@post.test"}
        (member,) = [member async for member in esp.provider.members(list_id)]
        assert member.state is MemberState.OPTED_OUT

    async def test_nobody_is_told_as_subscribed_when_opt_outs_cannot_be_read(
        self, esp: SendgridHarness, list_id: str
    ) -> None:
        esp.fake.scopes = MARKETING_ONLY
        with pytest.raises(RightsMissing):
            async for _ in esp.provider.members(list_id):
                pass
