"""Reading the settings anew while the bridge runs: all of the file takes over at once, or nothing of it does."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from bridge.config import Admin, Config, ConfigError, load
from bridge.service import Bridge
from bridge.settings import SettingsReader
from bridge.yaml_reader import Section, read_document
from providers.base import redact

NEEDS_RESTART: Final = ("server.host", "server.port", "server.path", "admin.host", "admin.port", "store")
"""Settings that cannot change while the bridge runs: its addresses, and where it keeps everything."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def admin_of(path: Path, env: Mapping[str, str] = os.environ) -> Admin:
    """Reads where the admin port is, whatever else may be wrong with the settings. Raises ConfigError."""
    document = read_document(path, env)
    reader = SettingsReader(document)
    root = reader.section(document.root)
    section = reader.section(root.nodes.get("admin", Section(root.place))) if root else None
    admin = reader.build(section, Admin, reader.fields(section, Admin)) if section else None
    if admin is None:
        raise ConfigError(path, document.faults)
    return admin


class ReloadRefused(Exception):
    """The settings stay as they were. `faults` says everything that is wrong, one line each, without secrets."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class Reloading:
    """Reads the file again that the bridge was started with; `path` is None for a bridge without one."""

    def __init__(self, bridge: Bridge, path: Path | None, env: Mapping[str, str] = os.environ) -> None:
        self._bridge = bridge
        self._path = path
        self._env = env
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> list[str]:
        """Takes over the settings and says which ones changed. Raises ReloadRefused, after which all is as before.

        Requests and calls under way are not disturbed: they end with the settings with which they began.
        """
        async with self._one_at_a_time:
            try:
                changes = await self._reload()
            except ReloadRefused as error:
                log.error("reload_refused", faults=error.faults)
                raise
            log.info("reloaded", changes=changes)
            return changes

    async def _reload(self) -> list[str]:
        if self._path is None:
            raise ReloadRefused(["this bridge was started without a settings file"])
        try:
            config = await asyncio.to_thread(load, self._path, self._env)
        except ConfigError as error:
            raise ReloadRefused(str(error).splitlines()) from error
        changes = list(changed_settings(self._bridge.config, config))
        if fixed := [name for name in NEEDS_RESTART if name in changes]:
            raise ReloadRefused([f"{self._path}: `{name}` cannot change without a restart" for name in fixed])
        try:
            prepared = await self._bridge.providers.prepare(config.providers)
        except Exception as error:  # whatever the making of a provider raises
            raise ReloadRefused([f"{self._path}: {type(error).__name__}: {redact(str(error))}"]) from error
        self._bridge.take_over(config, prepared)
        return changes


def changed_settings(old: Config, new: Config) -> Iterator[str]:
    """The names of settings whose values differ, such as `server.port`; accounts and providers that came or went."""
    for section in msgspec.structs.fields(Config):
        before, after = getattr(old, section.name), getattr(new, section.name)
        if isinstance(before, dict):
            yield from _changed_names(section.encode_name, before, after)
        else:
            yield from _changed(section.encode_name, before, after)


def _changed_names(section: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in after:
            yield f"{section}.{name} is gone"
        elif name not in before:
            yield f"{section}.{name} is new"
        else:
            yield from _changed(f"{section}.{name}", before[name], after[name])


def _changed(path: str, before: Any, after: Any) -> Iterator[str]:
    if before == after:
        return
    if not isinstance(before, msgspec.Struct) or type(before) is not type(after):
        yield path
        return
    for field in msgspec.structs.fields(before):
        inner = path if field.name == "settings" else f"{path}.{field.encode_name}"
        yield from _changed(inner, getattr(before, field.name), getattr(after, field.name))
