"""HDF5 files that lead elsewhere, ask for more than they hold, or are damaged where the library does not look."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from offramp.data.containers.hdf5_checks import MAX_ARRAYS, MAX_DEPTH
from offramp.data.formats import open_table
from offramp.data.inspection import inspect_file
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

WINDOWS = np.random.default_rng(0).normal(size=(12, 2, 1, 64)).astype(np.float32)


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    """What hangs inside the library ends the test run instead of waiting forever."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for the file, with another beside it."""
    (tmp_path / "data" / "below").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for place in ("data/part.h5", "data/below/part.h5", "other/part.h5"):
        with h5py.File(tmp_path / place, "w") as file:
            file["sample"] = WINDOWS
    return tmp_path / "data"


def virtual(path: Path, *sources: tuple[str, str], rows: int = 12, shown: slice | None = None) -> Path:
    layout = h5py.VirtualLayout((rows * len(sources), *WINDOWS.shape[1:]), "f4")
    for number, (name, part) in enumerate(sources):
        source = h5py.VirtualSource(name, part, (rows, *WINDOWS.shape[1:]))
        if shown is None:
            layout[number * rows : (number + 1) * rows] = source
        else:
            layout[shown] = source[shown]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("sample", layout, fillvalue=0)
        file["label"] = np.arange(rows * len(sources)) % 2
    return path


def read(path: Path, **options: bool) -> np.ndarray:
    windows = open_table(DataSpec(path=path, **options)).windows
    return windows.read(np.arange(windows.count))


def refused(path: Path, *words: str, **options: bool) -> None:
    for attempt in (
        lambda: read(path, **options),
        lambda: inspect_file(path) if not options else read(path, **options),
    ):
        with pytest.raises(DataError) as caught:
            attempt()
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 500
        assert all(word in message for word in (path.name, *words)), message


@pytest.mark.parametrize("name", ["part.h5", "below/part.h5", "./below/../part.h5"])
def test_a_virtual_dataset_of_files_beside_and_below(folder: Path, name: str) -> None:
    path = virtual(folder / "a.h5", (name, "sample"), ("below/part.h5", "sample"))
    np.testing.assert_array_equal(read(path), np.concatenate((WINDOWS, WINDOWS)))
    absolute = virtual(folder / "b.h5", (str(folder / "part.h5"), "sample"))
    np.testing.assert_array_equal(read(absolute), WINDOWS)


def test_parts_are_found_from_where_the_file_really_is(folder: Path, tmp_path: Path) -> None:
    virtual(folder / "a.h5", ("part.h5", "sample"))
    (tmp_path / "link.h5").symlink_to(folder / "a.h5")
    np.testing.assert_array_equal(read(tmp_path / "link.h5"), WINDOWS)


def test_a_virtual_dataset_of_its_own_file(folder: Path) -> None:
    layout = h5py.VirtualLayout((6, *WINDOWS.shape[1:]), "f4")
    layout[:] = h5py.VirtualSource(".", "all", WINDOWS.shape)[::2]
    with h5py.File(folder / "a.h5", "w") as file:
        file["all"] = WINDOWS
        file.create_virtual_dataset("sample", layout)
    np.testing.assert_array_equal(read(folder / "a.h5"), WINDOWS[::2])


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        ("absent.h5", "sample", "absent.h5 cannot be read: No such file"),
        ("part.h5", "absent", "which is not there"),
        ("../other/part.h5", "sample", "outside of its folder"),
        ("/etc/passwd", "sample", "/etc/passwd, which is outside"),
        ("leads/part.h5", "sample", "outside of its folder"),
        ("pipe", "sample", "FIFO"),
        ("text.h5", "sample", "which cannot be read"),
    ],
)
def test_virtual_datasets_whose_parts_are_not_there(folder: Path, name: str, part: str, words: str) -> None:
    (folder / "leads").symlink_to("../other")
    (folder / "text.h5").write_text("text")
    os.mkfifo(folder / "pipe")
    refused(virtual(folder / "a.h5", ("part.h5", "sample"), (name, part)), words)


