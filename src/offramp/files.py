"""Writing that loses no work: the whole new file or the old one, never over an input, never over a file of another kind."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from offramp.errors import OfframpError

FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter failed writing",
    "inline_container.cc",
    "iostream error",
)
"""What safetensors and torch say in errors of their own when the disk is full; the last two of torch come from its checkpoints."""
TEMPORARY = ".offramp-"
"""Temporary files start so; machine and process follow."""
LOCK = ".offramp.lock"
"""Lies in a folder while a run writes there."""
LOOK = 64 * 1024
"""Bytes from either end of a file that tell whose it is."""
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a file system says that has no locks."""

_numbers = itertools.count()
_unfinished: set[Path] = set()
_swept: set[Path] = set()


@dataclass(frozen=True)
class Kind:
    """What a command writes, and how an older file is known to be such: what is not may be somebody's work, and stays.

    Attributes:
        name: In words, for the refusal.
        suffixes: A text file with one of them may be replaced. Empty for binary files, which ``mark`` alone tells.
        starts: A file that starts with one of them is ours, whatever its name.
        mark: So is one that holds this within its first or last 64 KiB.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    starts: tuple[bytes, ...] = ()
    mark: bytes | None = None

    def fits(self, path: Path) -> bool:
        """Whether the regular file at ``path`` is of this kind; an empty one is of every kind."""
        with path.open("rb") as file:
            head = file.read(LOOK)
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOOK))
            tail = file.read(LOOK)
        if not head or head.startswith(self.starts):
            return True
        if self.mark is not None and (self.mark in head or self.mark in tail):
            return True
        return path.suffix.lower() in self.suffixes and _is_text(head)


def check_output(path: Path, kind: Kind, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output file before any time is spent on what goes into it. Links are followed.

    Raises:
        OfframpError: It is an input, lies in a folder that is one, or is a folder, a pipe, or a file of another kind.
    """
    try:
        check_apart([path], inputs)
        found = _status(path)
        if found is None or is_standard_output(path) or (stat.S_ISCHR(found.st_mode) and kind.suffixes):
            return
        _check_regular(path, found)
        if not kind.fits(path):
            raise OfframpError(
                f"{path} is there and does not look like {kind.name}: move it away or choose another --out"
            )
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse outputs that are inputs, compared by device and inode after links; what does not exist yet is told by its folder.

    Raises:
        OfframpError: An output is an input, lies in a folder that is one, or is a folder that holds one.
    """
    there = [path for path in inputs if os.path.exists(path)]  # which takes any text for a name
    for output in outputs:
        own = _status(output)
        above = [_identity(folder) for folder in _real(output).parents if os.path.exists(folder)]
        for path in there:
            read = _identity(path)
            if own is not None and (own.st_dev, own.st_ino) == read:
                raise OfframpError(f"{output} is read as an input and would be lost: choose another --out")
            if read in above:
                raise OfframpError(f"{output} lies in the input {path}: choose a place outside for --out")
            if own is None:
                continue
            if stat.S_ISDIR(own.st_mode):
                if (own.st_dev, own.st_ino) in [_identity(folder) for folder in _real(path).parents]:
                    raise OfframpError(f"{output} holds the input {path}, which would be lost: choose another --out")
            elif path.is_dir() and any(found == (own.st_dev, own.st_ino) for found in _identities_below(path)):
                raise OfframpError(f"{output} is also a file of the input {path}: choose another --out")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on leaving without an error it replaces ``path``.

    A link stays, and what it points to is replaced. The temporary name keeps the suffix; nothing is left of it after any error,
    Ctrl-C included, and what a killed process left of its own in the same folder is removed.

    Raises:
        OfframpError: The disk is full, the folder or the file is protected, or ``path`` is no regular file.
    """
    target = _real(path)
    temporary = target.with_name(f"{TEMPORARY}{_machine()}-{os.getpid()}-{next(_numbers)}{target.suffix[:20]}")
    try:
        found = _status(path)
        mode = 0o644 if found is None else _check_regular(path, found)
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        _unfinished.add(temporary)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, target)
    except OSError as error:
        raise _cannot_write(path, error) from error
    except OfframpError:
        raise
    except Exception as error:
        if any(sign in str(error) for sign in FULL):
            raise _cannot_write(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()
        _unfinished.discard(temporary)


def check_free(path: Path) -> None:
    """Raise :class:`~offramp.errors.OfframpError` if there is something at ``path``."""
    if os.path.lexists(path):
        raise OfframpError(f"{path} is there already: choose another --out, or move it away")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` to fill; on leaving without an error it gets that name, which nothing may have yet.

    So ``path`` is a whole folder or none. Nothing is left of it after any error, Ctrl-C included.

    Raises:
        OfframpError: There is something at ``path``, or it cannot be written.
    """
    check_free(path)
    target = _real(path)
    temporary = target.with_name(f"{TEMPORARY}{_machine()}-{os.getpid()}-{next(_numbers)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        _unfinished.add(temporary)
        temporary.mkdir()
        yield temporary
        check_free(path)
        os.rename(temporary, target)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _unfinished.discard(temporary)


@contextmanager
def text_output(path: Path | None) -> Iterator[IO[str]]:
    """A UTF-8 text stream that replaces the file at ``path`` atomically when it is left without an error.

    Nothing is put in the place of a device, nor of standard output under any of its names (None is one): these are written to.
    What UTF-8 cannot hold (lone surrogates) is escaped.
    """
    if path is None or is_standard_output(path):
        yield sys.stdout
    elif path.is_char_device():
        try:
            with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
                yield stream
        except OSError as error:
            raise _cannot_write(path, error) from error
    else:
        with (
            atomic_path(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
        ):
            yield stream


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file as :func:`text_output` does."""
    with text_output(path) as stream:
        stream.write(text)


def output_folder(path: Path) -> Path:
    """Make sure that ``path`` is a folder that can be written to, and return it."""
    try:
        if path.exists() and not path.is_dir():
            raise OfframpError(f"{path} is a file: choose a folder for the output")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


@contextmanager
def run_folder(path: Path, outputs: Iterable[str], inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A folder that no other run may write to until it is left, whatever ends this one: the lock goes with the process.

    Where the file system has no locks, nobody is refused.

    Args:
        path: The folder; it is made.
        outputs: Names in it that the run writes to, files or folders.
        inputs: What the run reads.

    Raises:
        OfframpError: Another run writes there, an input would be written over, or the folder cannot be written to.
    """
    lock = path / LOCK
    try:
        check_apart([path / name for name in outputs], inputs)
        output_folder(path)
        handle = _locked(lock)
    except BlockingIOError:
        raise OfframpError(f"another run writes to {path}: wait for its end or choose another --out") from None
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield path
    finally:
        with suppress(OSError):
            lock.unlink()
        _unfinished.discard(lock)
        os.close(handle)


def is_standard_output(path: Path) -> bool:
    """Whether a path is a name of standard output, such as ``/dev/stdout`` or the file that a shell sends it to."""
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # there is no such file, or standard output is none
        return False


def free_bytes(path: Path) -> int:
    """Free disk space at ``path``, or at its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def unfinished() -> bool:
    """Whether a file is being written, or a folder is locked, in this process."""
    return bool(_unfinished)


def remove_unfinished() -> None:
    """Remove what this process has begun to write: its last act when it is stopped."""
    while _unfinished:
        _remove(_unfinished.pop())


def _remove(path: Path) -> None:
    """A file, or a folder with all that is in it, as far as that is allowed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _locked(lock: Path) -> int:
    """The open lock file. It is removed by whoever holds it, so that the file one has locked may not be the one that is there."""
    while True:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                raise
        found = _status(lock)
        if found is not None and os.path.samestat(found, os.fstat(handle)):
            _unfinished.add(lock)
            return handle
        os.close(handle)


def _check_regular(path: Path, found: os.stat_result) -> int:
    """The permissions of an output that is there; refused unless it is a regular file that its owner lets be written."""
    if stat.S_ISDIR(found.st_mode):
        raise OfframpError(f"{path} is a folder: choose a file for --out")
    if not stat.S_ISREG(found.st_mode):
        raise OfframpError(f"{path} is a device or a pipe, not a file: choose a file for --out")
    if not found.st_mode & 0o222:
        raise OfframpError(f"{path} is write-protected: choose another --out")
    return stat.S_IMODE(found.st_mode)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _status(path: Path) -> os.stat_result | None:
    """What is at the end of a path and its links; None if nothing."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _identities_below(folder: Path) -> Iterator[tuple[int, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            if (found := _status(Path(parent, name))) is not None:
                yield found.st_dev, found.st_ino


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8 text; the last letter may be cut."""
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and len(head) == LOOK and b"\0" not in head
    return b"\0" not in head


def _machine() -> str:
    """Where process numbers mean what they mean here: the machine, and the container on it."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{zlib.crc32(f'{os.uname().nodename} {space}'.encode()):08x}"


def _sweep(folder: Path) -> None:
    """Remove the temporary files of dead processes of this machine, once per folder."""
    if folder in _swept:
        return
    _swept.add(folder)
    start = f"{TEMPORARY}{_machine()}-"
    with suppress(OSError):  # a folder that may be written to and not listed
        for entry in folder.iterdir():
            number = entry.name.removeprefix(start).split("-")[0]
            if entry.name.startswith(start) and number.isdecimal() and not _is_alive(int(number)):
                _remove(entry)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _cannot_write(path: Path, error: OSError) -> OfframpError:
    reason = error.strerror or str(error)
    if error.errno == errno.ENAMETOOLONG:
        return OfframpError(f"cannot write {error.filename or path}: {reason}; choose a shorter name")
    if error.errno == errno.ELOOP:
        return OfframpError(f"cannot write {path}: {reason}; choose another --out")
    return OfframpError(f"cannot write {path}: {reason}; free some space or choose another place")
