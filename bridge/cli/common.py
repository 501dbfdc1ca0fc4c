"""What the commands share: finding the configuration, running async code, saying errors in one sentence."""

import asyncio
import ipaddress
import os
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich import markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.config import Config, ConfigError, config_path, load, sandbox_config
from bridge.registry import BrokenProvider, UnknownProvider
from bridge.store import StoreError
from providers.base import ProviderError

T = TypeVar("T")

SANDBOX_FOLDER = Path("data")
config_option = click.option(
    "-c", "--config", "config_file", metavar="FILE", help="settings; else $PLANFIX_BRIDGE_CONFIG, else ./config.yaml"
)
json_option = click.option("--json", "as_json", is_flag=True, help="print JSON for other programs")
PIPED_WIDTH = 10_000
out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


class UserError(click.ClickException):
    """Something that the person at the terminal can mend; shown without a traceback."""

    def show(self, file: Any = None) -> None:
        err.print(f"[bold red]Error:[/] {escape(self.message)}", highlight=False)


def escape(text: object) -> str:
    """`text` for a place among rich's markup."""
    return markup.escape(str(text))


def plain(text: object) -> Text:
    """`text` as it is, for a cell of a table."""
    return Text(str(text))


def unfold_when_piped() -> None:
    """What goes into a file or another program keeps one line a row, however long."""
    for console in (out, err):
        if not console.is_terminal:
            console.width = PIPED_WIDTH


def load_config(option: str | None) -> Config:
    """The settings by `-c`, environment or `./config.yaml`; without any of them those of the sandbox here, if it ran.

    Raises UserError.
    """
    path = config_path(option, os.environ)
    try:
        if not path.exists() and not option and not os.environ.get("PLANFIX_BRIDGE_CONFIG"):
            if (SANDBOX_FOLDER / "sandbox-token").exists():
                return sandbox_config(SANDBOX_FOLDER)
            raise UserError(
                f"There is no {path} here. Copy config.example.yaml and fill it in, or try the bridge without any: "
                "planfix-bridge serve --sandbox"
            )
        return load(path)
    except ConfigError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's async part; what a person can mend becomes a UserError."""
    try:
        return asyncio.run(work)
    except StoreError as error:
        raise UserError(f"The store cannot be used: {error}") from error
    except (UnknownProvider, BrokenProvider) as error:
        raise UserError(str(error)) from error
    except ProviderError as error:
        raise UserError(f"The provider answered: {type(error).__name__} {error.detail}") from error


def local_url(host: str, port: int) -> str:
    """Where a bridge that runs here answers, by the settings of its listener."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass  # a name
    else:
        if address.is_unspecified:  # "listen everywhere" is no place to call
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def table(*columns: str) -> Table:
    """An empty table in the one style of all commands."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def local_time(at: float) -> str:
    """A Unix time as people here read it."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
