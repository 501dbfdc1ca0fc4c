"""What to try live: a variable of the environment for each provider, which names a file of settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bridge.registry import provider_class, provider_types
from bridge.settings import SettingsReader, settings_of
from bridge.yaml_reader import read_document
from providers.rest import RestProvider
from providers.testing.live import MARKER

VARIABLE = "PLANFIX_BRIDGE_LIVE_"


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run needs beside the provider's settings, in the same file."""

    test_domain: Annotated[
        str, msgspec.Meta(min_length=3, description="a mail domain of yours, under which contacts are made")
    ]
    test_refused_address: Annotated[
        str | None, msgspec.Meta(description="an address that the service refuses for good")
    ] = None


@dataclass(frozen=True)
class Run:
    provider: type[RestProvider[Any]]
    settings: Any
    own: RunSettings

    def __str__(self) -> str:
        return self.provider.name

    def notice(self) -> str:
        """What the run creates and deletes."""
        return (
            f"{self.provider.title}: this run makes lists whose names begin with {MARKER!r} and deletes them after each"
            f" test. It makes contacts under subdomains of {self.own.test_domain} and opts some of them out; providers"
            " delete no contacts, so these stay in the account, on no list. What the provider needs there, such as a"
            " field for Planfix ids, is made and stays too."
        )


def read_runs(env: Mapping[str, str]) -> list[Run]:
    """The runs that the environment asks for. Raises ConfigError with everything that is wrong with a file, LookupError
    for a variable that names no provider that can be tried so."""
    known = {VARIABLE + name.upper().replace("-", "_"): name for name in provider_types()}
    runs = []
    for variable in sorted(name for name in env if name.startswith(VARIABLE)):
        provider = provider_class(known[variable]) if variable in known else None
        if provider is None or not issubclass(provider, RestProvider):
            raise LookupError(f"{variable}: no REST provider is called so")
        runs.append(_read(Path(env[variable]), provider, env))
    return runs


def _read(path: Path, provider: type[RestProvider[Any]], env: Mapping[str, str]) -> Run:
    document = read_document(path, env)
    reader = SettingsReader(document)
    settings = own = None
    if section := reader.section(document.root):
        own_keys = [setting.key for setting in settings_of(RunSettings)]
        settings = reader.build(
            section, provider.settings_type, reader.fields(section, provider.settings_type, also=own_keys)
        )
        own = reader.build(section, RunSettings, reader.fields(section, RunSettings, also=section.keys))
    document.raise_faults()
    assert own is not None
    return Run(provider, settings, own)
