"""A label file has one class per line, with an optional colour."""

import pytest

from model_export.entry.labels import default_color, read_labels
from model_export.errors import InvalidData


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "labels.txt"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_labels_keep_their_order_and_their_colours(write):
    labels = read_labels(write("sky #8080ff\nroad #804080\n"))
    assert labels.names == ("sky", "road")
    assert labels.palette == ((128, 128, 255), (128, 64, 128))


def test_a_label_may_contain_spaces_and_number_signs(write):
    labels = read_labels(write("  golf ball\nC# score\nbus stop   #0A0b0C\n#c0ffee\n"))
    assert labels.names == ("golf ball", "C# score", "bus stop", "#c0ffee")
    assert labels.palette[2] == (10, 11, 12)


def test_blank_lines_and_windows_line_ends_are_ignored(write):
    assert read_labels(write("\r\na\r\n\r\n  \r\nb")).names == ("a", "b")


def test_a_byte_order_mark_is_not_part_of_the_first_label(write):
    assert read_labels(write("\ufeffa\nb\n")).names == ("a", "b")


def test_a_class_without_a_colour_gets_a_distinct_one(write):
    names = [f"class {index}" for index in range(200)]
    palette = read_labels(write("\n".join(names))).palette
    assert palette[0] == (128, 0, 0) == default_color(0)
    assert palette[1] == (0, 128, 0)
    assert len(set(palette)) == 200
    assert (0, 0, 0) not in palette


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "contains no labels"),
        (" \n\n", "contains no labels"),
    ],
)
def test_a_file_without_labels_is_refused(write, text, sentence):
    with pytest.raises(InvalidData, match=sentence):
        read_labels(write(text))


def test_two_classes_may_have_the_same_label(write):
    labels = read_labels(write("crane\ncrane #000000\n"))
    assert labels.names == ("crane", "crane")
    assert len(set(labels.palette)) == 2


def test_a_file_in_another_encoding_is_refused(write):
    with pytest.raises(InvalidData, match="cannot be read as a label file"):
        read_labels(write("Stra\u00dfe\n", "latin-1"))


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InvalidData, match=r"nowhere\.txt cannot be read"):
        read_labels(tmp_path / "nowhere.txt")
