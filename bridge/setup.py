"""A settings file for one account and one provider, from answers: its text, its trial, its writing."""

import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bridge.config import Config, Language, load

ACCOUNT = "main"
TOKEN_VARIABLE = "PLANFIX_TOKEN"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True)
class Answers:
    """What goes into the file. `settings` are texts as YAML would hold them: `${NAME}` is a reference.

    The values of `secrets` (names of settings) go into the environment file when there is to be one.
    """

    provider: str
    settings: Mapping[str, str]
    token: str
    language: Language = "en"
    secrets: frozenset[str] = field(default_factory=frozenset)
    with_env_file: bool = False


def literal(text: str) -> str:
    """`text` so that no `$` in it is read as a reference."""
    return text.replace("$", "$$")


def variables(answers: Answers) -> dict[str, str]:
    """The environment variables that the settings file names, and their values."""
    if not answers.with_env_file:
        return {}
    secret = {
        f"{answers.provider}_{key}".upper(): value.replace("$$", "$")
        for key, value in answers.settings.items()
        if key in answers.secrets and not value.startswith("${")
    }
    return {TOKEN_VARIABLE: answers.token} | secret


def settings_text(answers: Answers) -> str:
    """The settings file."""
    named = variables(answers)
    settings = {
        key: f"${{{name}}}" if (name := f"{answers.provider}_{key}".upper()) in named else value
        for key, value in answers.settings.items()
    }
    token = f"${{{TOKEN_VARIABLE}}}" if named else answers.token
    document = {
        "language": answers.language,
        "accounts": {ACCOUNT: {"token": token, "provider": answers.provider}},
        "providers": {answers.provider: settings or None},
    }
    head = "# Made by `planfix-bridge init`. All settings: config.example.yaml\n"
    return head + yaml.safe_dump(document, allow_unicode=True, sort_keys=False, width=1000).replace(": null\n", ":\n")


def env_text(answers: Answers) -> str:
    """The environment file: `NAME=value` a line, quoted for shells, which systemd and Compose read too."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables(answers).items())


def tried(answers: Answers, folder: Path) -> Config:
    """The settings as the bridge would read them from a file in `folder`. Raises ConfigError."""
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".config-", suffix=".yaml", encoding="utf-8") as file:
        file.write(settings_text(answers))  # made for the owner's eyes only
        file.flush()
        return load(Path(file.name), {**os.environ, **variables(answers)})


def write_for_owner(path: Path, text: str, *, replace: bool) -> None:
    """Writes a file that only its owner may read. Raises FileExistsError when it is there and must not be replaced."""
    how = os.O_CREAT | os.O_WRONLY | (os.O_TRUNC if replace else os.O_EXCL)
    with open(os.open(path, how, 0o600), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)  # one that was there may have been open to others
        file.write(text)
