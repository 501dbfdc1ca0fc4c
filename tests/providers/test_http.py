"""The client of REST providers: keys in each way, every wait and size bounded, no error that tells a secret."""

import asyncio
import traceback
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from providers import http
from providers.errors import AuthFailed, Secret, Transient
from providers.http import (
    Auth,
    BasicAuth,
    ClientCredentials,
    FormAuth,
    HeaderAuth,
    HttpClient,
    Outgoing,
    QueryAuth,
    path_of,
    query_of,
)

KEY = "a key that no error may tell"
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """A server that answers as the test says and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], str]] = []
        self.answers: list[Answering] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.raw_path, dict(request.headers), await request.text()))
        if self.answers:
            return await self.answers.pop(0)(request)
        return web.json_response({"ok": True})

    def will(self, *answers: web.Response) -> None:
        for answer in answers:

            async def give(_: web.Request, answer: web.Response = answer) -> web.Response:
                return answer

            self.answers.append(give)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield service
    await runner.cleanup()


@pytest.fixture
async def clients(service: Service) -> AsyncIterator[Callable[..., HttpClient]]:
    opened: list[HttpClient] = []

    def client(auth: Auth | None = None, timeout_s: float = 30.0, base_url: str | None = None) -> HttpClient:
        auth = auth or HeaderAuth(Secret(KEY), "api-key")
        opened.append(HttpClient(base_url or service.url, auth, timeout_s=timeout_s, connections=4))
        return opened[-1]

    yield client
    for one in opened:
        await one.close()


def token(text: str, expires_in: object = 3600) -> web.Response:
    return web.json_response({"access_token": text, "expires_in": expires_in})


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        (HeaderAuth(Secret(KEY), "api-key"), "api-key", KEY),
        (HeaderAuth(Secret("k"), prefix="Bearer "), "Authorization", "Bearer k"),
        (
            BasicAuth("Анна", Secret("päss")),
            "Authorization",
            "Basic " + b64encode("Анна:päss".encode()).decode(),
        ),
    ],
)
async def test_a_key_in_a_header(
    service: Service, clients: Callable[..., HttpClient], auth: Auth, header: str, value: str
) -> None:
    await clients(auth).send(Outgoing("GET", "/x"))
    assert service.asked[0][2][header] == value


async def test_a_key_in_the_query_and_in_the_form(service: Service, clients: Callable[..., HttpClient]) -> None:
    await clients(QueryAuth("key", Secret("a&b"))).send(Outgoing("GET", "/x", [("q", "a+b@c")]))
    await clients(FormAuth("api_key", Secret("a&b"))).send(Outgoing("POST", "/x", form=[("title", "Я")]))
    assert service.asked[0][1] == "/x?q=a%2Bb%40c&key=a%26b"
    assert service.asked[1][3] == "title=%D0%AF&api_key=a%26b"
    assert service.asked[1][2]["Content-Type"] == "application/x-www-form-urlencoded"


@pytest.mark.parametrize("as_json", [True, False])
async def test_a_token_is_fetched_once_and_kept(
    service: Service, clients: Callable[..., HttpClient], as_json: bool
) -> None:
    client = clients(ClientCredentials("/token", "me", Secret(KEY), as_json=as_json))
    service.will(token("t1"))
    await asyncio.gather(*(client.send(Outgoing("GET", "/x")) for _ in range(5)))
    assert [(method, path) for method, path, _, _ in service.asked] == [("POST", "/token")] + [("GET", "/x")] * 5
    assert {headers["Authorization"] for _, path, headers, _ in service.asked if path == "/x"} == {"Bearer t1"}
    assert "Authorization" not in service.asked[0][2]


async def test_a_token_that_was_refused_is_renewed_once(service: Service, clients: Callable[..., HttpClient]) -> None:
    client = clients(ClientCredentials("/token", "me", Secret(KEY)))
    service.will(token("t1"), web.Response(status=401), token("t2"), web.json_response({}))
    assert (await client.send(Outgoing("GET", "/x"))).status == 200
    service.will(web.Response(status=401), token("t3"), web.Response(status=401))
    assert (await client.send(Outgoing("GET", "/x"))).status == 401
    tokens = [headers.get("Authorization") for _, path, headers, _ in service.asked if path == "/x"]
    assert tokens == ["Bearer t1", "Bearer t2", "Bearer t2", "Bearer t3"]


async def test_a_token_that_has_ended_is_fetched_anew(service: Service, clients: Callable[..., HttpClient]) -> None:
    client = clients(ClientCredentials("/token", "me", Secret(KEY)))
    service.will(token("t1", expires_in=-1), web.json_response({}), token("t2"), web.json_response({}))
    for _ in range(2):
        await client.send(Outgoing("GET", "/x"))
    assert [path for _, path, _, _ in service.asked] == ["/token", "/x", "/token", "/x"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (web.Response(status=400), AuthFailed),
        (web.Response(status=401), AuthFailed),
        (web.Response(status=429), Transient),
        (web.Response(status=503), Transient),
        (web.Response(status=302), Transient),
        (web.Response(text="<html>"), Transient),
        (web.json_response({}), Transient),
        (web.json_response([]), Transient),
    ],
)
async def test_no_token_is_told_as_what_it_is(
    service: Service, clients: Callable[..., HttpClient], answer: web.Response, error: type[Exception]
) -> None:
    service.will(answer)
    with pytest.raises(error) as raised:
        await clients(ClientCredentials("/token", "me", Secret(KEY))).send(Outgoing("GET", "/x"))
    assert KEY not in "".join(traceback.format_exception(raised.value))


async def test_a_fixed_key_is_not_tried_twice(service: Service, clients: Callable[..., HttpClient]) -> None:
    service.will(web.Response(status=401))
    assert (await clients().send(Outgoing("GET", "/x"))).status == 401
    assert len(service.asked) == 1


async def test_a_large_body_arrives_whole(service: Service, clients: Callable[..., HttpClient]) -> None:
    body = b"0123456789" * 300_000  # aiohttp warns of such a one when it is written in one go
    await clients().send(Outgoing("PUT", "/", body=body))
    _, _, headers, text = service.asked[0]
    assert (headers["Content-Length"], text.encode()) == (str(len(body)), body)


async def test_redirects_are_not_followed(service: Service, clients: Callable[..., HttpClient]) -> None:
    service.will(web.Response(status=307, headers={"Location": service.url + "/elsewhere"}))
    assert (await clients().send(Outgoing("POST", "/x", body=b"{}"))).status == 307
    assert len(service.asked) == 1


async def test_cookies_are_not_kept(service: Service, clients: Callable[..., HttpClient]) -> None:
    service.will(web.json_response({}, headers={"Set-Cookie": "session=1"}))
    client = clients()
    for _ in range(2):
        await client.send(Outgoing("GET", "/x"))
    assert "Cookie" not in service.asked[1][2]


async def test_too_large_an_answer_is_cut_off(
    service: Service, clients: Callable[..., HttpClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER_BYTES", 1000)
    bomb = web.json_response({"x": "a" * 100_000})
    bomb.enable_compression(web.ContentCoding.gzip)
    service.will(bomb)
    with pytest.raises(Transient, match="larger than 1000 bytes"):
        await clients().send(Outgoing("GET", "/x"))


async def test_no_whole_answer_in_time_is_transient_and_names_no_address(
    service: Service, clients: Callable[..., HttpClient]
) -> None:
    never = asyncio.Event()

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{")
        await never.wait()
        return response

    service.answers.append(drip)
    client = clients(QueryAuth("key", Secret(KEY)), timeout_s=0.2)
    address = "anna@post" + ".test"  # which a traceback that shows this line must not hold
    with pytest.raises(Transient, match=r"no whole answer within 0.2 s") as raised:
        await client.send(Outgoing("GET", path_of("/contacts/{}", address)))
    text = "".join(traceback.format_exception(raised.value))
    assert address not in text
    assert KEY not in text


async def test_a_service_that_is_not_there_is_transient(clients: Callable[..., HttpClient]) -> None:
    with pytest.raises(Transient, match="ClientConnectorError"):
        await clients(base_url="http://127.0.0.1:1").send(Outgoing("GET", "/x"))


async def test_a_file_is_fetched_without_the_key(service: Service, clients: Callable[..., HttpClient]) -> None:
    assert (await clients().download(service.url + "/file?signature=a%2Fb")).ok
    _, path, headers, _ = service.asked[0]
    assert path == "/file?signature=a%2Fb"
    assert "api-key" not in headers


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "file:///etc/passwd", "ftp://x", ""])
async def test_a_file_at_an_unsafe_address_is_not_fetched(clients: Callable[..., HttpClient], url: str) -> None:
    with pytest.raises(Transient, match="no https URL"):
        await clients(base_url="https://service.invalid").download(url)


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("a/b", "/lists/a%2Fb/x"),
        ("..", "/lists/%2E%2E/x"),
        ("../..", "/lists/%2E%2E%2F%2E%2E/x"),
        ("a+b@c?d#e", "/lists/a%2Bb%40c%3Fd%23e/x"),
        ("Я", "/lists/%D0%AF/x"),
        (7, "/lists/7/x"),
    ],
)
def test_no_part_of_a_path_leaves_its_place(part: object, path: str) -> None:
    assert path_of("/lists/{}/x", part) == path


def test_a_query_is_written_as_services_read_it() -> None:
    assert query_of({"a": True, "b": 2, "c": ["x", "y"], "d": ""}) == [
        ("a", "true"), ("b", "2"), ("c", "x"), ("c", "y"), ("d", ""),
    ]  # fmt: skip
    assert query_of(None) == []