def test_a_virtual_dataset_whose_parts_are_named_by_a_pattern(folder: Path) -> None:
    every = (h5py.h5s.UNLIMITED, 1, 1, 1)
    space = h5py.h5s.create_simple(WINDOWS.shape, (h5py.h5s.UNLIMITED, *WINDOWS.shape[1:]))
    space.select_hyperslab((0, 0, 0, 0), every, WINDOWS.shape, WINDOWS.shape)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_virtual(space, b"part-%b.h5", b"sample", h5py.h5s.create_simple(WINDOWS.shape))
    with h5py.File(folder / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"sample", h5py.h5t.IEEE_F32LE, space, plist)
    refused(folder / "a.h5", "pattern")


def test_a_virtual_dataset_that_grows_with_its_part(folder: Path) -> None:
    with h5py.File(folder / "grows.h5", "w") as file:
        file.create_dataset("sample", data=WINDOWS, maxshape=(None, *WINDOWS.shape[1:]), chunks=(1, 2, 1, 64))
    shape, longest = WINDOWS.shape, (h5py.h5s.UNLIMITED, *WINDOWS.shape[1:])
    spaces = [h5py.h5s.create_simple(shape, longest) for _ in range(2)]
    for space in spaces:
        space.select_hyperslab((0, 0, 0, 0), (1, 1, 1, 1), block=longest)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_virtual(spaces[0], b"grows.h5", b"sample", spaces[1])
    with h5py.File(folder / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"sample", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(shape, longest), plist)
    np.testing.assert_array_equal(read(folder / "a.h5"), WINDOWS)


def test_a_virtual_dataset_with_a_gap(folder: Path) -> None:
    refused(virtual(folder / "a.h5", ("part.h5", "sample"), shown=slice(0, 8)), "1,024 of its 1,536 values")


def test_virtual_datasets_in_a_circle(folder: Path) -> None:
    refused(virtual(folder / "a.h5", (".", "sample")), "part of itself")
    refused(virtual(folder / "b.h5", ("b.h5", "sample")), "part of itself")
    virtual(folder / "c.h5", ("d.h5", "sample"))
    refused(virtual(folder / "d.h5", ("c.h5", "sample")), "part of itself")


def test_outside_where_it_is_allowed(folder: Path) -> None:
    path = virtual(folder / "a.h5", ("../other/part.h5", "sample"))
    refused(path, "data.allow_outside: true")
    np.testing.assert_array_equal(read(path, allow_outside=True), WINDOWS)
    os.mkfifo(folder.parent / "other" / "pipe")
    refused(virtual(folder / "b.h5", ("../other/pipe", "sample")), "FIFO", allow_outside=True)
    refused(virtual(folder / "c.h5", ("../other/absent.h5", "sample")), "No such file", allow_outside=True)
    refused(virtual(folder / "d.h5", (".", "sample")), "part of itself", allow_outside=True)


def external(path: Path, name: str, size: int = WINDOWS.nbytes) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("sample", shape=WINDOWS.shape, dtype="f4", external=[(name, 0, size)])
        file["label"] = np.arange(12) % 2
    return path


def test_values_in_other_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "raw").write_bytes(WINDOWS.tobytes())
    (folder / "short").write_bytes(WINDOWS.tobytes()[:100])
    (folder.parent / "raw").write_bytes(WINDOWS.tobytes())
    os.mkfifo(folder / "pipe")
    np.testing.assert_array_equal(read(external(folder / "a.h5", "raw")), WINDOWS)
    refused(external(folder / "b.h5", "short"), "too short")
    refused(external(folder / "c.h5", "short", h5py.h5f.UNLIMITED), "needs 6,144 bytes")
    refused(external(folder / "d.h5", "absent"), "No such file")
    refused(external(folder / "e.h5", "pipe"), "FIFO")
    refused(external(folder / "f.h5", "/etc/passwd"), "outside of its folder")
    path = external(folder / "g.h5", str(folder.parent / "raw"))
    refused(path, "outside of its folder")
    np.testing.assert_array_equal(read(path, allow_outside=True), WINDOWS)


