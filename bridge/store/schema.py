"""The schema of a store, brought up to date when it is opened."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"


class NewerSchema(Exception):
    """A newer version of the bridge made the store; the revision is the message."""


def migrate(connection: Connection) -> None:
    """Takes the steps that are missing. Raises NewerSchema."""
    # A file's name starts with its revision: most starts find them equal, and need none of Alembic's memory and time.
    revisions = {file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    current = None
    if inspect(connection).has_table("alembic_version"):
        current = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if current == max(revisions):
        return
    if current is not None and current not in revisions:
        raise NewerSchema(current)
    from alembic import command
    from alembic.config import Config

    alembic = Config()
    alembic.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    alembic.attributes["connection"] = connection
    command.upgrade(alembic, "head")
