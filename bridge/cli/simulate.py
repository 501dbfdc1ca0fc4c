"""`planfix-bridge simulate`."""

import random
import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bridge.cli.common import (
    UserError,
    config_option,
    err,
    escape,
    json_option,
    load_config,
    local_url,
    out,
    print_json,
    run,
    table,
)
from bridge.config import Config
from bridge.sample_contacts import BadCsv, made_up, read_csv
from bridge.simulator import CHANGES, Planfix
from providers.base import Contact

DEFAULT_CONTACTS = 100


@click.command()
@click.argument("url", required=False)
@click.option("--token", metavar="TOKEN", help='the "API Key"; else that of the first account in the settings')
@config_option
@click.option(
    "--contacts", type=click.IntRange(0), metavar="N", help=f"made-up contacts  [default: {DEFAULT_CONTACTS}]"
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="take the contacts from a file instead; columns id,email,firstName,lastName",
)
@click.option("--list-name", default="Simulated filter", show_default=True, help="name of the list")
@click.option(
    "--changes",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    metavar="N",
    help=f"single changes after the import: {', '.join(CHANGES)}, and again",
)
@click.option("--slices", type=click.IntRange(1), metavar="N", help="import N contacts a request, not all in one")
@click.option("--domain", default="sim.test", show_default=True, help="domain of made-up addresses")
@click.option("--delete-list", is_flag=True, help="delete the list at the end")
@click.option("--seed", type=int, default=1, show_default=True, help="another number makes up other contacts")
@click.option(
    "--parallel", type=click.IntRange(1, 100), default=1, show_default=True, metavar="N", help="requests at one time"
)
@click.option(
    "--repeat-after",
    "repeat_after_s",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="send a request once more when its answer takes longer",
)
@click.option("--ids-as-text", is_flag=True, help="send contact ids as text, not as numbers")
@click.option("--form", is_flag=True, help="send form fields, not JSON")
@json_option
def simulate(
    url: str | None,
    token: str | None,
    config_file: str | None,
    contacts: int | None,
    csv_file: Path | None,
    list_name: str,
    changes: int,
    slices: int | None,
    domain: str,
    delete_list: bool,
    seed: int,
    parallel: int,
    repeat_after_s: float | None,
    ids_as_text: bool,
    form: bool,
    as_json: bool,
) -> None:
    """Play Planfix against a bridge: make a list, import contacts, change some; exit 1 when a request fails.

    URL is the bridge's; without it that of the settings, or of a sandbox started in this folder.
    """
    if contacts is not None and csv_file is not None:
        raise UserError("Give --contacts or --csv, not both.")
    target, key = _target(url, token, config_file)
    if csv_file is None:
        strangers = made_up(seed, domain)
        members = list(islice(strangers, DEFAULT_CONTACTS if contacts is None else contacts))
    else:
        members = _csv_contacts(csv_file)
        strangers = made_up(seed, domain, without=members)
    bars = _Bars()
    planfix = Planfix(
        target,
        key,
        parallel=parallel,
        ids_as_text=ids_as_text,
        form=form,
        repeat_after_s=repeat_after_s,
        watch=bars.show,
    )
    with bars.progress:
        run(_play(planfix, list_name, members, slices, changes, strangers, random.Random(seed), delete_list))  # noqa: S311 - guards nothing
    ok = not any(step.errors for step in planfix.steps)
    if as_json:
        print_json(
            {
                "ok": ok,
                "list": planfix.list_id,
                "name": list_name,
                "contacts": 0 if planfix.list_deleted else len(planfix.expected),
                "deleted": planfix.list_deleted,
                "steps": planfix.steps,
            }
        )
    else:
        _show(planfix, config_file)
    if not ok:
        raise SystemExit(1)


async def _play(
    planfix: Planfix,
    list_name: str,
    contacts: Sequence[Contact],
    slice_size: int | None,
    changes: int,
    strangers: Iterator[Contact],
    dice: random.Random,
    delete_list: bool,
) -> None:
    async with planfix:
        if not await planfix.create_list(list_name):
            return
        await planfix.import_contacts(contacts, slice_size)
        await planfix.change(changes, strangers, dice)
        if delete_list:
            await planfix.delete_list()


def _target(url: str | None, token: str | None, config_file: str | None) -> tuple[str, str]:
    """URL and token to use; what is not given is read from the settings."""
    if url is None or token is None:
        config = load_config(config_file)
        url = url or _url_of(config)
        token = token or next(iter(config.accounts.values())).tokens[0].reveal()
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https") and parts.hostname and parts.hostname.encode("idna") and parts.port != 0
        )
    except ValueError:
        usable = False
    if not usable:
        raise UserError("The URL must be like http://127.0.0.1:8080/planfix")
    return url, token


def _url_of(config: Config) -> str:
    server = config.server
    if server.port == 0:
        raise UserError("The settings leave the port open (0); give the URL that the bridge printed when it started.")
    return local_url(server.host, server.port) + server.path


def _csv_contacts(path: Path) -> list[Contact]:
    try:
        return read_csv(path.read_bytes())
    except BadCsv as error:
        raise UserError(f"{path}, {error}") from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error


class _Bars:
    """A progress bar for every kind of request that concerns contacts, on a terminal only."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}

    def show(self, action: str, done: int, total: int) -> None:
        if action not in self._bars:
            self._bars[action] = self.progress.add_task(action)
        self.progress.update(self._bars[action], completed=done, total=total)


def _show(planfix: Planfix, config_file: str | None) -> None:
    shown = table("Asked", "Requests", "Success", "Errors", "Pending", "Rejected", "Waited", "Slowest")
    for step in planfix.steps:
        shown.add_row(
            step.name,
            *(str(count) for count in (step.requests, step.successes, step.errors, step.pending, step.rejected)),
            f"{step.waited_s:.2f} s",
            f"{step.slowest_s:.2f} s",
        )
    out.print(shown)
    for step in planfix.steps:
        for message, count in step.messages.items():
            out.print(f"{step.name}, {count} ×: {escape(message)}", highlight=False, soft_wrap=True)
    out.print(_summary(planfix, config_file), highlight=False, markup=False, soft_wrap=True)


def _summary(planfix: Planfix, config_file: str | None) -> str:
    """Who is on the list now and how to see it."""
    command = f"planfix-bridge lists{f' -c {shlex.quote(config_file)}' if config_file else ''}"
    if planfix.list_id is None:
        return "No list was made."
    if planfix.list_deleted:
        return f"The list {planfix.list_id} is deleted. What is left: {command}"
    counts = {
        "errors": sum(step.errors for step in planfix.steps),
        "pending": sum(step.pending for step in planfix.steps),
    }
    doubts = ", ".join(f"{what}: {count}" for what, count in counts.items() if count)
    return (
        f"Contacts that {'should be' if doubts else 'are'} on the list {planfix.list_id} now: {len(planfix.expected)}"
        f"{f' ({doubts})' if doubts else ''}. See them: {command} --members {shlex.quote(str(planfix.list_id))}"
    )
