"""Storage of a search: where Optuna keeps its trials, for one session or for several that search together.

A storage is a URL of SQLAlchemy (`sqlite:///FILE`, `postgresql://USER@HOST/DATABASE`, `mysql://...`), or the path of a
journal file. Passwords stay in memory: every text that leaves this module has `***` in their place.
"""

from __future__ import annotations

import importlib.util
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from zoo.errors import StorageLost, UsageError, ZooError, first_line

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.storages.journal import JournalFileOpenLock
    from sqlalchemy import URL

VARIABLE = "ZOO_STORAGE"  # takes the place of `--storage`, so that a password is on no command line
EXAMPLES = "such as `sqlite:////shared/search.db`, `postgresql://me@host/searches` or the path of a journal file"
GRACE = 120.0  # seconds without a sign of life after which a worker on another machine counts as dead
LEAST_GRACE = 2.0
CONNECT_SECONDS = 10
BUSY_SECONDS = 60  # that a write to SQLite waits for those of other processes
OPENING_SECONDS = 3.0  # of several sessions that make the tables at once, all but one fail at first
DRIVERS = {
    "postgresql": (("psycopg", "psycopg"), ("psycopg2", "psycopg2")),
    "mysql": (("pymysql", "pymysql"), ("MySQLdb", "mysqldb")),
    "mariadb": (("pymysql", "pymysql"), ("MySQLdb", "mysqldb")),
}
INSTALL = {"postgresql": "pip install 'psycopg[binary]'", "mysql": "pip install pymysql"}


@dataclass(frozen=True, kw_only=True)
class SearchPlace:
    """Where sessions of a study meet to search together.

    Attributes:
        storage: URL of SQLAlchemy, perhaps with a password, or the path of a journal file.
        name: Name of the study there. Sessions that give the same name search together.
        grace: Seconds without a sign of life after which other sessions take a trial of this one over.
    """

    storage: str
    name: str
    grace: float = GRACE

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: the storage is no URL of a known kind, or another value is wrong.
        """
        check_storage(self.storage)
        if not self.name.strip() or len(self.name) > 200:
            raise UsageError(f"`--study-name {self.name}` is not a name of 1 to 200 characters", hint="such as `birds`")
        if not LEAST_GRACE <= self.grace < float("inf"):
            raise UsageError(f"`--grace-period {self.grace:g}` is below {LEAST_GRACE:g} seconds", hint="such as `2m`")

    @property
    def shown(self) -> str:
        """The storage without its password."""
        return masked(self.storage)


def is_url(storage: str) -> bool:
    return "://" in storage


def check_storage(storage: str) -> None:
    """Check a storage without opening it.

    Raises:
        UsageError: it is empty, or no URL of a known kind.
        ZooError: the driver of its database is not installed.
    """
    if not storage.strip():
        raise UsageError("`--storage` is empty", hint=EXAMPLES)
    if not is_url(storage):
        if Path(storage).is_dir() or not Path(storage).absolute().parent.is_dir():
            raise UsageError(f"`--storage {storage}` is not the path of a file in a folder that exists", hint=EXAMPLES)
        return
    url = _with_driver(storage)
    if url.get_backend_name() != "sqlite" or str(url.database).startswith("file:"):
        return
    file = Path(str(url.database))
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UsageError(f"`--storage {storage}` is not a file in a folder that exists", hint=EXAMPLES)


def absolute_storage(storage: str) -> str:
    """The storage with the absolute path of its file, so that a study can be continued from any folder."""
    if not storage.strip():
        return storage  # which `check_storage` refuses
    if not is_url(storage):
        return str(Path(storage).absolute())
    url = _parsed(storage)
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return storage
    return url.set(database=str(Path(str(url.database)).absolute())).render_as_string(hide_password=False)


def masked(storage: str) -> str:
    """A storage without its password, as messages and files show it."""
    if not is_url(storage):
        return storage
    scheme, _, rest = storage.partition("://")
    rest = re.sub(r"([?&][^=&]*pass[^=&]*=)[^&]*", r"\1***", rest, flags=re.IGNORECASE)
    userinfo, at, place = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}{at}{place}"


def without_secret(text: str, storage: str) -> str:
    """A text, such as another library's message, in which no password of the storage is left."""
    if not is_url(storage):
        return text
    text = text.replace(storage, masked(storage))
    for secret in _secrets(storage):
        for written in {secret, quote(secret, safe=""), quote_plus(secret)}:
            text = text.replace(written, "***")
    return text


def _secrets(storage: str) -> list[str]:
    try:
        url = _parsed(storage)
    except UsageError:
        return []
    found = [url.password, *(value for name, value in url.query.items() if "pass" in name.lower())]
    return [str(one) for one in found if one]


def _parsed(storage: str) -> URL:
    try:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError as error:
        raise ZooError("the search needs Optuna", hint="pip install 'backbone-zoo[study]'") from error
    try:
        return make_url(storage)
    except (ArgumentError, ValueError) as error:  # its message has the whole text in it
        raise UsageError(f"`--storage {masked(storage)}` is not a URL", hint=EXAMPLES) from error


