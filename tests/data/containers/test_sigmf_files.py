"""SigMF metadata and archives that lead elsewhere or say what cannot be."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.data.formats import open_table
from offramp.data.inspection import inspect_file
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

Write = Callable[..., Path]
SAMPLES = (np.arange(200) + 1j).astype(np.complex64)


def read(path: Path, **options: Any) -> np.ndarray:
    windows = open_table(DataSpec(path=path, window=20, cut="all", **options)).windows
    return windows.read(np.arange(windows.count))


def refused(path: Path, *words: str, **options: Any) -> None:
    for attempt in (lambda: read(path, **options), lambda: inspect_file(path)):
        with pytest.raises(DataError) as caught:
            attempt()
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 500
        assert all(word in message for word in (*words,)), message


def changed(path: Path, part: str, key: str, value: object) -> Path:
    content = json.loads(path.read_text())
    where = content[part] if part == "global" else content[part][0]
    where[key] = value
    path.write_text(json.dumps(content))
    return path


def test_samples_of_another_name(write_sigmf: Write) -> None:
    path = write_sigmf(SAMPLES, "cf32_le")
    (path.parent / "below").mkdir()
    path.with_suffix(".sigmf-data").rename(path.parent / "below" / "raw.bin")
    changed(path, "global", "core:dataset", "below/raw.bin")
    assert read(path)[0, 0, 0].tolist() == list(range(20))


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret", "../secret", "leads/secret"])
def test_samples_that_lie_outside(write_sigmf: Write, tmp_path: Path, name: str) -> None:
    path = write_sigmf(SAMPLES, "ru8", name="a/b/one")
    for place in (tmp_path / "secret", tmp_path / "a" / "secret"):
        place.write_bytes(bytes(200))
    (path.parent / "leads").symlink_to("..")
    changed(path, "global", "core:dataset", name)
    refused(path, "outside of its folder", "data.allow_outside: true")
    refused(path.parent, "outside of its folder")
    if name != "/etc/passwd":
        assert (read(path, allow_outside=True)[:, 0] == -1).all()


def test_samples_behind_a_link(write_sigmf: Write, tmp_path: Path) -> None:
    path = write_sigmf(SAMPLES, "cf32_le")
    data = path.with_suffix(".sigmf-data")
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    refused(path, "elsewhere, which is outside of its folder")
    refused(path.parent, "elsewhere, which is outside of its folder")
    assert read(path.parent, allow_outside=True)[0, 0, 0].tolist() == list(range(20))
    # both files of a recording stand elsewhere, and a link names the recording
    path.rename(tmp_path / "elsewhere.sigmf-meta")
    data.unlink()
    path.symlink_to(tmp_path / "elsewhere.sigmf-meta")
    (tmp_path / "elsewhere").rename(tmp_path / "one.sigmf-data")
    data.symlink_to(tmp_path / "one.sigmf-data")
    assert read(path)[0, 0, 0].tolist() == list(range(20))


def test_pipes(write_sigmf: Write, tmp_path: Path) -> None:
    path = write_sigmf(SAMPLES, "cf32_le")
    data = path.with_suffix(".sigmf-data")
    data.unlink()
    os.mkfifo(data)
    refused(path, "FIFO")
    os.mkfifo(path.parent / "pipe")
    data.unlink()
    refused(changed(path, "global", "core:dataset", "pipe"), "FIFO")
    for name in ("a.sigmf-meta", "a.sigmf"):
        os.mkfifo(tmp_path / name)
        refused(tmp_path / name, "FIFO")


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("annotations", "core:sample_start", float("inf"), "Infinity is no number"),
        ("captures", "core:sample_start", -1, "core:sample_start of capture 0 is -1"),
        ("captures", "core:sample_start", "0", "core:sample_start of capture 0 is '0'"),
        ("captures", "core:header_bytes", 0.5, "core:header_bytes of capture 0 is 0.5"),
        ("annotations", "core:sample_count", True, "core:sample_count of annotation 0 is True"),
        ("annotations", "core:sample_start", 10**400, "is too large"),
        ("global", "core:offset", float("nan"), "NaN is no number"),
        ("global", "core:offset", -5, "core:offset is -5"),
        ("global", "core:trailing_bytes", 2**62, "cannot be read"),
        ("global", "core:sample_rate", 0, "correct core:sample_rate"),
        ("global", "core:sample_rate", "fast", "correct core:sample_rate"),
        ("global", "core:sample_rate", 10**400, "is too large"),
        ("global", "core:num_channels", 0, "core:num_channels is 0"),
        ("global", "core:num_channels", 10**9, "core:num_channels is 1000000000"),
        ("global", "core:dataset", 3, "core:dataset is 3"),
        ("global", "core:dataset", "a\0b", "no name of a file"),
        ("global", "core:author", "\ud800", "half a character"),
    ],
)
def test_what_cannot_be(write_sigmf: Write, part: str, key: str, value: object, words: str) -> None:
    refused(changed(write_sigmf(SAMPLES, "cf32_le", [(0, 10, "a")]), part, key, value), "one.sigmf-meta", words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000 + "]" * 100_000, "deeper"),
        ('{"global": {"core:datatype": "cf32_le", "x": ' + "[" * 900 + "]" * 900 + "}}", "deeper"),
        ('{"global": []}', "object with 'global'"),
        ('{"global": {"core:datatype": "cf32_le"}, "captures": {}}', "captures must be a list"),
        ('{"global": {"core:datatype": "cf32_le"}, "annotations": [3]}', "annotations must be a list"),
    ],
)
def test_metadata_of_another_form(write_sigmf: Write, text: str, words: str) -> None:
    path = write_sigmf(SAMPLES, "cf32_le")
    path.write_text(text)
    refused(path, "one.sigmf-meta", words)


def test_a_window_that_no_memory_holds(write_sigmf: Write) -> None:
    path = write_sigmf(SAMPLES, "cf32_le", [(0, 10, "a")])
    with pytest.raises(DataError, match=r"one window \(2, 1, 1000000000\) takes 8,000,000,000 bytes"):
        open_table(DataSpec(path=path, window=10**9))


def test_more_windows_than_can_be_held(write_sigmf: Write) -> None:
    path = write_sigmf(SAMPLES, "cf32_le", [(0, 200, "a")] * 30_000)
    with pytest.raises(DataError, match=r"one\.sigmf-meta gives more than .* windows: choose a longer data\.hop"):
        open_table(DataSpec(path=path, window=20, hop=1))


def test_many_annotations_without_end_and_many_captures(write_sigmf: Write) -> None:
    """Each ends with its capture; that takes no longer than their number."""
    count = 20_000
    path = write_sigmf(np.zeros(2 * count, np.complex64), "cf32_le", [(number, None, "a") for number in range(count)])
    content = json.loads(path.read_text())
    content["captures"] = [{"core:sample_start": number} for number in range(count)]
    path.write_text(json.dumps(content))
    table = open_table(DataSpec(path=path, window=count))
    assert table.windows.count == count
    assert table.windows.read(np.array([0])).shape == (1, 2, 1, count)


def archive(path: Path, mode: str = "w", **members: bytes) -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(f"one/one.{name.replace('_', '-')}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_archives(write_sigmf: Write, tmp_path: Path) -> None:
    meta = write_sigmf(SAMPLES, "cf32_le").read_bytes()
    whole = archive(tmp_path / "a.sigmf", sigmf_meta=meta, sigmf_data=SAMPLES.tobytes())
    assert read(whole)[0, 0, 0].tolist() == list(range(20))
    content = whole.read_bytes()
    (tmp_path / "b.sigmf").write_bytes(content[: content.find(SAMPLES[:8].tobytes()) + 100])
    refused(tmp_path / "b.sigmf", "b.sigmf")
    refused(archive(tmp_path / "c.sigmf", "w:gz", sigmf_meta=meta, sigmf_data=bytes(10**6)), "no SigMF archive")
    refused(archive(tmp_path / "d.sigmf", sigmf_meta=b"[" * 10_000, sigmf_data=bytes(800)), "d.sigmf")
    refused(archive(tmp_path / "e.sigmf", sigmf_meta=meta), "has no samples")
    sparse = bytearray(content)
    sparse[156] = sparse[1024 + (len(meta) + 511) // 512 * 512 - 512 + 156] = ord("S")
    (tmp_path / "f.sigmf").write_bytes(sparse)
    refused(tmp_path / "f.sigmf", "f.sigmf")
