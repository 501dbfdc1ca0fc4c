"""Whom a job of a service may yet put on a list is known after a restart too."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "under_way",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("provider_list_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "provider_list_id", "fingerprint"),
    )
