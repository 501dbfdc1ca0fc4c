"""Lists know when Planfix last changed them. What is not known of earlier changes stays empty."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("lists", sa.Column("changed_at", sa.Double(), nullable=True))
