from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiny import format_rows, make_tokenizer
from tiny import write_text as write

from stages.errors import TextDataError
from stages.reporter import SilentReporter
from stages.texts import TextRow, encode_texts, read_labelled_texts, read_texts

STRANGE = ["plain", "", "a\u2028b\x85c\x0bd", "😀 שלום", 'say "hi", you', "tab\there", "\ufeffb"]


@pytest.mark.parametrize("ending", [".jsonl", ".csv.gz", ".tsv", ".txt"])
def test_every_format_gives_every_row_its_line(ending: str, tmp_path: Path) -> None:
    rows = [(text, "yes" if k % 2 else "no") for k, text in enumerate(STRANGE)]
    path = write(tmp_path / f"rows{ending}", format_rows(ending.removesuffix(".gz"), rows))
    first = 2 if ending in (".csv.gz", ".tsv") else 1
    labels = [None] * len(rows) if ending == ".txt" else [label for _, label in rows]
    assert read_texts(path) == [
        TextRow(first + k, text, label)
        for k, ((text, _), label) in enumerate(zip(rows, labels, strict=True))
        if text or ending != ".txt"  # a blank line is skipped, an empty text is one
    ]


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".txt"])
def test_no_byte_order_mark_nor_line_end_of_windows_is_part_of_a_text(
    ending: str, zipped: str, tmp_path: Path
) -> None:
    text = format_rows(ending, [("a", "x"), ("b", "y")]).replace("\n", "\r\n").rstrip()
    rows = read_texts(write(tmp_path / f"rows{ending}{zipped}", "\ufeff" + text))
    first = 2 if ending == ".csv" else 1
    assert [(row.line, row.text) for row in rows] == [(first, "a"), (first + 1, "b")]


def test_quoted_newlines_move_the_lines_that_follow(tmp_path: Path) -> None:
    text = 'text,label\n"one\ntwo",x\nthree,y\n"a\r\n\nb",z\nfour,w\n'
    assert read_texts(write(tmp_path / "rows.csv", text)) == [
        TextRow(2, "one\ntwo", "x"),
        TextRow(4, "three", "y"),
        TextRow(5, "a\r\n\nb", "z"),
        TextRow(8, "four", "w"),
    ]


def test_other_columns_and_endings_are_read_and_cells_longer_than_python_s_limit(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "rows.csv", "id,body,stars\n1,hello,5\n")
    assert read_texts(path, "body", "stars") == [TextRow(2, "hello", "5")]
    for ending in (".jsonl", ".ndjson", ".json", ".JSONL"):
        path = write(tmp_path / f"rows{ending}", '{"body": "a", "stars": 3}\n{"body": "b"}')
        assert read_texts(path, "body", "stars") == [TextRow(1, "a", "3"), TextRow(2, "b", None)]
    text = "x" * 200_000
    assert read_texts(write(tmp_path / "rows.csv", f"text\n{text}\n"))[0].text == text


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("rows.jsonl", '{"text": "a"}\nnonsense\n', ["line 2", "not JSON"]),
        ("rows.jsonl", '{"text": "a"}\n["b"]\n', ["line 2", "JSON list", "object"]),
        ("rows.jsonl", '{"txt": "a", "k": 1}\n', ["line 1", "no key 'text'", "'txt', 'k'"]),
        ("rows.jsonl", '{"text": "a"}\n{"text": 5}\n', ["line 2", "'text' is int"]),
        ("rows.jsonl", '{"text": "a", "label": [1]}\n', ["line 1", "'label' is list"]),
        ("rows.jsonl", "[" * 100_000, ["line 1", "not JSON"]),
        ("rows.jsonl.gz", '{"text": "a"}\n\nnonsense\n', ["line 3", "not JSON"]),
        ("rows.csv", "txt,label\na,b\n", ["no column 'text'", "'txt', 'label'"]),
        ("rows.csv", "", ["is empty", "name the columns"]),
        ("rows.csv", "text,label\na,b\nc\n", ["line 3", "1 cells", "header has 2"]),
        ("rows.csv", 'text,label\n"a\nb",c\nd,e,f\n', ["line 4", "3 cells"]),
        ("rows.csv", 'text,label\n"a"b,c\n', ["line 2"]),
        ("rows.csv", 'text,label\na,b\n"open,c\n', ["line 3"]),
        ("rows.tsv", "text\tlabel\na\n", ["line 2", "1 cells"]),
        ("rows.jsonl", '{"text": "a"}\n{"text": "b\\ud83d"}\n', ["line 2"]),  # half a pair
        *((name, text, ["holds no texts"]) for name, text in (("a.txt", ""), ("a.csv", "text\n"))),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    name: str, text: str, named: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(TextDataError) as found:
        read_texts(path)
    for part in [str(path), *named]:
        assert part in str(found.value)


