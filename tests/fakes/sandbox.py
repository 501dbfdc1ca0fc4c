"""The sandbox seen from the test's side. It has no HTTP: what an HTTP fault means is raised instead."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from providers.base import AuthFailed, Transient
from providers.sandbox import SandboxProvider, SandboxSettings
from providers.testing import EspHarness, Fault

R = TypeVar("R")


class FaultySandbox(SandboxProvider):
    """The sandbox with faults in its calls; `None` in `script` is a call that ends well."""

    script: list[Fault | None]
    calls = 0

    def _answer(self, function: Callable[[], R]) -> R:
        self.calls += 1
        fault = self.script.pop(0) if self.script else None
        if fault is None:
            return super()._answer(function)
        if fault in (Fault.CUT_JSON, Fault.TIMEOUT_AFTER_ACTING):
            super()._answer(function)
        if fault is Fault.WRONG_KEY:
            raise AuthFailed(fault)
        limited = fault in (Fault.RATE_LIMIT_SECONDS, Fault.RATE_LIMIT_DATE)
        raise Transient(fault, retry_after_s=7.0 if limited else None)


class SandboxHarness(EspHarness):
    """Works on the file, so what another provider object does there is seen as well."""

    provider: FaultySandbox

    def __init__(self, path: Path) -> None:
        self._path = path
        self._script: list[Fault | None] = []
        self._earlier_calls = 0
        self._by_hand = SandboxProvider(SandboxSettings(path=str(path)))
        self.provider = FaultySandbox(SandboxSettings(path=str(path)))
        self.provider.script = self._script

    async def close(self) -> None:
        await self.provider.close()
        await self._by_hand.close()

    async def restart(self, timeout_s: float | None = None) -> None:
        self._earlier_calls = self.calls()
        await super().restart(timeout_s)
        self.provider.script = self._script

    async def lists(self) -> dict[str, str]:
        return {str(id_): name for id_, name in self._rows("select id, name from lists")}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        sql = """
            select address, first_name, last_name from contacts join memberships on contact_id = id
            where list_id = ? and opted_out is null
        """
        return {address: (first, last) for address, first, last in self._rows(sql, list_id)}

    async def opt_out(self, address: str) -> None:
        await self._by_hand.opt_out(address)

    async def make_list(self, name: str) -> str:
        return await self._by_hand.create_list(name)

    async def drop_list(self, list_id: str) -> None:
        await self._by_hand.delete_list(list_id)

    def fail(self, fault: Fault, times: int = 1, after: int = 0) -> None:
        self._script += [None] * after + [fault] * times

    def heal(self) -> None:
        self._script.clear()

    def refused_address(self) -> str:
        return "anna@localhost"

    def calls(self) -> int:
        return self._earlier_calls + self.provider.calls

    def violations(self) -> list[str]:
        return []  # the sandbox has no rule that can be broken without an error

    def _rows(self, sql: str, *values: str) -> list[tuple[str, ...]]:
        if not self._path.exists():
            return []
        db = sqlite3.connect(self._path)
        try:
            return db.execute(sql, values).fetchall()
        finally:
            db.close()
