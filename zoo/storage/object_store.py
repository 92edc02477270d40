"""Object stores: named bytes behind a URL such as `s3://bucket/prefix`, or below a folder; by fsspec (extra `remote`).

Everything is written whole or not at all, and `create` writes what is not there yet: of those who create one name, one
succeeds. S3 and folders do so by themselves; with other stores of fsspec, two that create at the same instant may both.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.errors import DiskFull, UsageError, ZooError, is_disk_full, quoted
from zoo.storage.address import is_url, without_secret, without_secrets
from zoo.storage.files import json_text, write_bytes
from zoo.storage.paths import user_path

# botocore and s3fs each repeat what fails: by their own defaults, a silent store is waited for six minutes
S3_SETTINGS = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}}
S3_TRIES = 4
CREDENTIALS = (
    "credentials of S3 come from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or `AWS_PROFILE`, on every machine"
)
ADDRESSES = "such as `s3://bucket/prefix`, or a folder that all machines see"

# Errors of libraries that are not imported here, by the names of their types; and answers of stores that are full
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_FULL = re.compile(
    r"StorageFull|QuotaExceeded|InsufficientStorage|EntityTooLarge.*quota|no space left|minimum free drive", re.I
)


# What was meant as a URL and is none: `s3:bucket`, or one of fsspec that goes through another, as `simplecache::s3://b`
_LIKE_URL = re.compile(r"[A-Za-z]\w[\w+.-]*:")


class StoreError(ZooError):
    """A store does not answer, or refuses what is asked."""


class ObjectStore(ABC):
    """Named bytes below a URL. Names are relative, with slashes. Any thread may use it."""

    def __init__(self, url: str) -> None:
        self.url = url  # which has no secret

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None: there is none.

        Raises:
            ZooError: the store does not answer, or refuses it.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write an object, or replace it.

        Raises:
            DiskFull: the store is full.
            ZooError: the store does not answer, or refuses it.
        """

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write an object that is not there yet; False: it is.

        Raises:
            DiskFull, ZooError: as `write`.
        """

    @abstractmethod
    def names(self, prefix: str) -> list[str]:
        """The names of all objects below a prefix, which is a folder, sorted.

        Raises:
            ZooError: the store does not answer, or refuses it.
        """

    def upload(self, name: str, file: Path) -> None:
        """Write the content of a file.

        Raises:
            DiskFull, ZooError: as `write`.
        """
        self.write(name, file.read_bytes())

    def check(self) -> None:
        """Check that the store can be written, before anything relies on it.

        Raises:
            DiskFull, ZooError: it cannot.
        """
        self.write(".zoo-check", b"")


def open_store(address: str) -> ObjectStore:
    """The store at a URL of fsspec, or at the path of a folder that all machines share.

    Raises:
        UsageError: the address names no place, or holds a secret.
        ZooError: what it takes is not installed.
    """
    if without_secret(address) != address:
        raise UsageError(
            f"`{without_secret(address)}` was given with a user's name, a password or a signature, which would be "
            "written to disk",
            hint=CREDENTIALS,
        )
    if not address.strip():
        raise UsageError("the store has no address", hint=ADDRESSES)
    if not is_url(address):
        if _LIKE_URL.match(address):
            raise UsageError(
                f"`{address}` is no URL of a store, such as `s3://bucket/prefix`",
                hint=f"a folder of that name is `./{address}`",
            )
        return Folder(str(user_path(address).absolute()))
    scheme, _, path = address.partition("://")
    if scheme in ("file", "local"):
        return Folder(urllib.parse.unquote(path))
    if scheme == "memory":
        raise UsageError(
            f"`{address}` is in the memory of one process, and no other one sees it",
            hint=ADDRESSES,
        )
    return Remote(address)


class Folder(ObjectStore):
    """Objects as files below a folder."""

    def __init__(self, path: str) -> None:
        if not path.startswith(os.sep) and not Path(path).is_absolute():
            raise UsageError(f"`file://{path}` is not a folder's URL", hint="such as `file:///shared/store`")
        super().__init__(path)
        self._base = Path(path)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._base / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed("read", error) from error

    def write(self, name: str, data: bytes) -> None:
        self._made(name)
        try:
            write_bytes(self._base / name, data)
        except DiskFull as error:
            raise DiskFull(f"the store `{self.url}` is full", hint="make room there") from error
        except ZooError as error:
            if isinstance(error.__cause__, OSError):
                raise self._failed("written", error.__cause__) from error
            raise

    def create(self, name: str, data: bytes) -> bool:
        self._made(name)
        new = f".new-{secrets.token_hex(8)}"
        self.write(new, data)
        try:
            os.link(self._base / new, self._base / name)
        except FileExistsError:
            return False
        except OSError as error:
            raise self._failed("written", error) from error
        finally:
            (self._base / new).unlink(missing_ok=True)
        return True

    def names(self, prefix: str) -> list[str]:
        def failed(error: OSError) -> None:
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                raise self._failed("read", error) from error

        found = [
            Path(folder, file) for folder, _, files in os.walk(self._base / prefix, onerror=failed) for file in files
        ]
        return sorted(file.relative_to(self._base).as_posix() for file in found if not file.name.startswith("."))

    def _made(self, name: str) -> None:
        try:
            (self._base / name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed("written", error) from error

    def _failed(self, doing: str, error: OSError) -> ZooError:
        if is_disk_full(error):
            return DiskFull(f"the store `{self.url}` is full", hint="make room there")
        why = (error.strerror or str(error)).lower()
        return StoreError(f"the store `{self.url}` cannot be {doing}: {why}", hint="is it there, and writable?")


class Remote(ObjectStore):
    """Objects of a store of fsspec."""

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/"))
        options: dict[str, Any] = {}
        try:
            import fsspec

            is_s3 = url.startswith(("s3://", "s3a://"))
            if is_s3 and "config_kwargs" not in fsspec.config.conf.get("s3", {}):
                options["config_kwargs"] = S3_SETTINGS
            self._system, path = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        except ImportError as error:
            hint = "pip install 'backbone-zoo[remote]'" if url.startswith("s3") or error.name == "fsspec" else None
            raise ZooError(
                f"`{self.url}` cannot be used: {_sentence(error)}",
                hint=hint or "stores other than S3 need a package of their own",
            ) from error
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"`{self.url}` cannot be used: {_sentence(error)}", hint="such as `s3://bucket/prefix`"
            ) from error
        except Exception as error:  # of a protocol that connects at once
            raise self._failed("reached", error) from error
        if not str(path).strip("/"):
            raise UsageError(f"`{url}` names no bucket", hint="such as `s3://bucket/prefix`")
        if "//" in str(path).strip("/"):  # names that fsspec would list otherwise than they were written
            raise UsageError(f"`{url}` has two slashes in a row", hint="such as `s3://bucket/prefix`")
        if is_s3 and options:
            self._system.retries = S3_TRIES
        self._base = str(path).rstrip("/")

    def read(self, name: str) -> bytes | None:
        try:
            data: bytes = self._system.cat_file(f"{self._base}/{name}")
            return data
        except FileNotFoundError:
            return None
        except Exception as error:  # of the protocol's library
            raise self._failed("read", error) from error

    def write(self, name: str, data: bytes) -> None:
        try:
            self._system.pipe_file(f"{self._base}/{name}", data)
        except Exception as error:
            raise self._failed("written", error) from error

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._system.pipe_file(f"{self._base}/{name}", data, mode="create")
            return True
        except Exception as error:
            if not isinstance(error, FileExistsError) and _code(error) not in _THERE_ALREADY:
                raise self._failed("written", error) from error
            return self.read(name) == data  # it was written, and the answer was lost: the library tried again

    def names(self, prefix: str) -> list[str]:
        try:
            found = self._system.find(f"{self._base}/{prefix}")
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._failed("read", error) from error
        return sorted(str(one).removeprefix(f"{self._base}/") for one in found)

    def _failed(self, doing: str, error: Exception) -> ZooError:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        text = _sentence(error)
        if is_disk_full(error) or _FULL.search(f"{text} {_code(error)}"):
            return DiskFull(f"the store `{self.url}` is full", hint="make room there")
        if kinds & _NO_CREDENTIALS:
            return StoreError(f"there are no credentials for the store `{self.url}`", hint=CREDENTIALS)
        if isinstance(error, PermissionError):
            return StoreError(f"the store `{self.url}` refuses to be {doing}: {text}", hint=CREDENTIALS)
        if isinstance(error, FileNotFoundError):
            text = text if " " in text else "there is no such bucket"
        return StoreError(f"the store `{self.url}` cannot be {doing}: {text}", hint="check the address and the network")


# S3's codes of a conditional PUT that is refused; without the element `Condition`, which only AWS sends, s3fs does not
# take them for `FileExistsError`
_THERE_ALREADY = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


def _code(error: BaseException | None) -> str:
    """The code of an answer of S3 that an error came of; empty where there is none."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            return str((answer.get("Error") or {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""


