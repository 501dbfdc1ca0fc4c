"""Lists may move to another provider: their copies there, and who was copied."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("lists", sa.Column("copy_of", ID, nullable=True))
    op.add_column("lists", sa.Column("left_at", sa.Double(), nullable=True))
    op.create_table(
        "copied",
        sa.Column("list_id", ID, nullable=False),
        sa.Column("contact_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("provider_contact_id", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["list_id"],
            ["lists.id"],
        ),
        sa.PrimaryKeyConstraint("list_id", "contact_id", "fingerprint"),
    )
    op.create_index("copied_by_fingerprint", "copied", ["list_id", "fingerprint"], unique=False)