@pytest.mark.parametrize("name", ["rows.txt", "rows.jsonl", "rows.csv", "rows.txt.gz"])
def test_the_first_line_that_is_not_utf_8_is_named(name: str, tmp_path: Path) -> None:
    data = b'{"text": "a"}\n' * 2000 + b'{"text": "\xff"}\n'
    if ".csv" in name:
        data = b"text\n" + b"a\n" * 1999 + b"\xff\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(TextDataError, match="line 2001: not UTF-8"):
        read_texts(path)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(TextDataError, match=r"none\.txt: No such file"):
        read_texts(tmp_path / "none.txt")
    with pytest.raises(TextDataError, match="Is a directory"):
        read_texts(tmp_path)


# Lone surrogates cannot be written as UTF-8, and NUL is what csv refuses.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6),
    ending=st.sampled_from([".jsonl", ".csv", ".tsv"]),
    zipped=st.sampled_from(["", ".gz"]),
)
def test_whatever_was_written_is_read(
    rows: list[tuple[str, str]], ending: str, zipped: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"rows{ending}{zipped}", format_rows(ending, rows))
    assert [(row.text, row.label) for row in read_texts(path)] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(TEXT.map(lambda text: text.replace("\n", "").replace("\r", "")), min_size=1))
def test_whatever_was_written_as_plain_lines_is_read(tmp_path: Path, texts: list[str]) -> None:
    path = write(tmp_path / "rows.txt", "".join(text + "\n" for text in texts))
    lines = [texts[0].removeprefix("\ufeff"), *texts[1:]]
    wanted = [(number, text) for number, text in enumerate(lines, start=1) if text.strip()]
    assume(wanted)
    assert [(row.line, row.text) for row in read_texts(path)] == wanted


def test_texts_become_padded_tokens_cut_at_the_longest(tmp_path: Path) -> None:
    tokenizer, reporter = make_tokenizer(), SilentReporter()
    texts = ["Good", "", "Bad Poor Good Great Bad"]
    path = write(tmp_path / "rows.jsonl", format_rows(".jsonl", [(t, "x") for t in texts]))
    found = encode_texts(read_texts(path), tokenizer, 4, reporter)
    tokens = [tokenizer.encode(text, add_special_tokens=False)[:4] for text in texts]
    assert found.lines.tolist() == [1, 2, 3]
    assert found.lengths.tolist() == list(map(len, tokens))
    assert found.tokens.tolist() == [own + [-1] * (4 - len(own)) for own in tokens]
    assert reporter.lines == ["1 of 3 texts are cut at 4 tokens"]


def test_a_label_s_name_may_have_an_equals_sign(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text,label\nx,1\ny,0=0\nz,a=b\n")
    names, label_map = ("a=b", "good"), "1=a=b,0=0=good"
    rows, places = read_labelled_texts(path, names, "text", "label", label_map, SilentReporter())
    assert [row.label for row in rows] == ["a=b", "good", "a=b"]
    assert places.tolist() == [0, 1, 0]
