"""The long form of the switch suite, `make switch`: twenty thousand contacts in seven lists, there and back.

    python -m tests.switch --contacts 20000 --lists 7 --kills 10 --seed 7

First without a kill, then with `--kills` of them; on SQLite and on PostgreSQL. Prints tables, and ends with 1 when a
list was not as Planfix was answered.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a package below pgserver, about a folder that is not used
    import pgserver

from tests.conftest import new_database
from tests.switch.run import Leg, play

KINDS = ("mailchimp tag", "brevo", "sendgrid", "listmonk")
LEGS = ("brevo", "sendgrid", "listmonk", "mailchimp")


async def main(options: argparse.Namespace, console: Console) -> bool:
    """Whether every list was as it should be at the end of every leg."""
    differences = []
    with tempfile.TemporaryDirectory() as name, pgserver.get_server(Path(name) / "pg", cleanup_mode="stop") as server:
        for store in options.stores.split(","):
            for kills in dict.fromkeys((0, options.kills)):
                folder = Path(name) / f"{store} {kills}"
                folder.mkdir()
                url = f"sqlite:///{folder / 'bridge.db'}"
                if store == "postgresql":
                    url = await new_database(server.get_uri())
                size = {"contacts": options.contacts, "lists": options.lists, "kills": kills}
                told = await play(KINDS, LEGS, folder, url, **size, seed=f"{options.seed} {store}")
                console.print(_table(told, kills))
                differences += [f"{leg.store}, to {leg.to}: {each}" for leg in told for each in leg.differences]
    for difference in differences[:50]:
        console.print(difference, style="red", markup=False)
    return not differences


def _table(legs: list[Leg], kills: int) -> Table:
    table = Table(title=f"Lists on their way, {kills} kills of the switch")
    for heading in ("store", "to"):
        table.add_column(heading)
    numbers = ("kills", "runs", "moved", "opted out", "answered meanwhile", "expected", "found", "s", "differences")
    for heading in numbers:
        table.add_column(heading, justify="right")
    for leg in legs:
        figures = (leg.kills, leg.runs, leg.moved, leg.opted_out, leg.answered, leg.expected, leg.found)
        table.add_row(leg.store, leg.to, *map(str, (*figures, round(leg.duration_s), len(leg.differences))))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--contacts", type=int, default=20_000)
    parser.add_argument("--lists", type=int, default=7)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--stores", default="sqlite,postgresql")
    parser.add_argument("--seed", default=secrets.token_hex(4))
    options = parser.parse_args()
    out = Console(width=130)
    out.print(f"--seed {options.seed}")
    sys.exit(0 if asyncio.run(main(options, out)) else 1)
