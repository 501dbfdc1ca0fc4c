"""`lists`, `pending` and `problems`: what the store and the provider hold, for people and as JSON."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from bridge.cli.common import (
    UserError,
    config_option,
    err,
    json_option,
    load_config,
    local_time,
    out,
    plain,
    print_json,
    run,
    table,
)
from bridge.config import Config
from bridge.registry import provider_class
from bridge.store import Problem, Store
from bridge.texts import text
from providers.base import Member, Unsupported

account_option = click.option("--account", metavar="NAME", help="only this account")


@click.command()
@config_option
@account_option
@click.option("--members", "list_id", metavar="LIST", help="show who is on this list at the provider")
@json_option
def lists(config_file: str | None, account: str | None, list_id: str | None, as_json: bool) -> None:
    """Show the lists that Planfix made, or the members of one."""
    config = load_config(config_file)
    if list_id is None:
        run(_lists(config, account, as_json))
    else:
        run(_members(config, list_id, as_json))


@click.command()
@config_option
@account_option
@click.option("--release", metavar="LIST|ACCOUNT", help="let the removals go that the guard holds")
@json_option
def pending(config_file: str | None, account: str | None, release: str | None, as_json: bool) -> None:
    """Show what is accepted and not delivered yet, or release what is held."""
    config = load_config(config_file)
    if release is None:
        run(_pending(config, account, as_json))
    else:
        run(_release(config, release, as_json))


@click.command()
@config_option
@account_option
@json_option
def problems(config_file: str | None, account: str | None, as_json: bool) -> None:
    """Show what the provider refused for good, and what the guard holds."""
    run(_problems(load_config(config_file), account, as_json))


@asynccontextmanager
async def _store(config: Config) -> AsyncIterator[Store]:
    store = await Store.open(config.store)
    try:
        yield store
    finally:
        await store.close()


async def _lists(config: Config, account: str | None, as_json: bool) -> None:
    async with _store(config) as store:
        found = await store.lists.summaries(account)
    if as_json:
        print_json(
            [
                {
                    "list": item.mapped.public_id,
                    "name": item.mapped.name,
                    "account": item.mapped.account,
                    "provider": item.mapped.provider,
                    "state": item.mapped.state,
                    "contacts": item.contacts,
                    "pending": item.pending,
                }
                for item in found
            ]
        )
        return
    if not found:
        out.print("No lists yet. Planfix makes one when a mailing is switched on in a filter.")
        return
    shown = table("List", "Name", "Account", "At", "State", "Contacts", "Pending")
    for item in found:
        mapped = item.mapped
        shown.add_row(
            plain(mapped.public_id or "—"),
            plain(mapped.name or "(made before this store)"),
            plain(mapped.account),
            plain(mapped.provider),
            mapped.state,
            str(item.contacts),
            str(item.pending),
        )
    out.print(shown)


async def _members(config: Config, list_id: str, as_json: bool) -> None:
    async with _store(config) as store:
        mapped = await store.lists.by_public_id(list_id)
    name, _, provider_list_id = list_id.partition(":")
    if mapped is not None:
        name, provider_list_id = mapped.provider, mapped.provider_list_id or ""
    if name not in config.providers or not provider_list_id:
        raise UserError(f"There is no list {list_id}. Show all: planfix-bridge lists")
    chosen = config.providers[name]
    async with provider_class(chosen.type)(chosen.settings) as provider:
        try:
            members: list[Member] = [member async for member in provider.members(provider_list_id)]
        except Unsupported as error:
            raise UserError(error.detail) from error
    if as_json:
        print_json(members)
        return
    shown = table("Planfix id", "Address", "First name", "Last name", "State")
    for member in members:
        row = (member.id or "", member.address, member.first_name, member.last_name, member.state)
        shown.add_row(*(plain(cell) for cell in row))
    out.print(shown)
    err.print(f"{len(members)} members")


async def _pending(config: Config, account: str | None, as_json: bool) -> None:
    async with _store(config) as store:
        depths = [depth for depth in await store.outbox.depths() if account in (None, depth.account)]
        summaries = [item for item in await store.lists.summaries(account) if item.pending]
        held = await store.removals.held(account)
    if as_json:
        print_json(
            {
                "accounts": depths,
                "lists": [{"list": item.mapped.public_id, "pending": item.pending} for item in summaries],
                "held": [{"list": item.public_id, "removals": item.removals, "since": item.since} for item in held],
            }
        )
        return
    if not depths:
        out.print("Nothing is pending: every change has been delivered or refused.")
        return
    now = time.time()
    shown = table("Account", "Pending", "Oldest since", "Waits")
    for depth in depths:
        shown.add_row(
            plain(depth.account), str(depth.pending), local_time(depth.oldest_at), f"{now - depth.oldest_at:.0f} s"
        )
    out.print(shown)
    by_list = table("List", "Name", "Pending")
    for item in summaries:
        by_list.add_row(plain(item.mapped.public_id or "—"), plain(item.mapped.name), str(item.pending))
    out.print(by_list)
    if held:
        shown_held = table("List", "Removals held", "Since")
        for each in held:
            shown_held.add_row(plain(each.public_id), str(each.removals), local_time(each.since))
        out.print(shown_held)
        err.print("Let them go: planfix-bridge pending --release LIST", highlight=False, markup=False)


async def _release(config: Config, name: str, as_json: bool) -> None:
    async with _store(config) as store:
        held = [item for item in await store.removals.held() if name in (item.public_id, item.account)]
        if not held and name not in config.accounts and await store.lists.by_public_id(name) is None:
            raise UserError(f"There is no list or account {name}. Show what is held: planfix-bridge pending")
        released = [{"list": item.public_id, "removals": await store.removals.release(item.list_id)} for item in held]
    if as_json:
        print_json(released)
        return
    if not released:
        out.print("Nothing is held there.")
    for each in released:
        out.print(f"{each['list']}: {each['removals']} removals go on.", highlight=False, markup=False)


async def _problems(config: Config, account: str | None, as_json: bool) -> None:
    async with _store(config) as store:
        found = await store.memory.problems(account)
        found += [
            Problem(item.account, item.public_id, "", "held", f"{item.removals} removals", item.since)
            for item in await store.removals.held(account)
        ]
    if as_json:
        print_json(found)
        return
    if not found:
        out.print("No problems: nothing was refused that has not been mended since.")
        return
    shown = table("Since", "List", "Planfix id", "Reason", "The provider's words")
    for problem in found:
        shown.add_row(
            local_time(problem.at),
            plain(problem.public_id),
            plain(problem.contact_id or "(the list)"),
            plain(text(problem.reason, config.language)),
            plain(problem.detail),
        )
    out.print(shown)
