"""The sandbox: the kit's promises, and what its settings do."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from providers.base import (
    BOUNCED,
    AuthFailed,
    Contact,
    Delivered,
    MemberState,
    OptedOut,
    Reason,
    Refused,
    Rejected,
    Transient,
)
from providers.sandbox import SandboxProvider, SandboxSettings
from providers.sandbox.esp import MAX_LISTS
from providers.testing import ProviderConformance
from tests.fakes.sandbox import SandboxHarness

ANNA = Contact("1", "anna@post.test", "Анна", "Иванова")


class TestSandbox(ProviderConformance):
    @pytest.fixture
    async def esp(self, tmp_path: Path) -> AsyncIterator[SandboxHarness]:
        harness = SandboxHarness(tmp_path / "sandbox.db")
        yield harness
        await harness.close()


async def test_an_address_that_bounced_stays_so_when_it_is_kept_out(sandbox: SandboxProvider) -> None:
    list_id = await sandbox.create_list("Клиенты")
    await sandbox.upsert(list_id, [ANNA])
    await sandbox.opt_out(ANNA.address, BOUNCED)
    await sandbox.keep_out(list_id, [ANNA])
    (member,) = [member async for member in sandbox.members(list_id)]
    assert (member.state, member.how) == (MemberState.OPTED_OUT, BOUNCED)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "deeper" / "sandbox.db"


@pytest.fixture
async def sandbox(path: Path) -> AsyncIterator[SandboxProvider]:
    async with SandboxProvider(SandboxSettings(path=str(path))) as provider:
        yield provider


def test_the_settings_have_defaults_and_bounds() -> None:
    assert msgspec.convert({}, SandboxSettings) == SandboxSettings(path="data/sandbox.db")
    for wrong in ({"path": ""}, {"latency_s": -1}, {"fail_share": 1.1}, {"down": "no"}, {"parallel_calls": 0}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, SandboxSettings)


async def test_the_file_and_its_folder_are_made_for_the_owner_only(sandbox: SandboxProvider, path: Path) -> None:
    assert not path.parent.exists()
    await sandbox.create_list("Клиенты")
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"sandbox.db": 0o600, "sandbox.db-shm": 0o600, "sandbox.db-wal": 0o600}


async def test_another_process_reads_while_the_bridge_writes(sandbox: SandboxProvider) -> None:
    list_id = await sandbox.create_list("Клиенты")
    await sandbox.upsert(list_id, [Contact(str(n), f"person{n}@post.test") for n in range(600)])
    async with SandboxProvider(sandbox.settings) as other:
        reading = other.members(list_id)
        first = await anext(reading)
        await sandbox.upsert(list_id, [ANNA])
        assert [first.address, *[m.address async for m in reading]][-1] == ANNA.address


@pytest.mark.parametrize("setting", [{"down": True}, {"fail_share": 1.0}, {"latency_s": 600.0, "timeout_s": 0.01}])
async def test_a_sandbox_that_is_down_flaky_or_slow(path: Path, setting: dict[str, Any]) -> None:
    """The event loop goes on while a slow call waits: else this test would take ten minutes."""
    async with SandboxProvider(SandboxSettings(path=str(path), **setting)) as sandbox:
        for call in (sandbox.check(), sandbox.find_list("Клиенты"), sandbox.upsert("1", [ANNA])):
            with pytest.raises(Transient):
                await call


async def test_a_share_of_calls_fails(path: Path) -> None:
    async with SandboxProvider(SandboxSettings(path=str(path), fail_share=0.5)) as sandbox:
        ends: list[str] = []
        sandbox.observe = lambda operation, ended, seconds: ends.append(ended)
        while set(ends) != {"ok", "Transient"}:
            try:
                await sandbox.find_list("Клиенты")
            except Transient:
                continue


async def test_a_refused_key(path: Path) -> None:
    async with SandboxProvider(SandboxSettings(path=str(path), key_refused=True)) as sandbox:
        with pytest.raises(AuthFailed):
            await sandbox.find_list("Клиенты")
        (finding,) = await sandbox.check()
        assert not finding.ok
        assert "key_refused" in str(finding.advice)


async def test_a_file_that_is_no_sandbox_is_told(tmp_path: Path) -> None:
    async with SandboxProvider(SandboxSettings(path=str(tmp_path))) as sandbox:
        with pytest.raises(Transient, match="the sandbox file: unable to open database file"):
            await sandbox.check()


async def test_every_call_is_reported(sandbox: SandboxProvider) -> None:
    told: list[tuple[str, str]] = []
    sandbox.observe = lambda operation, ended, seconds: told.append((operation, ended))
    list_id = await sandbox.create_list("Клиенты")
    with pytest.raises(Refused):
        await sandbox.create_list("Клиенты")
    await sandbox.upsert(list_id, [ANNA])
    assert told == [("create_list", "ok"), ("create_list", "Refused"), ("upsert", "ok")]


async def test_lists_have_limits(sandbox: SandboxProvider) -> None:
    with pytest.raises(Refused) as refused:
        await sandbox.create_list("я" * 101)
    assert refused.value.reason is Reason.REQUEST_REFUSED
    for number in range(MAX_LISTS):
        await sandbox.create_list(str(number))
    with pytest.raises(Refused) as refused:
        await sandbox.create_list("one more")
    assert refused.value.reason is Reason.LIST_LIMIT
    (finding,) = await sandbox.check()
    assert not finding.ok


@pytest.mark.parametrize(
    "address", ["anna@localhost", "anna@post.invalid", "anna@.test", "anna@post.", "anna@post..test", "a b@post.test"]
)
async def test_addresses_that_cannot_be_are_refused(sandbox: SandboxProvider, address: str) -> None:
    list_id = await sandbox.create_list("Клиенты")
    assert await sandbox.upsert(list_id, [Contact("1", address)]) == [Rejected(Reason.INVALID_ADDRESS)]


@pytest.mark.parametrize("address", ["anna@post.test", "o'hara+x@mail.post.test", "анна@почта.рф", "a@invalid.test"])
async def test_other_addresses_are_taken(sandbox: SandboxProvider, address: str) -> None:
    list_id = await sandbox.create_list("Клиенты")
    assert await sandbox.upsert(list_id, [Contact("1", address)]) == [Delivered("1")]


async def test_an_opt_out_tells_how_and_holds_for_every_list(sandbox: SandboxProvider) -> None:
    await sandbox.opt_out(ANNA.address, "bounced")
    for name in ("Клиенты", "Партнёры"):
        list_id = await sandbox.create_list(name)
        assert await sandbox.upsert(list_id, [ANNA]) == [OptedOut("bounced", "1")]
        assert [member.state async for member in sandbox.members(list_id)] == [MemberState.OPTED_OUT]
        assert await sandbox.remove(list_id, [ANNA]) == [OptedOut("bounced", "1")]


async def test_a_changed_address_keeps_the_contact(sandbox: SandboxProvider) -> None:
    list_id = await sandbox.create_list("Клиенты")
    outcomes = await sandbox.upsert(list_id, [ANNA])
    assert await sandbox.upsert(list_id, [Contact("1", "new@post.test", old_address=ANNA.address)]) == outcomes
    (member,) = [member async for member in sandbox.members(list_id)]
    assert (member.id, member.address, member.first_name) == ("1", "new@post.test", "Анна")


async def test_who_bounced_is_reached_under_a_new_address(sandbox: SandboxProvider) -> None:
    list_id = await sandbox.create_list("Клиенты")
    await sandbox.upsert(list_id, [ANNA])
    await sandbox.opt_out(ANNA.address, "bounced")
    moved = Contact("1", "new@post.test", old_address=ANNA.address)
    assert [type(outcome) for outcome in await sandbox.upsert(list_id, [moved])] == [Delivered]
    assert [(m.address, m.state) async for m in sandbox.members(list_id)] == [("new@post.test", MemberState.SUBSCRIBED)]


async def test_members_of_a_list_that_is_gone(sandbox: SandboxProvider) -> None:
    with pytest.raises(Refused) as refused:
        [_ async for _ in sandbox.members("7")]
    assert refused.value.reason is Reason.LIST_GONE
