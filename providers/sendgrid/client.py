"""The package `sendgrid` made fit for a server: pooled, timed, UTF-8, silent, and honest about every failure.

As it comes the package opens a connection per call, waits without end, follows redirects with the key, escapes
letters to ASCII (which counts against the 6 MB of a call), leaves path segments unescaped, lets the headers of one
call stick to the next, and writes key and contacts to its DEBUG log. One subclass of its client mends all of that.
"""

import functools
import gzip
import io
import logging
import re
import time
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import python_http_client
import sendgrid

from providers.answers import MAX_ANSWER_BYTES, RETRY_AFTER_MAX_S, Answer, error_of, retry_after_s
from providers.base import AuthFailed, ProviderError, Refused, Transient
from providers.errors import RateLimited
from providers.sdk import PooledTransport

DEFAULT_URL = "https://api.sendgrid.com"

_WITH_ADDRESS = re.compile(r"\S*@\S*")
_CONTACT_FIELD = re.compile(r"contacts\[(\d+)\]")
_GZIP = b"\x1f\x8b"


class RightsMissing(AuthFailed):
    """403: the key lacks a scope, or the account lacks the product. SendGrid says the same words for both."""


class CallRefused(Refused):
    """Any other 4xx, with SendGrid's `answer`: what it means depends on the call."""

    def __init__(self, detail: str, answer: Answer) -> None:
        super().__init__(detail=detail)
        self.answer = answer
        self.status = answer.status

    def contacts(self) -> dict[int, str]:
        """Position in the request → complaint, for the contacts that the answer names as `contacts[N]`."""
        named = {}
        for field, message in _complaints(self.answer):
            if found := _CONTACT_FIELD.search(field):
                named[int(found[1])] = f"{field}: {message}"
        return named

    def says(self, words: str) -> bool:
        return words in self.answer.body.decode("utf-8", "replace").lower()


def without_addresses(text: str) -> str:
    """`text` without any word that holds an `@`, well-formed address or not."""
    return _WITH_ADDRESS.sub("<address>", text)


def _complaints(answer: Answer) -> list[tuple[str, str]]:
    """Field and message of each error; some bodies are a bare object or array instead of `{"errors": […]}`."""
    body = answer.json_or_none()
    lines = body.get("errors", [body]) if isinstance(body, dict) else body
    found = [line for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []
    return [(str(line.get("field") or ""), str(line.get("message") or "")) for line in found]


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait after a 429: `Retry-After` where it is given, else until `X-RateLimit-Reset`, at least 1."""
    told = retry_after_s(headers)
    reset = headers.get("x-ratelimit-reset", "")
    if told is None and reset.isdecimal():
        told = min(float(reset) - time.time(), RETRY_AFTER_MAX_S)
    return told if told is None else max(told, 1.0)


def _error(answer: Answer, what: str) -> ProviderError:
    told = "; ".join(f"{field}: {message}" if field else message for field, message in _complaints(answer)[:3])
    detail = f"{what}: {without_addresses(told)[:300]}"
    if answer.status == 429:
        return RateLimited(f"429 {detail}", _wait_s(answer.headers))
    if answer.status == 403:
        return RightsMissing(f"403 {detail}")
    if answer.status == 404 and answer.body and answer.json_or_none() is None:
        # A proxy's page must not pass for "there is no such thing".
        return Transient(f"404 {detail}: not an answer of SendGrid")
    error = error_of(answer, detail)
    return CallRefused(error.detail, answer) if isinstance(error, Refused) else error


class _Client(python_http_client.Client):  # type: ignore[misc] # the package has no types
    """The package's `client.marketing.lists.get()`, answered by `PooledTransport`."""

    def __init__(self, transport: PooledTransport, **rest: Any) -> None:
        super().__init__(**rest)
        self._transport = transport

    def _build_client(self, name: object = None) -> "_Client":
        segments = self._url_path if name is None else [*self._url_path, quote(str(name), safe="")]
        headers, version = self.request_headers, self._version
        return _Client(self._transport, host=self.host, version=version, request_headers=headers, url_path=segments)

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._send, name.upper()) if name in self.methods else super().__getattr__(name)

    def _send(self, method: str, request_body: Any = None, query_params: Mapping[str, Any] | None = None) -> Answer:
        headers = dict(self.request_headers)
        body = None
        if request_body is not None:
            body = msgspec.json.encode(request_body)
            headers["Content-Type"] = "application/json"
        answer = self._transport.send(method, self._build_url(query_params), headers=headers, body=body)
        if not answer.ok:
            path = "/".join(segment for segment in self._url_path if "%40" not in segment)
            raise _error(answer, f"{method} {path}")
        return answer


class SendgridApi(sendgrid.SendGridAPIClient):  # type: ignore[misc] # the package has no types
    """`sendgrid.SendGridAPIClient` over one session.

    `client.<path>.<method>(request_body=…, query_params=…)` gives the `Answer` of a 2xx; every other status raises:
    429 RateLimited, 408 and 5xx Transient, 401 AuthFailed, 403 RightsMissing, else CallRefused.
    """

    def __init__(self, key: str, *, base_url: str | None, timeout_s: float, connections: int) -> None:
        # A key with other letters, a placeholder perhaps, could not be sent; so SendGrid can refuse it.
        sendable = key.encode("ascii", "replace").decode()
        super().__init__(api_key=sendable, host=(base_url or DEFAULT_URL).rstrip("/"))
        self._transport = PooledTransport(timeout_s=timeout_s, connections=connections)
        # At DEBUG it writes whole URLs, and those of SendGrid hold addresses and signatures.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
        self.client = _Client(self._transport, host=self.host, request_headers=self._default_headers, version=3)

    def download(self, url: str) -> str:
        """The text of a file that an answer points to: a signed link on another host, which must not see the key."""
        there, home = urlsplit(url), urlsplit(self.host)
        if there.scheme != "https" and there[:2] != home[:2]:
            raise Refused(detail=f"SendGrid points to a file at an unsafe place ({there.scheme})")
        answer = self._transport.send("GET", url)
        if not answer.ok:
            raise Transient(f"{answer.status} GET of a file that SendGrid points to")
        return _unpacked(answer.body).decode("utf-8-sig", "replace")

    def close(self) -> None:
        self._transport.close()


def _unpacked(body: bytes) -> bytes:
    if not body.startswith(_GZIP):
        return body
    try:
        with gzip.open(io.BytesIO(body)) as file:
            unpacked = file.read(MAX_ANSWER_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Transient("a file of SendGrid is cut off") from error
    if len(unpacked) > MAX_ANSWER_BYTES:
        raise Transient(f"a file of SendGrid is larger than {MAX_ANSWER_BYTES} bytes")
    return unpacked
