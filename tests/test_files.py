"""Whole files or none, and one-line errors from a full or forbidden disk."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from offramp.errors import OfframpError
from offramp.files import (
    LOCK,
    Kind,
    atomic_path,
    check_apart,
    check_output,
    free_bytes,
    new_folder,
    output_folder,
    remove_unfinished,
    run_folder,
    unfinished,
    write_text,
)


def one_line(caught: pytest.ExceptionInfo[OfframpError], *words: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.json"
    write_text(path, "old ä")
    write_text(path, "new ö")
    assert path.read_text(encoding="utf-8") == "new ö"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_error_in_between_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            assert temporary.suffix == ".bin"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(OfframpError) as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    one_line(caught, "x.json", "No space left")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_that_lead_to_each_other(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OfframpError) as caught:
        write_text(tmp_path / "a", "")
    one_line(caught, "symbolic links", "choose another --out")
    assert "free some space" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OfframpError) as caught:
        write_text(tmp_path / "file" / "x.json", "")
    one_line(caught, "x.json")


def test_the_output_folder(tmp_path: Path) -> None:
    assert output_folder(tmp_path / "a" / "b").is_dir()
    assert output_folder(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "file").write_text("")
    with pytest.raises(OfframpError) as caught:
        output_folder(tmp_path / "file")
    one_line(caught, "is a file", "choose a folder")
    with pytest.raises(OfframpError) as caught:
        output_folder(tmp_path / "file" / "below")
    one_line(caught, "cannot write")


def test_free_space_where_nothing_is_yet(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert free_bytes(tmp_path / "not" / "there") == pytest.approx(found.f_bavail * found.f_frsize, rel=0.05)


TEXT = Kind("notes", (".txt",), (b"ours:",))
BINARY = Kind("a cache", mark=b"made by us")


def refused(path: Path, kind: Kind = TEXT, *inputs: Path) -> str:
    with pytest.raises(OfframpError) as caught:
        check_output(path, kind, inputs)
    one_line(caught, path.name)
    return str(caught.value)


class TestReplacing:
    """Only what the command itself writes is replaced."""

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("new.txt", None),
            ("empty.h5", b""),
            ("a.txt", "läuft".encode()),
            ("a.TXT", b"old"),
            ("without suffix", b"ours: 1"),
            ("long.txt", "é".encode() * 40_000 + b"a"),
        ],
    )
    def test_text_of_the_kind(self, tmp_path: Path, name: str, content: bytes | None) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        check_output(tmp_path / name, TEXT)

    @pytest.mark.parametrize(
        ("name", "content"),
        [("code.py", b"import os"), ("x.h5", b"\x89HDF\r\n"), ("binary.txt", b"a\0b"), ("latin.txt", b"gr\xfc\xdfe")],
    )
    def test_anything_else(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        assert "does not look like notes" in refused(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content

    def test_a_binary_file_is_told_by_its_mark_at_either_end(self, tmp_path: Path) -> None:
        for content in (b"xx made by us" + bytes(200_000), bytes(200_000) + b"made by us yy"):
            (tmp_path / "a.h5").write_bytes(content)
            check_output(tmp_path / "a.h5", BINARY)
        (tmp_path / "a.h5").write_bytes(bytes(100_000) + b"made by us" + bytes(100_000))
        assert "does not look like a cache" in refused(tmp_path / "a.h5", BINARY)

    def test_a_protected_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("mine")
        (tmp_path / "a.txt").chmod(0o444)
        assert "write-protected" in refused(tmp_path / "a.txt")
        with pytest.raises(OfframpError, match="write-protected"):
            write_text(tmp_path / "a.txt", "new")
        assert (tmp_path / "a.txt").read_text() == "mine"

    def test_permissions_stay(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("old")
        (tmp_path / "a.txt").chmod(0o600)
        write_text(tmp_path / "a.txt", "new")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o600

    def test_a_folder(self, tmp_path: Path) -> None:
        assert "is a folder" in refused(tmp_path)

    def test_a_name_that_is_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(OfframpError, match="File name too long; choose a shorter name"):
            check_output(tmp_path / ("a" * 5000), TEXT)


class TestInputs:
    """An output never is an input, by whatever name."""

    def test_the_same_file(self, tmp_path: Path) -> None:
        data = tmp_path / "a.txt"
        data.write_text("mine")
        (tmp_path / "link.txt").symlink_to("a.txt")
        (tmp_path / "hard.txt").hardlink_to(data)
        (tmp_path / "sub").mkdir()
        for name in ("a.txt", "link.txt", "hard.txt", "sub/../a.txt"):
            assert "read as an input" in refused(tmp_path / name, TEXT, data)
        assert "read as an input" in refused(data, TEXT, tmp_path / "link.txt")
        check_output(tmp_path / "b.txt", TEXT, [data, tmp_path / "gone.txt", Path("x" * 5000)])

    def test_inside_an_input_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        (folder / "deep").mkdir(parents=True)
        (tmp_path / "link").symlink_to("in")
        for name in ("in/new.txt", "in/deep/new.txt", "in/not/there/new.txt", "link/new.txt"):
            assert "lies in the input" in refused(tmp_path / name, TEXT, folder)
        check_output(tmp_path / "new.txt", TEXT, [folder])

    def test_a_file_of_an_input_folder_under_another_name(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "a.txt").write_text("mine")
        (tmp_path / "in" / "link").symlink_to("../a.txt")
        assert "is also a file of the input" in refused(tmp_path / "a.txt", TEXT, tmp_path / "in")

    def test_a_folder_that_holds_an_input(self, tmp_path: Path) -> None:
        (tmp_path / "out" / "deep").mkdir(parents=True)
        (tmp_path / "out" / "deep" / "data.h5").write_text("mine")
        for read in ("out", "out/deep", "out/deep/data.h5"):
            with pytest.raises(OfframpError, match="out"):
                check_apart([tmp_path / "out"], [tmp_path / read])
        check_apart([tmp_path / "out" / "other"], [tmp_path / "out" / "deep" / "data.h5"])


class TestLinksAndDevices:
    def test_a_link_stays_and_its_target_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        target, link = tmp_path / "there" / "t.txt", tmp_path / "l.txt"
        link.symlink_to("there/t.txt")
        write_text(link, "first")  # it leads nowhere yet
        write_text(link, "second")
        assert link.is_symlink()
        assert target.read_text() == "second"
        assert not target.is_symlink()
        assert len(list(tmp_path.rglob("*"))) == 3

    def test_a_link_that_leads_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "l.txt").symlink_to("l.txt")
        with pytest.raises(OfframpError, match="symbolic links"):
            write_text(tmp_path / "l.txt", "")
        refused(tmp_path / "l.txt")

    def test_a_pipe_and_a_socket(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(tmp_path / "socket"))
            for name in ("pipe", "socket"):
                assert "is a device or a pipe" in refused(tmp_path / name)
                with pytest.raises(OfframpError, match="is a device or a pipe"), atomic_path(tmp_path / name):
                    pass
                assert not (tmp_path / name).is_file()

    def test_a_device_takes_text_and_stays(self) -> None:
        check_output(Path("/dev/null"), TEXT)
        write_text(Path("/dev/null"), "gone")
        assert Path("/dev/null").is_char_device()
        assert "is a device" in refused(Path("/dev/null"), BINARY)

    def test_a_device_that_is_full(self) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full")
        with pytest.raises(OfframpError, match="cannot write /dev/full: No space left"):
            write_text(Path("/dev/full"), "text")

    def test_standard_output_under_the_name_of_its_file(self, tmp_path: Path) -> None:
        """What a shell appends to is not replaced."""
        code = "from offramp.files import text_output; from pathlib import Path\nwith text_output(Path('{}')) as s: s.write('x')"
        for name in ("/dev/stdout", str(tmp_path / "log")):
            (tmp_path / "log").write_text("before\n")
            with (tmp_path / "log").open("a") as log:
                subprocess.run([sys.executable, "-c", code.format(name)], stdout=log, check=True)
            assert (tmp_path / "log").read_text() == "before\nx"

    def test_text_that_no_encoding_holds(self, tmp_path: Path) -> None:
        write_text(tmp_path / "a.txt", "x\udcffy")
        assert (tmp_path / "a.txt").read_bytes() == b"x\\udcffy"


class TestTemporaries:
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), GeneratorExit(), OfframpError("no")])
    def test_nothing_is_left(self, tmp_path: Path, error: BaseException) -> None:
        (tmp_path / "x.bin").write_bytes(b"old")
        with pytest.raises(type(error)), atomic_path(tmp_path / "x.bin") as temporary:  # noqa: PT012
            temporary.write_bytes(b"half")
            assert unfinished()
            raise error
        assert not unfinished()
        assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
        assert (tmp_path / "x.bin").read_bytes() == b"old"

    def test_what_a_killed_process_left_is_removed_and_nothing_else(self, tmp_path: Path) -> None:
        code = (
            "import os; from pathlib import Path; from offramp.files import atomic_path\n"
            f"with atomic_path(Path({str(tmp_path / 'a.bin')!r})): os.kill(os.getpid(), 9)"
        )
        assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
        (left,) = tmp_path.iterdir()
        start, dead = left.name.rsplit("-", 2)[0], left.name.rsplit("-", 2)[1]
        others = [f"{start}-{os.getppid()}-0.bin", f".offramp-00000000-{dead}-0.bin", f"{start}-notes", ".hidden"]
        for name in others:
            (tmp_path / name).write_text("kept")
        write_text(tmp_path / "b.txt", "")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "b.txt"])

    def test_what_is_unfinished_can_be_removed_at_once(self, tmp_path: Path) -> None:
        writing = atomic_path(tmp_path / "a.bin")
        with run_folder(tmp_path, []):
            writing.__enter__().write_bytes(b"half")
            remove_unfinished()
            assert not unfinished()
            assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time; from pathlib import Path; from offramp.files import run_folder
with run_folder(Path(sys.argv[1]), []): print("held", flush=True); time.sleep(60)
"""


