"""The first tables: study, pool, candidate, trial, block_score, artifact, test."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _json(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.JSON(none_as_null=True), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=nullable)


def _word(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.String(255), nullable=nullable)


def _whole(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _real(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.Double, nullable=nullable)


def _id(name: str = "id", *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.Integer, nullable=nullable)


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_autoprompt_{table}")


def _foreign(table: str, to: str, ondelete: str | None = "CASCADE") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [f"{to}_id"],
        [f"autoprompt_{to}.id"],
        name=f"fk_autoprompt_{table}_{to}_id",
        ondelete=ondelete,
    )


def upgrade() -> None:
    op.create_table(
        "autoprompt_study",
        _id(),
        _word("name"),
        _word("created"),
        _whole("seed"),
        _word("metric"),
        _word("kind"),
        _json("labels"),
        _word("data_digest"),
        _word("settings_digest"),
        _json("settings"),
        _json("space"),
        _text("model"),
        _word("model_revision", nullable=True),
        _whole("folds"),
        _word("pool_digest", nullable=True),
        _real("seconds"),
        _word("stage"),
        _json("versions"),
        _primary("study", "id"),
        sa.UniqueConstraint("name", name="uq_autoprompt_study_name"),
    )
    op.create_table(
        "autoprompt_pool",
        _id("study_id"),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("short_id", sa.String(64), nullable=False),
        _whole("position"),
        _text("text"),
        _text("source"),
        _real("score", nullable=True),
        _primary("pool", "study_id", "kind", "short_id"),
        _foreign("pool", "study"),
    )
    op.create_table(
        "autoprompt_candidate",
        _id(),
        _word("digest"),
        _word("method"),
        _text("template", nullable=True),
        _json("label_words", nullable=True),
        _json("settings"),
        _primary("candidate", "id"),
        sa.UniqueConstraint("digest", name="uq_autoprompt_candidate_digest"),
    )
    op.create_table(
        "autoprompt_trial",
        _id(),
        _id("study_id"),
        _whole("optuna_number", nullable=True),
        _id("candidate_id"),
        _word("state"),
        sa.Column("baseline", sa.Boolean, nullable=False),
        _real("seconds"),
        _whole("tokens"),
        _whole("peak_memory"),
        _json("versions"),
        _text("error", nullable=True),
        _word("created"),
        _primary("trial", "id"),
        _foreign("trial", "study"),
        _foreign("trial", "candidate", None),
        sa.UniqueConstraint(
            "study_id", "optuna_number", name="uq_autoprompt_trial_study_id_optuna_number"
        ),
    )
    op.create_index("ix_autoprompt_trial_candidate_id", "autoprompt_trial", ["candidate_id"])
    op.create_table(
        "autoprompt_block_score",
        _id("trial_id"),
        sa.Column("stage", sa.String(32), nullable=False),
        sa.Column("block", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("metric", sa.String(255), nullable=False),
        _whole("seed"),
        _whole("fold"),
        _real("value"),
        _primary("block_score", "trial_id", "stage", "block", "metric"),
        _foreign("block_score", "trial"),
    )
    op.create_table(
        "autoprompt_artifact",
        _id(),
        _id("study_id"),
        _id("trial_id", nullable=True),
        _word("kind"),
        _text("path"),
        _word("digest"),
        _whole("size"),
        _word("created"),
        _primary("artifact", "id"),
        _foreign("artifact", "study"),
        _foreign("artifact", "trial"),
    )
    op.create_index("ix_autoprompt_artifact_study_id", "autoprompt_artifact", ["study_id"])
    op.create_table(
        "autoprompt_test",
        _id(),
        _id("study_id"),
        _whole("opening"),
        _word("created"),
        _text("source"),
        _word("data_digest"),
        _whole("n"),
        _whole("overlap"),
        _id("trial_id", nullable=True),
        _word("method"),
        sa.Column("baseline", sa.Boolean, nullable=False),
        _word("subset"),
        _real("accuracy"),
        _real("macro_f1"),
        _real("mcc"),
        _primary("test", "id"),
        _foreign("test", "study"),
        _foreign("test", "trial"),
    )
    op.create_index("ix_autoprompt_test_study_id", "autoprompt_test", ["study_id"])
