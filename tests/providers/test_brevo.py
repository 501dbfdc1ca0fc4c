"""Brevo: the kit's promises, and what is its own."""

from collections.abc import AsyncIterator

import pytest

from providers.base import Contact, ContactRefused, Delivered, OptedOut, Reason, Refused, Rejected, Transient
from providers.brevo import PLANFIX_ID, SINGLE_UP_TO
from providers.testing import ProviderConformance
from tests.fakes.brevo import BrevoHarness, brevo


@pytest.fixture
async def esp() -> AsyncIterator[BrevoHarness]:
    async with brevo() as harness:
        yield harness


def people(count: int) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(count)]


def asked(esp: BrevoHarness, path: str) -> list[object]:
    return [call.body for call in esp.fake.calls if call.path == f"/v3{path}"]


class TestBrevo(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: BrevoHarness) -> BrevoHarness:
        return esp


@pytest.mark.parametrize(("count", "calls"), [(1, 2), (1000, 2), (20_000, 8)])
async def test_an_import_takes_the_calls_that_the_docs_name(esp: BrevoHarness, count: int, calls: int) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    await esp.provider.upsert(list_id, people(1))  # looks at the attributes once
    before = esp.calls()
    await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(await esp.mailable(list_id)) == count


async def test_a_thousand_removals_take_seven_calls(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    await esp.provider.upsert(list_id, people(1000))
    before = esp.calls()
    await esp.provider.remove(list_id, people(1000))
    assert esp.calls() - before == 7
    assert await esp.mailable(list_id) == {}


async def test_no_call_says_anything_of_the_block_but_the_one_that_sets_it(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    await esp.provider.upsert(list_id, people(SINGLE_UP_TO + 1))
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    await esp.opt_out("p1@post.test")
    await esp.provider.upsert(list_id, [Contact("1", "also.new@post.test", old_address="p1@post.test")])
    told = [call.body for call in esp.fake.calls if "Blacklist" in str(call.body)]
    assert told == [{"email": "also.new@post.test", "emailBlacklisted": True, "updateEnabled": True}]


async def test_the_planfix_id_is_kept_in_an_attribute_that_is_made_once(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    for _ in range(2):
        await esp.provider.upsert(list_id, people(3))
    assert len(asked(esp, f"/contacts/attributes/normal/{PLANFIX_ID}")) == 1
    assert {member.id async for member in esp.provider.members(list_id)} == {"0", "1", "2"}


async def test_the_report_of_an_import_names_who_was_refused(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    bad = Contact("bad", esp.refused_address())
    outcomes = await esp.provider.upsert(list_id, [*people(SINGLE_UP_TO), bad])
    assert {type(outcome) for outcome in outcomes[:-1]} == {Delivered}
    assert isinstance(outcomes[-1], Rejected)
    assert outcomes[-1].reason is Reason.INVALID_ADDRESS


async def test_an_import_of_nobody_valid_is_refused_contact_by_contact(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    bad = [Contact(str(n), f"p{n}@{esp.fake.refused_domain}") for n in range(SINGLE_UP_TO + 1)]
    assert {type(outcome) for outcome in await esp.provider.upsert(list_id, bad)} == {Rejected}


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_an_import_that_does_not_end_well_is_repeated_later(esp: BrevoHarness, status: str) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    esp.fake.job_status = status
    with pytest.raises(Transient, match=status):
        await esp.provider.upsert(list_id, people(SINGLE_UP_TO + 1))


async def test_an_import_to_a_list_that_is_gone_says_so(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    await esp.drop_list(list_id)
    with pytest.raises(Refused) as refused:
        await esp.provider.upsert(list_id, people(SINGLE_UP_TO + 1))
    assert refused.value.reason is Reason.LIST_GONE


async def test_who_may_still_be_put_on_the_list_is_not_removed_too_early(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    esp.fake.job_looks = 1_000_000
    with pytest.raises(Transient, match="not done"):
        await esp.provider.upsert(list_id, people(SINGLE_UP_TO + 1))
    (outcome,) = await esp.provider.remove(list_id, people(1))
    assert type(outcome).__name__ == "Postponed"
    (outcome,) = await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert type(outcome).__name__ == "Postponed"


async def test_the_wait_of_a_rate_limit_is_read_from_brevos_own_header(esp: BrevoHarness) -> None:
    esp.fake.rate_limited = True
    with pytest.raises(Transient) as limited:
        await esp.provider.find_list("Клиенты")
    assert limited.value.retry_after_s == 7


async def test_a_check_misses_attributes_of_an_account_in_another_language(esp: BrevoHarness) -> None:
    esp.fake.attributes = ["PRENOM", "NOM"]
    wrong = [finding for finding in await esp.provider.check() if not finding.ok]
    assert [str(finding.text) for finding in wrong] == ["no attributes FIRSTNAME, LASTNAME: names would be lost"]
    assert "first_name and last_name" in str(wrong[0].advice)


async def test_an_address_that_brevo_takes_for_none_keeps_nobody_from_being_kept_out(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    await esp.provider.upsert(list_id, people(2))
    await esp.provider.keep_out(list_id, [Contact("bad", esp.refused_address()), *people(2)])
    assert await esp.mailable(list_id) == {}


async def test_a_404_of_something_before_brevo_says_nothing_of_contacts_and_lists(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    (anna,) = people(1)
    await esp.provider.upsert(list_id, [anna])
    await esp.opt_out(anna.address)
    esp.fake.gateway_404 = True
    with pytest.raises(Transient):
        await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address=anna.address)])
    with pytest.raises(Transient):
        await esp.provider.remove(list_id, [anna])
    with pytest.raises(Transient):
        await esp.provider.delete_list(list_id)
    assert await esp.lists() == {list_id: "Клиенты"}


async def test_a_report_that_names_somebody_in_other_words_has_delivered_nobody(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    odd = Contact("odd", esp.refused_address())
    esp.fake.report_writes = {odd.address: "anna@xn--refused.test"}
    with pytest.raises(ContactRefused):
        await esp.provider.upsert(list_id, [*people(SINGLE_UP_TO), odd])


async def test_who_left_this_list_alone_is_not_put_back_one_by_one(esp: BrevoHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    person = esp.fake.person("p0@post.test")
    person.left.add(int(list_id))
    outcomes = await esp.provider.upsert(list_id, people(2))
    assert [type(outcome) for outcome in outcomes] == [OptedOut, Delivered]
    assert set(await esp.mailable(list_id)) == {"p1@post.test"}