def _with_driver(storage: str) -> URL:
    """The URL with a driver that is installed.

    Raises:
        UsageError: it is no URL of a known kind.
        ZooError: no driver is installed.
    """
    url = _parsed(storage)
    kind = url.get_backend_name()
    if kind == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise UsageError(f"`--storage {masked(storage)}` names no file", hint=EXAMPLES)
        return url
    if kind not in DRIVERS:
        raise UsageError(f"`--storage {masked(storage)}` is of no kind that zoo knows", hint=EXAMPLES)
    if "+" not in url.drivername:
        for module, driver in DRIVERS[kind]:
            if importlib.util.find_spec(module) is not None:
                return url.set(drivername=f"{kind}+{driver}")
    else:
        wanted = url.drivername.partition("+")[2]
        module = next((one for one, driver in DRIVERS[kind] if driver == wanted), wanted)
        if importlib.util.find_spec(module) is not None:
            return url
    raise ZooError(
        f"`--storage {masked(storage)}` needs a driver that is not installed",
        hint=INSTALL.get(kind, INSTALL["mysql"]),
    )


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Raise what a storage raises within a `with` block as one line without a password.

    Raises:
        StorageLost: the storage cannot be used.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError, ValueError, KeyError) as error:
        if isinstance(error, (ValueError, KeyError)) and is_url(storage):
            raise  # only a journal that is cut short raises these
        cause = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
        reason = " ".join(first_line(cause).split())
        raise StorageLost(
            without_secret(f"`{masked(storage)}` cannot be used: {reason}", storage),
            hint="is it there, and may you write to it? Nothing is lost: `zoo study FOLDER` continues the search"
            if is_url(storage) and not storage.startswith("sqlite")
            else "may you write to it, is there room, is it a storage? One that is damaged can be moved away",
        ) from None  # the library's own traceback may have the URL in it


def open_storage(storage: str, *, make: bool = True) -> BaseStorage:
    """Open a storage, and make its tables where it has none; unless `make`, one that is not there stays so.

    Raises:
        UsageError, ZooError: see `check_storage`.
        StorageLost: it cannot be reached or used.
    """
    check_storage(storage)
    if not make and (missing := _missing_file(storage)) is not None:
        raise StorageLost(f"there is no storage `{missing}`", hint="the first `zoo study --storage` makes it")
    if not make and _is_empty(storage):
        raise StorageLost(f"`{masked(storage)}` holds no search", hint="the first `zoo study --storage` makes one")
    until = time.monotonic() + OPENING_SECONDS
    while True:
        try:
            with storage_errors(storage):
                return _open(storage)
        except StorageLost:
            if time.monotonic() > until:
                raise
            time.sleep(0.3)


def close_storage(storage: BaseStorage) -> None:
    """Close the connections of a storage."""
    storage.remove_session()
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    if engine is not None:
        engine.dispose()


def _missing_file(storage: str) -> str | None:
    """The file of a storage, where that does not exist."""
    if is_url(storage):
        url = _parsed(storage)
        file = str(url.database) if url.get_backend_name() == "sqlite" else None
    else:
        file = storage
    return None if file is None or Path(file).is_file() else file


def _is_empty(storage: str) -> bool:
    """Whether a database has no tables of Optuna; opening it there would make them."""
    if not is_url(storage):
        return False
    from sqlalchemy import create_engine, inspect

    with storage_errors(storage):
        engine = create_engine(_with_driver(storage), connect_args=_connect_args(storage))
        try:
            return not inspect(engine).has_table("studies")
        finally:
            engine.dispose()


def _connect_args(storage: str) -> dict[str, Any]:
    sqlite = _parsed(storage).get_backend_name() == "sqlite"
    return {"timeout": BUSY_SECONDS} if sqlite else {"connect_timeout": CONNECT_SECONDS}


def _open(storage: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    if not is_url(storage):
        return JournalStorage(JournalFileBackend(storage, lock_obj=_journal_lock(storage)))
    url = _with_driver(storage)
    options: dict[str, Any] = {"connect_args": _connect_args(storage)}
    if url.get_backend_name() != "sqlite":
        options["pool_pre_ping"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of alembic, which reads a setting of a later version
        return get_storage(RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options))


def _journal_lock(file: str) -> JournalFileOpenLock:
    """A lock of a journal file that the system releases with the process that holds it; Optuna's own waits for 30 s."""
    from filelock import FileLock
    from optuna.storages.journal import JournalFileOpenLock

    class SystemLock(JournalFileOpenLock):
        def __init__(self) -> None:
            super().__init__(file)
            self._lock = FileLock(f"{file}.zoo-lock")

        def acquire(self) -> bool:
            self._lock.acquire()
            return True

        def release(self) -> None:
            self._lock.release()

    return SystemLock()
