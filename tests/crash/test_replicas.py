"""Real bridges on one PostgreSQL: one that is killed is replaced, nothing is lost, limits and order hold."""

from pathlib import Path

import pytest

from tests.conftest import new_database
from tests.crash.replicas import play_replicas


@pytest.mark.parametrize(("number", "kills"), [(3, 2)])  # the first one killed is the leader
async def test_a_killed_replica_is_replaced_and_nothing_is_lost(
    number: int, kills: int, postgres: str, tmp_path: Path
) -> None:
    result = await play_replicas(number, tmp_path, await new_database(postgres), kills=kills, seed="1")
    assert result.differences == []
    assert result.takeovers_s
    assert result.expected > 0