@pytest.mark.parametrize("where", ["sample", "group/sample"])
def test_links_to_other_files(folder: Path, where: str) -> None:
    def linked(name: str, target: str) -> Path:
        with h5py.File(folder / name, "w") as file:
            file["windows"] = WINDOWS
            file[where] = h5py.ExternalLink(target, "/sample")
        return folder / name

    os.mkfifo(folder / "pipe")
    for number, (target, words) in enumerate(
        [("../other/part.h5", "outside"), ("/etc/passwd", "outside"), ("pipe", "FIFO"), ("absent.h5", "No such file")]
    ):
        refused(linked(f"{number}.h5", target), words)
    beside = linked("beside.h5", "part.h5")
    np.testing.assert_array_equal(
        open_table(DataSpec(path=beside, input="windows")).windows.read(np.arange(12)), WINDOWS
    )
    linked("first.h5", "second.h5")
    refused(linked("second.h5", "first.h5"), "linked")


def test_links_inside_a_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["sample"] = WINDOWS
        file["soft"] = h5py.SoftLink("/nowhere")
        file["again"] = file["sample"]
        file["group/up"] = file["/"]
    assert [array.name for array in inspect_file(tmp_path / "a.h5").arrays] == ["again"]


def test_groups_inside_each_other(tmp_path: Path) -> None:
    for depth, path in ((MAX_DEPTH, tmp_path / "a.h5"), (3000, tmp_path / "b.h5")):
        with h5py.File(path, "w") as file:
            file["sample"] = WINDOWS
            group = file
            for _ in range(depth - 1):
                group = group.create_group("g")
            group["label"] = np.arange(12) % 2
    assert read(tmp_path / "a.h5").shape == WINDOWS.shape
    refused(tmp_path / "b.h5", f"more than {MAX_DEPTH} deep")


