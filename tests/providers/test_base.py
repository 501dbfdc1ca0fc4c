"""What every provider inherits: batches, secrets that stay secret, and a class that must say who it is."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from providers.base import (
    Capabilities,
    Contact,
    Delivered,
    Finding,
    Limits,
    Member,
    MemberState,
    Outcome,
    Provider,
    ProviderError,
    Secret,
    Settings,
    redact,
)

BATCH_SIZE = 3


class Recorder(Provider[Settings]):
    """An ESP that holds one list in memory and works every batch off backwards."""

    name = "recorder"
    title = "Recorder"
    settings_type = Settings
    capabilities = Capabilities(list_is="a set", renames_address=False, tells_opt_outs=True, equal_names=True)
    limits = Limits(batch_size=BATCH_SIZE, parallel_calls=1, list_name_chars=10)

    def __init__(self) -> None:
        super().__init__(Settings())
        self.batches: list[list[Contact]] = []
        self.on_list: set[str] = set()
        self.ids = count()

    async def check(self) -> list[Finding]:
        return []

    async def find_list(self, name: str) -> str | None:
        return None

    async def create_list(self, name: str) -> str:
        return name

    async def delete_list(self, list_id: str) -> None:
        return

    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        for contact in reversed(contacts):
            if contact.old_address is not None and not contact.keep_old:
                self.on_list.discard(contact.old_address.lower())
            self.on_list.add(contact.address.lower())
        return self._told(contacts)

    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        return self._told(contacts)

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        for address in self.on_list:
            yield Member(address, MemberState.SUBSCRIBED)

    def _told(self, contacts: Sequence[Contact]) -> list[Outcome]:
        self.batches.append(list(contacts))
        return [Delivered(f"{contact.address.lower()} {next(self.ids)}") for contact in contacts]


addresses = st.sampled_from([f"{name}@post.test" for name in ("a", "b", "c", "d", "e", "A", "B")])
contacts = st.builds(
    Contact,
    id=st.integers(1, 5).map(str),
    address=addresses,
    old_address=st.none() | addresses,
    keep_old=st.booleans(),
    provider_contact_id=st.none() | st.sampled_from(["1", "2"]),
)
batches_of_contacts = st.lists(contacts, max_size=12)


def upserted(asked: Sequence[Contact], *, one_by_one: bool = False) -> tuple[Recorder, list[Outcome]]:
    async def run() -> list[Outcome]:
        if one_by_one:
            return [outcome for contact in asked for outcome in await provider.upsert("list", [contact])]
        return await provider.upsert("list", asked)

    provider = Recorder()
    return provider, asyncio.run(run())


@given(batches_of_contacts)
def test_there_is_one_outcome_for_each_contact_in_order(asked: list[Contact]) -> None:
    _, outcomes = upserted(asked)
    told = [outcome.provider_contact_id.split()[0] for outcome in outcomes]  # type: ignore[union-attr]
    assert told == [contact.address.lower() for contact in asked]


@given(batches_of_contacts)
def test_no_batch_is_too_large_or_holds_an_address_twice(asked: list[Contact]) -> None:
    for batch in upserted(asked)[0].batches:
        assert 1 <= len(batch) <= BATCH_SIZE
        touched = [{c.address.lower(), (c.old_address or c.address).lower()} for c in batch]
        assert sum(map(len, touched)) == len(set().union(*touched))


@given(batches_of_contacts)
@example(
    [Contact("1", "a@post.test"), Contact("1", "b@post.test", old_address="a@post.test"), Contact("2", "a@post.test")]
)
@example(
    [Contact("1", "b@post.test"), Contact("2", "a@post.test"), Contact("2", "c@post.test", old_address="b@post.test")]
)
def test_the_list_ends_as_if_contacts_had_come_one_by_one(asked: list[Contact]) -> None:
    assert upserted(asked)[0].on_list == upserted(asked, one_by_one=True)[0].on_list


def test_contacts_without_a_clash_fill_their_batches() -> None:
    provider, _ = upserted([Contact(str(n), f"person{n}@post.test") for n in range(2 * BATCH_SIZE + 1)])
    assert [len(batch) for batch in provider.batches] == [BATCH_SIZE, BATCH_SIZE, 1]


def test_a_contact_that_only_repeats_another_is_not_sent() -> None:
    anna = Contact("1", "anna@post.test", provider_contact_id="7")
    provider, _ = upserted([anna, anna, replace(anna, id="2", address="ANNA@post.test", provider_contact_id=None)])
    assert provider.batches == [[anna]]


def test_a_repeat_that_names_another_earlier_address_is_sent() -> None:
    anna = Contact("1", "anna@post.test", provider_contact_id="7")
    twins = [replace(anna, id="2", provider_contact_id="8"), replace(anna, id="3", old_address="old@post.test")]
    provider, _ = upserted([anna, *twins])
    assert provider.batches == [[anna], [twins[0]], [twins[1]]]


async def test_a_removal_may_know_ids_only() -> None:
    provider = Recorder()
    by_id = [Contact(str(n), "", provider_contact_id=str(n)) for n in (1, 2, 1)]
    outcomes = await provider.remove("list", by_id)
    assert provider.batches == [by_id[:2]]
    assert outcomes[0] == outcomes[2] != outcomes[1]


async def test_nobody_is_no_call() -> None:
    provider = Recorder()
    assert await provider.upsert("list", []) == await provider.remove("list", []) == []
    assert provider.batches == []


around = st.text(max_size=40)
local_parts = st.text("abcXYZ019.+_-'!#$%*{}|~яж", min_size=2, max_size=64)
domains = st.text("abcXYZ019-.ю", min_size=2, max_size=100)
keys = st.one_of(
    st.text("0123456789abcdef", min_size=32, max_size=32).map(lambda key: f"{key}-us21"),
    st.tuples(st.text("aZ0_-", min_size=22, max_size=22), st.text("aZ0_-", min_size=43, max_size=43)).map(
        lambda parts: "SG." + ".".join(parts)
    ),
    st.text("aZ0+/", min_size=8, max_size=60).map(lambda key: f"Bearer {key}"),
    st.text("aZ0+/", min_size=8, max_size=60).map(lambda key: f"Basic {key}=="),
)


@given(around, local_parts, st.sampled_from(["@", "%40"]), domains, around)
@example("email '", "anna", "@", "post.test", "' is not valid")
@example("", "o'hara", "@", "post.test", "")
@example("", "anna", "@", "localhost", "")
@example("https://api.post.test/v3/suppressions/", "anna", "%40", "post.test", "?x=1")
def test_no_whole_address_is_left(before: str, local_part: str, at: str, domain: str, after: str) -> None:
    address = f"{local_part}{at}{domain}"
    assert address not in redact(f"{before}{address}{after}")


@given(around, keys, around)
def test_no_key_is_left(before: str, key: str, after: str) -> None:
    assert key not in redact(f"{before} {key} {after}")


def test_a_redacted_text_still_tells_what_happened() -> None:
    text = "400 email 'anna@post.test' is not valid (request 3f2a)"
    assert redact(text) == "400 email 'a***@p***' is not valid (request 3f2a)"


def test_an_error_holds_no_address_and_no_key() -> None:
    error = ProviderError("400 anna@post.test with SG.abcdefghijk")
    assert str(error) == error.detail == "400 a***@p*** with <secret>"
    assert "anna@" not in "".join(traceback.format_exception(error)) + repr(error)


@given(st.text(min_size=1))
def test_a_secret_never_prints(text: str) -> None:
    secret = Secret(text)
    assert secret.reveal() == text
    printed = {str(secret), repr(secret), f"{secret}", f"{secret!r}", f"{secret!s}", "%s" % secret}  # noqa: UP031
    assert printed == {"<secret>"}


def test_secrets_are_equal_by_their_text() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


@pytest.mark.parametrize("attribute", ["name", "title", "settings_type", "capabilities", "limits"])
def test_a_provider_that_does_not_say_who_it_is_is_refused(attribute: str) -> None:
    stated = {a: getattr(Recorder, a) for a in ("name", "title", "settings_type", "capabilities", "limits")}
    del stated[attribute]
    with pytest.raises(TypeError, match=f"Silent does not state its {attribute}$"):
        type("Silent", (Provider,), stated)


def test_the_setting_of_parallel_calls_goes_before_the_limit() -> None:
    provider = Recorder()
    assert provider.parallel_calls == 1
    provider.settings = Settings(parallel_calls=5)
    assert provider.parallel_calls == 5


@given(st.text(min_size=1), st.integers(1, 50))
def test_a_list_name_fits_and_tells_numbers_apart(name: str, number: int) -> None:
    recorder = Recorder.__new__(Recorder)
    fitted = recorder.list_name(name, number)
    assert len(fitted) <= recorder.limits.list_name_chars
    assert fitted.endswith(f" ({number})") or number == 1
    assert name.startswith(fitted.removesuffix(f" ({number})"))
