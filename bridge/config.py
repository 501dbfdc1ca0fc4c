"""All settings of the bridge: their declaration, their file, and what is refused before anything starts."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field

from bridge.clients import check_networks
from bridge.hosts import is_loopback, overlap
from bridge.languages import Language
from bridge.nearest import did_you_mean
from bridge.registry import BrokenProvider, UnknownProvider, provider_class
from bridge.settings import SettingsReader
from bridge.tokens import TOKEN_MIN_CHARS, check_token
from bridge.yaml_reader import ConfigError, Document, Fault, Items, Node, Place, Section, quoted, read_document
from providers.base import Secret, Settings

__all__ = ["Account", "Admin", "Config", "ConfigError", "Fault", "Guard", "Language", "ProviderConfig", "Server"]
__all__ += ["config_path", "load", "sandbox_config"]

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_PROVIDER_NAME = re.compile(r"[a-z0-9_-]+")


def _check_path(path: str) -> str | None:
    if not _PATH.fullmatch(path):
        return "must be a path like /planfix: a slash first, none at the end, plain letters"
    return "must not be /healthz: the health check is there" if path == "/healthz" else None


def _check_store(url: str) -> str | None:
    """Never quotes the URL, which may hold a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "is not a URL"
    in_file = url.startswith("sqlite:///") and ":memory:" not in url
    on_server = url.startswith("postgresql://")
    if (in_file or on_server) and parts.path.strip("/"):
        return None
    return "must be sqlite:///FILE or postgresql://USER@HOST/DATABASE"


def _check_tokens(tokens: tuple[Secret, ...]) -> str | None:
    return None if tokens else "is an empty list"


class Server(Struct, frozen=True, kw_only=True):
    """The public listener, which Planfix calls."""

    host: Annotated[str, Meta(description="address to listen on; 0.0.0.0 for all, as in a container")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 takes any free one")] = 8080
    path: Annotated[
        str, Meta(description="path of the URL that is typed into Planfix", extra={"check": _check_path})
    ] = "/planfix"
    max_body_mb: Annotated[int, Meta(ge=1, le=1024, description="largest request, in megabytes")] = 64
    reply_within_s: Annotated[
        float, Meta(gt=0, le=600, description='longest wait before Planfix is told "pending"')
    ] = 20.0
    grace_s: Annotated[
        float, Meta(ge=0, le=600, description="how long a stop waits for requests and calls under way")
    ] = 10.0
    receive_within_s: Annotated[
        float, Meta(gt=0, le=3600, description="longest time in which a request must arrive, its body included")
    ] = 60.0
    idle_s: Annotated[
        float,
        Meta(
            gt=0, le=3600, description="longest time between two requests of one connection; keep it above the proxy's"
        ),
    ] = 180.0
    max_connections: Annotated[int, Meta(ge=1, le=100_000, description="connections at one time")] = 1000
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="addresses or networks of proxies whose X-Forwarded-For is believed",
            extra={"check": check_networks},
        ),
    ] = ()
    error_status: Annotated[
        Literal["by_meaning", "always_200"],
        Meta(description="HTTP status of errors: 400, 401 and 503 by their meaning, or always 200"),
    ] = "by_meaning"