def test_too_many_arrays(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file["sample"] = WINDOWS
        for number in range(MAX_ARRAYS):
            file[f"{number}"] = np.int8(0)
    refused(tmp_path / "a.h5", f"more than {MAX_ARRAYS:,} arrays")


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (2**40, 2, 1, 64), "chunks": (1, 1, 1, 64)},
        {"shape": (12, 2**40), "chunks": (1, 64)},
        {"shape": (12, 2**30)},
        {"shape": (12, 2, 1, 64), "chunks": (2**10, 2, 1, 2**17), "maxshape": (None, 2, 1, None)},
    ],
)
def test_sizes_that_nothing_is_stored_for(tmp_path: Path, options: dict[str, tuple[int, ...]]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("sample", dtype="f4", **options)
        file["label"] = np.arange(12) % 2
    refused(tmp_path / "a.h5", "of which the file stores")


def test_many_arrays_that_nothing_is_stored_for(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["sample"] = WINDOWS
        for number in range(20):
            file.create_dataset(f"column {number}", (12, 2**19), "f8", chunks=(12, 64))
    refused(tmp_path / "a.h5", "are stored: it is damaged")


def test_what_is_packed_well_and_what_was_not_written_yet(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("sample", data=np.zeros((1000, 2, 1, 64), "f4"), compression="gzip")
        file.create_dataset("label", (1000,), "i8")
    assert read(tmp_path / "a.h5").shape == (1000, 2, 1, 64)


def test_strings_through_which_the_library_runs_forever(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["sample"] = WINDOWS
        file.attrs["created_by"] = "me"
        file["text"] = np.array(["a", "b"] * 6, dtype=h5py.string_dtype())
    intact = path.read_bytes()
    assert read(path).shape == WINDOWS.shape
    for place in (16, 18 + 6):  # the number of the first string, and its length
        damaged = bytearray(intact)
        start = damaged.find(b"GCOL")
        damaged[start + place : start + place + 8] = bytes(8) if place == 16 else b"\xff" * 8
        path.write_bytes(damaged)
        refused(path, "damaged strings at byte")


def test_strings_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["sample"] = WINDOWS
        file["text"] = np.array(["a", "b"] * 6, dtype=h5py.string_dtype())
        place = file["text"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    refused(path, "strings of 2,147,483,6")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    for name, write in (
        ("array.h5", lambda file: file.id.links.create_soft(b"\xff", b"/sample")),
        ("attribute.h5", lambda file: h5py.h5a.create(file.id, b"\xff", h5py.h5t.NATIVE_INT8, h5py.h5s.create(0))),
    ):
        with h5py.File(tmp_path / name, "w") as file:
            file["sample"] = WINDOWS
            write(file)
    assert read(tmp_path / "array.h5").shape == WINDOWS.shape  # a link inside the file is no array of its own
    refused(tmp_path / "attribute.h5", "not UTF-8")


@pytest.mark.parametrize("name", ["X", "Y", "Z", "iq", "gain", "sample", "0/data", "('AM', 'radio', '10', '0')"])
def test_numbers_that_numpy_does_not_know(tmp_path: Path, name: str) -> None:
    """Floats with more bits for the exponent than any of numpy's."""
    unknown = h5py.h5t.IEEE_F64LE.copy()
    unknown.set_fields(63, 43, 20, 0, 43)
    arrays = {
        "X": {"X": (4, 1024, 2), "Y": (4, 24), "Z": (4, 1)},
        "Y": {"X": (4, 1024, 2), "Y": (4, 24), "Z": (4, 1)},
        "Z": {"X": (4, 1024, 2), "Y": (4, 24), "Z": (4, 1)},
        "iq": {"iq": (2048, 2), "tx_beam": (2048,), "gain": (2048,)},
        "gain": {"iq": (2048, 2), "tx_beam": (2048,), "gain": (2048,)},
        "0/data": {"0/data": (2, 64)},
    }.get(name, {name: (256,)})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if name == "0/data":
            file.attrs["created_by"] = "TorchSig HDF5FileHandler"
            file["0/metadata/0/class_name"] = "qpsk"
        for array, shape in arrays.items():
            if array == name:
                group = file.require_group(array.rpartition("/")[0] or "/")
                space = h5py.h5s.create_simple(shape)
                h5py.h5d.create(group.id, array.rpartition("/")[2].encode(), unknown, space)
            else:
                file[array] = np.zeros(shape, "f4")
    with pytest.raises(DataError, match=r"a\.h5"):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize("layout", ["radcom", "rml2018", "deepbeam", "torchsig"])
def test_layouts_of_data_sets_are_looked_at_too(tmp_path: Path, layout: str) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.h5"

    def elsewhere(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
        source = h5py.VirtualLayout(shape, "f4")
        source[:] = h5py.VirtualSource("/etc/passwd", "x", shape)
        file.create_virtual_dataset(name, source)

    with h5py.File(path, "w") as file:
        if layout == "radcom":
            elsewhere(file, "('AM', 'radio', '10', '0')", (256,))
        elif layout == "rml2018":
            file["Y"], file["Z"] = np.eye(24)[:4], np.zeros((4, 1))
            elsewhere(file, "X", (4, 1024, 2))
        elif layout == "deepbeam":
            file["tx_beam"], file["gain"] = np.zeros(2048, "i1"), np.zeros(2048, "i1")
            elsewhere(file, "iq", (2048, 2))
        else:
            file.attrs["created_by"] = "TorchSig HDF5FileHandler"
            elsewhere(file, "0/data", (2, 64))
            file["0/metadata/0/class_name"] = "qpsk"
    with pytest.raises(DataError, match=r"a\.h5 leads to /etc/passwd, which is outside"):
        read(path)
