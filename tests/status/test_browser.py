"""The status page in a real Chromium: both languages, light and dark, phone and desktop, for everybody.

With the environment variable SCREENSHOTS the pictures of the page are written into that folder, for docs/operations.md.
"""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from msgspec.structs import replace
from playwright.async_api import Browser, HttpCredentials, Page, ViewportSize, async_playwright
from playwright.async_api import Error as BrowserError

from bridge.config import Admin, Guard, ProviderConfig
from bridge.languages import LANGUAGES
from providers.base import AuthFailed, Finding, Message, Reason, Rejected, Secret, Settings
from tests.clock import DrivenClock
from tests.http_bench import wire
from tests.memory_provider import ESPS, MemoryProvider
from tests.postbox import install
from tests.status.conftest import TOKEN, AdminBench

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES: dict[str, ViewportSize] = {"phone": {"width": 360, "height": 740}, "desktop": {"width": 1280, "height": 800}}
SCHEMES = ("light", "dark")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        needed = "Chromium is needed to look at the status page: apt-get install --no-install-recommends chromium"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(needed)
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def admin(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> AsyncIterator[AdminBench]:
    """A bridge with something to see in every section of its page."""
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        install(patch, folder / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
        patch.setattr(MemoryProvider, "title", "Mailchimp")
        bench = AdminBench(f"sqlite:///{folder / 'bridge.db'}", DrivenClock())
        school = "school-" + bench.place
        bench.config = replace(
            bench.config,
            admin=Admin(port=0),
            guard=Guard(removals_share=0.0, removals_free=0),
            accounts={
                "shop": replace(bench.account, name="shop", provider="newsletter"),
                "school": replace(bench.config.accounts["other"], name="school", provider="lessons"),
            },
            providers={
                "newsletter": replace(bench.config.providers["memory"], name="newsletter"),
                "lessons": ProviderConfig(name="lessons", type="memory", settings=Settings(base_url=school)),
            },
        )
        await bench.start()
        await fill(bench, school)
        yield bench
        await bench.stop()


async def fill(bench: AdminBench, school: str) -> None:
    """Seven quiet hours, then one in which things happen."""
    token = bench.config.accounts["school"].tokens[0].reveal()
    metrics = bench.bridge.metrics
    customers = (await bench.ask("createList", listName="Постоянные покупатели — Анна Смирнова")).body["listId"]
    pupils = (await bench.ask("createList", token, listName="Pupils and parents, John Smith")).body["listId"]
    for quarter in range(28):
        for _ in range(3 + quarter * quarter % 11):
            metrics.answered("shop", "updateContact", "done")
        metrics.settled("shop", {"delivered": 3 + quarter * quarter % 11, "opted_out": quarter % 5 == 0})
        bench.clock.advance(900)
    bench.esp.special = {
        "p70011@x.test": Rejected(Reason.FORGOTTEN, "Member In Compliance State"),
        "p70048@x.test": Rejected(Reason.INVALID_ADDRESS),
    }
    people = [wire(number) for number in (*range(1240), 70011, 70048)]
    await bench.ask("importContacts", listId=customers, contacts=people)
    for minute in range(20):
        for _ in range(minute % 4):
            metrics.answered("shop", "updateContact", "done")
            metrics.settled("shop", {"delivered": 1})
        metrics.answered("shop", "updateContact", "pending" if minute % 7 == 3 else "done")
        bench.clock.advance(60)
    await bench.ask("importContacts", token, listId=pupils, contacts=[wire(number) for number in range(310)])
    for number in range(3):
        await bench.ask("updateContact", listId=customers, action="delete", contact=wire(number))
    ESPS[school].script = [AuthFailed("401 API key revoked")]
    refused, advice = Message("The sandbox refuses its key."), Message("Set key_refused to false.")
    ESPS[school].findings = [Finding(False, refused, advice)]
    await bench.ask("updateContact", token, listId=pupils, action="add", contact=wire(311))
    await bench.ask("deleteList", "a wrong token")
    bench.clock.advance(120)


@asynccontextmanager
async def opened(
    browser: Browser, admin: AdminBench, *, language: str = "en", scheme: str = "light", size: str = "desktop"
) -> AsyncIterator[Page]:
    """The page in a browser of that kind. At the end: nothing was complained of, and nothing asked for elsewhere."""
    complaints: list[str] = []
    async with await browser.new_context(
        locale=language, color_scheme="dark" if scheme == "dark" else "light", viewport=SIZES[size]
    ) as context:
        page = await context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.on("response", lambda answer: complaints.append(answer.url) if answer.status >= 400 else None)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        answer = await page.goto(admin.listening.admin_url)
        assert answer is not None
        assert answer.status == 200
        yield page
        assert complaints == []
        assert [url for url in asked if not url.startswith(admin.listening.admin_url + "/")] == []


async def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


async def assert_accessible(page: Page) -> None:
    violations = (await Axe().run(page)).response["violations"]
    assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in violations] == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_page_is_for_everybody(
    browser: Browser, admin: AdminBench, language: str, scheme: str, size: str
) -> None:
    async with opened(browser, admin, language=language, scheme=scheme, size=size) as page:
        assert await page.locator("html").get_attribute("lang") == language
        assert await page.locator("#verdict").inner_text() == ("✗ Needs a look", "✗ Требует внимания")[language == "ru"]
        dark = await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 27)"
        assert dark is (scheme == "dark"), "the style sheet is there and knows what is wanted"
        assert await overflow(page) == 0
        await assert_accessible(page)
        if folder := os.environ.get("SCREENSHOTS"):
            await page.screenshot(path=Path(folder) / f"status-{language}-{scheme}-{size}.png", full_page=True)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_nothing_is_wider_than_the_smallest_window(browser: Browser, admin: AdminBench, language: str) -> None:
    await admin.ask("createList", admin.config.accounts["shop"].tokens[0].reveal(), listName="Ф" * 200)
    async with opened(browser, admin, language=language, size="phone") as page:
        await page.set_viewport_size({"width": 320, "height": 480})
        assert await overflow(page) == 0
        scrolled = "[...document.querySelectorAll('*')].filter(e => /auto|scroll/.test(getComputedStyle(e).overflowX))"
        assert await page.evaluate(f"{scrolled}.length") == 0, "nothing within the page scrolls sideways instead"


