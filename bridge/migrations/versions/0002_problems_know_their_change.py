"""Problems know which change was refused: another replica may be waiting for its outcome."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("problems", sa.Column("seq", sa.BigInteger(), server_default="0", nullable=False))