def _sentence(error: BaseException) -> str:
    """Another library's message without its full stop, and without what may be a secret."""
    text = str(getattr(error, "strerror", None) or "") or quoted(error) or type(error).__name__
    return without_secrets(re.sub(r"\?[^\s\"'`]*", "", text)).rstrip(".")


class Held:
    """What a holder knows of its claim."""

    def __init__(self, store: ObjectStore, name: str, number: int) -> None:
        self._store, self._name, self.number = store, name, number

    @property
    def lost(self) -> bool:
        """Whether another one has taken it over, since this one was silent for too long."""
        return _latest(self._store, self._name) > self.number


@contextmanager
def hold(
    store: ObjectStore,
    name: str,
    note: dict[str, Any],
    beat: float,
    waiting: Callable[[dict[str, Any]], None] = lambda note: None,
) -> Iterator[Held]:
    """Hold a claim within a `with` block, by whom of all machines it is asked first.

    The holder writes a sign of life after each `beat` seconds. One that is silent for `SILENT` of them is taken for
    dead, and the claim goes to the next number; no clocks are compared, only signs of life. A holder that was merely
    cut off learns of it by `Held.lost`. What is done under a claim must therefore end with an object that is created
    once, as a run's marker is.

    Args:
        store: The store.
        name: Of what is claimed.
        note: Who claims it: JSON values, which others see.
        beat: Seconds.
        waiting: Called with the note of a holder that lives; it may raise.

    Raises:
        DiskFull, ZooError: the store cannot be used.
    """
    number = _take(store, name, note, beat, waiting)
    ended = threading.Event()

    def live() -> None:
        count = 0
        while not ended.wait(beat):
            count += 1
            with contextlib.suppress(ZooError):  # a store that is away may come back
                store.write(f"claims/{name}/{number:06d}.beat", str(count).encode())

    thread = threading.Thread(target=live, name="claim", daemon=True)
    thread.start()
    try:
        yield Held(store, name, number)
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(ZooError):
            store.write(f"claims/{name}/{number:06d}.beat", OVER)


