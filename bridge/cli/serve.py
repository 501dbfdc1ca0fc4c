"""`planfix-bridge serve`."""

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.panel import Panel

from bridge import logs
from bridge.cli.common import SANDBOX_FOLDER, UserError, config_option, err, escape, load_config, run
from bridge.config import Config, ConfigError, config_path, sandbox_config
from bridge.server import Listening, serve_until_stopped


@click.command()
@config_option
@click.option("--sandbox", is_flag=True, help="needs no file: an embedded provider, everything under ./data")
def serve(config_file: str | None, sandbox: bool) -> None:
    """Run the server until it is stopped."""
    if sandbox and config_file:
        raise UserError("--sandbox takes no settings file.")
    config = _sandbox_config(SANDBOX_FOLDER) if sandbox else load_config(config_file)
    path = config_path(config_file)
    logs.set_up()
    try:
        run(_serve(config, None if sandbox or not path.exists() else path))
    except OSError as error:
        server, admin = config.server, config.admin
        reason = str(error.strerror).rpartition(": ")[2]  # asyncio puts the address before it
        raise UserError(
            f"Cannot listen on {server.host}:{server.port} or {admin.host}:{admin.port}: {reason}. "
            "Is a bridge running already?"
        ) from error


async def _serve(config: Config, path: Path | None) -> None:
    started: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_until_stopped(config, path, started))
    both: set[asyncio.Future[Any]] = {serving, started}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if started.done():
        _greet(config, started.result(), sandbox=path is None)
    with suppress(asyncio.CancelledError):
        await serving


def _sandbox_config(folder: Path) -> Config:
    try:
        return sandbox_config(folder)
    except ConfigError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"Cannot write to {folder}: {error.strerror}") from error


def _greet(config: Config, running: Listening, *, sandbox: bool) -> None:
    """What to type into Planfix. A token is shown only where the sandbox has made it up."""
    lines = [f"URL for Planfix  [bold]{escape(running.url)}[/]"]
    if sandbox:
        token = config.accounts["sandbox"].tokens[0].reveal()
        lines.append(f"API Key          [bold]{escape(token)}[/]")
    asks = "asks for admin.token" if config.admin.token else "from this machine only"
    lines.append(f"Status page      {escape(running.admin_url)}  ({asks})")
    err.print(Panel("\n".join(lines), title="Planfix mailing bridge", expand=False), highlight=False)
    if sandbox:
        body = json.dumps({"action": "createList", "authToken": token, "data": {"listName": "Test"}})
        err.print("Try it from another terminal:\n", highlight=False)
        err.print(f"  curl -sS {running.url} -d '{body}'", highlight=False, markup=False, soft_wrap=True)
        err.print(f"  {_command()} simulate --contacts 1000\n", highlight=False, markup=False, soft_wrap=True)


def _command() -> str:
    """How this command was called: it need not be on the PATH."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "planfix-bridge" else "planfix-bridge"
