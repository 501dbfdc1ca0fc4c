"""`planfix-bridge verify`: whether the lists at the services are what the bridge believes."""

from collections.abc import Sequence
from typing import Any

import click

from bridge.cli.common import (
    UserError,
    config_option,
    escape,
    json_option,
    load_config,
    out,
    plain,
    print_json,
    run,
    table,
)
from bridge.clock import Clock
from bridge.config import Config
from bridge.moves.providers import OpenProviders
from bridge.moves.verify import Difference, Verify
from bridge.store import Store

IDS_SHOWN = 20


@click.command()
@click.argument("account")
@click.option("--repair", is_flag=True, help="record opt-outs, queue what can be put right")
@config_option
@json_option
def verify(account: str, repair: bool, config_file: str | None, as_json: bool) -> None:
    """Compare the lists of an account with its email service; exit 1 when they differ."""
    config = load_config(config_file)
    if account not in config.accounts:
        raise UserError(f"There is no account {account} in the settings. They have {', '.join(config.accounts)}.")
    found = run(_verify(config, account, repair))
    if as_json:
        print_json([_facts(each) for each in found])
    else:
        _show(found, repair)
    if not all(each.is_well for each in found):
        raise SystemExit(1)


async def _verify(config: Config, account: str, repair: bool) -> list[Difference]:
    store = await Store.open(config.store)
    try:
        clock = Clock()
        async with OpenProviders(config, store, clock) as providers:
            return [each async for each in Verify(store, providers, clock, repair=repair).run(account)]
    finally:
        await store.close()


def _show(found: Sequence[Difference], repair: bool) -> None:
    if not found:
        out.print("No lists yet.")
        return
    shown = table("List", "Name", "At", "Members", "Missing", "Extra", "By hand", "Opted out", "Name there")
    for each in found:
        mapped = each.mapped
        counts = (each.members, len(each.missing), len(each.extra), each.by_hand, each.opted_out)
        name = "?" if each.gone or each.detail else "changed" if each.renamed else "as made"
        cells = (mapped.public_id, mapped.name, mapped.provider, *counts, name)
        shown.add_row(*(plain(cell) for cell in cells))
    out.print(shown)
    for each in found:
        for line in _lines(each, repair):
            out.print(f"{escape(each.mapped.public_id)}: {escape(line)}", highlight=False, soft_wrap=True)
    if all(each.is_well for each in found):
        out.print("[bold green]The lists are as they should be.[/]")
    elif not repair:
        out.print("Put right what can be: add --repair", highlight=False)


def _lines(each: Difference, repair: bool) -> list[str]:
    """What to know and to do about a list that is not as it should be."""
    lines = []
    if each.detail:
        lines.append(f"could not be compared: {each.detail}")
    if each.gone:
        lines.append("is gone at the service: switch the mailing of its filter off and on again in Planfix")
    if each.late:
        lines.append(f"{each.late} opted out at its old place since it has moved")
    if each.subscribed_there:
        lines.append(f"{each.subscribed_there} are subscribed there whom the bridge keeps out; it adds none of them")
    left = [contact_id for contact_id in each.missing if contact_id not in set(each.brought_back)]
    if left:
        lines.append(f"missing, save them again in Planfix: {_ids(left)}")
    if repair and each.repaired:
        lines.append(f"put right: {each.repaired}; what was queued goes with the running bridge")
    return lines


def _ids(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
    return ", ".join(ids[:IDS_SHOWN]) + more


def _facts(each: Difference) -> dict[str, Any]:
    return {
        "list": each.mapped.public_id,
        "name": each.mapped.name,
        "at": each.mapped.provider,
        "well": each.is_well,
        "members": each.members,
        "missing": each.missing,
        "brought_back": each.brought_back,
        "extra": each.extra,
        "by_hand": each.by_hand,
        "opted_out": each.opted_out,
        "late": each.late,
        "subscribed_there": each.subscribed_there,
        "renamed": each.renamed,
        "gone": each.gone,
        "repaired": each.repaired,
        "detail": each.detail,
    }
