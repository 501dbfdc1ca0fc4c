"""Which providers are installed. A package adds one through the entry point group `planfix_bridge.providers`.

An entry point's name is the provider's type in YAML and must equal the `name` of the class that it points to.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from bridge.nearest import did_you_mean
from providers.base import Provider, redact

GROUP = "planfix_bridge.providers"


class UnknownProvider(LookupError):
    """No installed package has a provider of this type. `hint` names the nearest one."""

    def __init__(self, type_name: str, hint: str) -> None:
        self.hint = hint
        super().__init__(f'there is no provider type "{type_name}"; {hint}')


class BrokenProvider(Exception):
    """A package promises a provider that cannot be used; the text names the package and what is wrong."""


def provider_types() -> list[str]:
    """All provider types, sorted. Imports none of them."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def provider_class(type_name: str) -> type[Provider[Any]]:
    """The class of a provider type; only this one is imported.

    Raises UnknownProvider, or BrokenProvider when what the package offers cannot be used.
    """
    # The same package may be found twice on the path: only a differing target is a conflict.
    targets = {entry.value: entry for entry in entry_points(group=GROUP, name=type_name)}
    if not targets:
        raise UnknownProvider(type_name, did_you_mean(type_name, provider_types()))
    if len(targets) > 1:
        packages = ", ".join(sorted(_package(entry) for entry in targets.values()))
        raise BrokenProvider(
            f'provider type "{type_name}" is offered more than once, by {packages}; remove all but one'
        )
    [entry] = targets.values()
    broken = f'provider type "{type_name}" of package {_package(entry)} cannot be used'
    try:
        found = entry.load()
    except Exception as error:  # whatever a stranger's module raises while it is imported
        raise BrokenProvider(f"{broken}: {type(error).__name__}: {redact(str(error))}") from error
    if not (isinstance(found, type) and issubclass(found, Provider)):
        raise BrokenProvider(f"{broken}: {entry.value} is not a subclass of providers.base.Provider")
    if getattr(found, "name", None) != type_name:
        raise BrokenProvider(f"{broken}: {entry.value} does not call itself so in its attribute `name`")
    return found


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module
