"""Whatever bytes reach the public port: one JSON answer of the right shape, no fault of ours, and the server lives."""

import asyncio
import copy
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.texts import text
from tests.clock import DrivenClock
from tests.http_bench import HttpBench, beside, wire
from tests.postbox import install
from tests.raw_http import connected, create, post, sent

MEGABYTE = 1024 * 1024


@pytest.fixture
async def http(tmp_path: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpBench]:
    """A bridge that takes one megabyte at most, and that still works when the test is over."""
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    bench = HttpBench(f"sqlite:///{tmp_path / 'bridge.db'}", clock, max_body_mb=1)
    await bench.start()
    yield bench
    assert (await bench.ask("createList", listName="it lives")).status == 200
    await bench.stop()


# Broken HTTP


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\r\n\r\n\r\n\x00\x00\r\n\r\n",
        b"POST /planfix\r\n\r\n",
        b"POST /planfix HTTP/9.9\r\n\r\n",
        b"POST http:// HTTP/1.1\r\nHost: bridge\r\n\r\n",
        b"PO ST /planfix HTTP/1.1\r\nHost: bridge\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32 + b"\r\n\r\n",  # TLS on a plain port
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nHost: bridge\r\nX: a\x00b\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nHost: bridge\r\n folded: x\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nHost: bridge\r\nContent-Length: -1\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nHost: bridge\r\nContent-Length: ten\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nHost: bridge\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /planfix HTTP/1.1\r\nHost: bridge\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nHost: bridge\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nHost: bridge\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n",
        b"POST /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: bridge\r\n\r\n",
    ],
    ids=lambda request_bytes: ascii(request_bytes[:60].decode("latin-1")),
)
async def test_broken_http_is_told(http: HttpBench, request_bytes: bytes) -> None:
    assert (await sent(http, request_bytes)).status == 400


@pytest.mark.parametrize("path", ["/", "/planfixx", "/%00", "/planfix%2F", "*", "//planfix", "/планфикс"])
async def test_a_path_that_is_not_there_is_told(http: HttpBench, path: str) -> None:
    assert (await sent(http, post(create(http), path=path))).status in (400, 404)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"])
async def test_other_methods_are_told_which_one_is_taken(http: HttpBench, method: str) -> None:
    async with connected(http) as wire_:
        await wire_.send(f"{method} /planfix HTTP/1.1\r\nHost: bridge\r\n\r\n".encode())
        answer = await wire_.answer(of_head=method == "HEAD")
        assert answer.status == 405
        if method != "HEAD":
            assert answer.body == {"error": text("method_not_allowed", "en")}
        await wire_.send(post(create(http)))
        assert (await wire_.answer()).status == 200, "the connection goes on"


@pytest.mark.parametrize("line", ["CONNECT example.org:443", "BREW /planfix", "post /planfix", "GET http://x.test/"])
async def test_what_is_no_request_of_ours_is_told_too(http: HttpBench, line: str) -> None:
    assert (await sent(http, f"{line} HTTP/1.1\r\nHost: x.test\r\n\r\n".encode())).status in (400, 404, 405)


# Large bodies, and how bodies travel


@pytest.mark.parametrize("told_before", [True, False])
async def test_a_body_that_is_too_large_is_told(http: HttpBench, told_before: bool) -> None:
    async with connected(http) as wire_:
        if told_before:
            await wire_.send(post(b" " * (MEGABYTE + 10)))
        else:
            chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            await wire_.send(post(b"", "Transfer-Encoding: chunked", length=False), chunk * 17, b"0\r\n\r\n")
        answer = await wire_.answer()
    assert (answer.status, answer.body) == (413, {"error": text("too_large", "en")})


async def test_a_body_of_the_largest_size_is_taken(http: HttpBench) -> None:
    body = create(http)
    answer = await http.post(body + b" " * (MEGABYTE - len(body)))
    assert answer.status == 200


async def test_a_chunked_body_is_taken_in_any_pieces(http: HttpBench) -> None:
    body = create(http)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = post(b"", "Transfer-Encoding: chunked", length=False)
    answer = await sent(http, head, chunks[:40], chunks[40:41], chunks[41:])
    assert answer.body == {"success": True, "listId": "memory:1"}


