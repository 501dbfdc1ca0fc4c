"""A made-up provider of another package, for tests of settings and of the registry. It delivers nothing."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from providers.base import Capabilities, Contact, Finding, Limits, Member, Outcome, Provider, Secret, Settings


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, Meta(description="shown to people")]
    floor: Annotated[int, Meta(ge=-2, le=99, description="where to ring")] = 0


class PostboxSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret, Meta(max_length=99, description="key of the postbox")]
    colour: Annotated[Literal["red", "yellow"], Meta(description="its colour")] = "yellow"
    street: Annotated[str | None, Meta(description="where it stands")] = None
    heated: Annotated[bool, Meta(description="for the winter")] = False
    stamps: Annotated[tuple[int, ...], Meta(description="values taken")] = ()
    sender: Annotated[Sender | None, Meta(description="who writes")] = None

    def __post_init__(self) -> None:
        if self.heated and self.street is None:
            raise ValueError("a heated postbox needs a `street`")


class PostboxProvider(Provider[PostboxSettings]):
    name = "postbox"
    title = "Postbox"
    settings_type = PostboxSettings
    capabilities = Capabilities(list_is="a heap", renames_address=False, tells_opt_outs=False, equal_names=True)
    limits = Limits(batch_size=10, parallel_calls=1, list_name_chars=10)

    async def check(self) -> list[Finding]:
        raise NotImplementedError

    async def find_list(self, name: str) -> str | None:
        raise NotImplementedError

    async def create_list(self, name: str) -> str:
        raise NotImplementedError

    async def delete_list(self, list_id: str) -> None:
        raise NotImplementedError

    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        raise NotImplementedError

    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        raise NotImplementedError

    def members(self, list_id: str) -> AsyncIterator[Member]:
        raise NotImplementedError


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, package: str, **entries: str) -> None:
    """Lays down what pip leaves of an installed package, with these entry points, and puts it on the path."""
    info = folder / f"{package.replace('-', '_')}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    lines = [f"{name} = {target}" for name, target in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[planfix_bridge.providers]", *lines, ""]))
    monkeypatch.syspath_prepend(str(folder))
