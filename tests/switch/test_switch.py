"""Lists move while Planfix goes on and the switch is killed: each list is as the answers promised, nobody is back.

A small form; `make switch` moves twenty thousand contacts.
"""

from pathlib import Path

import pytest

from tests.conftest import new_database
from tests.switch.run import play


@pytest.mark.parametrize(
    ("store", "kinds", "legs", "kills"),
    [
        ("sqlite", ["mailchimp tag", "brevo"], ["brevo", "mailchimp"], 1),
        ("postgresql", ["listmonk", "sendgrid"], ["sendgrid"], 1),
    ],
)
async def test_lists_move_whatever_is_killed(
    request: pytest.FixtureRequest, tmp_path: Path, store: str, kinds: list[str], legs: list[str], kills: int
) -> None:
    if store == "sqlite":
        url = f"sqlite:///{tmp_path / 'bridge.db'}"
    else:
        url = await new_database(request.getfixturevalue("postgres"))
    told = await play(kinds, legs, tmp_path, url, contacts=200, lists=2, kills=kills, seed="1")
    assert [difference for leg in told for difference in leg.differences] == []
    assert sum(leg.kills for leg in told) == kills
    assert all(leg.found > 150 for leg in told)
