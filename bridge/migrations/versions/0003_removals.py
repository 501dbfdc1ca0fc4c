"""Removals of late: the guard counts them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "removals",
        sa.Column("list_id", ID, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("contacts", sa.BigInteger(), nullable=False),
        sa.Column("list_size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["list_id"],
            ["lists.id"],
        ),
    )
    op.create_index("removals_by_time", "removals", ["list_id", "at"], unique=False)
