"""Settings: what is read, what is refused and where, and that no secret ever shows."""

import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bridge.config import Account, Admin, Config, ConfigError, Fault, Guard, Server, config_path, load, sandbox_config
from bridge.registry import provider_class, provider_types
from bridge.settings import settings_of
from bridge.tokens import check_token
from providers.base import Secret, Settings
from tests.postbox import PostboxSettings, install

BAD = Path(__file__).parent / "config"
EXAMPLE = Path(__file__).parents[1] / "config.example.yaml"
ENV = {
    "TOKEN": "s3cret-Qk9zTq71mVx",
    "ADMIN": "s3cret-of-the-status-page",
    "KEY": "s3cret-key-of-the-postbox",
    "EMPTY": "",
    "MODE": "always_200",
}
OWN_TYPES = provider_types()  # before any test installs another package
MINIMAL = """
accounts: {main: {token: "${TOKEN}", provider: postbox}}
providers: {postbox: {api_key: "${KEY}"}}
"""


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path / "site", "planfix-postbox", postbox="tests.postbox:PostboxProvider")
    install(monkeypatch, tmp_path / "site", "planfix-broken", broken="tests.postbox:Missing")


def read(folder: Path, text: str | bytes, env: dict[str, str] = ENV) -> Config:
    file = folder / "config.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(file, env)


def faults(folder: Path, text: str | bytes, env: dict[str, str] = ENV) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, env)
    return [f"{fault.line}:{fault.column}: {fault.text}" for fault in caught.value.faults]


def read_or_refused(folder: Path, body: bytes, env: dict[str, str] = ENV) -> Sequence[Fault]:
    """The faults of a file; anything but a Config or a ConfigError with faults is an error of its own."""
    try:
        assert isinstance(read(folder, body, env), Config)
    except ConfigError as refused:
        return refused.faults or pytest.fail("refused without a fault")
    return ()


def provider_settings(folder: Path, lines: str, env: dict[str, str] = ENV) -> Any:
    text = 'accounts: {main: {token: "${TOKEN}", provider: box}}\nproviders:\n  box:\n    type: postbox\n'
    return read(folder, text + lines, env).providers["box"].settings


# What is read


def test_what_is_not_written_has_its_default(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL)

    assert (config.server, config.admin) == (Server(), Admin())
    assert (config.store, config.language) == ("sqlite:///data/bridge.db", "en")
    account = config.accounts["main"]
    assert (account.name, account.provider, account.language) == ("main", "postbox", "en")
    assert account.tokens == (Secret(ENV["TOKEN"]),)
    provider = config.providers["postbox"]
    assert (provider.name, provider.type) == ("postbox", "postbox")
    assert provider.settings == PostboxSettings(api_key=Secret(ENV["KEY"]))


