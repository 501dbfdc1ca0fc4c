"""Files that are written from what the code declares, so that they cannot say anything else.

python -m tests.generated          writes them
python -m tests.generated --run    runs the conformance kit first, for the counts in the matrix (about two minutes)
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import yaml

from bridge.config import Account, Admin, Config, Guard, Server
from bridge.matrix import CONFORMANCE, Conformance, conformance, facts_of
from bridge.registry import provider_class, provider_types
from bridge.settings import Setting, settings_of
from providers.base import Provider, Settings
from providers.testing import ProviderConformance

ROOT: Final = Path(__file__).parents[1]
KIT: Final = {name for name in dir(ProviderConformance) if name.startswith("test_")}
FIRST: Final = "mailchimp"  # switched on in the example, with the settings that all providers take

Class = type[Provider[Any]]


def classes() -> list[Class]:
    """All providers of this package, the first one of the example before the others, the sandbox behind them."""
    order = {FIRST: 0, "sandbox": 2}
    return sorted((provider_class(name) for name in provider_types()), key=lambda c: (order.get(c.name, 1), c.name))


# config.example.yaml


def example() -> str:
    """The example: what stands there up to the providers, then every provider with its settings."""
    head, _, _ = (ROOT / "config.example.yaml").read_text().partition("\nproviders:")
    blocks = ["\n".join(_example_lines(cls)) for cls in classes()]
    title = f"{'providers:':<31} # names are yours (a-z, 0-9, _ and -); they become part of list ids"
    return f"{head}\n{title}\n" + "\n\n".join(blocks) + "\n"


def _example_lines(cls: Class) -> Iterator[str]:
    name = "try_out" if cls.name == "sandbox" else cls.name
    off = "" if cls.name == FIRST else "#"
    yield f"{f'  {off}{name}:':<31} # {cls.title}: docs/providers/{cls.name}.md"
    if name != cls.name:
        yield f"{f'    #type: {cls.name}':<31} # the kind of service, where it is not the name"
    for setting in own_settings(cls, with_common=cls.name == FIRST):
        mark = "" if setting.required and not off else "#"
        yield f"{f'    {mark}{setting.key}: {_example_value(cls, setting)}':<31} # {setting.help}"


def own_settings(cls: Class, *, with_common: bool = False) -> list[Setting]:
    """The settings of a provider; those that all take only where it declares them anew."""
    common = {setting.field for setting in settings_of(Settings)}
    anew = set(cls.settings_type.__annotations__)
    settings = [s for s in settings_of(cls.settings_type) if with_common or s.field not in common or s.field in anew]
    return sorted(settings, key=lambda s: s.field in common and not s.required)


def _example_value(cls: Class, setting: Setting) -> str:
    if setting.secret:
        return f"${{{cls.name}_{setting.key}}}".upper()
    if isinstance(setting.example, float) and setting.example.is_integer():
        return str(int(setting.example))
    if isinstance(setting.example, tuple | list):
        return yaml.safe_dump(list(setting.example), default_flow_style=True, allow_unicode=True).strip()
    return yaml.safe_dump(setting.example, allow_unicode=True, width=1000).removesuffix("...\n").strip()


# docs/settings.md


def settings_page() -> str:
    """Every setting with its help."""
    parts = [
        "# Settings",
        "Written by `make docs` from the declarations in the code. `config.example.yaml` is an example of all of it.",
        "The file is `-c FILE`, else `$PLANFIX_BRIDGE_CONFIG`, else `./config.yaml`. `${NAME}` is an environment"
        " variable, `${file:/run/secrets/x}` the text of a file; `$$` stands for a plain `$`.",
        "## The bridge",
        _settings_table((s for s in settings_of(Config) if s.field in ("store", "language")), ""),
    ]
    for title, struct, prefix in (
        ("What Planfix calls", Server, "server."),
        ("The private listener", Admin, "admin."),
        ("The guard against mass removals", Guard, "guard."),
        ("Accounts", Account, "accounts.NAME."),
        ("Every provider", Settings, "providers.NAME."),
    ):
        settings = (s for s in settings_of(struct) if s.field != "name")
        parts += [f"## {title}", _settings_table(settings, prefix)]
    for cls in classes():
        parts += [f"## {cls.title}", f"`type: {cls.name}`; [what to know of it](providers/{cls.name}.md)"]
        parts += [_settings_table(own_settings(cls), "")] if own_settings(cls) else []
    return "\n\n".join(parts) + "\n"


def _settings_table(settings: Iterable[Setting], prefix: str) -> str:
    rows = []
    for s in settings:
        default = "needed" if s.required else "" if s.default in (None, ()) else f"`{_plain(s.default)}`"
        rows.append((f"`{prefix}{s.key}`", s.shape, default, s.help))
    return table(("setting", "takes", "default", "meaning"), rows)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


# docs/providers.md


def providers_page() -> str:
    """The matrix, from the classes and the last run of the conformance kit."""
    ran = conformance()
    every = classes()
    parts = [
        "# Email services",
        "Written by `make docs` from the provider classes and a run of the conformance kit (`providers.testing`): every"
        " promise of a provider is a test that runs against a strict fake of its service. **No live account was used"
        " for any of them**; the page of each service lists what that leaves open.",
        "## Lists and proof",
        _facts_table(every, ("list_is", "equal_names", "lists", "list_name_chars", "proof"), ran),
        "## Opt-outs",
        "Nobody who opted out is subscribed again by any of them. How that is kept differs:",
        _facts_table(every, ("tells_opt_outs", "takes_opt_outs", "forgets_opt_outs")),
        "## Contacts",
        _facts_table(every, ("renames_address", "one_name", "name_chars", "asynchronous")),
        "## Limits that the bridge keeps to",
        _facts_table(every, ("batch_size", "parallel_calls", "calls")),
        "## What is not supported, and what the bridge does then",
        "Everywhere: nothing flows back to Planfix, and no fields but address, first and last name.",
        "\n".join(f"- **{cls.title}**: {line}" for cls in every for line in cls.capabilities.unsupported),
    ]
    return "\n\n".join(parts) + "\n"


def _facts_table(every: list[Class], wanted: tuple[str, ...], ran: dict[str, Conformance] | None = None) -> str:
    titles = [title for fact, (title, _) in facts_of(every[0]).items() if fact in wanted]
    rows = []
    for cls in every:
        facts = [value for fact, (_, value) in facts_of(cls).items() if fact in wanted]
        kept = [f"{ran[cls.name].kept} of {ran[cls.name].promises}" if cls.name in ran else "not run"] if ran else []
        rows.append((f"[{cls.title}](providers/{cls.name}.md)", *facts, *kept))
    return table(("service", *titles, *(["promises kept"] if ran else [])), rows)


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [tuple(titles), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# The run of the kit


class _Counting:
    """A pytest plugin that counts, for each provider, the promises of the kit and those that were kept."""

    def __init__(self) -> None:
        self.promises: dict[str, set[str]] = defaultdict(set)
        self.broken: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if name := provider_of(report.nodeid):
            self.promises[name].add(report.nodeid)
            if report.outcome != "passed":
                self.broken[name].add(report.nodeid)


def provider_of(node_id: str) -> str | None:
    """The provider whose promise a test is; None for any other test."""
    path, *_, test = node_id.split("::")
    if not path.startswith("tests/providers/test_") or test.partition("[")[0] not in KIT:
        return None
    return Path(path).stem.removeprefix("test_")


def run_kit() -> None:
    """Runs the kit for every provider and keeps the counts."""
    counting = _Counting()
    pytest.main(["-q", "-n", "auto", "--dist", "worksteal", str(ROOT / "tests" / "providers")], plugins=[counting])
    counts = {
        name: Conformance(kept=len(ids - counting.broken[name]), promises=len(ids))
        for name, ids in sorted(counting.promises.items())
    }
    CONFORMANCE.write_bytes(msgspec.json.format(msgspec.json.encode(counts)) + b"\n")


FILES: Final[dict[str, Callable[[], str]]] = {
    "config.example.yaml": example,
    "docs/settings.md": settings_page,
    "docs/providers.md": providers_page,
}


if __name__ == "__main__":
    if "--run" in sys.argv:
        run_kit()
    for name, render in FILES.items():
        (ROOT / name).write_text(render())
