from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from processes import run_here, start
from tiny import make_tokenizer

from pipeline.cli import cli, main
from stages.teacher.stage import TeacherResult


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def all_commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


COMMANDS = dict(all_commands(cli))
GROUPS = [(), *(path for path, command in COMMANDS.items() if isinstance(command, click.Group))]


@pytest.mark.parametrize("path", [path for path in COMMANDS if path not in GROUPS], ids=" ".join)
def test_every_command_has_help_with_an_example_and_a_phrase_for_each_option(
    path: tuple[str, ...],
) -> None:
    for flag in ("--help", "-h"):
        found = run_here(*path, flag)
        assert (found.code, found.err) == (0, "")
        example = found.out.split("Example:")[1].split("\n\n")[0]
        assert f"pipeline {' '.join(path)}" in " ".join(example.split())
        options = {name for option in COMMANDS[path].params for name in option.opts}
        assert {word for word in example.split() if word.startswith("--")} <= options
    for option in COMMANDS[path].params:
        if isinstance(option, click.Option):
            text = option.help or ""
            assert text.endswith(".") and len(text.split()) > 2, f"{option.name}: {text}"


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_no_command_s_summary_is_cut(path: tuple[str, ...]) -> None:
    found = run_here(*path, "--help")
    assert found.code == 0
    listed = found.out.split("Commands:")[1]
    assert "..." not in listed
    assert all(each[-1] in listed for each in COMMANDS if each[:-1] == path)


def test_help_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    script = """
import sys
sys.argv = ["pipeline", *sys.argv[1:]]
from pipeline.cli import main
try:
    main()
except SystemExit as stop:
    assert stop.code == 0, stop.code
heavy = {"torch", "transformers", "numpy", "zarr", "accelerate"} & set(sys.modules)
assert not heavy, heavy
"""
    for arguments in (["--help"], ["teacher", "--help"], ["--version"], ["task", "list"]):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ("", 2, ["Usage: ", "teacher", "doctor"]),
        ("teachr", 2, ["No such command 'teachr'"]),
        ("teacher", 2, ["Missing option '--task'"]),
        ("teacher --task imbd", 2, ["unknown task 'imbd'", "'imdb'"]),
        ("teacher --task x.yaml", 2, ["cannot read the task file x.yaml"]),
        ("teacher --task imdb --row 5", 2, ["No such option", "--rows"]),
        ("teacher --task imdb --rows 0", 2, ["--rows", "0 is not in the range x>=1"]),
        ("teacher --task imdb --sampler gauss", 2, ["'gauss'", "'vocabulary'"]),
        ("teacher --task imdb --device tpu", 2, ["device 'tpu'"]),
        ("teacher --task imdb --device cuda", 2, ["'cuda' is not there"]),
        ("teacher --task imdb --dtype int4", 2, ["'int4'", "float32"]),
        ("teacher --task imdb --shard-rows 100", 2, ["100", "64"]),
        ("student --task imdb", 2, ["Missing option '--arch'"]),
        ("student --task imdb --arch mini", 2, ["no complete cache of task imdb"]),
        ("student --task imdb --arch mini --from ab", 2, ["no caches", "'ab'"]),
        ("student --task imdb --arch mini --batch-size 9", 2, ["multiple of 4"]),
        ("evaluate --data x", 2, ["nothing to measure", "(--model, --teacher, --task)"]),
        ("tag --model nothing --threads 0", 2, ["'--threads': 0 is not in the range x>=1"]),
        ("task show redit", 2, ["unknown task 'redit'", "'reddit'"]),
        ("teacher --task imdb --model ./none", 1, ["model directory './none'"]),
        ("teacher --task imdb --model no-such-model", 1, ["hub cannot be reached"]),
        ("teacher --task imdb --texts none.txt", 1, ["cannot read none.txt"]),
        ("tag --model none", 1, ["none is no model directory (it has no config.json)"]),
        ("tag --model a.onnx", 1, ["a.onnx is not there; `pipeline export` makes it"]),
        ("evaluate --model none --data x.txt", 1, ["none is no student"]),
        ("task check imdb --model .", 1, ["cannot load the tokenizer"]),
        ("task check imdb --chat", 1, ["has no chat template", "turn the template off"]),
    ],
)
def test_what_cannot_be_ends_with_2_and_what_fails_with_1_and_both_are_said(
    arguments: str, code: int, named: list[str]
) -> None:
    found = run_here(*arguments.split())
    assert (found.code, found.out) == (code, "")
    assert "Traceback" not in found.err
    for part in named:
        assert part in found.err
    assert code == 1 or not Path("data").exists()


def test_a_closed_standard_output_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Python has it where a shell was told `>&-`."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "argv", ["pipeline", "task", "list"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("Error: standard output is closed; send it")