def test_everything_can_be_written(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        server: {host: "::1", port: 0, path: /hooks/planfix, max_body_mb: 1, reply_within_s: 2.5, grace_s: 0,
                 error_status: "${MODE}"}
        admin: {host: 10.0.0.1, port: 0, token: "${ADMIN}"}
        store: postgresql://bridge@db/bridge
        language: ru
        accounts:
          main: {token: ["${TOKEN}", "another-token-1234"], provider: box}
          other: {token: "yet-another-token-1", provider: spare, language: en}
        providers:
          box: {type: postbox, api_key: k, heated: true, street: s, stamps: [1, 2], sender: {name: Anna, floor: -1}}
          spare: {type: postbox, api_key: k, base_url: "http://127.0.0.1:9000", timeout_s: 5, parallel_calls: 3}
        """,
    )

    assert config.server == Server(
        host="::1",
        port=0,
        path="/hooks/planfix",
        max_body_mb=1,
        reply_within_s=2.5,
        grace_s=0.0,
        error_status="always_200",
    )
    assert config.admin == Admin(host="10.0.0.1", port=0, token=Secret(ENV["ADMIN"]))
    assert config.store == "postgresql://bridge@db/bridge"
    assert config.accounts["main"].tokens == (Secret(ENV["TOKEN"]), Secret("another-token-1234"))
    assert (config.accounts["main"].language, config.accounts["other"].language) == ("ru", "en")
    box = config.providers["box"].settings
    assert isinstance(box, PostboxSettings)
    assert (box.heated, box.stamps, box.sender and (box.sender.name, box.sender.floor)) == (True, (1, 2), ("Anna", -1))
    spare = config.providers["spare"].settings
    assert (spare.base_url, spare.timeout_s, spare.parallel_calls) == ("http://127.0.0.1:9000", 5.0, 3)


@pytest.mark.parametrize("text", ["0123", "yes", "1e5", "2024-01-01", "0x1F", "1_000", "'null'", "'~'", "12:30:45"])
def test_strings_stay_strings(tmp_path: Path, text: str) -> None:
    assert provider_settings(tmp_path, f"    api_key: {text}\n    street: {text}\n") == PostboxSettings(
        api_key=Secret(text.strip("'")), street=text.strip("'")
    )


@pytest.mark.parametrize("nothing", ["", "~", "null"])
def test_null_stands_for_nothing_where_nothing_is_allowed(tmp_path: Path, nothing: str) -> None:
    box = provider_settings(tmp_path, f"    api_key: k\n    street: {nothing}\n    parallel_calls: {nothing}\n")
    assert (box.street, box.parallel_calls) == (None, None)


def test_one_value_stands_for_a_list_of_one(tmp_path: Path) -> None:
    assert provider_settings(tmp_path, "    api_key: k\n    stamps: 7\n").stamps == (7,)


def test_references_are_filled_in_once(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("from ${file:a file}\r\n\n")
    (tmp_path / "key").write_text("line\r\n")
    env = ENV | {"A": "${TOKEN}$$", "B": "5"}

    box = provider_settings(
        tmp_path,
        '    api_key: "$${A} ${A} $ $$ $x ${file:key}"\n    street: ${file:key.txt}\n    stamps: ["${B}", "1${B}"]\n',
        env,
    )

    assert box.api_key.reveal() == "${A} ${TOKEN}$$ $ $ $x line"
    assert box.street == "from ${file:a file}\r\n"
    assert box.stamps == (5, 15)


def test_a_secret_file_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("key\n")
    assert provider_settings(tmp_path, f"    api_key: ${{file:{tmp_path}/elsewhere}}\n").api_key == Secret("key")


def test_anchors_and_aliases_work(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        accounts: {a: {token: "${TOKEN}", provider: &p box}, b: {token: another-token-1234, provider: *p}}
        providers: {box: &box {type: postbox, api_key: k}, spare: *box}
        """,
    )
    assert config.providers["box"].settings == config.providers["spare"].settings
    assert config.accounts["b"].provider == "box"


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbf" + MINIMAL.encode()) is not None


def test_the_file_is_chosen_by_option_then_variable_then_habit() -> None:
    env = {"PLANFIX_BRIDGE_CONFIG": "/etc/bridge.yaml"}
    assert config_path("mine.yaml", env) == Path("mine.yaml")
    assert config_path(None, env) == Path("/etc/bridge.yaml")
    assert config_path(None, {}) == Path("config.yaml")


# What is refused


