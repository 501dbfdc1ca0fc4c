"""The kit's promises on a real Mailman core, where people leave as they do in Postorius."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from providers.base import Contact, Delivered, OptedOut, Secret
from providers.mailman3 import Mailman3Provider, Mailman3Settings
from providers.testing.live import LiveConformance, LiveHarness
from tests.live.mailman import DOMAIN, PASSWORD, READY, USER, Core, running_core

pytestmark = pytest.mark.skipif(not READY.exists(), reason="make .mailman/.ready installs the Mailman that this needs")

ANNA = Contact("1", "Anna@post.test", "Анна", "Иванова")


class MailmanHarness(LiveHarness):
    core: Core

    async def opt_out(self, address: str) -> None:
        address = self.address_there(address)
        left = [self.core.ask("DELETE", f"lists/{list_id}/member/{address}") for list_id in await self.lists()]
        if all(answer.status_code == 404 for answer in left):
            self.core.ask("POST", "bans", email=address.lower()).raise_for_status()


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    with running_core(tmp_path_factory.mktemp("mailman")) as running:
        yield running


@pytest.fixture
async def esp(core: Core) -> AsyncIterator[MailmanHarness]:
    settings = Mailman3Settings(base_url=core.base_url, domain=DOMAIN, user=USER, password=Secret(PASSWORD))
    async with MailmanHarness.opened(Mailman3Provider(settings), "post.test", "анна@post.test") as harness:
        harness.core = core
        yield harness


class TestMailman3(LiveConformance):
    MANY = 24  # more than are looked at one by one
    MEMBER_PAGE = 12

    @pytest.fixture
    def esp(self, esp: MailmanHarness) -> MailmanHarness:
        return esp


# What the fake takes from the core's source, seen on the core itself


@pytest.fixture
async def list_id(esp: MailmanHarness) -> str:
    return await esp.provider.create_list("Клиенты")


@pytest.fixture
def anna(esp: MailmanHarness) -> str:
    """Her address at the core."""
    return esp.address_there(ANNA.address).lower()


async def test_who_only_wrote_to_the_list_is_no_one_who_left(
    core: Core, esp: MailmanHarness, list_id: str, anna: str
) -> None:
    core.ask("POST", "members", list_id=list_id, subscriber=anna, role="nonmember").raise_for_status()
    assert await esp.provider.upsert(list_id, [ANNA]) == [Delivered(anna)]
    await esp.opt_out(ANNA.address)
    assert await esp.provider.upsert(list_id, [ANNA]) == [OptedOut("unsubscribed", anna)]


async def test_who_turned_delivery_off_is_kept_out_under_a_new_address(
    core: Core, esp: MailmanHarness, list_id: str, anna: str
) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    member_id = core.ask("GET", f"lists/{list_id}/member/{anna}").json()["member_id"]
    core.ask("PATCH", f"members/{member_id}/preferences", delivery_status="by_user").raise_for_status()
    assert await esp.mailable(list_id) == {}
    (outcome,) = await esp.provider.upsert(list_id, [replace(ANNA, address="new@post.test", old_address=ANNA.address)])
    assert outcome == OptedOut("delivery off")


async def test_names_can_be_emptied(esp: MailmanHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    await esp.provider.upsert(list_id, [replace(ANNA, first_name="", last_name="")])
    assert await esp.mailable(list_id) == {"anna@post.test": ("", "")}


async def test_a_new_list_holds_what_members_write(core: Core, list_id: str) -> None:
    config = core.ask("GET", f"lists/{list_id}/config").json()
    assert {name: config[name] for name in ("default_member_action", "subject_prefix", "advertised")} == {
        "default_member_action": "hold",
        "subject_prefix": "",
        "advertised": False,
    }


async def test_a_list_that_was_made_and_not_finished_is_finished(core: Core, esp: MailmanHarness, list_id: str) -> None:
    await esp.provider.delete_list(list_id)
    address = list_id.removesuffix(f".{DOMAIN}") + f"@{DOMAIN}"
    core.ask("POST", "lists", fqdn_listname=address, style_name="legacy-announce").raise_for_status()
    assert await esp.provider.create_list("Клиенты") == list_id
    assert await esp.lists() == {list_id: "Клиенты"}
