from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stages.errors import TextDataError
from stages.reporter import Interrupted, SilentReporter
from stages.texts import TextFile, TextRow, read_texts

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = [("Great fun", "positive"), ("é 😀, a\tb", "negative")]
LINES = "".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in ROWS)


def zstd(data: bytes) -> bytes:
    return bytes(pyarrow.compress(data, codec="zstd", asbytes=True))


PACK: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress, zstd]


def read(path: Path, data: bytes | str, **options: Any) -> list[TextRow]:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_texts(path, **options)


def make_table(kind: str) -> bytes:
    table = pyarrow.table({"text": [a for a, _ in ROWS], "label": [b for _, b in ROWS]})
    file = io.BytesIO()
    if kind == "parquet":
        parquet.write_table(table, file)
        return file.getvalue()
    make = pyarrow.ipc.new_file if kind == "arrow" else pyarrow.ipc.new_stream
    with make(file, table.schema) as writer:
        writer.write(table)
    return file.getvalue()


CONTENT = {
    "JSON lines": LINES.encode(),
    "JSON array": json.dumps([{"text": a, "label": b} for a, b in ROWS]).encode(),
    "indented array": json.dumps([{"text": a, "label": b} for a, b in ROWS], indent=1).encode(),
    "UTF-16": LINES.encode("utf-16"),
    "UTF-16, big end first": ("\ufeff" + LINES).encode("utf-16-be"),
    "CSV": 'text,label\nGreat fun,positive\n"é 😀, a\tb",negative\n'.encode(),
    "CSV of Excel": "\ufefflabel;text\r\npositive;Great fun\r\nnegative;é 😀, a\tb\r\n".encode(),
    "TSV": 'label\ttext\npositive\tGreat fun\nnegative\t"é 😀, a\tb"\n'.encode(),
    "Parquet": make_table("parquet"),
    "Arrow": make_table("arrow"),
    "Arrow stream": make_table("stream"),
}


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("name", ["rows", "rows.txt", "rows.csv", "rows.json"])
def test_the_content_says_what_a_file_is_whatever_its_ending(
    kind: str, name: str, tmp_path: Path
) -> None:
    assert [(row.text, row.label) for row in read(tmp_path / name, CONTENT[kind])] == ROWS


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("kind", ["JSON lines", "CSV", "Parquet", "UTF-16"])
def test_compressed_files_are_known_by_their_first_bytes(
    kind: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    data = pack(CONTENT[kind])
    assert [(row.text, row.label) for row in read(tmp_path / "rows", data)] == ROWS
    # As `cat a.gz b.gz` makes them.
    two = pack(LINES.encode()) + pack(LINES.encode())
    assert len(read(tmp_path / "rows", two)) == 4
    with pytest.raises(TextDataError, match=r"cannot read .*/rows: "):
        read(tmp_path / "rows", data[:-3])
    for ending in (".gz", ".bz2", ".xz", ".zst"):  # which promises what is not there
        with pytest.raises(TextDataError, match=r"cannot read .*/rows\.jsonl\."):
            read(tmp_path / f"rows.jsonl{ending}", LINES)


def test_a_time_that_python_cannot_hold_is_one_sentence(tmp_path: Path) -> None:
    times = pyarrow.array([1700000000123456789], pyarrow.timestamp("ns"))
    parquet.write_table(pyarrow.table({"text": ["a"], "at": times}), file := io.BytesIO())
    with pytest.raises(TextDataError, match="cannot be read as Parquet: Nanosecond resolution"):
        read(tmp_path / "rows", file.getvalue())


class TestTables:
    @pytest.mark.parametrize(
        ("text", "rows"),
        [
            # A quote at the start of a text, and one at the end of another.
            (
                'text\tlabel\n"Great fun\tgood\nBad\tbad\nFine\tgood\nPoor"\tbad\n',
                ['"Great fun', "Bad", "Fine", 'Poor"'],
            ),
            ('text\tlabel\n"Great fun\tpositive\nBad\tnegative\n', ['"Great fun', "Bad"]),
            ('text\tlabel\n"So" bad\tx\n"Quoted"\tx\n', ['"So" bad', '"Quoted"']),
            ('label\ttext\nx\t"a\nb"\nx\t"say ""hi"""\n', ["a\nb", 'say "hi"']),
            ('text\n"a\nb"\nc\n', ["a\nb", "c"]),
            ('text\tlabel\n"Great\tgood\n\nPoor"\tbad\n', ['"Great', 'Poor"']),
        ],
    )
    def test_a_tsv_file_with_and_without_quoting(
        self, text: str, rows: list[str], tmp_path: Path
    ) -> None:
        assert [row.text for row in read(tmp_path / "rows.tsv", text)] == rows

    def test_many_rows_with_one_quote_keep_their_number(self, tmp_path: Path) -> None:
        lines = [f'"{k} fun\tx' if k % 7 == 3 else f"{k}\tx" for k in range(30_000)]
        rows = read(tmp_path / "rows.tsv", "text\tlabel\n" + "\n".join(lines))
        assert [row.text for row in rows] == [line.split("\t")[0] for line in lines]
        assert [row.line for row in rows] == list(range(2, 30_002))

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("text,text\na,b\n", "the name 'text' is there twice"),
            ("Text,label\na,b\n", "no column 'text'; there are 'Text', 'label'.*mean 'Text'"),
            ('text,label\n"a,b\nc,d\n', "line 2: a quote is not closed"),
        ],
    )
    def test_what_is_wrong_with_a_table(self, text: str, named: str, tmp_path: Path) -> None:
        with pytest.raises(TextDataError, match=named):
            read(tmp_path / "rows.csv", text)


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "named"),
        [
            (b"PK\x03\x04\x14\0\0\0", "a zip archive"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a binary file"),
            (gzip.compress(b"a.txt".ljust(512, b"\0") + LINES.encode()), "a binary file"),  # tar
            ("Good\n".encode("utf-16-le"), "a binary file"),
            ("Good\n".encode("utf-32"), "a binary file"),
            (b"PAR1 and no more", "cannot be read as Parquet"),
            (b'[{"text": "a"},', "rows: not JSON"),
            (b'[{"text": "a"},\n{"text" "b"}]', "not JSON .*line 2 column 9"),
            (b'[{"text": "a"},\n{"text": "\xff"}]', "not UTF-8"),
            (b'[{"text": "a"}, 5]', "item 2: got a JSON int"),
            (b'{\n "text": "a"\n}\n', "line 1: not JSON"),
            (b"[]", "holds no texts"),
            (b" \n\n", "holds no texts; blank lines skipped: 2"),
        ],
    )
    def test_what_holds_no_texts_is_named(self, data: bytes, named: str, tmp_path: Path) -> None:
        with pytest.raises(TextDataError, match=named):
            read(tmp_path / "rows", data)

    def test_an_array_is_read_whole_up_to_a_size(self, tmp_path: Path) -> None:
        data = b'[{"text": "%s"}]' % (b"a" * 64 * 2**20)
        with pytest.raises(TextDataError, match="JSON array of over 64 MiB; make JSON lines of it"):
            read(tmp_path / "rows", data)

    @pytest.mark.parametrize("kind", ["parquet", "zst"])
    def test_without_pyarrow_the_sentence_says_what_to_install(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = CONTENT["Parquet"] if kind == "parquet" else zstd(LINES.encode())
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(TextDataError, match=r"takes the package pyarrow: pip install .*arrow"):
            read(tmp_path / "rows", data)

    @pytest.mark.parametrize("text", ["{braces}\n[spoiler]\n", "[", "{\n", "[\nfoo\n"])
    def test_plain_text_may_begin_like_json(self, text: str, tmp_path: Path) -> None:
        rows = read(tmp_path / "rows", text)
        assert [row.text for row in rows] == text.split()


def test_blank_lines_are_skipped_counted_and_keep_the_numbers(tmp_path: Path) -> None:
    for data in ("Good\n\n \t\nBad\n", '{"text": "Good"}\n\n  \n{"text": "Bad"}\n'):
        reporter = SilentReporter()
        rows = read(tmp_path / "rows", data, reporter=reporter)
        assert [(row.line, row.text) for row in rows] == [(1, "Good"), (4, "Bad")]
        assert reporter.lines[-1].endswith("2 texts; blank lines skipped: 2")


class TestPipes:
    @pytest.mark.parametrize("kind", ["JSON lines", "UTF-16", "Parquet", "Arrow stream"])
    def test_a_named_pipe_is_read_once(self, kind: str, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=[CONTENT[kind]])
        writer.start()
        assert [(row.text, row.label) for row in read_texts(pipe)] == ROWS
        writer.join(timeout=10)
        assert not writer.is_alive()

    @pytest.mark.parametrize("path", ["/dev/fd/{}", "/proc/self/fd/{}"])
    def test_a_descriptor_is_read_once(self, path: str) -> None:
        for data in (LINES.encode(), b""):
            end, begin = os.pipe()
            os.write(begin, data)
            os.close(begin)
            with os.fdopen(end):
                if data:
                    rows = read_texts(Path(path.format(end)))
                    assert [(row.text, row.label) for row in rows] == ROWS
                    continue
                with pytest.raises(TextDataError, match="holds no texts"):
                    read_texts(Path(path.format(end)))

    def test_a_pipe_that_nobody_writes_into_can_be_stopped(self, tmp_path: Path) -> None:
        class Impatient(SilentReporter):
            left = 4

            def check_stop(self) -> None:
                self.left -= 1
                if not self.left:
                    raise Interrupted

        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(Interrupted):
            read_texts(tmp_path / "pipe", reporter=Impatient())

    @pytest.mark.parametrize(
        ("kind", "pack"), [("plain", bytes), ("plain", gzip.compress), ("JSON lines", bytes)]
    )
    def test_an_endless_stream_takes_no_more_memory(
        self, kind: str, pack: Callable[[bytes], bytes]
    ) -> None:
        import tracemalloc

        row = {"plain": "Good\n" * 99, "JSON lines": LINES}[kind]
        block = pack(row.encode() * (2**18 // len(row)))
        end, begin = os.pipe()

        def write() -> None:
            with suppress(BrokenPipeError):
                while True:
                    os.write(begin, block)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        batches = TextFile(Path(f"/dev/fd/{end}")).read_batches()
        os.close(end)
        assert 1 <= len(next(batches)) <= 256
        tracemalloc.start()
        for _, batch in zip(range(300), batches, strict=False):
            assert all(row.error is None for row in batch)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        batches.close()
        writer.join(timeout=10)
        os.close(begin)
        assert peak < 64 * 2**20


def test_reading_imports_neither_torch_nor_pyarrow() -> None:
    code = "import sys, stages.texts; sys.exit(bool({'torch', 'pyarrow', 'yaml'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
