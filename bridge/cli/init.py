"""`planfix-bridge init`: from a provider and its key to a settings file and what to type into Planfix."""

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click
from rich.panel import Panel

from bridge.cli.common import UserError, err, escape, out, run
from bridge.cli.inspect import say_findings
from bridge.config import Config, ConfigError, Language, ProviderConfig
from bridge.registry import BrokenProvider, UnknownProvider, provider_class, provider_types
from bridge.settings import Setting, settings_of
from bridge.setup import Answers, env_text, literal, settings_text, tried, write_for_owner
from providers.base import Choice, ProviderError


@click.command()
@click.option(
    "-c", "--config", "config_file", metavar="FILE", default="config.yaml", show_default=True, help="to write"
)
@click.option("--provider", "type_name", metavar="TYPE", help="the email service; asked for when left out")
@click.option(
    "--set", "given", metavar="KEY=VALUE", multiple=True, help="a setting; the value may be ${NAME} or ${file:PATH}"
)
@click.option("--env-file", metavar="FILE", help="write the secrets there, and only their names into the settings")
@click.option(
    "--language", type=click.Choice(["en", "ru"]), default="en", show_default=True, help="of texts in Planfix"
)
@click.option("--url", metavar="URL", help="where Planfix will reach the bridge: https://bridge.example.org")
@click.option("--force", is_flag=True, help="replace files that are there")
@click.option("--no-check", is_flag=True, help="do not try the key")
def init(
    config_file: str,
    type_name: str | None,
    given: Sequence[str],
    env_file: str | None,
    language: Language,
    url: str | None,
    force: bool,
    no_check: bool,
) -> None:
    """Ask for an email service and its key, try them, write the settings, tell what to type into Planfix."""
    for path in filter(None, (config_file, env_file)):
        if not Path(path).parent.is_dir():
            raise UserError(f"There is no folder {Path(path).parent} for {Path(path).name}.")
        if Path(path).exists() and not force:
            raise UserError(
                f"{path} is there already. Give another name with -c or --env-file, or --force to replace it."
            )
    asking = sys.stdin.isatty()
    settings = dict(_pair(each) for each in given)
    type_name = type_name or _asked_type(asking)
    try:
        declared = settings_of(provider_class(type_name).settings_type)
    except (UnknownProvider, BrokenProvider) as error:
        raise UserError(str(error)) from error
    answers = Answers(
        type_name,
        settings,
        secrets.token_urlsafe(24),
        language,
        frozenset(setting.key for setting in declared if setting.secret),
        env_file is not None,
    )
    answers, config = _complete(answers, declared, Path(config_file).parent, asking=asking, check=not no_check)
    _write(answers, Path(config_file), Path(env_file) if env_file else None, force)
    _say_what_next(answers, config, config_file, env_file, url)


def _pair(given: str) -> tuple[str, str]:
    key, equals, value = given.partition("=")
    if not equals:
        raise UserError(f"--set {key} has no value: write --set {key}=VALUE")
    return key, value


def _asked_type(asking: bool) -> str:
    types = provider_types()
    if not asking:
        raise UserError("Which email service? Give --provider TYPE, one of " + ", ".join(types))
    for number, name in enumerate(types, 1):
        out.print(f"{number:3} {escape(provider_class(name).title)}", highlight=False)
    return types[click.prompt("Which email service", type=click.IntRange(1, len(types))) - 1]


def _complete(
    answers: Answers, declared: Sequence[Setting], folder: Path, *, asking: bool, check: bool
) -> tuple[Answers, Config]:
    """Asks until the settings can be read and the service takes the key. Raises UserError where nobody can be asked."""
    again: set[str] = set()
    while True:
        answers = _with_needed(answers, declared, asking, again)
        try:
            config = tried(answers, folder)
        except ConfigError as error:
            wrong = "\n".join(fault.text for fault in error.faults)
            if not asking:
                raise UserError(wrong) from error
            err.print(f"[red]{escape(wrong)}[/]", highlight=False)
        else:
            if asking:
                answers = _with_choices(answers, run(_choices(config.providers[answers.provider])))
                config = tried(answers, folder)
            if not check or run(say_findings(config.providers[answers.provider])):
                return answers, config
            if not asking:
                raise UserError("Nothing was written: mend what is marked above, or go on without it by --no-check.")
            if not click.confirm("Enter the settings again"):
                raise UserError("Nothing was written.")
        again = {setting.key for setting in declared if setting.required}


def _with_needed(answers: Answers, declared: Sequence[Setting], asking: bool, again: set[str]) -> Answers:
    """Asks for what must be known and is not, or is wrong."""
    missing = [s for s in declared if s.required and (s.key not in answers.settings or s.key in again)]
    if missing and not asking:
        raise UserError("Missing: " + ", ".join(f"--set {s.key}=… ({s.help})" for s in missing))
    told: Mapping[str, str] = {
        s.key: literal(click.prompt(f"{s.key} ({s.help})", hide_input=s.secret, type=str)) for s in missing
    }
    return replace(answers, settings={**answers.settings, **told})


async def _choices(config: ProviderConfig) -> dict[str, list[Choice]]:
    """What the provider offers to choose from; nothing where it does not answer, which the check then tells."""
    async with provider_class(config.type)(config.settings) as provider:
        try:
            return await provider.choices()
        except ProviderError:
            return {}


def _with_choices(answers: Answers, choices: Mapping[str, Sequence[Choice]]) -> Answers:
    picked = {}
    for key, offered in choices.items():
        if key in answers.settings or len(offered) < 2:
            continue
        for number, choice in enumerate(offered, 1):
            out.print(f"{number:3} {escape(choice.title)}", highlight=False)
        number = click.prompt(f"Which {key}", type=click.IntRange(1, len(offered)), default=1)
        picked[key] = literal(offered[number - 1].value)
    return replace(answers, settings={**answers.settings, **picked})


def _write(answers: Answers, config_file: Path, env_file: Path | None, force: bool) -> None:
    try:
        if env_file is not None:
            write_for_owner(env_file, env_text(answers), replace=force)
        write_for_owner(config_file, settings_text(answers), replace=force)
    except OSError as error:
        raise UserError(f"Cannot write {error.filename}: {error.strerror}") from error


def _say_what_next(answers: Answers, config: Config, config_file: str, env_file: str | None, url: str | None) -> None:
    server = config.server
    base = (url or f"http://{server.host}:{server.port}").rstrip("/")
    where = base if base.endswith(server.path) else base + server.path
    lines = [
        "In Planfix: Account management, Integrations, Email marketing, Planfix API",
        f"URL      [bold]{escape(where)}[/]",
        f"API Key  [bold]{escape(answers.token)}[/]",
    ]
    out.print(Panel("\n".join(lines), title="What to type into Planfix", expand=False), highlight=False)
    if url is None:
        out.print("Planfix must reach that URL from outside: put an HTTPS proxy before it (docs/operations.md).")
    load_env = f"set -a; . {env_file}; set +a; " if env_file else ""
    start = f"{load_env}planfix-bridge serve" + ("" if config_file == "config.yaml" else f" -c {config_file}")
    out.print(
        f"The settings are in {config_file}. Start the bridge: {start}", highlight=False, markup=False, soft_wrap=True
    )
