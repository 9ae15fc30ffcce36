import io
import json
from pathlib import Path

import numpy as np
import pytest
import sigmf

from offramp.data.formats.generic.sigmf import read
from offramp.data.table import Positions
from offramp.errors import DataError
from offramp.runtime import Prediction, rows, write_csv, write_jsonl, write_sigmf
from offramp.runtime.outputs import COLUMNS, PLACE_COLUMNS, complete
from offramp.schema.tasks import DataSpec

LABELS = ("lora", "fsk, fast")


def at_exit(task: str, exit: str, outputs: list[list[float]], labels: tuple[str, ...] = ()) -> Prediction:
    """All windows answered at one exit."""
    count = len(outputs)
    kind = "classification" if labels else "regression"
    return Prediction(
        task,
        kind,
        np.asarray(outputs, np.float32),
        labels,
        "fixed",
        (exit,),
        np.zeros(count, np.int64),
        np.zeros(count, np.bool_),
    )


FIRST = at_exit("kind", "stem", [[0.9, 0.1], [0.25, 0.75]], LABELS)
SECOND = at_exit("kind", "stem", [[0.4, 0.6]], LABELS)
VALUES = at_exit("place", "conv5", [[1.5, 0.1]])


def test_rows_count_on_across_batches():
    table = list(rows(iter([FIRST, SECOND])))
    assert table[0] == {"index": 0, "task": "kind", "prediction": "lora", "confidence": 0.9, "exit": "stem"}
    assert [row["index"] for row in table] == [0, 1, 2]
    assert [row["prediction"] for row in table] == ["lora", "fsk, fast", "fsk, fast"]
    assert next(rows([VALUES], start=4)) == {
        "index": 4,
        "task": "place",
        "prediction": [1.5, 0.1],
        "confidence": None,
        "exit": "conv5",
    }
    single = at_exit("range", "stem", [[2.5]])
    assert next(rows([single]))["prediction"] == 2.5


def test_nothing_is_read_ahead():
    def batches():
        yield FIRST
        raise RuntimeError("read ahead")

    table = rows(batches())
    assert [next(table)["index"], next(table)["index"]] == [0, 1]


def test_csv():
    stream = io.StringIO()
    write_csv(rows([FIRST, VALUES]), stream)
    assert stream.getvalue().splitlines() == [
        "index,task,prediction,confidence,exit",
        "0,kind,lora,0.9,stem",
        '1,kind,"fsk, fast",0.75,stem',
        "2,place,1.5 0.1,,conv5",
    ]


AT = Positions(
    np.array(["a", "b/c"]),
    np.array([0, 2**40]),
    np.array([8, 2**40 + 8]),
    np.array(["2024-02-29T23:59:59.123456789", "NaT"], "datetime64[ns]"),
)


def test_rows_of_recordings_say_where_a_window_was():
    table = list(rows([FIRST], positions=AT))
    assert [list(row)[5:] for row in table] == [["recording", "sample", "time"]] * 2
    places = [(row["recording"], row["sample"], row["time"]) for row in table]
    assert places == [("a", 0, "2024-02-29T23:59:59.123456789Z"), ("b/c", 2**40, None)]
    stream = io.StringIO()
    write_csv(table, stream, (*COLUMNS, *PLACE_COLUMNS))
    assert stream.getvalue().splitlines() == [
        "index,task,prediction,confidence,exit,recording,sample,time",
        "0,kind,lora,0.9,stem,a,0,2024-02-29T23:59:59.123456789Z",
        '1,kind,"fsk, fast",0.75,stem,b/c,1099511627776,',
    ]
    write_jsonl(table, stream)
    assert json.loads(stream.getvalue().splitlines()[-1])["time"] is None


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_answers_as_windows(count: int):
    answers = complete(rows([FIRST]), count, "new.h5")
    assert [next(answers)["index"], next(answers)["index"]] == [0, 1]
    with pytest.raises(DataError, match=f"2 predictions for the {count} windows of new.h5"):
        next(answers)


def test_jsonl():
    stream = io.StringIO()
    write_jsonl(rows([SECOND, VALUES]), stream)
    assert [json.loads(line)["prediction"] for line in stream.getvalue().splitlines()] == ["fsk, fast", [1.5, 0.1]]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two recordings: one window of 100 samples fits a long annotation of ``a``, a short annotation of 40 is in ``sub/b``."""
    folder = tmp_path / "recordings"
    (folder / "sub").mkdir(parents=True)
    for name, start, count in (("a", 1010, 120), ("sub/b", 1000, 40)):
        np.zeros(2 * 300, np.float32).tofile(folder / f"{name}.sigmf-data")
        meta = {
            "global": {
                "core:datatype": "cf32_le",
                "core:version": "1.2.0",
                "core:offset": 1000,
                "core:description": name,
            },
            "captures": [{"core:sample_start": 1000, "core:frequency": 868e6}],
            "annotations": [{"core:sample_start": start, "core:sample_count": count, "core:label": "lora"}],
        }
        (folder / f"{name}.sigmf-meta").write_text(json.dumps(meta))
    return folder


def test_sigmf_annotations(recordings: Path, tmp_path: Path):
    table = read(DataSpec(path=recordings, format="sigmf", window=100))
    assert table.positions is not None
    written = write_sigmf(iter([FIRST]), table.positions, recordings, tmp_path / "out")
    assert written == [tmp_path / "out" / "a.sigmf-meta", tmp_path / "out" / "sub" / "b.sigmf-meta"]
    first, second = (json.loads(path.read_text()) for path in written)
    assert first["global"]["core:description"] == "a"
    assert first["captures"][0]["core:frequency"] == 868e6
    assert first["annotations"] == [
        {
            "core:sample_start": 1010,
            "core:sample_count": 100,
            "core:label": "lora",
            "core:comment": "kind: confidence 0.900, exit stem",
            "core:generator": "offramp",
        }
    ]
    short = second["annotations"][0]
    assert (short["core:sample_start"], short["core:sample_count"], short["core:label"]) == (1000, 40, "fsk, fast")
    for path in written:
        sigmf.SigMFFile(metadata=json.loads(path.read_text())).validate()


def test_sigmf_needs_as_many_predictions_as_windows(recordings: Path, tmp_path: Path):
    positions = Positions(np.array(["a"]), np.array([10]), np.array([110]), np.array(["NaT"], "datetime64[ns]"))
    with pytest.raises(DataError, match="2 predictions for the 1 windows"):
        write_sigmf([FIRST], positions, recordings, tmp_path / "out")
    with pytest.raises(DataError, match="choose another folder"):
        write_sigmf([SECOND], positions, recordings.parent / "*" / "*.sigmf-meta", recordings)
    with pytest.raises(DataError, match="choose another folder"):
        write_sigmf([SECOND], positions, recordings, recordings)
