"""Fixtures of the tests of moves: the bench with two ESPs on each kind of store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge import couriers
from tests.clock import DrivenClock
from tests.moves.bench import TYPES, MovingBench, running
from tests.postbox import install


@pytest.fixture
def types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The providers of `tests.moves.bench` are installed, and bridges look often for what commands have done."""
    install(monkeypatch, tmp_path / "site", "planfix-memory", **TYPES)
    monkeypatch.setattr(couriers, "REVISION_SEEN_WITHIN_S", 0.005)


@pytest.fixture
async def bench(types: None, store_url: str, clock: DrivenClock) -> AsyncIterator[MovingBench]:
    async with running(MovingBench(store_url, clock)) as opened:
        yield opened
