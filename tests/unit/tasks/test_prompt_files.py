"""Prompt files: parsing, and the message for each invalid line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.errors import SpecError
from analysis.tasks import suite_files
from analysis.tasks.commands import add_to
from analysis.tasks.suite_report import by_label
from analysis.tasks.suites import Suite, TaskPrompt
from tests.support.command_line import run


def test_csv_with_foil_labels_and_newlines() -> None:
    text = 'prompt,answer,foil,kind\r\n"The ""sky""\nis", blue, red,colour\r\n\r\n1+1=,2,,sum\r\n'
    suite = suite_files.parse(("\ufeff" + text).encode(), "csv", "mine")
    first, second = suite.prompts
    assert (first.text, first.answer, first.foil) == ('The "sky"\nis', " blue", " red")
    assert first.label("kind") == "colour"
    assert (second.text, second.foil, second.label("kind")) == ("1+1=", "", "sum")


def test_json_lines_with_labels_and_line_separators_in_text() -> None:
    text = '{"prompt": "a\u2028b", "answer": "c", "labels": {"n": 1}, "kind": "x"}\n\n'
    (prompt,) = suite_files.parse(text.encode(), "jsonl").prompts
    assert prompt.text == "a\u2028b"
    assert dict(prompt.labels) == {"n": "1", "kind": "x"}


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("csv", "prompt,reply\na,b\n", "Line 1: the header has no column answer"),
        ("csv", "prompt,answer,answer\na,b,c\n", "Line 1: the header names 'answer' twice"),
        ("csv", "prompt,answer\na,b\nc\n", "Line 3: 1 fields where the header has 2"),
        ("csv", 'prompt,answer\n"a\nb",\nc,d\n', "Line 2: the answer is empty"),
        ("csv", 'prompt,answer\na,"b" c\n', "Line 2: not CSV"),
        ("csv", "prompt,answer,foil\na,b,b\n", "Line 2: the foil equals the answer"),
        ("jsonl", '{"prompt": "a", "answer": "b"}\n{"prompt": 1}', "Line 2: the prompt is not"),
        ("jsonl", '{"prompt": "a"}', "Line 1: there is no answer"),
        ("jsonl", "[1]", "Line 1: not an object"),
        ("jsonl", '{"prompt": "a",', "Line 1: not JSON"),
        ("jsonl", "[" * 100_000, "Line 1: not JSON"),
        ("jsonl", '{"prompt": "a", "answer": "b", "n": ' + "9" * 5000 + "}", "too many digits"),
        ("jsonl", json.dumps({"prompt": "a", "answer": "b", "foil": "c" * 20_001}), "the foil has"),
        ("jsonl", json.dumps({"prompt": "a", "answer": "b", "labels": dict.fromkeys(range(101))}),
         "Line 1: there are more than 100 labels"),
        ("csv", ",".join(["prompt", "answer", *map(str, range(99))]), "more than 100 columns"),
        ("jsonl", "\n\n", "has no prompts"),
        ("csv", "", "Line 1: the header has no column prompt and no column answer"),
    ],
)  # fmt: skip
def test_bad_lines_are_named_with_the_reason(kind: str, text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        suite_files.parse(text.encode(), kind)
    assert said in caught.value.message


def test_up_to_twenty_bad_lines_are_reported_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        suite_files.parse(("prompt,answer\n" + "x,\n" * 25).encode(), "csv")
    assert caught.value.message.count("the answer is empty") == 20
    assert "And 5 more lines." in caught.value.message


def test_a_file_of_another_kind_is_not_read_completely() -> None:
    with pytest.raises(SpecError, match="And at least 981 more lines"):
        suite_files.parse(b"x\n" * 500_000, "jsonl")


def test_groups_by_a_label_are_in_order() -> None:
    labels = ["10", "\N{SUPERSCRIPT TWO}", "9", "9" * 5000, "x"]
    prompts = tuple(TaskPrompt("p", "a", "", (("n", label),)) for label in labels)
    found = by_label(Suite("own", "own", prompts), [True] * 5, "n")
    assert [one.name for one in found[:2]] == ["n 9", "n 10"]
    assert len(found) == 5


def test_invalid_utf_8_is_reported_with_its_line() -> None:
    with pytest.raises(SpecError, match="Line 2: not UTF-8"):
        suite_files.parse(b"prompt,answer\n\xff,b\n", "csv")


def test_files_of_other_kinds_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"neither \.csv nor \.jsonl"):
        suite_files.read(tmp_path / "x.txt")
    with pytest.raises(SpecError, match="can't be read"):
        suite_files.read(tmp_path / "x.csv")


def test_a_bad_file_is_refused_before_the_model_loads(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("prompt,answer\nx,\n")
    with pytest.raises(SpecError, match="Line 2"):
        run(add_to, "tasks", "run", str(path), "--model", "there-is-no-such-model")


def test_a_file_and_a_suite_cannot_both_be_named(tmp_path: Path) -> None:
    path = tmp_path / "list.txt.csv"
    path.write_text("prompt,answer\n,2\n")
    with pytest.raises(SpecError, match="Line 2: the prompt is empty"):
        run(add_to, "tasks", "run", "--file", str(path), "--model", "there-is-no-such-model")
    for both in (["addition", "--file", str(path)], []):
        with pytest.raises(SpecError, match="either a suite or a file"):
            run(add_to, "tasks", "run", *both, "--model", "there-is-no-such-model")


def test_lines_written_are_read_back() -> None:
    text = 'prompt,answer,foil,kind\n"a\nb", c, d,\u00e9\n1+1=,2,,\n'
    suite = suite_files.parse(text.encode(), "csv", "x")
    again = suite_files.parse(suite_files.as_lines(suite).encode(), "jsonl", "x")
    assert again == suite


def test_a_lone_surrogate_is_refused_in_prompts_and_replaced_in_labels() -> None:
    for field in ("prompt", "answer", "foil"):
        row = {"prompt": "a", "answer": "b", "foil": "c"} | {field: "\ud800"}
        with pytest.raises(SpecError, match=f"Line 1: the {field} has half of a surrogate pair"):
            suite_files.parse(json.dumps(row).encode(), "jsonl")
    row = {"prompt": "a", "answer": "b", "kind": "\ud800"}
    (prompt,) = suite_files.parse(json.dumps(row).encode(), "jsonl").prompts
    assert prompt.label("kind") == "?"


def test_at_most_the_requested_prompts_are_read() -> None:
    data = b"prompt,answer\n" + b"a,b\n" * 4
    assert len(suite_files.parse(data, "csv", most=4).prompts) == 4
    with pytest.raises(SpecError, match="Line 5: more than 3 prompts"):
        suite_files.parse(data, "csv", most=3)
