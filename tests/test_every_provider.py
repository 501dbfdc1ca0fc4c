"""Every REST provider through the running bridge: from the first import of a filter to its end."""

import random
from itertools import islice
from pathlib import Path

import pytest

from bridge.registry import provider_class, provider_types
from bridge.sample_contacts import made_up
from providers.rest import RestProvider
from tests.end_to_end import QuickClock, Stage, config_of, esp_of

REST = [name for name in provider_types() if issubclass(provider_class(name), RestProvider)]


@pytest.mark.parametrize("name", REST)
async def test_a_mailing_from_its_first_day_to_its_last(name: str, tmp_path: Path) -> None:
    strangers = made_up(1, "post.test")
    async with esp_of(name, tmp_path) as esp:
        config = config_of(f"sqlite:///{tmp_path / 'bridge.db'}", name, {name: esp})
        async with Stage(esp, config, QuickClock()) as stage, stage.planfix() as planfix:
            assert await planfix.create_list("Клиенты: «Москва»")
            await planfix.import_contacts(list(islice(strangers, 1000)))
            await stage.delivered()
            await planfix.change(8, strangers, random.Random(1))  # two each of: added, renamed, moved, removed
            await stage.delivered()
            assert {message: count for step in planfix.steps for message, count in step.messages.items()} == {}
            assert len(planfix.expected) == 1000
            assert await stage.mailable(planfix) == esp.listed(*planfix.expected)
            await planfix.delete_list()
            await stage.delivered()
            assert planfix.list_deleted
            assert await esp.lists() == {}
        assert esp.violations() == []