@pytest.mark.parametrize("bad", sorted(BAD.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_bad_file_tells_all_its_faults(bad: Path) -> None:
    """The comments at the head of each file are all of its faults, in order."""
    expected = [line[2:] for line in bad.read_text().splitlines() if re.match(r"# \d+:\d+: ", line)]
    with pytest.raises(ConfigError) as caught:
        load(bad, ENV)
    assert str(caught.value).splitlines() == [f"{bad}:{line}" for line in expected]
    assert "s3cret" not in str(caught.value) + repr(caught.value)


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml:1:1: cannot be read: No such file"):
        load(tmp_path / "nowhere.yaml", ENV)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, ENV)


def test_bytes_that_are_no_text_are_found(tmp_path: Path) -> None:
    text = "language: en\nstore: Москва ".encode() + b"\xff\n"
    assert faults(tmp_path, text) == ["2:15: not UTF-8; save the file in this encoding"]


def test_an_empty_file_needs_accounts_and_providers(tmp_path: Path) -> None:
    assert faults(tmp_path, "") == [
        "1:1: `accounts` is missing: the bridge needs at least one",
        "1:1: `providers` is missing: the bridge needs at least one",
    ]


@pytest.mark.parametrize("text", ["#" * 1_000_001, "[" * 5000, "{a: " * 5000, "- " * 5000])
def test_what_is_too_large_or_too_deep_is_refused(tmp_path: Path, text: str) -> None:
    [fault] = faults(tmp_path, text)
    assert "too large: more than 1000000 bytes" in fault or "nested too deeply" in fault


def test_a_large_inserted_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_text("я" * 40_000)
    text = MINIMAL.replace("${KEY}", "${file:big}")
    assert faults(tmp_path, text) == ['3:32: the file "big" is too large: more than 65536 bytes']


@pytest.mark.parametrize(
    "store",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:x.db",
        "sqlite://x.db",
        "postgres://h/d",
        "postgresql://h",
    ],
)
def test_a_store_that_would_lose_changes_or_is_unknown_is_refused(tmp_path: Path, store: str) -> None:
    [fault] = faults(tmp_path, f"store: '{store}'" + MINIMAL)
    assert fault == "1:8: `store` must be sqlite:///FILE or postgresql://USER@HOST/DATABASE"


@pytest.mark.parametrize(
    "path", ["planfix", "/", "/planfix/", "/a//b", "/a?b=c", "/a b", "/{any}", "/план", "/healthz"]
)
def test_a_path_that_cannot_be_served_is_refused(tmp_path: Path, path: str) -> None:
    [fault] = faults(tmp_path, f"server: {{path: '{path}'}}" + MINIMAL)
    assert fault.startswith("1:16: `path` must ")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_the_status_page_needs_no_token_where_only_this_machine_can_reach_it(tmp_path: Path, host: str) -> None:
    assert read(tmp_path, f"admin: {{host: '{host}'}}" + MINIMAL).admin == Admin(host=host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "bridge.example.org", "127.0.0.1.example.org"])
def test_the_status_page_needs_a_token_where_others_can_reach_it(tmp_path: Path, host: str) -> None:
    [fault] = faults(tmp_path, f"admin: {{host: '{host}'}}" + MINIMAL)
    assert fault == "1:15: `host` is not a loopback address like 127.0.0.1: then `token` is needed too"
    assert read(tmp_path, f"admin: {{host: '{host}', token: '${{ADMIN}}'}}" + MINIMAL).admin.token


@pytest.mark.parametrize(
    ("host", "admin_host", "port"),
    [("127.0.0.1", "127.0.0.1", 0), ("10.0.0.1", "::1", 8081), ("10.0.0.1", "10.0.0.2", 8081)],
)
def test_listeners_that_do_not_meet_are_allowed(tmp_path: Path, host: str, admin_host: str, port: int) -> None:
    admin = f"admin: {{host: '{admin_host}', port: {port}, token: '${{ADMIN}}'}}"
    assert read(tmp_path, f"server: {{host: {host}, port: {port}}}\n{admin}" + MINIMAL).server.port == port


@pytest.mark.parametrize(("host", "admin_host"), [("10.0.0.1", "10.0.0.1"), ("10.0.0.1", "0.0.0.0")])
def test_listeners_that_others_can_reach_stay_apart_too(tmp_path: Path, host: str, admin_host: str) -> None:
    admin = f"admin: {{host: {admin_host}, port: 8080, token: '${{ADMIN}}'}}"
    [fault] = faults(tmp_path, f"server: {{host: {host}}}\n{admin}" + MINIMAL)
    assert fault.endswith("`server` and `admin` both want port 8080")


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "127.0.0.1", "localhost"])
def test_the_public_listener_stays_off_the_port_of_the_private_one(tmp_path: Path, host: str) -> None:
    written = f"host: '{host}', " if host else ""
    [fault] = faults(tmp_path, f"server: {{{written}port: 8081}}" + MINIMAL)
    assert fault.endswith("`server` and `admin` both want port 8081")