class Admin(Struct, frozen=True, kw_only=True):
    """The private listener: status page, /metrics, /readyz."""

    host: Annotated[str, Meta(description="a loopback address; any other one needs a token")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 takes any free one")] = 8081
    token: Annotated[
        Secret | None,
        Meta(
            description=f"what the page asks for, at least {TOKEN_MIN_CHARS} characters; nothing when left out",
            extra={"check": check_token},
        ),
    ] = None


class Guard(Struct, frozen=True, kw_only=True):
    """When removals wait for a person."""

    removals_share: Annotated[
        float, Meta(ge=0, lt=1, description="share of a list that may be removed in `within_s`; further removals wait")
    ] = 0.2
    removals_free: Annotated[int, Meta(ge=0, description="so many may be removed however short the list is")] = 10
    within_s: Annotated[float, Meta(gt=0, le=30 * 24 * 3600, description="the time in which removals are counted")] = (
        3600.0
    )


class Account(Struct, frozen=True, kw_only=True):
    """One Planfix account. `tokens` are all valid at one time, `provider` is a key of `Config.providers`."""

    name: str
    tokens: Annotated[
        tuple[Annotated[Secret, Meta(extra={"check": check_token})], ...],
        Meta(
            description=f'the "API Key" typed into Planfix, at least {TOKEN_MIN_CHARS} characters; a list for rotation',
            extra={"check": _check_tokens},
        ),
    ] = field(name="token")
    provider: Annotated[str, Meta(description="where the lists live: a name under `providers`")]
    language: Annotated[Language, Meta(description="as the one above, for this account alone")] = "en"


class ProviderConfig(Struct, frozen=True, kw_only=True):
    """One email service in use. `name` is part of list ids, `type` chooses the class."""

    name: str
    type: Annotated[str, Meta(description="the kind of service; the name above when left out")]
    settings: Settings


class Config(Struct, frozen=True, kw_only=True):
    """Everything that was configured. Prints without the store's URL, which may hold a password."""

    server: Annotated[Server, Meta(description="what Planfix calls")] = Server()
    admin: Annotated[Admin, Meta(description="status page, /metrics, /readyz; never public")] = Admin()
    store: Annotated[
        str,
        Meta(
            description="sqlite:///FILE, or postgresql://USER@HOST/DATABASE for several replicas",
            extra={"check": _check_store},
        ),
    ] = "sqlite:///data/bridge.db"
    language: Annotated[Language, Meta(description="texts that Planfix shows to people")] = "en"
    guard: Annotated[Guard | None, Meta(description="makes mass removals wait for a person; off when left out")] = None
    accounts: Annotated[dict[str, Account], Meta(description="Planfix accounts by name")]
    providers: Annotated[dict[str, ProviderConfig], Meta(description="email services by name")]

    def __repr__(self) -> str:
        return f"Config(accounts={list(self.accounts)}, providers={list(self.providers)})"


def config_path(option: str | None, env: Mapping[str, str] = os.environ) -> Path:
    """The file to read: the option `-c`, else `$PLANFIX_BRIDGE_CONFIG`, else `config.yaml` here."""
    return Path(option or env.get("PLANFIX_BRIDGE_CONFIG") or "config.yaml")


def load(path: Path, env: Mapping[str, str] = os.environ) -> Config:
    """Reads the settings file. Raises ConfigError with everything that is wrong with it."""
    document = read_document(path, env)
    config = _Loader(document).config()
    document.raise_faults()
    assert config is not None, "no settings, yet no fault"  # noqa: S101 - a promise of the loader
    return config


def sandbox_config(folder: Path = Path("data"), *, server: Server | None = None, admin: Admin | None = None) -> Config:
    """Settings that need no file: one account at the embedded sandbox, everything kept in `folder`.

    The token is made once and kept in `sandbox-token` there, for its owner's eyes. Raises ConfigError when that file
    holds no usable token, OSError when the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = _kept_token(folder / "sandbox-token")
    settings = provider_class("sandbox").settings_type(path=str(folder / "sandbox.db"))  # type: ignore[call-arg]  # SandboxSettings
    return Config(
        server=server or Server(),
        admin=admin or Admin(),
        store=f"sqlite:///{folder / 'bridge.db'}",
        accounts={"sandbox": Account(name="sandbox", tokens=(token,), provider="sandbox")},
        providers={"sandbox": ProviderConfig(name="sandbox", type="sandbox", settings=settings)},
    )


def _kept_token(path: Path) -> Secret:
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
    except FileExistsError:
        pass  # kept from an earlier start
    token = Secret(path.read_text(encoding="utf-8").removesuffix("\n"))
    if wrong := check_token(token):
        raise ConfigError(path, [Fault(1, 1, f"the token {wrong}; delete the file to get a new one")])
    return token


class _Loader:
    """From a document to Config, looking at everything even after faults."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._reader = SettingsReader(document)
        self._token_owner: dict[Secret, str] = {}

    def config(self) -> Config | None:
        root = self._reader.section(self._document.root)
        if root is None:
            return None
        by_hand = ("accounts", "providers")
        values = self._reader.fields(root, Config, without=by_hand, also=by_hand)
        if "server" in values and "admin" in values:
            self._check_listeners(root, values["server"], values["admin"])
        provider_nodes = self._named(root, "providers")
        providers = {
            name: self._provider(name, provider_nodes.keys[name], node) for name, node in provider_nodes.nodes.items()
        }
        usable = [name for name in providers if _PROVIDER_NAME.fullmatch(name)]
        account_nodes = self._named(root, "accounts")
        accounts = {
            name: self._account(name, account_nodes.keys[name], node, values.get("language", "en"), usable)
            for name, node in account_nodes.nodes.items()
        }
        if "admin" in values:
            self._check_admin(root, values["admin"])
        return self._reader.build(root, Config, values | {"accounts": accounts, "providers": providers})

    def _named(self, root: Section, key: str) -> Section:
        """The section of accounts or providers, of which there must be at least one."""
        section = self._reader.section(root.nodes.get(key, Section(root.place)))
        if section is None:
            return Section(root.place)
        if not section.nodes:
            self._document.fault(section.place, f"`{key}` is missing: the bridge needs at least one")
        return section

    def _account(self, name: str, place: Place, node: Node, language: Language, providers: list[str]) -> Account | None:
        if not name.strip():
            self._document.fault(place, "an account needs a name")
        section = self._reader.section(node)
        if section is None:
            return None
        values = self._reader.fields(section, Account, without=("name",))
        if "provider" in values and values["provider"] not in providers:
            hint = did_you_mean(values["provider"], providers)
            self._document.fault(section.nodes["provider"].place, f"no such name under `providers`; {hint}")
        self._check_owner(name, section, values.get("tokens", ()))
        if "language" not in section.nodes:
            values["language"] = language
        return self._reader.build(section, Account, values | {"name": name})

    def _check_owner(self, account: str, section: Section, tokens: tuple[Secret, ...]) -> None:
        """A token says which account a request is for: it belongs to one only."""
        if not tokens:
            return
        written = section.nodes["token"]
        nodes = written.nodes if isinstance(written, Items) else (written,)
        for node, token in zip(nodes, tokens, strict=True):
            owner = self._token_owner.setdefault(token, account)
            if owner != account:
                self._document.fault(node.place, f"the account {quoted(owner)} has the same token; each needs its own")

    def _provider(self, name: str, place: Place, node: Node) -> ProviderConfig | None:
        if not _PROVIDER_NAME.fullmatch(name):
            self._document.fault(place, "the name of a provider may hold only a-z, 0-9, _ and -")
            return None
        section = self._reader.section(node)
        if section is None:
            return None
        type_name: str | None = name
        if "type" in section.nodes:
            place = section.nodes["type"].place
            type_name = self._reader.text(section.nodes["type"], "type")
        if type_name is None:
            return None
        try:
            struct = provider_class(type_name).settings_type
        except UnknownProvider as error:
            self._document.fault(place, f"no such provider type; {error.hint}")
            return None
        except BrokenProvider as error:
            self._document.fault(place, str(error))
            return None
        values = self._reader.fields(section, struct, also=("type",))
        self._check_base_url(section, values)
        settings = self._reader.build(section, struct, values)
        return ProviderConfig(name=name, type=type_name, settings=settings) if settings else None

    def _check_base_url(self, section: Section, values: dict[str, Any]) -> None:
        url = values.get("base_url")
        if url is None:
            return
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        except ValueError:
            usable = False
        if not usable:
            place = section.nodes["base_url"].place
            self._document.fault(place, "`base_url` must be like https://host/path, without user and password")

    def _check_admin(self, root: Section, admin: Admin) -> None:
        """What others can reach wants a token, and one that Planfix's users do not know."""
        section = root.nodes.get("admin")
        if not isinstance(section, Section):
            return
        if admin.token is None and not is_loopback(admin.host):
            place = section.nodes["host"].place
            self._document.fault(place, "`host` is not a loopback address like 127.0.0.1: then `token` is needed too")
        if admin.token in self._token_owner:
            owner = quoted(self._token_owner[admin.token])
            self._document.fault(section.nodes["token"].place, f"the account {owner} has the same token; make another")

    def _check_listeners(self, root: Section, server: Server, admin: Admin) -> None:
        """Two listeners cannot share a port."""
        if server.port == admin.port != 0 and overlap(server.host, admin.host):
            written = root.nodes.get("admin") or root.nodes["server"]
            node = written.nodes.get("port", written) if isinstance(written, Section) else written
            self._document.fault(node.place, f"`server` and `admin` both want port {admin.port}")
