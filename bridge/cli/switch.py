"""`planfix-bridge switch`: lists, contacts and opt-outs to another email service; back again; the end of old lists."""

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bridge import logs
from bridge.cli.common import (
    UserError,
    config_option,
    err,
    escape,
    json_option,
    load_config,
    print_json,
    run,
)
from bridge.cli.switch_shown import (
    copy_facts,
    moved_facts,
    plan_facts,
    show_cleaned,
    show_copies,
    show_moved,
    show_plan,
)
from bridge.clock import Clock
from bridge.config import Account, Config
from bridge.moves.plan import Plan, Step, plan_back, plan_to
from bridge.moves.providers import OpenProviders
from bridge.moves.report import Report
from bridge.moves.switch import Moved, State, Switch
from bridge.store import Store


@click.command()
@click.argument("account")
@click.option("--to", "target", metavar="PROVIDER", help="move all lists there: a name under `providers`")
@click.option("--back", is_flag=True, help="move lists back to where they were before")
@click.option("--clean-up", is_flag=True, help="delete the old lists that were kept, at their services")
@click.option("--dry-run", is_flag=True, help="show what would be done, and change nothing")
@click.option("--yes", is_flag=True, help="do not ask")
@click.option("--report", "report_file", metavar="FILE", help="where to tell what became of everybody")
@config_option
@json_option
def switch(
    account: str,
    target: str | None,
    back: bool,
    clean_up: bool,
    dry_run: bool,
    yes: bool,
    report_file: str | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Move the lists of an account to another email service; their ids in Planfix stay. May be repeated at any time."""
    if [target is not None, back, clean_up].count(True) != 1:
        raise UserError("Say one of --to PROVIDER, --back and --clean-up.")
    config = load_config(config_file)
    if account not in config.accounts:
        raise UserError(f"There is no account {account} in the settings. They have {', '.join(config.accounts)}.")
    logs.set_up("WARNING")  # what is done is shown
    command = _Command(config, config.accounts[account], dry_run=dry_run, yes=yes, as_json=as_json)
    well = run(command.clean_up() if clean_up else command.move(target, report_file))
    if not well:
        raise SystemExit(1)


class _Command:
    """What the options have in common."""

    def __init__(self, config: Config, account: Account, *, dry_run: bool, yes: bool, as_json: bool) -> None:
        self._config = config
        self._account = account
        self._dry_run = dry_run
        self._yes = yes
        self._as_json = as_json

    async def move(self, target: str | None, report_file: str | None) -> bool:
        """To `target`, or back where that is None; whether every list was moved that was to be."""
        name = self._account.name
        if target is not None and target not in self._config.providers:
            known = ", ".join(self._config.providers)
            raise UserError(f"There is no provider {target} in the settings. They have {known}.")
        store, clock = await Store.open(self._config.store), Clock()
        try:
            async with store.database.alone("switch"), OpenProviders(self._config, store, clock) as providers:
                look = partial(plan_to, store, name, target) if target else partial(plan_back, store, name)
                plan = await look(providers)
                stop_here = self._dry_run or bool(plan.refusals)
                if not self._as_json:
                    show_plan(plan)
                elif stop_here or not plan.steps:
                    print_json({"ok": not plan.refusals, "lists": [], "plan": plan_facts(plan)})
                if stop_here:
                    return not plan.refusals
                if plan.steps:
                    self._confirm(f"Move these {len(plan.steps)} lists")
                with _Bars(self._as_json) as bars:
                    switch = Switch(store, providers, clock, watch=bars.advance, say=bars.say)
                    await switch.tidy(plan)
                    if not plan.steps:
                        return True
                    path = Path(report_file or f"switch-{name}-{time.strftime('%Y%m%d-%H%M%S')}.csv")
                    again = partial(look, providers) if target else None
                    left, moved = await _apply(switch, bars, plan, path, again)
                if self._as_json:
                    print_json(moved_facts(left, moved, path))
                else:
                    show_moved(left, moved, path, self._account)
                return all(each.state is not State.STAYED for each in moved)
        finally:
            await store.close()

    async def clean_up(self) -> bool:
        """Whether all old lists are gone."""
        store, clock = await Store.open(self._config.store), Clock()
        try:
            async with store.database.alone("switch"), OpenProviders(self._config, store, clock) as providers:
                copies = await store.lists.copies(self._account.name)
                if not self._as_json:
                    show_copies(copies)
                if not copies or self._dry_run:
                    if self._as_json:
                        print_json([copy_facts(copy) for copy in copies])
                    return True
                self._confirm(f"Delete these {len(copies)} lists at their services")
                told = await Switch(store, providers, clock).clean_up(self._account.name)
                if self._as_json:
                    print_json([copy_facts(each.copy) | {"gone": each.gone, "detail": each.detail} for each in told])
                else:
                    show_cleaned(told)
                return all(each.gone for each in told)
        finally:
            await store.close()

    def _confirm(self, question: str) -> None:
        if self._yes:
            return
        if self._as_json or not sys.stdin.isatty():
            raise UserError("Nobody can be asked here: add --yes, after a look at --dry-run.")
        click.confirm(question, abort=True, err=True)


async def _apply(
    switch: Switch, bars: "_Bars", plan: Plan, path: Path, again: Callable[[], Awaitable[Plan]] | None
) -> tuple[Plan, list[Moved]]:
    """Carries out a plan, and what `again` finds of lists made meanwhile; the last plan, and what was done."""
    moved: list[Moved] = []
    with _opened(path) as report:
        while plan.steps and not plan.refusals:
            bars.begin(plan.steps)
            told = await switch.apply(plan, report)
            moved += told
            if again is None or any(each.state is not State.MOVED for each in told):
                break
            plan = await again()
    return plan, moved


class _Bars:
    """A progress bar for each list, on a terminal only."""

    def __init__(self, silent: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        disable = silent or not err.is_terminal
        self._progress = Progress(*columns, console=err, transient=True, disable=disable)
        self._bars: dict[int, TaskID] = {}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, steps: Sequence[Step]) -> None:
        for step in steps:
            name = step.mapped.name or str(step.mapped.public_id)
            self._bars[step.mapped.id] = self._progress.add_task(escape(name), total=2 * step.contacts or None)

    def advance(self, step: Step, members: int) -> None:
        self._progress.advance(self._bars[step.mapped.id], members)

    def say(self, text: str) -> None:
        self._progress.console.print(escape(text), highlight=False)


def _opened(path: Path) -> Report:
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}") from error
    return Report(path)