class TestTasks:
    def test_list_names_each_and_show_gives_everything(self, mood: Path) -> None:
        names = ["ag_news", "emotions", "imdb", "reddit"]
        assert [x.split()[0] for x in run_here("task", "list").out.splitlines()] == names
        data = json.loads(run_here("task", "list", "--json").out)
        assert [entry["name"] for entry in data] == names
        found = run_here("task", "show", mood)
        for part in ("mood", r"Is this good or bad?\n", r"\nAnswer:", "12 tokens", "Good, Great"):
            assert part in found.out
        assert json.loads(run_here("task", "show", mood, "--json").out) == {
            "name": "mood",
            "prompt": "Is this good or bad?\n",
            "suffix": "\nAnswer:",
            "max_length": 12,
            "labels": {"bad": ["Bad", "Poor"], "good": ["Good", "Great"]},
            **{"word_score": "first-token", "label_score": "max", "prior": "auto"},
            **{"write": None, "write_labelled": None},
        }

    @pytest.mark.parametrize(
        ("old", "new", "fault"),
        [
            ("bad:", '" bad":', "label ' bad' begins or ends with a space"),
            ("bad:", '"ba\\nd":', "holds a control character"),
            ("name: mood", f"name: {'n' * 101}", "must be at most 100 letters"),
        ],
    )
    def test_a_name_that_would_break_a_table_or_a_directory_is_refused(
        self, mood: Path, here: Path, old: str, new: str, fault: str
    ) -> None:
        (here / "a.yaml").write_text(mood.read_text().replace(old, new, 1))
        found = run_here("task", "show", "a.yaml")
        assert (found.code, fault in found.err) == (2, True), found.err

    def test_check_lists_tokens_and_refuses_labels_that_share_them(
        self, mood: Path, llm: Path, here: Path
    ) -> None:
        found = run_here("task", "check", mood, "--model", llm)
        assert (found.code, found.err.count("warning:")) == (0, 0)
        for word in ("Bad", "Poor", "Good", "Great"):
            assert any(f"Ġ{word}" in line.split() for line in found.out.splitlines())
        assert f"task mood can be used with {llm}" in found.out
        (here / "a.yaml").write_text(mood.read_text().replace("Poor]", "Qqa]"))
        found = run_here("task", "check", "a.yaml", "--model", llm)
        assert (found.code, "warning: " in found.err, "'Qqa'" in found.err) == (0, True, True)
        both = mood.read_text().replace("Poor]", "Qqa]").replace("Great]", "Qqb]")
        (here / "b.yaml").write_text(both)
        found = run_here("task", "check", "b.yaml", "--model", llm)
        assert found.code == 2
        assert all(part in found.err for part in ("'bad'", "'good'", "'Qqa'", "'Qqb'"))

    def test_check_shows_the_prompt_as_the_model_sees_it(self, mood: Path, here: Path) -> None:
        tokenizer = make_tokenizer()
        tokenizer.chat_template = (
            "{% for m in messages %}{{ '[' + m.role + '] ' + m.content + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
        )
        tokenizer.save_pretrained(here / "talker")
        plain = run_here("task", "check", mood, "--model", "talker")
        assert plain.code == 0
        assert r"'<s>Is this good or bad?\n' <input> '\nAnswer:'" in plain.out.splitlines()
        assert "the prompt is not put through it" in plain.err
        found = run_here("task", "check", mood, "--model", "talker", "--chat")
        assert found.code == 0
        shown, sizes, *words, written, last = found.out.splitlines()
        assert shown == (r"'<s>[user] Is this good or bad?\n' <input> '\nAnswer:\n[assistant]'")
        assert sizes.endswith("behind it")
        assert [word.split()[3:] for word in words] == [["ĠBad"], ["ĠPoor"], ["ĠGood"], ["ĠGreat"]]
        assert written.split() == ["write:", "continues", "the", "prompt"]
        assert last == "task mood can be used with talker --chat"

    def test_the_bundled_tasks_fit_the_bundled_model(self) -> None:
        for name in ("imdb", "ag_news", "reddit", "emotions"):
            assert f"task {name} can be used with mini" in run_here("task", "check", name).out


class TestCaches:
    def test_list_shows_what_is_there(self, filled: tuple[Path, TeacherResult], here: Path) -> None:
        root, result = filled
        (entry,) = json.loads(run_here("cache", "list", "--cache", root, "--json").out)
        assert entry["fingerprint"] == result.cache.fingerprint
        assert entry["path"] == str(result.cache.place.path)
        assert (entry["complete"], entry["shards"], entry["committed"]) == (True, 7, 7)
        assert entry["bytes"] == sum(
            path.stat().st_size for path in result.cache.place.path.rglob("*") if path.is_file()
        )
        line = run_here("cache", "list", "--cache", root).out
        for part in (result.cache.fingerprint[:12], "7/7", "mood, 200 vocabulary"):
            assert part in line
        # Of nothing, and of what is no cache.
        assert "no caches below data/cache" in run_here("cache", "list").out
        assert json.loads(run_here("cache", "list", "--json").out) == []
        (here / "data" / "cache" / "mood" / "junk").mkdir(parents=True)
        found = run_here("cache", "list")
        assert found.code == 0
        assert "unreadable" in found.out and "junk" in found.out


def test_doctor_says_what_auto_would_choose_and_why() -> None:
    found = run_here("doctor")
    assert found.code == 0
    lines = {line.split()[0]: line for line in found.out.splitlines()}
    assert "cpu (auto: no CUDA device is there)" in lines["device"]
    assert "mini (auto: meta-llama/Llama-2-7b-hf needs a CUDA device" in lines["model"]
    assert "(auto: the CPU" in lines["dtype"]
    assert {"python", "torch", "transformers", "zarr", "cores"} <= set(lines)


def test_a_reader_who_has_had_enough_is_no_traceback(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = start("task", "list", cwd=tmp_path, stdout=write)
    os.close(write)
    assert process.communicate()[1] == b""
    assert process.returncode != 0
