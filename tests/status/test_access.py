"""Who may see the admin port, and what its answers tell a browser to refuse."""

import base64
from collections.abc import MutableMapping
from typing import Any

import pytest

from tests.status.conftest import TOKEN, AdminBench, Opener, Seen

GUARDED = ["/", "/?lang=ru", "/readyz", "/metrics", "/static/status.css", "/static/icon.svg", "/nowhere", "/check"]


def basic(password: str, user: str = "anybody") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
async def guarded(open_bench: Opener) -> AdminBench:
    return await open_bench(TOKEN)


@pytest.mark.parametrize("path", GUARDED)
async def test_everything_asks_for_the_token(guarded: AdminBench, path: str) -> None:
    refused = await guarded.see(path)
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"] == 'Basic realm="planfix-bridge", charset="UTF-8"'
    assert "admin.token" in refused.words
    assert TOKEN not in refused.text


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "HEAD"])
async def test_no_method_gets_past_the_token(guarded: AdminBench, method: str) -> None:
    assert (await guarded.see("/", method)).status == 401


@pytest.mark.parametrize("path", ["/healthz", "/%68ealthz"])
async def test_healthz_is_open_for_health_checks(guarded: AdminBench, path: str) -> None:
    assert (await guarded.see(path)).status == 200


@pytest.mark.parametrize("path", ["/healthz/", "//healthz", "/healthz/../metrics", "/metrics#/healthz"])
async def test_nothing_else_is_as_open_as_healthz(guarded: AdminBench, path: str) -> None:
    assert (await guarded.see(path)).status == 401


@pytest.mark.parametrize("path", ["/", "/readyz", "/metrics", "/static/status.css"])
@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", basic(TOKEN), basic(TOKEN, ""), basic(TOKEN).replace("Basic", "BASIC")],
)
async def test_the_token_opens_as_bearer_and_as_password(guarded: AdminBench, path: str, authorization: str) -> None:
    assert (await guarded.see(path, Authorization=authorization)).status == 200


async def test_a_token_may_hold_any_letters(open_bench: Opener) -> None:
    token = "жетон:с двоеточием и пробелом"
    guarded = await open_bench(token)
    assert (await guarded.see(Authorization=basic(token))).status == 200
    assert (await guarded.see(Authorization=basic(token[:-1]))).status == 401


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        TOKEN,
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        "Bearer \udcff",
        f"Basic {TOKEN}",
        "Basic",
        "Basic ====",
        "Basic " + base64.b64encode(b"\xff\xff:\xff").decode(),
        basic(""),
        basic("wrong"),
        basic("x", TOKEN),
        f"Digest {TOKEN}",
    ],
)
async def test_what_is_not_the_token_is_refused(guarded: AdminBench, authorization: str) -> None:
    assert (await guarded.see(Authorization=authorization)).status == 401


async def test_a_wrong_token_is_logged_and_not_quoted(
    guarded: AdminBench, log_lines: list[MutableMapping[str, Any]]
) -> None:
    await guarded.see()
    assert [line["event"] for line in log_lines] == ["started"], "a browser asks without one first"
    await guarded.see(Authorization="Bearer a-wrong-token")
    assert log_lines[-1] == {"event": "wrong_admin_token", "log_level": "warning"}


async def test_an_account_token_opens_nothing(guarded: AdminBench) -> None:
    assert (await guarded.see(Authorization=f"Bearer {guarded.token}")).status == 401


# Without a token


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8081", "LOCALHOST", "[::1]:9000", "127.0.0.1:1"])
async def test_without_a_token_this_machine_is_let_in(admin: AdminBench, host: str) -> None:
    assert (await admin.see(Host=host)).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "10.0.0.1", "[", ""])
@pytest.mark.parametrize("path", ["/", "/metrics", "/readyz"])
async def test_a_name_of_the_web_that_leads_here_is_refused(admin: AdminBench, host: str, path: str) -> None:
    assert (await admin.see(path, Host=host)).status in (400, 403)


async def test_with_a_token_any_name_will_do(guarded: AdminBench) -> None:
    assert (await guarded.see(Host="bridge.example.org", Authorization=f"Bearer {TOKEN}")).status == 200


# Headers


@pytest.mark.parametrize("path", ["/", "/readyz", "/metrics", "/static/status.css", "/healthz", "/nowhere"])
async def test_every_answer_is_hardened(admin: AdminBench, path: str) -> None:
    assert_hardened(await admin.see(path))


async def test_refusals_are_hardened_too(guarded: AdminBench) -> None:
    assert_hardened(await guarded.see())


def assert_hardened(seen: Seen) -> None:
    policy = {}
    for directive in seen.headers["Content-Security-Policy"].split(";"):
        name, *values = directive.split()
        policy[name] = values
    assert policy["default-src"] == ["'none'"]
    assert policy["frame-ancestors"] == ["'none'"]
    assert policy["base-uri"] == ["'none'"]
    for name in ("style-src", "img-src", "form-action"):
        assert policy.pop(name) == ["'self'"]
    assert set(policy) == {"default-src", "frame-ancestors", "base-uri"}, "scripts have no place at all"
    assert seen.headers["X-Content-Type-Options"] == "nosniff"
    assert seen.headers["Referrer-Policy"] == "no-referrer"
    assert seen.headers["Cache-Control"] == "no-store"
    assert seen.headers["Server"] == "planfix-bridge"
    assert "Set-Cookie" not in seen.headers
    for inline in ("<script", "<style", " style=", " onclick=", "javascript:", "http://", "https://"):
        assert inline not in seen.text