@settings(deadline=None)
@given(st.text("0123456789abcdef", min_size=32, max_size=32) | st.uuids().map(str))
def test_no_real_token_is_taken_for_a_placeholder(token: str) -> None:
    assert check_token(Secret(token)) is None or len(set(token)) < 5


# No secret shows


SECRET = st.text("abcXYZ0189-_*&!%@{}[]:#$.' ", min_size=8, max_size=40).map(lambda text: f"Zq7{text}Zq7")
PLACES = [
    "accounts: {main: {token: %s, provider: box}}",
    "accounts:\n  main:\n    token: [%s, %s]\n    provider: box\nproviders:\n  box: {type: postbox, api_key: %s}",
    "accounts: {main: {token:%s, provider: box}}",
    "accounts:\n  main:\n    token:%s\n    provider: box",
    "providers:\n  postbox:\n    api_key: {%s: %s}\n    sender: %s",
    f"{MINIMAL}store: postgresql://bridge:%s@db/bridge",
    f"{MINIMAL}store: 'postgresql://bridge:${{SECRET}}@db/bridge'",
    "store: %s",
    f"{MINIMAL}admin: {{token: %s}}",
    "admin: %s\nserver: [%s]\naccounts: %s",
    "%s: 1\n",
    "accounts: {main: {provider: other, token: %s}}\nproviders:\n  %s: {}\n",
]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=SECRET, place=st.sampled_from(PLACES), written=st.sampled_from(["{}", '"{}"', "'{}'", "${{SECRET}}"]))
def test_no_secret_shows_in_faults_or_config(tmp_path: Path, secret: str, place: str, written: str) -> None:
    text = place.replace("%s", written.format(secret))
    env = ENV | {"SECRET": secret}
    try:
        config = read(tmp_path, text, env)
    except ConfigError as error:
        shown = str(error) + repr(error) + repr(error.faults)
    else:
        shown = str(config) + repr(config) + repr(config.accounts) + repr(config.providers)
    assert "Zq7" not in shown


def test_a_value_from_a_variable_is_not_shown_wherever_it_lands(tmp_path: Path) -> None:
    text = 'server: {port: "${KEY}", error_status: "${KEY}"}' + MINIMAL
    assert faults(tmp_path, text) == [
        '1:16: `port` must be a whole number from 0 up to 65535, not "${KEY}"',
        '1:40: `error_status` must be "always_200" or "by_meaning", not "${KEY}"',
    ]


# Whatever is written, it is read or refused


FRAGMENTS = [
    *("accounts", "providers", "server", "store", "token", "main", "postbox", "api_key", "type", "port", "provider"),
    *(
        ": ",
        ":",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        ", ",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        "&a ",
        "*a",
        "<<",
        "? ",
        "|\n",
        "---",
    ),
    *(
        "${TOKEN}",
        "${",
        "$$",
        "${file:.}",
        "${file:\\0}",
        "!!python/name:os.system",
        "!!str ",
        "!!null ",
        "%YAML 9.9\n",
    ),
    *("null", "~", "8080", ".inf", "1e999", "\\UFFFFFFFF", '"\\ud800"', "\x00", "\x85", "\u2028", "Я", "😀", "#", "\t"),
]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=40).map("".join) | st.binary(max_size=60))
@example('server: "${file:\\0}"')
@example("%YAML 1." + "9" * 5000 + "\n---\n")
@example("a: !!map x\nb: !!seq x\nc: !!str [x]\nd: !!str {x: y}\naccounts: !!str {x: y}")
@example("? &a [*a]\n: 1")
@example("accounts: &a {x: *a}\nproviders: *a")
def test_any_text_is_read_or_refused(tmp_path: Path, text: str | bytes) -> None:
    body = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    told = read_or_refused(tmp_path, body)
    assert all(fault.line >= 1 and fault.column >= 1 and fault.text.isprintable() for fault in told)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_spoilt_example_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    text = EXAMPLE.read_text()
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 30))
    spoilt = text[:at] + data.draw(st.sampled_from(FRAGMENTS)) + text[at + cut :]
    read_or_refused(tmp_path, spoilt.encode("utf-8", "surrogatepass"), EXAMPLE_ENV)


