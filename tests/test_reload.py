"""Settings read anew while the bridge runs: all or nothing, at once, and nothing under way is disturbed."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from bridge.checks import Checks
from bridge.config import Admin, Config, ConfigError, Server, load
from bridge.delivery import AUTH_RETRY_S
from bridge.provider_pool import ProviderMissing
from bridge.reload import NEEDS_RESTART, ReloadRefused, admin_of
from bridge.server import listening
from bridge.texts import text
from providers.base import AuthFailed, Transient
from tests.clock import DrivenClock
from tests.conftest import new_database
from tests.http_bench import HttpBench, wire
from tests.memory_provider import MemoryProvider
from tests.postbox import install
from tests.raw_http import post, sent

SUCCESS = {"success": True}
TOKENS = [f"{word} of account main" for word in ("old token", "new token")]


class FileBench(HttpBench):
    """A bench whose settings are in a file, which `write` changes. `settings` is what the file holds."""

    def __init__(self, folder: Path, clock: DrivenClock) -> None:
        self.path: Path = folder / "config.yaml"
        place = f"http://{uuid4().hex}.test"
        self.settings: dict[str, Any] = {
            "server": {"port": 0, "grace_s": 0},
            "admin": {"port": 0},
            "store": f"sqlite:///{folder / 'bridge.db'}",
            "accounts": {"main": {"token": TOKENS[:1], "provider": "memory"}},
            "providers": {"memory": {"base_url": place}},
        }
        self.write()
        super().__init__(self.settings["store"], clock, place)
        self.config = load(self.path)
        self.account = self.config.accounts["main"]
        self.token = TOKENS[0]

    def write(self, **sections: Any) -> None:
        """Changes the file: these sections are in the place of the old ones, None leaves one out."""
        self.settings = {name: value for name, value in (self.settings | sections).items() if value is not None}
        self.path.write_text(json.dumps(self.settings))  # which is YAML as well

    async def reload(self, **sections: Any) -> list[str]:
        self.write(**sections)
        return await self.listening.reloading.reload()

    @property
    def provider(self) -> MemoryProvider:
        provider = self.bridge.providers.get("memory")
        assert isinstance(provider, MemoryProvider)
        return provider

    def memory(self, **settings: Any) -> dict[str, Any]:
        """The section `providers` with other settings of the one provider."""
        return {"memory": self.settings["providers"]["memory"] | settings}

    async def new_list(self) -> str:
        return str((await self.ask("createList", listName="Клиенты")).body["listId"])

    async def add(self, list_id: str, number: int) -> dict[str, Any]:
        return (await self.ask("updateContact", listId=list_id, action="add", contact=wire(number))).body


@pytest.fixture
async def http(tmp_path: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FileBench]:
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    bench = FileBench(tmp_path, clock)
    await bench.start()
    yield bench
    await bench.stop()


def account(**more: Any) -> dict[str, Any]:
    return {"main": {"token": TOKENS[:1], "provider": "memory"} | more}


# What takes over


async def test_a_token_is_rotated(http: FileBench) -> None:
    async def statuses() -> list[int]:
        return [(await http.ask("createList", token, listName="A")).status for token in TOKENS]

    assert await statuses() == [200, 401]
    assert await http.reload(accounts=account(token=TOKENS)) == ["accounts.main.token"]
    assert await statuses() == [200, 200]
    await http.reload(accounts=account(token=TOKENS[1:]))
    assert await statuses() == [401, 200]


async def test_accounts_come_and_go(http: FileBench) -> None:
    second = {"second": {"token": "the token of account second", "provider": "memory", "language": "ru"}}
    assert await http.reload(accounts=account() | second) == ["accounts.second is new"]
    answer = await http.ask("deleteList", "the token of account second")
    assert answer.body == {"error": text("missing_field", "ru", field="data.listId")}
    assert await http.reload(accounts=account()) == ["accounts.second is gone"]
    assert (await http.ask("deleteList", "the token of account second")).status == 401


async def test_languages_and_limits_take_over(http: FileBench) -> None:
    server = {"port": 0, "grace_s": 1, "error_status": "always_200", "max_body_mb": 1, "reply_within_s": 3}
    changes = await http.reload(language="ru", server=server)
    assert changes == [
        "server.max_body_mb",
        "server.reply_within_s",
        "server.grace_s",
        "server.error_status",
        "language",
        "accounts.main.language",
    ]
    answer = await http.ask("createList", "wrong", listName="A")
    assert (answer.status, answer.body) == (200, {"error": text("unauthorized", "ru")})
    answer = await http.fetch("GET", http.url + "x")
    assert answer.body == {"error": text("not_found", "ru")}
    assert (await sent(http, post(b" " * 1024 * 1025))).status == 413
    list_id = await http.new_list()
    http.esp.open.clear()
    asking = asyncio.create_task(http.add(list_id, 1))
    assert await http.clock.until_waiting() == 3
    http.clock.advance(3)
    assert await asking == {"success": True, "pending": 1}


async def test_the_guard_takes_over_and_leaves(http: FileBench) -> None:
    list_id = await http.new_list()
    await http.ask("importContacts", listId=list_id, contacts=[wire(number) for number in range(20)])

    async def remove(number: int) -> dict[str, Any]:
        return (await http.ask("updateContact", listId=list_id, action="delete", contact=wire(number))).body

    assert await http.reload(guard={"removals_free": 1, "removals_share": 0}) == ["guard"]
    assert await remove(1) == SUCCESS
    assert await remove(2) == {"success": True, "pending": 1}
    assert await http.reload(guard={"removals_free": 2, "removals_share": 0}) == ["guard.removals_free"]
    assert await remove(3) == {"success": True, "pending": 1}, "while one is held all are"
    assert await http.reload(guard=None) == ["guard"]
    assert await remove(4) == SUCCESS
    assert len(await http.mailable(list_id)) == 18
    [held] = await http.bridge.store.removals.held()
    assert held.removals == 2, "what is held waits for a person all the same"


async def test_what_was_held_before_the_guard_left_goes_when_it_is_released(http: FileBench) -> None:
    list_id = await http.new_list()
    await http.ask("importContacts", listId=list_id, contacts=[wire(1), wire(2)])
    await http.reload(guard={"removals_free": 0, "removals_share": 0})
    await http.ask("updateContact", listId=list_id, action="delete", contact=wire(1))
    await http.reload(guard=None)
    [held] = await http.bridge.store.removals.held()
    await http.bridge.store.removals.release(held.list_id)
    await http.until_delivered()
    assert await http.mailable(list_id) == {"p2@x.test"}


# Providers


async def test_a_provider_whose_settings_are_the_same_stays(http: FileBench) -> None:
    list_id = await http.new_list()
    assert await http.add(list_id, 1) == SUCCESS
    provider, courier = http.provider, http.bridge.couriers.of("main", "memory")
    assert await http.reload(language="ru") == ["language", "accounts.main.language"]
    assert http.provider is provider
    assert http.bridge.couriers.of("main", "memory") is courier
    assert not provider.closed


@pytest.mark.parametrize("changed", [True, False], ids=["key changed", "allowed anew at the service"])
async def test_a_refused_key_is_tried_at_once(http: FileBench, changed: bool) -> None:
    list_id = await http.new_list()
    http.esp.script = [AuthFailed("401")] * 2
    assert await http.add(list_id, 1) == {"error": text("auth_failed", "en")}
    assert await http.clock.until_waiting() == AUTH_RETRY_S
    began = http.clock.now()
    await http.reload(providers=http.memory(timeout_s=5) if changed else http.settings["providers"])
    await http.esp.until_called("upsert", 2)  # the key is still wrong
    assert await http.clock.until_waiting() == AUTH_RETRY_S
    await http.reload(providers=http.memory(timeout_s=6) if changed else http.settings["providers"])
    await http.until(lambda: _holds(not http.clock._ends()))
    await http.until_pending(0)
    assert http.clock.now() == began, "nobody had to wait"
    assert await http.add(list_id, 2) == SUCCESS
    assert await http.mailable(list_id) == {"p1@x.test", "p2@x.test"}


async def _holds(value: bool) -> bool:
    return value


async def test_an_outage_ends_at_once_when_the_address_of_the_service_is_mended(http: FileBench) -> None:
    list_id = await http.new_list()
    http.esp.script = [Transient("502", retry_after_s=600)]
    assert await http.add(list_id, 1) == {"success": True, "pending": 1}
    await http.clock.until_waiting()
    await http.reload(providers=http.memory(timeout_s=5))
    await http.until_pending(0)
    assert await http.mailable(list_id) == {"p1@x.test"}


async def test_a_changed_provider_is_replaced_when_its_calls_under_way_have_ended(http: FileBench) -> None:
    list_id = await http.new_list()
    old = http.provider
    http.esp.open.clear()
    first = asyncio.create_task(http.add(list_id, 1))
    await http.esp.until_called("upsert")
    await http.reload(providers=http.memory(timeout_s=5, parallel_calls=1))
    assert http.provider is not old
    second = asyncio.create_task(http.add(list_id, 2))
    making = asyncio.create_task(http.ask("createList", listName="another"))
    await http.until_pending(2)
    assert http.esp.under_way == 1, "the new one makes no call while the old one does"
    assert not old.closed
    http.esp.open.set()
    assert await asyncio.gather(first, second) == [SUCCESS, SUCCESS]
    assert (await making).status == 200
    assert old.closed
    assert not http.provider.closed
    assert await http.mailable(list_id) == {"p1@x.test", "p2@x.test"}


async def test_a_failure_of_the_old_provider_is_not_held_against_the_new_one(http: FileBench) -> None:
    list_id = await http.new_list()
    http.esp.open.clear()
    http.esp.script = [AuthFailed("401")]
    asking = asyncio.create_task(http.add(list_id, 1))
    await http.esp.until_called("upsert")
    await http.reload(providers=http.memory(timeout_s=5))
    http.esp.open.set()
    assert await asking == SUCCESS
    assert [health.state for _, _, health in http.bridge.couriers.health()] == ["up"]


async def test_a_list_under_way_ends_with_the_provider_that_began_it(http: FileBench) -> None:
    old = http.provider
    http.esp.open.clear()
    making = asyncio.create_task(http.ask("createList", listName="A"))
    await http.esp.until_called("find_list")
    await http.reload(providers=http.memory(timeout_s=5))
    await http.reload(providers=http.memory(timeout_s=6))  # and again, while the first change still waits
    http.esp.open.set()
    assert (await making).body == {"success": True, "listId": "memory:1"}
    assert [name for name, _ in http.esp.calls] == ["find_list", "create_list"]
    assert await http.add("memory:1", 1) == SUCCESS
    assert old.closed
    assert http.provider.settings.timeout_s == 6


async def test_changes_of_a_provider_that_is_gone_are_kept_until_it_is_back(http: FileBench, tmp_path: Path) -> None:
    list_id = await http.new_list()
    providers = http.settings["providers"]
    http.esp.script = [Transient("503", retry_after_s=600)]
    assert await http.add(list_id, 1) == {"success": True, "pending": 1}
    other = {"other": {"type": "sandbox", "path": str(tmp_path / "sandbox.db")}}
    changes = await http.reload(providers=other, accounts=account(provider="other"))
    assert changes == ["accounts.main.provider", "providers.memory is gone", "providers.other is new"]
    assert await http.add(list_id, 2) == {"error": text("provider_missing", "en")}
    with pytest.raises(ProviderMissing):
        http.bridge.providers.get("memory")
    await http.reload(providers=other | providers)
    await http.until_pending(0)
    assert await http.mailable(list_id) == {"p1@x.test", "p2@x.test"}


async def test_a_provider_that_goes_ends_its_calls_and_tells_who_waits(http: FileBench, tmp_path: Path) -> None:
    list_id = await http.new_list()
    old = http.provider
    http.esp.open.clear()
    calling = []
    for number in (1, 2):
        calling.append(asyncio.create_task(http.add(list_id, number)))
        await http.esp.until_called("upsert", number)
    waiting = asyncio.create_task(http.add(list_id, 3))
    await http.until_pending(3)
    other = {"other": {"type": "sandbox", "path": str(tmp_path / "sandbox.db")}}
    await http.reload(providers=other, accounts=account(provider="other"))
    assert not old.closed
    http.esp.open.set()
    assert await asyncio.gather(*calling) == [SUCCESS, SUCCESS]
    assert await waiting == {"success": True, "pending": 1}
    assert http.clock.now() == DrivenClock().now(), "nobody waited for it"
    await http.until(lambda: _holds(old.closed))
    assert (await http.admin("/readyz")).body["providers"] == []
    assert b"planfix_bridge_provider_up{" not in (await http.admin("/metrics")).content, "an alarm that never ends"
    assert [name for name, _ in http.esp.calls].count("upsert") == 2


async def test_a_provider_that_comes_back_at_once_waits_for_its_own_last_calls(http: FileBench, tmp_path: Path) -> None:
    list_id = await http.new_list()
    providers = http.settings["providers"]
    http.esp.open.clear()
    first = asyncio.create_task(http.add(list_id, 1))
    await http.esp.until_called("upsert")
    other = {"other": {"type": "sandbox", "path": str(tmp_path / "sandbox.db")}}
    await http.reload(providers=other, accounts=account(provider="other"))
    await http.reload(providers=providers, accounts=account())
    second = asyncio.create_task(http.add(list_id, 1))
    await http.until(lambda: _holds(len(http.bridge.tickets._by_list) == 1))
    assert http.esp.under_way == 1
    http.esp.open.set()
    await asyncio.gather(first, second)
    await http.until_pending(0)
    assert http.esp.most_under_way == 1, "two calls about one contact never overtake each other"


async def test_a_switch_holds_for_new_lists(http: FileBench, tmp_path: Path) -> None:
    old_list = await http.new_list()
    other = {"other": {"type": "sandbox", "path": str(tmp_path / "sandbox.db")}}
    await http.reload(providers=http.settings["providers"] | other, accounts=account(provider="other"))
    assert (await http.ask("createList", listName="B")).body == {"success": True, "listId": "other:1"}
    assert await http.add(old_list, 1) == SUCCESS
    assert await http.mailable(old_list) == {"p1@x.test"}


async def test_a_replica_without_the_provider_leaves_it_to_the_others(
    tmp_path: Path, clock: DrivenClock, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    url = await new_database(postgres)
    benches = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        benches.append(FileBench(tmp_path / name, clock))
    first, second = benches
    for bench in benches:
        bench.write(store=url, providers=first.settings["providers"])
        bench.config, bench.esp = load(bench.path), first.esp
        await bench.start()
    list_id = await first.new_list()
    assert await first.add(list_id, 1) == SUCCESS
    assert first.bridge.couriers.of("main", "memory").is_leading
    other = {"other": {"type": "sandbox", "path": str(tmp_path / "sandbox.db")}}
    await first.reload(providers=other, accounts=account(provider="other"))
    assert await second.add(list_id, 2) == SUCCESS
    assert await first.add(list_id, 3) == {"error": text("provider_missing", "en")}
    await second.until_pending(0)
    assert await first.mailable(list_id) == {"p1@x.test", "p2@x.test", "p3@x.test"}
    await asyncio.gather(first.stop(), second.stop())


# Nothing takes over


async def refused(http: FileBench) -> list[str]:
    """Why a reload is refused; everything must be as it was."""
    before, provider = http.bridge.config, http.provider
    with pytest.raises(ReloadRefused) as caught:
        await http.listening.reloading.reload()
    assert http.bridge.config is before
    assert http.provider is provider
    assert (await http.ask("createList", listName="A")).status == 200
    return caught.value.faults


async def test_a_bad_file_keeps_everything_and_tells_every_fault(
    http: FileBench, log_lines: list[MutableMapping[str, Any]]
) -> None:
    http.path.write_text(
        "server: {prot: 80}\naccounts:\n  main: {token: short, provider: memory}\nproviders:\n"
        "  memory: {timeout_s: '${UNSET_VARIABLE}'}\n"
    )
    faults = await refused(http)
    assert faults == [
        f'{http.path}:1:10: unknown key; did you mean "port"?',
        f"{http.path}:3:17: `token` is too short: a token has at least 16 characters",
        f"{http.path}:5:23: the environment variable UNSET_VARIABLE is not set",
    ]
    [line] = [line for line in log_lines if line["event"] == "reload_refused"]
    assert line["faults"] == faults


async def test_a_file_that_is_gone_keeps_everything(http: FileBench) -> None:
    http.path.unlink()
    assert await refused(http) == [f"{http.path}:1:1: cannot be read: No such file or directory"]


@pytest.mark.parametrize("name", NEEDS_RESTART)
async def test_what_needs_a_restart_is_told_and_keeps_everything(http: FileBench, name: str, tmp_path: Path) -> None:
    section, _, key = name.partition(".")
    values = {"host": "127.0.0.2", "port": 1, "path": "/other", "": f"sqlite:///{tmp_path / 'other.db'}"}
    http.write(
        accounts=account(token=TOKENS[1:]),
        **{section: http.settings[section] | {key: values[key]} if key else values[key]},
    )
    assert await refused(http) == [f"{http.path}: `{name}` cannot change without a restart"]


def test_every_setting_of_the_listeners_takes_over_or_needs_a_restart() -> None:
    """A setting that somebody adds must be thought of."""
    takes_over = {
        *("max_body_mb", "reply_within_s", "grace_s", "error_status"),
        *("receive_within_s", "idle_s", "max_connections", "trusted_proxies"),
    }
    fixed = {name.removeprefix("server.") for name in NEEDS_RESTART if name.startswith("server.")}
    assert {field.name for field in msgspec.structs.fields(Server)} == takes_over | fixed
    assert {f"admin.{field.name}" for field in msgspec.structs.fields(Admin)} - set(NEEDS_RESTART) == {"admin.token"}
    assert {field.name for field in msgspec.structs.fields(Config)} == {
        *("server", "admin", "store", "language", "guard", "accounts", "providers")
    }


async def test_a_provider_that_cannot_be_made_keeps_everything(
    http: FileBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Broken(MemoryProvider):
        name = "broken"

        def __init__(self, settings: Any) -> None:
            raise ValueError("no port of anna@x.test")

    monkeypatch.setattr("tests.memory_provider.Broken", Broken, raising=False)
    install(monkeypatch, tmp_path / "more", "planfix-broken", broken="tests.memory_provider:Broken")
    http.write(providers=http.memory(timeout_s=5) | {"broken": {}})
    assert await refused(http) == [f"{http.path}: ValueError: no port of a***@x***"]


async def test_a_bridge_without_a_file_says_so(tmp_path: Path) -> None:
    from bridge.config import sandbox_config

    config = sandbox_config(tmp_path, server=Server(port=0), admin=Admin(port=0))
    async with listening(config) as running:
        with pytest.raises(ReloadRefused, match="without a settings file"):
            await running.reloading.reload()


# Under load, and from outside


async def test_requests_and_reloads_at_one_time_lose_nothing(http: FileBench) -> None:
    list_id = await http.new_list()
    numbers = iter(range(10_000))
    done: set[int] = set()
    enough = asyncio.Event()

    async def ask_on() -> None:
        while not enough.is_set():
            number = next(numbers)
            answer = await http.add(list_id, number)
            assert answer["success"] is True, answer
            done.add(number)

    asking = [asyncio.create_task(ask_on()) for _ in range(4)]
    for number in range(12):
        await http.reload(
            providers=http.memory(timeout_s=5 + number % 3, parallel_calls=1 + number % 3),
            accounts=account(token=TOKENS if number % 2 else TOKENS[:1]),
        )
        await http.esp.until_called("upsert", len(http.esp.calls) // 2)
    enough.set()
    await asyncio.gather(*asking)
    await http.until_pending(0)
    assert await http.mailable(list_id) == {f"p{number}@x.test" for number in done}
    assert http.esp.most_under_way <= 3


async def test_reloads_at_one_time_come_one_after_the_other(http: FileBench) -> None:
    http.write(language="ru")
    changes = await asyncio.gather(*(http.listening.reloading.reload() for _ in range(3)))
    assert changes == [["language", "accounts.main.language"], [], []]


async def test_the_admin_port_reloads(http: FileBench) -> None:
    url = http.listening.admin_url + "/reload"
    http.write(language="ru")
    answer = await http.fetch("POST", url)
    assert (answer.status, answer.body) == (200, {"changes": ["language", "accounts.main.language"]})
    http.path.unlink()
    answer = await http.fetch("POST", url)
    assert (answer.status, len(answer.body["faults"])) == (422, 1)
    async with http.session.post(url, headers={"Origin": "https://evil.example"}) as response:
        assert response.status == 403, "a web page in the browser of somebody here"
    async with http.session.get(url) as response:
        assert response.status == 405


async def test_the_token_of_the_admin_port_takes_over(http: FileBench) -> None:
    url = http.listening.admin_url + "/reload"
    assert await http.reload(admin={"port": 0, "token": "the token of the admin port"}) == ["admin.token"]
    assert (await http.fetch("POST", url)).status == 401
    headers = {"Authorization": "Bearer the token of the admin port"}
    assert (await http.fetch("POST", url, headers=headers)).status == 200


async def test_a_check_with_settings_that_are_no_more_is_forgotten(http: FileBench) -> None:
    checks = Checks(http.bridge.providers, http.bridge.couriers, http.clock)
    await checks.run("memory")
    assert checks.last("memory") is not None
    await http.reload(language="ru")
    assert checks.last("memory") is not None
    await http.reload(providers=http.memory(timeout_s=5))
    assert checks.last("memory") is None


def test_where_the_admin_port_is_can_be_read_from_a_file_with_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("admin: {port: 9999}\naccounts: {main: {token: '${UNSET_VARIABLE}'}}\nnonsense: 1\n")
    assert admin_of(path, {}) == Admin(port=9999)
    path.write_text("accounts: {}\n")
    assert admin_of(path, {}) == Admin()
    for text_, fault in (("admin: {port: x}", "1:15: `port` must be"), ("admin: [", "1:9: not valid YAML")):
        path.write_text(text_)
        with pytest.raises(ConfigError, match=fault):
            admin_of(path, {})