async def test_expect_100_continue_is_answered_before_the_body_comes(http: HttpBench) -> None:
    body = create(http)
    async with connected(http) as wire_:
        await wire_.send(post(body, "Expect: 100-continue").removesuffix(body))
        assert await wire_.head() == ["HTTP/1.1 100 Continue"]
        await wire_.send(body)
        assert (await wire_.answer()).body == {"success": True, "listId": "memory:1"}


async def test_an_unknown_expectation_is_refused(http: HttpBench) -> None:
    answer = await sent(http, post(create(http), "Expect: a-miracle"))
    assert (answer.status, answer.body) == (417, {"error": text("bad_http", "en")})


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_body_is_taken(http: HttpBench, coding: str) -> None:
    pack = gzip.compress if coding == "gzip" else zlib.compress
    answer = await sent(http, post(pack(create(http)), f"Content-Encoding: {coding}"))
    assert answer.body == {"success": True, "listId": "memory:1"}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "x-unknown"])
async def test_a_body_that_is_not_compressed_as_it_says_is_refused(http: HttpBench, coding: str) -> None:
    answer = await sent(http, post(b"\x00not compressed" * 3, f"Content-Encoding: {coding}"))
    assert 400 <= answer.status < 500


async def test_a_compressed_bomb_costs_no_more_than_the_largest_body(http: HttpBench) -> None:
    bomb = gzip.compress(b" " * (500 * MEGABYTE))
    assert len(bomb) < MEGABYTE
    tracemalloc.start()
    try:
        answer = await sent(http, post(bomb, "Content-Encoding: gzip"))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (answer.status, answer.body) == (413, {"error": text("too_large", "en")})
    assert peak_bytes < 30 * MEGABYTE


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1251", "utf-7"])
async def test_other_encodings_are_refused(http: HttpBench, encoding: str) -> None:
    answer = await http.post(create(http, "Клиенты").decode().encode(encoding))
    # UTF-7 and UTF-16 without a mark are ASCII, so UTF-8 too: as JSON, or as nonsense.
    assert answer.status == (200 if encoding == "utf-7" else 400)


async def test_requests_on_one_connection_are_answered_in_order(http: HttpBench) -> None:
    async with connected(http) as wire_:
        await wire_.send(post(create(http, "A")) + post(b"{") + post(create(http, "B")))
        answers = [await wire_.answer() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 400, 200]
    assert list(http.esp.names.values()) == ["A", "B"]


async def test_after_broken_http_the_connection_is_closed(http: HttpBench) -> None:
    async with connected(http) as wire_:
        await wire_.send(b"nonsense\r\n\r\n" + post(create(http)))
        assert (await wire_.answer()).status == 400
        assert await wire_.rest() == b"", "what comes after it cannot be trusted"
    assert http.esp.names == {}


# Clients that hang up