class TestLock:
    def test_a_second_run_is_refused_and_nothing_is_left_of_the_first(self, tmp_path: Path) -> None:
        with run_folder(tmp_path / "out", ["results.json"]) as out:
            with (
                pytest.raises(OfframpError, match=r"another run writes to .*choose another --out"),
                run_folder(out, []),
            ):
                pass
            assert [path.name for path in out.iterdir()] == [LOCK]  # the refused one has not removed it
            with pytest.raises(OfframpError, match="another run"), run_folder(out, []):
                pass
        assert list(out.iterdir()) == []
        with run_folder(out, []):
            pass

    def test_a_kill_leaves_no_lock_behind(self, tmp_path: Path) -> None:
        first = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(OfframpError, match="another run"), run_folder(tmp_path / "out", []):
            pass
        first.kill()
        first.wait()
        assert (tmp_path / "out" / LOCK).exists()
        with run_folder(tmp_path / "out", []):
            pass
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_file_system_without_locks_refuses_nobody(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unsupported(*_: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr("fcntl.flock", unsupported)
        with run_folder(tmp_path / "out", []), run_folder(tmp_path / "out", []):
            pass

    def test_inputs_are_kept_apart(self, tmp_path: Path) -> None:
        (tmp_path / "out" / "bundle").mkdir(parents=True)
        (tmp_path / "out" / "mine.h5").write_text("mine")
        with run_folder(tmp_path / "out", ["bundle"], [tmp_path / "out" / "mine.h5"]):
            pass
        with (
            pytest.raises(OfframpError, match="lies in the input"),
            run_folder(tmp_path / "out", ["bundle"], [tmp_path / "out"]),
        ):
            pass
        with pytest.raises(OfframpError, match="too long"), run_folder(tmp_path / ("a" * 5000), ["bundle"]):
            pass


def test_a_new_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with new_folder(path) as fresh:
        (fresh / "inner").mkdir()
        write_text(fresh / "inner" / "x.json", "new")
        assert not path.exists()
        assert unfinished()
    assert (path / "inner" / "x.json").read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
    assert not unfinished()


def test_an_error_in_between_leaves_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "new") as fresh:
            write_text(fresh / "x.json", "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "folder", "link to nothing"])
def test_a_folder_is_put_in_the_place_of_nothing(tmp_path: Path, what: str) -> None:
    path = tmp_path / "there"
    if what == "file":
        path.touch()
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nothing")
    with pytest.raises(OfframpError) as caught, new_folder(path):
        pytest.fail("it was entered")
    one_line(caught, str(path), "there already")

    def meanwhile() -> None:
        with new_folder(tmp_path / "other") as fresh:
            (fresh / "x").touch()
            (tmp_path / "other").mkdir()

    with pytest.raises(OfframpError, match="there already"):
        meanwhile()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other", "there"]
    assert list((tmp_path / "other").iterdir()) == []


def test_a_folder_of_a_process_that_is_stopped_is_removed_with_all_in_it(tmp_path: Path) -> None:
    opened = new_folder(tmp_path / "new")
    fresh = opened.__enter__()
    write_text(fresh / "x", "half")
    remove_unfinished()
    assert list(tmp_path.iterdir()) == []
