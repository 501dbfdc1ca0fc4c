"""The HTTP client under every REST provider: one pooled session, TLS verified, no redirects, every wait bounded.

How a service is told who calls is one of the `Auth` kinds. What an answer means is not decided here.
"""

import asyncio
import io
import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from providers.answers import MAX_ANSWER_BYTES, Answer
from providers.concurrency import chunks_within
from providers.errors import AuthFailed, Secret, Transient

PIECE_BYTES: Final = 256 * 1024
QUERY_LIST_CHARS: Final = 6000  # of the 8 KB that servers usually take as a URL
TOKEN_SPARE_S: Final = 300.0  # an OAuth2 token is renewed so long before it ends

Query = Mapping[str, str | int | bool | list[str]]


@dataclass(slots=True)
class Outgoing:
    """A request before it leaves; an Auth adds to it."""

    method: str
    path: str  # percent-encoded, begins with "/"
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    form: list[tuple[str, str]] | None = None


class Auth(ABC):
    """How the service is told who calls."""

    @abstractmethod
    async def sign(self, request: Outgoing, client: "HttpClient") -> None:
        """Adds the key to a request."""

    def renew(self) -> bool:
        """The service answered 401. Whether a fresh key can be had, so that one more try makes sense."""
        return False


@dataclass(frozen=True, slots=True)
class HeaderAuth(Auth):
    """The key in a header, behind `prefix`: `Authorization: Bearer …`, `api-key: …`."""

    secret: Secret
    name: str = "Authorization"
    prefix: str = ""

    async def sign(self, request: Outgoing, client: "HttpClient") -> None:
        request.headers[self.name] = self.prefix + self.secret.reveal()


@dataclass(frozen=True, slots=True)
class BasicAuth(Auth):
    """User and password as HTTP Basic."""

    user: str
    password: Secret

    async def sign(self, request: Outgoing, client: "HttpClient") -> None:
        pair = f"{self.user}:{self.password.reveal()}".encode()
        request.headers["Authorization"] = f"Basic {b64encode(pair).decode()}"


@dataclass(frozen=True, slots=True)
class QueryAuth(Auth):
    """The key in the query. Only for services that know no better: queries end up in the logs of proxies."""

    name: str
    secret: Secret

    async def sign(self, request: Outgoing, client: "HttpClient") -> None:
        request.query.append((self.name, self.secret.reveal()))


@dataclass(frozen=True, slots=True)
class FormAuth(Auth):
    """The key as a field of the form that is sent."""

    name: str
    secret: Secret

    async def sign(self, request: Outgoing, client: "HttpClient") -> None:
        request.form = [*(request.form or []), (self.name, self.secret.reveal())]


class ClientCredentials(Auth):
    """OAuth2 client credentials (RFC 6749, 4.4): a token for some time, kept until shortly before its end."""

    def __init__(self, path: str, client_id: str, secret: Secret, *, as_json: bool = False) -> None:
        self._path = path
        self._client_id = client_id
        self._secret = secret
        self._as_json = as_json
        self._token = ""
        self._until_s = 0.0
        self._lock = asyncio.Lock()

    async def sign(self, request: Outgoing, client: "HttpClient") -> None:
        async with self._lock:
            if not self._token or time.monotonic() >= self._until_s:
                await self._fetch(client)
        request.headers["Authorization"] = f"Bearer {self._token}"

    def renew(self) -> bool:
        had_token, self._token = bool(self._token), ""
        return had_token

    async def _fetch(self, client: "HttpClient") -> None:
        fields = {
            "grant_type": "client_credentials",
            "client_id": self._client_id,
            "client_secret": self._secret.reveal(),
        }
        request = Outgoing("POST", self._path)
        if self._as_json:
            request.body, request.headers["Content-Type"] = msgspec.json.encode(fields), "application/json"
        else:
            request.form = list(fields.items())
        answer = await client.exchange(request)
        if answer.status == 429 or answer.status >= 500 or 300 <= answer.status < 400:
            raise Transient(f"no token: status {answer.status}")
        if not answer.ok:
            raise AuthFailed(f"no token: status {answer.status}")
        told = answer.json()
        token = told.get("access_token") if isinstance(told, dict) else None
        if not isinstance(token, str) or not token:
            raise Transient("an answer of the token call without a token")
        lifetime_s = float(told.get("expires_in") or 3600)
        self._token = token
        self._until_s = time.monotonic() + max(lifetime_s - TOKEN_SPARE_S, lifetime_s / 2)