# The sandbox


def test_the_sandbox_needs_no_file_and_keeps_its_token(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    config = sandbox_config(folder, server=Server(port=0))

    [account] = config.accounts.values()
    [token] = account.tokens
    kept = folder / "sandbox-token"
    assert check_token(token) is None
    assert kept.read_text().strip() == token.reveal()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert config.store == f"sqlite:///{folder}/bridge.db"
    provider = config.providers[account.provider]
    assert provider.type == "sandbox"
    assert msgspec.structs.asdict(provider.settings)["path"] == str(folder / "sandbox.db")
    assert config.server.port == 0
    assert sandbox_config(folder).accounts == config.accounts


def test_a_spoilt_sandbox_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sandbox-token").write_text("changeme\n")
    with pytest.raises(ConfigError, match=r"sandbox-token:1:1: the token is a placeholder.*delete the file"):
        sandbox_config(tmp_path)


# The example


EXAMPLE_ENV = {name: f"{name} of the tests" for name in re.findall(r"\$\{([A-Z0-9_]+)\}", EXAMPLE.read_text())}
EXAMPLE_ENV["MAILCHIMP_API_KEY"] = "0123456789abcdef0123456789abcdef-us1"


def switched_on() -> str:
    """The example with every setting that stands there switched off (`#key: value`) switched on."""
    return re.sub(r"^( *)#(?=\w+:)", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)


def test_the_example_can_be_used_as_it_is(tmp_path: Path) -> None:
    config = read(tmp_path, EXAMPLE.read_text(), EXAMPLE_ENV)
    assert (config.server, config.admin) == (Server(), Admin())
    assert list(config.accounts) == ["main"]


def stale(settings: msgspec.Struct, shown: dict[str, Any], where: str) -> Iterator[str]:
    """The settings that are not shown, or not with their default where they have one."""
    for setting in settings_of(type(settings)):
        if setting.key not in shown:
            yield f"{where}.{setting.key} is not shown"
        elif isinstance(setting.default, msgspec.Struct):
            continue  # its settings are looked at one by one
        elif setting.default not in (None, getattr(settings, setting.field)):
            yield f"{where}.{setting.key} is not shown with its default"


def test_the_example_shows_every_setting_and_all_can_be_switched_on(tmp_path: Path) -> None:
    # SendPulse takes one of two ways to sign in.
    one_way = re.sub(r"^ +client_\w+:.*\n", "", switched_on(), flags=re.MULTILINE)
    config = read(tmp_path, one_way, EXAMPLE_ENV)
    shown = yaml.safe_load(switched_on())
    assert {provider.type for provider in config.providers.values()} >= set(OWN_TYPES)
    assert {key for account in shown["accounts"].values() for key in account} == {
        setting.key for setting in settings_of(Account) if setting.field != "name"
    }
    assert any("type" in provider for provider in shown["providers"].values())
    found = [
        *stale(config, shown, "config"),
        *stale(config.server, shown["server"], "server"),
        *stale(config.admin, shown["admin"], "admin"),
        *stale(config.guard or Guard(), shown["guard"], "guard"),
    ]
    # What all providers take is shown once.
    common = {setting.key for setting in settings_of(Settings)}
    seen = shown["providers"]["mailchimp"]
    for name, provider in config.providers.items():
        found += stale(provider.settings, {key: seen[key] for key in common} | shown["providers"][name], name)
    assert found == []


def test_every_setting_has_help() -> None:
    structs = [Config, Server, Admin, Guard, *(provider_class(name).settings_type for name in OWN_TYPES)]
    assert [f"{s.__name__}.{one.key}" for s in structs for one in settings_of(s) if not one.help] == []
