"""Where a study is kept: SQLite in the outputs or a database server, without ever showing a password."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.storages import RDBStorage

from compress_exp.config.checks import UserError
from compress_exp.config.secrecy import hide_secrets

PATIENCE = 60.0
IDENTITY = "search"


def place(storage: str | None, outputs: Path, name: str) -> str:
    """The URL of a study's storage; by default a file in the outputs, whose directory is made."""
    if storage is not None:
        return storage
    directory = outputs / "searches"
    directory.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{directory / name}.db"


def open_study(url: str, name: str, directions: Sequence[str], identity: Mapping[str, Any]) -> optuna.Study:
    """The study of this name, made if it is not there.

    Args:
        url: of the storage, as SQLAlchemy reads it.
        name: of the study.
        directions: of the objectives: "minimize" or "maximize".
        identity: what is searched; a study of something else is refused.

    Raises:
        UserError: the storage cannot be opened, or the study holds another search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with told(url):
        storage = _connect(url)
        study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        content = json.loads(json.dumps(identity))
        if (found := study.user_attrs.get(IDENTITY)) is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(IDENTITY, found := content)
    if found != content:
        differs = [key for key in content if not isinstance(found, dict) or found.get(key) != content[key]]
        raise UserError(
            f"hydra.sweeper.study_name: the study {name!r} in {hide_secrets(url)} is of another search "
            f"(other values for: {', '.join(differs)}); choose another name"
        )
    return study


@contextmanager
def told(url: str) -> Iterator[None]:
    """Answer what goes wrong with a storage in one sentence."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _refusal(url, _reason(error)) from error


def _connect(url: str) -> RDBStorage:
    waits = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **waits})
    except ImportError as error:
        driver = getattr(error.__cause__, "name", None) or "for this database"
        raise _refusal(url, f"the driver {driver} is not installed; PostgreSQL's is psycopg2-binary") from error
    except RuntimeError as error:  # tables of another release
        raise _refusal(url, _reason(error)) from error


def _refusal(url: str, reason: str) -> UserError:
    password = re.search(r"//[^:/@]*:(.*)@", url)
    safe = reason.replace(password[1], "…") if password and password[1] else reason
    return UserError(f"hydra.sweeper.storage: {hide_secrets(url)} cannot be used ({hide_secrets(safe)})")


def _reason(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    original = getattr(cause, "orig", None) or cause or error
    return " ".join(str(original).splitlines()[:1]) or type(original).__name__
