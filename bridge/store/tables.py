"""The tables. Every change here needs a migration in `bridge/migrations/versions`."""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.engine import Dialect

metadata = MetaData()


class Bytes(LargeBinary):
    """Both drivers take and give `bytes` as they are; SQLAlchemy's own type copies each value."""

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> None:
        return None

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        return None


meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Bytes, nullable=False),
)

lists = Table(
    "lists",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("account", Text, nullable=False),
    Column("public_id", Text, unique=True),  # what Planfix holds; empty while the list is being made
    Column("provider", Text, nullable=False),
    Column("provider_list_id", Text),
    Column("name", Text, nullable=False),  # as Planfix gave it
    Column("provider_name", Text, nullable=False),  # as it is, or is being, made at the ESP
    Column("state", Text, nullable=False),
    Column("last_seq", BigInteger, nullable=False, server_default="0"),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double),  # when Planfix last changed it; empty until then
    # The list of Planfix that this one is filled to take the place of, or whose place it once was.
    Column("copy_of", BigInteger().with_variant(Integer, "sqlite")),
    Column("left_at", Double),  # of a copy: when the list of Planfix moved away from it; empty where it never was there
    Index("lists_by_name", "account", "name"),
)

contacts = Table(
    "contacts",
    metadata,
    Column("list_id", ForeignKey("lists.id"), nullable=False),
    Column("contact_id", Text, nullable=False),
    Column("provider_contact_id", Text),
    Column("fingerprint", Bytes, nullable=False),
    PrimaryKeyConstraint("list_id", "contact_id"),
    Index("contacts_by_fingerprint", "fingerprint"),
)

opt_outs = Table(
    "opt_outs",
    metadata,
    Column("account", Text, nullable=False),
    Column("fingerprint", Bytes, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("how", Text, nullable=False),
    PrimaryKeyConstraint("account", "fingerprint"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("list_id", ForeignKey("lists.id"), nullable=False),
    Column("contact_id", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("fingerprint", Bytes, nullable=False),
    Column("first_name", Text),
    Column("last_name", Text),
    Column("old_addresses", Text, nullable=False),  # one a line
    Column("created_at", Double, nullable=False),
    Column("due_at", Double, nullable=False),
    PrimaryKeyConstraint("list_id", "contact_id"),
    Index("outbox_in_order", "list_id", "seq", unique=True),
)

copied = Table(  # what became of everybody on a list that is being moved: of `list_id`, its copy, the map to be
    "copied",
    metadata,
    Column("list_id", ForeignKey("lists.id"), nullable=False),
    Column("contact_id", Text, nullable=False),  # empty for somebody whom Planfix does not know
    Column("fingerprint", LargeBinary, nullable=False),
    Column("provider_contact_id", Text),
    Column("result", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    PrimaryKeyConstraint("list_id", "contact_id", "fingerprint"),
    Index("copied_by_fingerprint", "list_id", "fingerprint"),
)

under_way = Table(  # jobs of a provider that may yet put these addresses on a list, at most until then
    "under_way",
    metadata,
    Column("key", Text, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("provider_list_id", Text, nullable=False),
    Column("job_id", Text),
    Column("until", Double, nullable=False),
    Column("fingerprints", Bytes, nullable=False),
)

removals = Table(  # that the guard let go
    "removals",
    metadata,
    Column("list_id", ForeignKey("lists.id"), nullable=False),
    Column("at", Double, nullable=False),
    Column("contacts", BigInteger, nullable=False),
    Column("list_size", BigInteger, nullable=False),
    Index("removals_by_time", "list_id", "at"),
)

problems = Table(
    "problems",
    metadata,
    Column("list_id", ForeignKey("lists.id"), nullable=False),
    Column("contact_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("seq", BigInteger, nullable=False, server_default="0"),  # of the change that was refused
    PrimaryKeyConstraint("list_id", "contact_id"),
)
