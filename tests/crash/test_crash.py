"""A bridge that is killed and started again loses nothing, doubles no list and undoes no opt-out.

A few kills here; `make crash` makes hundreds.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest

from tests.conftest import new_database
from tests.crash.run import MOMENTS, play

OF_THE_STORE = ("acted, not recorded", "in createList", "in the migration", "at the start")
"""Moments that are another matter on another store."""


@pytest.mark.parametrize(
    ("store", "provider", "moments"),
    [("sqlite", "mailchimp tag", MOMENTS), ("postgresql", "sendgrid", OF_THE_STORE)],
    ids=["sqlite", "postgresql"],
)
async def test_what_was_answered_holds_whenever_it_is_killed(
    request: pytest.FixtureRequest, store: str, provider: str, moments: Sequence[str], tmp_path: Path
) -> None:
    numbers = count()

    async def new_store() -> str:
        if store == "sqlite":
            return f"sqlite:///{tmp_path / f'bridge{next(numbers)}.db'}"
        return await new_database(request.getfixturevalue("postgres"))

    result = await play(provider, tmp_path, new_store, moments, seed="1", spec=False)
    assert result.differences == []
    assert sum(result.kills.values()) == len(moments)
    assert result.expected > 0