SILENT = 4  # signs of life that a holder may miss
OVER = b"over"


def _take(
    store: ObjectStore, name: str, note: dict[str, Any], beat: float, waiting: Callable[[dict[str, Any]], None]
) -> int:
    mine = json_text({**note, "nonce": secrets.token_hex(8)}).encode()
    seen: tuple[int, bytes | None] | None = None
    since = time.monotonic()
    while True:
        latest = _latest(store, name)
        sign = store.read(f"claims/{name}/{latest:06d}.beat") if latest else OVER
        if sign == OVER or (seen == (latest, sign) and time.monotonic() - since > SILENT * beat):
            if store.create(f"claims/{name}/{latest + 1:06d}.json", mine):
                return latest + 1
            time.sleep(beat / 4)  # another one was first, and a listing may be late
            continue
        if seen != (latest, sign):
            if seen is not None and seen[0] == latest:  # it has just given a sign of life
                waiting(note_of(store.read(f"claims/{name}/{latest:06d}.json")))
            seen, since = (latest, sign), time.monotonic()
        time.sleep(min(beat / 4, 1.0))


def _latest(store: ObjectStore, name: str) -> int:
    numbers = [Path(one).stem for one in store.names(f"claims/{name}") if one.endswith(".json")]
    return max((int(one) for one in numbers if one.isdecimal()), default=0)


def note_of(data: bytes | None) -> dict[str, Any]:
    """The note of a claim; empty where it is damaged."""
    import json

    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
