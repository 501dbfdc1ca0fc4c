"""`check` and `providers`: does the configuration work, and what can each provider do."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import click
from rich.table import Table

from bridge.checks import findings_of
from bridge.cli.common import (
    UserError,
    config_option,
    err,
    escape,
    json_option,
    load_config,
    out,
    plain,
    print_json,
    run,
    table,
)
from bridge.config import Account, Config, ProviderConfig
from bridge.matrix import conformance, facts_of
from bridge.registry import BrokenProvider, UnknownProvider, provider_class, provider_types
from bridge.settings import settings_of
from bridge.store import ListState, ListSummary, Store, StoreError
from providers.base import Provider

LOST_STORE: Final = (
    "the store was lost: changes that were not delivered then are gone; names and ids of contacts are learnt anew; "
    "who opted out earlier is known to the email service alone. Bring back a copy of the store, "
    "or import every filter again from Planfix"
)


@click.command()
@config_option
def check(config_file: str | None) -> None:
    """Read the settings, reach every provider, test its key; exit 1 when something does not work."""
    config = load_config(config_file)
    all_well = run(_check(config))
    if not all_well:
        raise SystemExit(1)


@click.command()
@click.argument("name", required=False)
@json_option
def providers(name: str | None, as_json: bool) -> None:
    """Show what the providers can do, or the settings of one."""
    try:
        classes = [provider_class(type_name) for type_name in ([name] if name else provider_types())]
    except (UnknownProvider, BrokenProvider) as error:
        raise UserError(str(error)) from error
    if as_json:
        print_json([_facts(each) | {"settings": _settings(each)} for each in classes])
    elif name is None:
        out.print(_matrix(classes))
        err.print("The settings of one: planfix-bridge providers NAME")
    else:
        _show(classes[0])


async def _check(config: Config) -> bool:
    well = say("settings", True, "well formed")
    known = await _check_store(config.store)
    well &= known is not None
    for account in config.accounts.values():
        well &= say(f"account {account.name}", True, f"new lists go to {account.provider}")
        lists = [item for item in known or () if item.mapped.account == account.name]
        well &= _check_places(config, account, lists)
    for provider in config.providers.values():
        well &= await say_findings(provider)
    out.print("[bold green]Everything works.[/]" if well else "[bold red]Something does not work; see above.[/]")
    return well


async def say_findings(config: ProviderConfig) -> bool:
    """Shows what a provider's check finds; whether all of it is well."""
    well = True
    async with provider_class(config.type)(config.settings) as provider:
        for finding in await findings_of(provider):
            well &= say(config.name, finding.ok, finding.text, finding.advice)
    return well


def say(about: str, ok: bool, text: object, advice: object = None) -> bool:
    """Shows one line of a check, and what to do when it is not well; gives `ok` back."""
    mark = "[green]✓[/]" if ok else "[red]✗[/]"
    out.print(f"{mark} [bold]{escape(about)}[/]: {escape(text)}", highlight=False)
    if advice and not ok:
        out.print(f"    → {escape(advice)}", highlight=False)
    return ok


async def _check_store(url: str) -> list[ListSummary] | None:
    """The lists that the store knows, None when it cannot be opened."""
    try:
        store = await Store.open(url)
    except StoreError as error:
        advice = "look at `store` in the settings, and at the disk or database that it names"
        say("store", False, error, advice)
        return None
    try:
        depths = await store.outbox.depths()
        known = await store.lists.summaries()
        unheard = [copy.account for copy in await store.lists.copies() if copy.state is ListState.LEFT]
    finally:
        await store.close()
    say("store", True, f"opens; {sum(depth.pending for depth in depths)} changes wait in it")
    # Nobody can tell a new store from a lost one: said, and not held against it.
    if not known:
        _note("store", "knows no lists; for a new bridge that is right", f"had it lists before, {LOST_STORE}")
    elif adopted := sum(not item.mapped.name for item in known):
        _note("store", f"{adopted} of {len(known)} lists were made before this store", f"if one was lost, {LOST_STORE}")
    for account in dict.fromkeys(unheard):
        advice = f"if no switch is running, it broke off: run it again, or planfix-bridge verify {account} --repair"
        _note(
            f"account {account}",
            f"lists that moved, opt-outs of the last moment not heard: {unheard.count(account)}",
            advice,
        )
    return known


def _check_places(config: Config, account: Account, lists: Sequence[ListSummary]) -> bool:
    """Where the lists of an account live that are not where new ones are made; whether all can be delivered to."""
    about, well = f"account {account.name}", True
    elsewhere = defaultdict(list)
    for item in lists:
        if item.mapped.state is ListState.MOVING or item.mapped.provider != account.provider:
            elsewhere[item.mapped.provider].append(item)
    for provider, items in elsewhere.items():
        waiting = f"changes that wait: {sum(item.pending for item in items)}"
        moving = sum(item.mapped.state is ListState.MOVING for item in items)
        if provider not in config.providers:
            advice = f"put {provider} back under `providers`, under this name; nothing is lost meanwhile"
            text = f"lists at {provider}, which is not in the settings: {len(items)}; {waiting}"
            well &= say(about, False, text, advice)
        elif moving:
            advice = (
                f"if no switch is running, it broke off: run it again, or planfix-bridge switch {account.name} --back"
            )
            _note(about, f"lists on their way from {provider}: {moving}; {waiting}", advice)
        else:
            advice = (
                f"move them: planfix-bridge switch {account.name} --to {account.provider}; "
                f"or, if they are to stay, let `provider:` of the account say {provider}"
            )
            _note(about, f"lists at {provider}, which go on there: {len(items)}", advice)
    return well


def _note(about: str, text: str, advice: str) -> None:
    """Something to know that is no fault."""
    out.print(f"[yellow]![/] [bold]{escape(about)}[/]: {escape(text)}", highlight=False)
    out.print(f"    → {escape(advice)}", highlight=False)


def _facts(each: type[Provider[Any]]) -> dict[str, object]:
    return {"name": each.name, "title": each.title, **asdict(each.capabilities), **asdict(each.limits)}


def _matrix(classes: list[type[Provider[Any]]]) -> Table:
    ran = conformance()
    shown = table("Name", "Service", "A list is", "A changed address", "Proved against", "Promises kept")
    for each in classes:
        facts = {fact: value for fact, (_, value) in facts_of(each).items()}
        kept = ran.get(each.name)
        shown.add_row(
            each.name,
            plain(each.title),
            plain(facts["list_is"]),
            plain(facts["renames_address"]),
            facts["proof"],
            f"{kept.kept} of {kept.promises}" if kept else "not run",
        )
    return shown


def _settings(each: type[Provider[Any]]) -> list[dict[str, object]]:
    return [
        {
            "key": setting.key,
            "help": setting.help,
            "takes": setting.shape,
            "required": setting.required,
            "default": setting.default,
        }
        for setting in settings_of(each.settings_type)
    ]


def _show(each: type[Provider[Any]]) -> None:
    out.print(f"[bold]{escape(each.title)}[/] (type: {each.name})", highlight=False)
    for title, value in facts_of(each).values():
        out.print(f"  {title}: {escape(value)}", highlight=False)
    for line in each.capabilities.unsupported:
        out.print(f"  not supported: {escape(line)}", highlight=False)
    shown_settings = table("Setting", "Takes", "Default", "Help")
    for setting in settings_of(each.settings_type):
        default = "required" if setting.required else "—" if setting.default is None else str(setting.default)
        shown_settings.add_row(*(plain(cell) for cell in (setting.key, setting.shape, default, setting.help)))
    out.print(shown_settings)
