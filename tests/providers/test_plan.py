"""The plan of an upsert, at the service of every provider that follows it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.registry import provider_class, provider_types
from providers.base import Contact, OptedOut, Outcome
from providers.plan import PlannedProvider
from providers.testing.base import new_list, people
from tests.end_to_end import esp_of

PLANNED = [name for name in provider_types() if issubclass(provider_class(name), PlannedProvider)]
COPYING = [name for name in PLANNED if not provider_class(name).capabilities.renames_address]
"""Where a changed address is another record, and the earlier one is taken off the list."""


@pytest.mark.parametrize("name", COPYING)
async def test_an_opt_out_of_the_earlier_address_is_not_lost_while_the_new_one_is_put_on_the_list(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with esp_of(name, tmp_path) as esp:
        provider = esp.provider
        assert isinstance(provider, PlannedProvider)
        put = provider.put

        async def put_slowly(list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
            told = await put(list_id, contacts)
            await esp.opt_out(old.address)
            return told

        list_id = await new_list(esp, "Клиенты")
        old, other = people(2)
        await provider.upsert(list_id, [old, other])
        with monkeypatch.context() as patch:
            patch.setattr(provider, "put", put_slowly)
            moved = replace(old, address="new@post.test", old_address=old.address)
            (outcome,) = await provider.upsert(list_id, [moved])
        if isinstance(outcome, OptedOut):
            assert await esp.mailable(list_id) == esp.listed(other)
        await provider.upsert(list_id, [old])
        assert old.address not in await esp.mailable(list_id)
        assert esp.violations() == []