def path_of(template: str, *parts: object) -> str:
    """`template` with each `{}` filled in percent-encoded, slashes and dots of "..", too."""
    return template.format(*(quote(str(part), safe="").replace("..", "%2E%2E") for part in parts))


class HttpClient:
    """Requests to one base URL. `headers` go with every one."""

    def __init__(
        self, base_url: str, auth: Auth, *, timeout_s: float, connections: int, headers: Mapping[str, str] | None = None
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._auth = auth
        self._timeout_s = timeout_s
        self._connections = connections
        self._headers = {"Accept": "application/json", "User-Agent": "planfix-bridge", **(headers or {})}
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: Outgoing) -> Answer:
        """The whole answer, whatever its status; after a 401 once more with a fresh key where there may be one.

        Raises Transient when there is no whole answer, AuthFailed when no key can be had.
        """
        for again in (True, False):
            signed = Outgoing(
                request.method, request.path, [*request.query], {**request.headers}, request.body, request.form
            )
            await self._auth.sign(signed, self)
            answer = await self.exchange(signed)
            if answer.status != 401 or not (again and self._auth.renew()):
                break
        return answer

    async def exchange(self, request: Outgoing) -> Answer:
        """One request as it is, and its whole answer. Raises Transient when there is none.

        Errors name no URL: paths and queries hold addresses and keys.
        """
        headers = {**self._headers, **request.headers}
        body = request.body
        if request.form is not None:
            body = urlencode(request.form).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        return await self._exchange(
            request.method, self._base_url + request.path + _query(request.query), headers, body
        )

    async def download(self, url: str) -> Answer:
        """A file at an address that the service told, fetched without any key. Raises Transient as `exchange`, and for
        an address that is less safe than the service's own."""
        if not url.startswith(("https://", "http://")[: 1 + self._base_url.startswith("http://")]):
            raise Transient("the service told an address of a file that is no https URL")
        return await self._exchange("GET", url, {"User-Agent": self._headers["User-Agent"]}, b"")

    async def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        try:
            async with self._opened().request(
                method, URL(url, encoded=True), headers=headers, data=_in_pieces(body), allow_redirects=False
            ) as response:
                chunks: list[bytes] = []
                size_bytes = 0
                async for chunk in response.content.iter_any():
                    size_bytes += len(chunk)
                    if size_bytes > MAX_ANSWER_BYTES:
                        raise Transient(f"{method}: the answer is larger than {MAX_ANSWER_BYTES} bytes")
                    chunks.append(chunk)
                lower = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, lower, b"".join(chunks))
        except TimeoutError as error:
            raise Transient(f"{method}: no whole answer within {self._timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise Transient(f"{method}: {type(error).__name__}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:  # made here because it belongs to the running loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _in_pieces(body: bytes) -> bytes | io.BytesIO | None:
    """A large body as a file: as bytes it would be written in one go, while nothing else moves."""
    return (body if len(body) < PIECE_BYTES else io.BytesIO(body)) or None


def query_of(query: Query | None) -> list[tuple[str, str]]:
    """A query as pairs: true and false as services write them, a list as its key repeated."""
    pairs: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        for one in value if isinstance(value, list) else [value]:
            pairs.append((name, str(one).lower() if isinstance(one, bool) else str(one)))
    return pairs


def chunks_in_query(texts: Iterable[str], size: int) -> list[list[str]]:
    """`texts` in parts of at most `size` whose list, quoted and percent-encoded, fits into one query."""
    return chunks_within(texts, size, lambda text: len(quote(f'"{text}",', safe="")), QUERY_LIST_CHARS)


def _query(pairs: list[tuple[str, str]]) -> str:
    # Strict encoding: a plus in an address must not become a space, nor brackets stay bare.
    return "?" + urlencode(pairs, quote_via=quote, safe="") if pairs else ""


def json_body(value: Any) -> bytes:
    """`value` as compact JSON in UTF-8."""
    return msgspec.json.encode(value)
