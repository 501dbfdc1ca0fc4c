"""`planfix-bridge reload`."""

from http import HTTPStatus

import aiohttp
import click

from bridge.cli.common import UserError, config_option, err, escape, local_url, out, run
from bridge.config import Admin, ConfigError, config_path
from bridge.reload import admin_of


@click.command()
@config_option
def reload(config_file: str | None) -> None:
    """Have the bridge that runs here read its settings again; exit 1, and nothing changes, when they are faulty.

    The file is the one with which the bridge was started; FILE says only where its admin port is. Of several replicas
    each is told by itself.
    """
    try:
        admin = admin_of(config_path(config_file))
    except ConfigError as error:
        raise UserError(f"{error}\nNothing was changed.") from error
    run(_reload(admin))


async def _reload(admin: Admin) -> None:
    if admin.port == 0:
        raise UserError("The settings leave `admin.port` open (0): send SIGHUP to the bridge, and look at its log.")
    url = local_url(admin.host, admin.port) + "/reload"
    headers = {"Authorization": f"Bearer {admin.token.reveal()}"} if admin.token else {}
    try:
        async with aiohttp.ClientSession(headers=headers) as session, session.post(url) as response:
            if response.status not in (HTTPStatus.OK, HTTPStatus.UNPROCESSABLE_ENTITY):
                raise UserError(f"The bridge at {url} answers {response.status}. Is `admin` as it was at its start?")
            answer = await response.json()
    except (aiohttp.ClientError, ValueError) as error:
        raise UserError(
            f"No bridge answers at {url}. Does it run here, and is `admin` in the settings as it was at its start?"
        ) from error
    if faults := answer.get("faults"):
        raise UserError("\n".join([*faults, "Nothing was changed: the bridge runs on with the settings that it had."]))
    for change in answer["changes"]:
        out.print(escape(change), highlight=False)
    if answer["changes"]:
        err.print("The settings were taken over.")
    else:
        err.print("The settings are the same. Services that were away are tried at once.")