async def test_a_client_that_hangs_up_in_the_middle_of_a_body_changes_nothing(http: HttpBench) -> None:
    request = post(create(http))
    for end in (len(request) - 1, len(request) // 2, 30):
        async with connected(http) as wire_:
            await wire_.send(request[:end])
    async with connected(http) as wire_:
        await wire_.send(request[:-1])
        wire_.writer.write_eof()
        await wire_.rest()
    assert http.esp.calls == []


async def test_a_change_is_delivered_when_its_client_hangs_up_right_after_sending(http: HttpBench) -> None:
    list_id = (await http.ask("createList", listName="A")).body["listId"]
    http.esp.open.clear()
    async with connected(http) as wire_:
        await wire_.send(post(http.body("importContacts", listId=list_id, contacts=[wire(1), wire(2)])))
        await http.esp.until_called("upsert")
    http.esp.open.set()
    await http.until_delivered()
    assert await http.mailable(list_id) == {"p1@x.test", "p2@x.test"}


# Any bytes


def parts(http: HttpBench) -> st.SearchStrategy[bytes]:
    """Bodies: any bytes, any JSON, and requests with anything in the place of anything."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    known = st.sampled_from(
        ["createList", "deleteList", "importContacts", "updateContact", "add", "memory:1", "a@x.test"]
    )
    anything = st.recursive(
        scalars | known, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    )
    names = ("listName", "listId", "contacts", "contact", "action", "oldEmail")
    contact = st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "email", "firstName", "lastName"), anything))
    data = st.fixed_dictionaries({}, optional=dict.fromkeys(names, anything | contact | st.lists(contact)))
    document = st.fixed_dictionaries({"action": known, "authToken": st.just(http.token), "data": data | anything})
    return st.binary() | st.builds(lambda value: json.dumps(value).encode(), anything | document)


async def test_any_body_gets_one_answer_of_the_right_shape(http: HttpBench) -> None:
    loop = asyncio.get_running_loop()

    @given(body=parts(http))
    @settings(max_examples=150, deadline=None)
    @example(body=b'{"authToken": "\\ud800"}')
    @example(
        body=json.dumps({"action": "createList", "authToken": http.token, "data": {"listName": "\ud800"}}).encode()
    )
    def check(body: bytes) -> None:
        # Hypothesis runs in a thread; the bridge has this one.
        answer = asyncio.run_coroutine_threadsafe(http.post(body), loop).result()
        assert answer.status < 500
        assert http.token not in answer.content.decode()

    await beside(http, check)


def holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place inside a JSON value: who holds it, and by which key or index."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from holders(value[key])


@st.composite
def mutated(draw: st.DrawFn, documents: list[dict[str, Any]]) -> bytes:
    """A good request with a few things changed: as JSON, in its spelling, in its bytes."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    odd = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({})
    for _ in range(draw(st.integers(0, 3))):
        places = list(holders(document))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["drop", "replace", "wrap", "move"])):
            case "drop":
                del holder[key]
            case "replace":
                holder[key] = draw(odd)
            case "wrap":
                holder[key] = draw(st.sampled_from([[holder[key]], {"value": holder[key]}]))
            case "move":
                holder[key] = copy.deepcopy(document.get(draw(st.sampled_from(["action", "authToken", "data"]))))
    body = json.dumps(document, ensure_ascii=draw(st.booleans()), default=str).encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        body = b"json=" + quote(body).encode()
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 5)))
        body = body[:start] + draw(st.binary(max_size=5)) + body[end:]
    return body


async def test_any_change_of_a_good_request_gets_one_answer_of_the_right_shape(http: HttpBench) -> None:
    loop = asyncio.get_running_loop()
    list_id = (await http.ask("createList", listName="A")).body["listId"]
    contacts = [wire(1, firstName="Анна"), wire("2", lastName="Bär")]
    documents = [
        json.loads(http.body("createList", listName="A")),
        json.loads(http.body("importContacts", listId=list_id, contacts=contacts)),
        json.loads(http.body("updateContact", listId=list_id, action="update", contact=wire(1), oldEmail="o@x.test")),
        json.loads(http.body("deleteList", listId="memory:77")),
    ]

    @given(body=mutated(documents), packed=st.booleans())
    @settings(max_examples=200, deadline=None)
    def check(body: bytes, packed: bool) -> None:
        headers = {"Content-Encoding": "gzip"} if packed else {}
        sending = http.post(gzip.compress(body) if packed else body, **headers)
        answer = asyncio.run_coroutine_threadsafe(sending, loop).result()
        assert answer.status in (200, 400, 401)
        assert http.token not in answer.content.decode()

    await beside(http, check)


async def test_any_bytes_on_the_wire_leave_the_server_alive(http: HttpBench) -> None:
    loop = asyncio.get_running_loop()
    pieces = st.sampled_from(
        [b"POST /planfix HTTP/1.1\r\n", b"Host: b\r\n", b"\r\n", b"Content-Length: 3\r\n", b"{}", b":"]
    )

    async def talk(message: bytes) -> bytes:
        async with connected(http) as wire_:
            await wire_.send(message)
            wire_.writer.write_eof()
            return await wire_.rest()

    @given(message=st.binary() | st.lists(pieces | st.binary(max_size=5), max_size=8).map(b"".join))
    @settings(max_examples=100, deadline=None)
    def check(message: bytes) -> None:
        answered = asyncio.run_coroutine_threadsafe(talk(message), loop).result()
        assert b" 50" not in answered.split(b"\r\n")[0]

    await beside(http, check)
