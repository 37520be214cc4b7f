"""Our tables, all named `autoprompt_...`. Optuna's tables in the same database are its own."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _json(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.JSON(none_as_null=True), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=nullable)


def _word(name: str, *, nullable: bool = False, unique: bool = False) -> sa.Column:
    return sa.Column(name, sa.String(255), nullable=nullable, unique=unique)


def _whole(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _real(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.Double, nullable=nullable)


def _key() -> sa.Column:
    return sa.Column("id", sa.Integer, primary_key=True)


def _of(table: str, *, nullable: bool = False, primary_key: bool = False) -> sa.Column:
    return sa.Column(
        f"{table}_id",
        sa.Integer,
        sa.ForeignKey(f"autoprompt_{table}.id", ondelete="CASCADE"),
        nullable=nullable,
        primary_key=primary_key,
    )


study = sa.Table(
    "autoprompt_study",
    metadata,
    _key(),
    _word("name", unique=True),
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
    _json("work", nullable=True),
)

pool = sa.Table(
    "autoprompt_pool",
    metadata,
    _of("study", primary_key=True),
    sa.Column("kind", sa.String(64), primary_key=True),
    sa.Column("short_id", sa.String(64), primary_key=True),
    _whole("position"),
    _text("text"),
    _text("source"),
    _real("score", nullable=True),
)

candidate = sa.Table(
    "autoprompt_candidate",
    metadata,
    _key(),
    _word("digest", unique=True),
    _word("method"),
    _text("template", nullable=True),
    _json("label_words", nullable=True),
    _json("settings"),
)

trial = sa.Table(
    "autoprompt_trial",
    metadata,
    _key(),
    _of("study"),
    _whole("optuna_number", nullable=True),
    sa.Column("candidate_id", sa.Integer, sa.ForeignKey("autoprompt_candidate.id"), nullable=False),
    _word("state"),
    sa.Column("baseline", sa.Boolean, nullable=False),
    _real("seconds"),
    _whole("tokens"),
    _whole("peak_memory"),
    _json("versions"),
    _text("error", nullable=True),
    _word("created"),
    sa.UniqueConstraint("study_id", "optuna_number"),
    sa.Index(None, "candidate_id"),
)

block_score = sa.Table(
    "autoprompt_block_score",
    metadata,
    _of("trial", primary_key=True),
    sa.Column("stage", sa.String(32), primary_key=True),
    sa.Column("block", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("metric", sa.String(255), primary_key=True),
    _whole("seed"),
    _whole("fold"),
    _real("value"),
)

artifact = sa.Table(
    "autoprompt_artifact",
    metadata,
    _key(),
    _of("study"),
    _of("trial", nullable=True),
    _word("kind"),
    _text("path"),
    _word("digest"),
    _whole("size"),
    _word("created"),
    sa.Index(None, "study_id"),
)

test = sa.Table(
    "autoprompt_test",
    metadata,
    _key(),
    _of("study"),
    _whole("opening"),
    _word("created"),
    _text("source"),
    _word("data_digest"),
    _whole("n"),
    _whole("overlap"),
    _of("trial", nullable=True),
    _word("method"),
    sa.Column("baseline", sa.Boolean, nullable=False),
    _word("subset"),
    _real("accuracy"),
    _real("macro_f1"),
    _real("mcc"),
    sa.Index(None, "study_id"),
)
