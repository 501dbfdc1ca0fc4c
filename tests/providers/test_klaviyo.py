"""Klaviyo: the kit's promises, and what is its own."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from providers.base import (
    BOUNCED,
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
    Transient,
)
from providers.klaviyo.profiles import PLANFIX_ID, data_of
from providers.klaviyo.provider import SINGLE_UP_TO
from providers.testing import ProviderConformance
from tests.fakes.klaviyo import IMPORT_BYTES, MEDIA_TYPE, REVISION, KlaviyoHarness, klaviyo, klaviyo_spec

MANY = SINGLE_UP_TO + 1  # go as an import


@pytest.fixture
async def esp() -> AsyncIterator[KlaviyoHarness]:
    async with klaviyo() as harness:
        yield harness


@pytest.fixture
async def list_id(esp: KlaviyoHarness) -> str:
    return await esp.provider.create_list("Клиенты")


def people(count: int) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(count)]


def bad(esp: KlaviyoHarness, count: int) -> list[Contact]:
    return [Contact(f"bad{number}", f"bad{number}@{esp.fake.refused_domain}") for number in range(count)]


def moved(number: int) -> Contact:
    return Contact(str(number), f"new{number}@post.test", old_address=f"p{number}@post.test")


def bodies(esp: KlaviyoHarness, end_of_path: str) -> list[Any]:
    return [call.body["data"] for call in esp.fake.calls if call.path.endswith(end_of_path) and call.body]


class TestKlaviyo(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: KlaviyoHarness) -> KlaviyoHarness:
        return esp


def test_the_official_description_tells_good_requests_from_others() -> None:
    described = klaviyo_spec()
    if described is None:
        pytest.skip("the specs of Klaviyo are not here: its requests were not held against them")
    headers = {"revision": REVISION, "Content-Type": MEDIA_TYPE}
    good = json.dumps(data_of("list", {"name": "x", "opt_in_process": "single_opt_in"})).encode()
    assert described.faults("POST", "/api/lists", {}, headers, good) == []
    assert described.faults("POST", "/api/lists", {}, headers, good.replace(b"single", b"no"))
    assert described.faults("POST", "/api/lists", {}, headers | {"Content-Type": "application/json"}, good)
    assert described.faults("GET", "/api/lists", {"page[size]": "11"}, headers, b"")


@pytest.mark.parametrize(("count", "calls"), [(1, 2), (1000, 2), (20_000, 4)])
async def test_an_import_takes_the_calls_that_the_docs_name(
    esp: KlaviyoHarness, list_id: str, count: int, calls: int
) -> None:
    before = esp.calls()
    await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(await esp.mailable(list_id)) == count


@pytest.mark.parametrize(("count", "calls"), [(1, 2), (1000, 11)])
async def test_a_removal_takes_the_calls_that_the_docs_name(
    esp: KlaviyoHarness, list_id: str, count: int, calls: int
) -> None:
    await esp.provider.upsert(list_id, people(count))
    before = esp.calls()
    await esp.provider.remove(list_id, people(count))
    assert esp.calls() - before == calls
    assert await esp.mailable(list_id) == {}


async def test_a_changed_address_takes_five_calls(esp: KlaviyoHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    before = esp.calls()
    await esp.provider.upsert(list_id, [moved(0)])
    assert esp.calls() - before == 5


async def test_no_call_subscribes_or_unsubscribes_anybody(esp: KlaviyoHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(MANY))
    await esp.opt_out("p1@post.test")
    await esp.provider.upsert(list_id, [moved(0), moved(1)])
    await esp.provider.remove(list_id, people(MANY))
    written = [call for call in esp.fake.calls if call.method != "GET"]
    assert [call.path for call in written if "subscription" in call.path] == []
    assert [call.body for call in written if "subscriptions" in str(call.body)] == []
    assert [call.body["data"]["attributes"]["profiles"]["data"] for call in written if "suppression" in call.path] == [
        [{"type": "profile", "attributes": {"email": "new1@post.test"}}]
    ]


async def test_no_import_is_larger_than_klaviyo_takes(esp: KlaviyoHarness, list_id: str) -> None:
    contacts = [Contact(str(n), f"p{n}@post.test", "Я" * 500) for n in range(6000)]
    await esp.provider.upsert(list_id, contacts)
    assert len(esp.fake.import_bytes) == 2
    assert IMPORT_BYTES * 0.99 < esp.fake.import_bytes[0] <= IMPORT_BYTES
    assert len(await esp.mailable(list_id)) == 6000


async def test_long_addresses_are_looked_up_in_more_calls(esp: KlaviyoHarness, list_id: str) -> None:
    contacts = [Contact(str(n), f"{'+' * 58}{n:06}@{'post.' * 30}test") for n in range(60)]
    await esp.provider.upsert(list_id, contacts)
    assert {type(o) for o in await esp.provider.remove(list_id, contacts)} == {Delivered}
    assert await esp.mailable(list_id) == {}


async def test_an_address_is_found_whatever_its_case(esp: KlaviyoHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    await esp.provider.remove(list_id, [Contact("0", "P0@Post.Test")])
    assert await esp.mailable(list_id) == {}


@pytest.mark.parametrize(
    ("reasons", "how"),
    [
        ({"UNSUBSCRIBE"}, "unsubscribed"),
        ({"USER_SUPPRESSED"}, "unsubscribed"),
        ({"SPAM_COMPLAINT", "HARD_BOUNCE"}, "complained"),
        ({"HARD_BOUNCE"}, BOUNCED),
        ({"INVALID_EMAIL"}, BOUNCED),
        ({"HARD_BOUNCE", "UNSUBSCRIBE"}, "unsubscribed"),
    ],
)
async def test_why_somebody_is_out(esp: KlaviyoHarness, list_id: str, reasons: set[str], how: str) -> None:
    esp.fake.person("p0@post.test").suppressed = reasons
    assert await esp.provider.upsert(list_id, people(1)) == [OptedOut(how, "p0@post.test")]


async def test_a_bounce_stays_with_the_old_address(esp: KlaviyoHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    esp.fake.person("p0@post.test").suppressed = {"HARD_BOUNCE"}
    assert await esp.provider.upsert(list_id, [moved(0)]) == [Delivered("new0@post.test")]
    assert set(await esp.mailable(list_id)) == {"new0@post.test"}


@pytest.mark.parametrize("others", [0, MANY])
async def test_who_left_one_list_gets_no_mail_of_it_and_of_others_as_before(
    esp: KlaviyoHarness, list_id: str, others: int
) -> None:
    other_list = await esp.provider.create_list("Другой")
    (out,) = people(1)
    for one in (list_id, other_list):
        await esp.provider.upsert(one, [out])
    esp.fake.leave(out.address, list_id)
    await esp.provider.upsert(list_id, [out, *people(others)[1:]])
    assert out.address not in await esp.mailable(list_id)
    assert await esp.provider.upsert(other_list, [out]) == [Delivered(out.address)]
    # The opt-out goes with the person to a new address.
    (outcome,) = await esp.provider.upsert(list_id, [moved(0)])
    assert isinstance(outcome, OptedOut)
    assert "new0@post.test" not in await esp.mailable(list_id)


async def test_the_errors_of_an_import_name_who_was_left_out(esp: KlaviyoHarness, list_id: str) -> None:
    outcomes = await esp.provider.upsert(list_id, [*people(MANY), *bad(esp, 150)])
    assert {type(outcome) for outcome in outcomes[:MANY]} == {Delivered}
    assert {type(outcome) for outcome in outcomes[MANY:]} == {Rejected}
    assert "bad0@" not in str(outcomes[MANY])
    assert len([call for call in esp.fake.calls if call.path.endswith("import-errors")]) == 2


async def test_an_import_that_leaves_out_somebody_unnamed_is_halved_by_the_bridge(
    esp: KlaviyoHarness, list_id: str
) -> None:
    esp.fake.unnamed_failures = True
    with pytest.raises(ContactRefused):
        await esp.provider.upsert(list_id, [*people(MANY), *bad(esp, 1)])


async def test_rows_that_refuse_an_import_are_told_and_the_others_go_again(esp: KlaviyoHarness, list_id: str) -> None:
    esp.fake.strict_imports = True
    first, second = bad(esp, 2)
    outcomes = await esp.provider.upsert(list_id, [first, *people(MANY), second])
    assert [type(outcome) for outcome in outcomes] == [Rejected, *[Delivered] * MANY, Rejected]
    assert len(bodies(esp, "/profile-bulk-import-jobs")) == 2


async def test_an_import_that_was_cancelled_is_repeated_later(esp: KlaviyoHarness, list_id: str) -> None:
    esp.fake.job_status = "cancelled"
    with pytest.raises(Transient, match="cancelled"):
        await esp.provider.upsert(list_id, people(MANY))


async def test_an_import_to_a_list_that_is_gone_says_so(esp: KlaviyoHarness, list_id: str) -> None:
    await esp.drop_list(list_id)
    with pytest.raises(Refused) as refused:
        await esp.provider.upsert(list_id, people(MANY))
    assert refused.value.reason is Reason.LIST_GONE


async def test_who_may_still_be_put_on_the_list_is_not_removed_too_early(esp: KlaviyoHarness, list_id: str) -> None:
    esp.fake.job_looks = 1_000_000
    with pytest.raises(Transient, match="not done"):
        await esp.provider.upsert(list_id, people(MANY))
    (outcome,) = await esp.provider.remove(list_id, people(1))
    assert isinstance(outcome, Postponed)
    (outcome,) = await esp.provider.upsert(list_id, [moved(0)])
    assert isinstance(outcome, Postponed)


async def test_a_profile_that_goes_in_the_middle_stops_no_other(esp: KlaviyoHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(3))
    held = esp.fake.hold("DELETE /api/lists/.*/relationships")
    removal = asyncio.ensure_future(esp.provider.remove(list_id, people(3)))
    await held.reached.wait()
    del esp.fake.people["p1@post.test"]
    held.release(act=True)
    assert {type(outcome) for outcome in await removal} == {Delivered}
    assert await esp.mailable(list_id) == {}


async def test_a_profile_that_goes_before_it_is_on_the_list_is_put_again(esp: KlaviyoHarness, list_id: str) -> None:
    held = esp.fake.hold("POST /api/lists/.*/relationships")
    upsert = asyncio.ensure_future(esp.provider.upsert(list_id, people(2)))
    await held.reached.wait()
    del esp.fake.people["p1@post.test"]
    held.release(act=True)
    with pytest.raises(Transient):
        await upsert
    assert {type(outcome) for outcome in await esp.provider.upsert(list_id, people(2))} == {Delivered}


async def test_keeping_out_many_goes_by_the_hundred_and_passes_over_bad_addresses(
    esp: KlaviyoHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(1000))
    await esp.provider.keep_out(list_id, [*people(500), *bad(esp, 1), *people(1000)[500:]])
    assert await esp.mailable(list_id) == {}
    asked = [
        len(body["attributes"]["profiles"]["data"]) for body in bodies(esp, "/profile-suppression-bulk-create-jobs")
    ]
    assert sorted(asked) == [1, 99, *[100] * 10]  # the part with the bad one goes again without it


async def test_members_without_an_address_are_none_of_ours(esp: KlaviyoHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(3))
    await esp.opt_out("p1@post.test")
    esp.fake.person("p2@post.test").email = ""
    told = {member.address: member async for member in esp.provider.members(list_id)}
    assert {address: member.state for address, member in told.items()} == {
        "p0@post.test": MemberState.SUBSCRIBED,
        "p1@post.test": MemberState.OPTED_OUT,
    }
    assert told["p0@post.test"].id == "0"


async def test_who_left_the_list_by_their_own_word_is_among_its_members_and_has_opted_out(
    esp: KlaviyoHarness, list_id: str
) -> None:
    other_list = await esp.provider.create_list("Другой")
    await esp.provider.upsert(list_id, people(250))
    for number in range(120):
        esp.fake.leave(f"p{number}@post.test", list_id)
    esp.fake.leave("p200@post.test", other_list)
    esp.fake.person("p1@post.test").lists.add(list_id)  # put on it again by hand
    esp.fake.person("p2@post.test").email = ""
    before = esp.calls()
    told = [member async for member in esp.provider.members(list_id)]
    assert esp.calls() - before == 5  # the list, two pages of it, two of those who left
    assert sorted(member.address for member in told) == sorted(f"p{n}@post.test" for n in range(250) if n != 2)
    out = {member.address for member in told if member.state is MemberState.OPTED_OUT}
    assert out == {f"p{number}@post.test" for number in range(120) if number != 2}


async def test_who_leaves_the_list_while_it_is_read_has_opted_out(esp: KlaviyoHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    members = esp.provider.members(list_id)
    assert (await anext(members)).state is MemberState.SUBSCRIBED
    esp.fake.leave("p0@post.test", list_id)
    assert [member.state async for member in members] == [MemberState.OPTED_OUT]


async def test_whom_klaviyo_sends_nothing_is_told_page_by_page_with_the_reason(
    esp: KlaviyoHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(250))
    for number in range(120):
        esp.fake.person(f"p{number}@post.test").suppressed = {"USER_SUPPRESSED"}
    esp.fake.person("p0@post.test").suppressed = {"HARD_BOUNCE"}
    esp.fake.person("p1@post.test").suppressed = {"SPAM_COMPLAINT"}
    esp.fake.person("p2@post.test").email = ""
    esp.fake.leave("p249@post.test", list_id)  # gets mail of other lists
    before = esp.calls()
    told = {member.address: member.how async for member in esp.provider.kept_out()}
    hows = {"p0@post.test": BOUNCED, "p1@post.test": "complained"}
    assert told == hows | {f"p{number}@post.test": "unsubscribed" for number in range(3, 120)}
    assert esp.calls() - before == 2


async def test_the_planfix_id_is_a_property_beside_those_of_others(esp: KlaviyoHarness, list_id: str) -> None:
    esp.fake.person("p0@post.test").attributes["properties"] = {"colour": "blue"}
    await esp.provider.upsert(list_id, people(1))
    assert esp.fake.person("p0@post.test").attributes["properties"] == {"colour": "blue", PLANFIX_ID: "0"}


async def test_a_check_tells_a_right_that_is_missing(esp: KlaviyoHarness) -> None:
    esp.fake.refused_rights = frozenset({"profiles"})
    assert [finding.ok for finding in await esp.provider.check()] == [True, False]


async def test_changes_wait_when_the_revision_has_ended(esp: KlaviyoHarness, list_id: str) -> None:
    esp.fake.revision_ended = True
    with pytest.raises(AuthFailed, match="410"):
        await esp.provider.upsert(list_id, people(1))


async def test_an_earlier_address_that_klaviyo_takes_for_none_stops_nobody_else(
    esp: KlaviyoHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(1))
    odd = Contact("9", "p9@post.test", old_address=bad(esp, 1)[0].address)
    with pytest.raises(ContactRefused):
        await esp.provider.upsert(list_id, [moved(0), odd])
    with pytest.raises(ContactRefused):
        await esp.provider.remove(list_id, [*people(1), *bad(esp, 1)])
    assert isinstance((await esp.provider.upsert(list_id, [moved(0)]))[0], Delivered)


async def test_nobody_is_moved_whose_subscriptions_are_not_told(esp: KlaviyoHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    await esp.opt_out("p0@post.test")
    esp.fake.tells_subscriptions = False
    with pytest.raises(Transient, match="subscriptions"):
        await esp.provider.upsert(list_id, [moved(0)])
    assert await esp.mailable(list_id) == {}


async def test_an_import_whose_counts_do_not_add_up_has_delivered_nobody(esp: KlaviyoHarness, list_id: str) -> None:
    esp.fake.lost_rows = 1
    with pytest.raises(ContactRefused, match=f"an import of {MANY} profiles"):
        await esp.provider.upsert(list_id, people(MANY))
