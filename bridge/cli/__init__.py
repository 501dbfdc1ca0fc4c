"""The command line: one module a group of commands, put together here."""

import click

from bridge.cli.common import unfold_when_piped
from bridge.cli.init import init
from bridge.cli.inspect import check, providers
from bridge.cli.look import lists, pending, problems
from bridge.cli.reload import reload
from bridge.cli.serve import serve
from bridge.cli.simulate import simulate
from bridge.cli.switch import switch
from bridge.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="planfix-bridge")
def main() -> None:
    """Keep mailing lists at any email service in step with Planfix contact filters."""
    unfold_when_piped()


for command in (init, serve, reload, check, providers, lists, pending, problems, simulate, switch, verify):
    main.add_command(command)
