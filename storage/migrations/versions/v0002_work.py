"""What a study's search has passed through its model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("work", sa.JSON(none_as_null=True), nullable=True)
    op.add_column("autoprompt_study", column)