@pytest.mark.parametrize("size", SIZES)
async def test_the_check_button_works(browser: Browser, admin: AdminBench, size: str) -> None:
    async with opened(browser, admin, size=size) as page:
        card = page.get_by_role("article", name="lessons")
        await card.get_by_role("button", name="Check lessons").click()
        await page.wait_for_url(re.compile(r"\?lang=en#provider-lessons$"))
        assert "The sandbox refuses its key." in await card.inner_text()
        assert "→ Set key_refused to false." in await card.inner_text()
        await assert_accessible(page)


async def test_the_page_can_be_used_from_the_keyboard(browser: Browser, admin: AdminBench) -> None:
    async with opened(browser, admin) as page:
        button = page.get_by_role("button", name="Check newsletter")
        for _ in range(30):
            await page.keyboard.press("Tab")
            outline = "getComputedStyle(document.activeElement).outlineStyle"
            assert await page.evaluate(outline) == "solid", "what has the focus shows it"
            if await button.evaluate("button => button === document.activeElement"):
                break
        await page.keyboard.press("Enter")
        await page.wait_for_url(re.compile("#provider-newsletter$"))
        assert "in memory" in await page.get_by_role("article", name="newsletter").inner_text()


async def test_the_language_can_be_switched_and_stays(browser: Browser, admin: AdminBench) -> None:
    async with opened(browser, admin) as page:
        await page.get_by_role("link", name="Русский").click()
        assert await page.locator("html").get_attribute("lang") == "ru"
        await page.get_by_role("button", name="Проверить newsletter").click()
        await page.wait_for_url(re.compile(r"\?lang=ru#provider-newsletter$"))
        await page.get_by_role("link", name="Обновить").click()
        assert await page.locator("h1").inner_text() == "Мост рассылок для Планфикса"


async def test_links_of_the_verdict_lead_to_their_section(browser: Browser, admin: AdminBench) -> None:
    async with opened(browser, admin) as page:
        links = page.locator(".verdict ul a")
        assert await links.count() >= 3
        for number in range(await links.count()):
            await links.nth(number).click()
            target = (await page.evaluate("location.hash")).removeprefix("#")
            assert await page.locator(f"[id='{target}']").count() == 1


async def test_the_policy_keeps_scripts_and_styles_of_others_out(browser: Browser, admin: AdminBench) -> None:
    """What a hole in the escaping would let in still does nothing."""
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(admin.listening.admin_url)
        told = await page.evaluate(
            """async () => {
                const violated = new Set();
                document.addEventListener("securitypolicyviolation", event => violated.add(event.effectiveDirective));
                const script = document.createElement("script");
                script.textContent = "window.ran = true";
                document.body.append(script);
                document.body.insertAdjacentHTML("beforeend", "<p id='styled' style='color: red'>x</p>");
                while (violated.size < 2) await new Promise(done => setTimeout(done));
                return [[...violated].sort(), window.ran === undefined];
            }"""
        )
        assert told == [["script-src-elem", "style-src-attr"], True]


async def test_a_browser_signs_in_with_the_token_as_password(
    browser: Browser, admin: AdminBench, tmp_path: Path
) -> None:
    guarded = AdminBench(f"sqlite:///{tmp_path / 'bridge.db'}", DrivenClock())
    guarded.config = replace(
        guarded.config, providers=admin.config.providers, accounts=admin.config.accounts,
        admin=Admin(port=0, token=Secret(TOKEN)),
    )  # fmt: skip
    await guarded.start()
    try:
        async with await browser.new_context(locale="en") as stranger:
            page = await stranger.new_page()
            with pytest.raises(BrowserError, match="ERR_INVALID_AUTH_CREDENTIALS"):  # without a person to be asked
                await page.goto(guarded.listening.admin_url)
        me: HttpCredentials = {"username": "me", "password": TOKEN}
        async with await browser.new_context(locale="en", http_credentials=me) as known:
            page = await known.new_page()
            await page.goto(guarded.listening.admin_url)
            assert await page.locator("#verdict").inner_text() == "✓ Everything works"
            assert await page.evaluate("getComputedStyle(document.body).maxWidth") == "1088px", "styles come with it"
            await page.get_by_role("button", name="Check newsletter").click()
            await page.wait_for_url(re.compile("#provider-newsletter$"))
            await assert_accessible(page)
    finally:
        await guarded.stop()
