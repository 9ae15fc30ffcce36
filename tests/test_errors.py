"""A message is one short line that a terminal shows as it is, whatever names it holds."""

import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offramp.errors import LONGEST, DataError, OfframpError, one_line, printable


@given(st.text(st.characters(codec=None), max_size=3000))
@example("a" * 5000)
@example("a b " * 2000)
@example("\x1b[31mred\x1b[0m\r\n\u2028\u202e\udcff\x00")
def test_any_text_becomes_one_line(text: str) -> None:
    line = str(DataError(text))
    assert len(line) <= LONGEST < 490
    assert line.isprintable()
    line.encode("utf-8")
    assert one_line(line) == line


def test_a_plain_message_stays_as_it_is() -> None:
    message = "/lab/größe 1.h5 has no column 'labels': set data.target to one of frequency, label"
    assert str(OfframpError(message)) == message


@pytest.mark.parametrize("name", ["x" * 5000, "/".join(["folder"] * 1000), "x y " * 1000])
def test_a_long_name_loses_its_middle_and_the_advice_stays(name: str) -> None:
    line = str(OfframpError(f"unknown task '{name}': the bundle has los, angle"))
    assert line.startswith("unknown task '")
    assert line.endswith(": the bundle has los, angle")
    assert "[...]" in line


def test_several_names_keep_both_ends() -> None:
    line = one_line(f"begin{'a' * 3000}end begin{'b' * 3000}end: advice")
    assert line.count("begin") == line.count("end") == 2


def test_what_does_not_print_is_escaped() -> None:
    assert printable("a\x1b[2J\n\u202eb\udcff é") == "a\\x1b[2J\\n\\u202eb\\udcff é"
    assert one_line("two\n lines\tand \x07") == "two lines and \\x07"


def test_an_error_can_be_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(DataError("x.h5 is\ntruncated")))
    assert (type(error), str(error)) == (DataError, "x.h5 is truncated")
