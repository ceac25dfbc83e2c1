from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from processes import run_here
from tiny import make_tokenizer

from pipeline.cli import cli
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
def test_every_command_has_help_with_an_example_of_itself(path: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        found = run_here(*path, flag)
        assert (found.code, found.err) == (0, "")
        example = found.out.split("Example:")[1].split("\n\n")[0]
        assert f"pipeline {' '.join(path)}" in " ".join(example.split())
        options = {name for option in COMMANDS[path].params for name in option.opts}
        assert {word for word in example.split() if word.startswith("--")} <= options


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_has_help_in_a_full_phrase(path: tuple[str, ...]) -> None:
    for option in COMMANDS[path].params:
        if isinstance(option, click.Option):
            text = option.help or ""
            assert text.endswith(".") and len(text.split()) > 2, f"{option.name}: {text}"


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_no_command_s_summary_is_cut(path: tuple[str, ...]) -> None:
    found = run_here(*path, "--help")
    assert found.code == 0
    assert "..." not in found.out.split("Commands:")[1]


def test_the_verbs_of_the_design_are_there() -> None:
    assert {"teacher", "student", "evaluate", "tag", "export", "cache", "task", "doctor"} <= set(
        cli.commands
    )
    found = run_here("--help")
    assert found.code == 0
    assert all(name in found.out for name in cli.commands)


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
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["teachr"], ["No such command 'teachr'"]),
        (["teacher"], ["Missing option '--task'"]),
        (["teacher", "--task", "imbd"], ["unknown task 'imbd'", "'imdb'"]),
        (["teacher", "--task", "x.yaml"], ["cannot read the task file x.yaml"]),
        (["teacher", "--task", "imdb", "--row", "5"], ["No such option", "--rows"]),
        (["teacher", "--task", "imdb", "--rows", "0"], ["--rows", "0"]),
        (["teacher", "--task", "imdb", "--rows", "-3"], ["--rows", "-3"]),
        (["teacher", "--task", "imdb", "--seed", "-1"], ["--seed", "-1"]),
        (["teacher", "--task", "imdb", "--sampler", "gauss"], ["'gauss'", "'vocabulary'"]),
        (["teacher", "--task", "imdb", "--device", "tpu"], ["device 'tpu'"]),
        (["teacher", "--task", "imdb", "--device", "cuda"], ["'cuda' is not there"]),
        (["teacher", "--task", "imdb", "--dtype", "int4"], ["'int4'", "float32"]),
        (["teacher", "--task", "imdb", "--shard-rows", "100"], ["100", "64"]),
        (["student", "--task", "imdb"], ["Missing option '--arch'"]),
        (["student", "--task", "imdb", "--arch", "mini"], ["no complete cache of task imdb"]),
        (["student", "--task", "imdb", "--arch", "mini", "--from", "ab"], ["no caches", "'ab'"]),
        (["student", "--task", "imdb", "--arch", "mini", "--init", "x"], ["'x'", "'random'"]),
        (
            ["student", "--task", "imdb", "--arch", "mini", "--batch-size", "9"],
            ["9", "multiple of 4"],
        ),
        (["evaluate", "--data", "x.jsonl"], ["nothing to measure", "(--model, --teacher, --task)"]),
        (["tag"], ["Missing option '--model'"]),
        (["task", "show", "redit"], ["unknown task 'redit'", "'reddit'"]),
        ([], ["Usage: ", "teacher", "doctor"]),
    ],
)
def test_what_cannot_be_is_said_and_ends_with_2(arguments: list[str], named: list[str]) -> None:
    found = run_here(*arguments)
    assert found.code == 2
    assert found.out == ""
    assert "Traceback" not in found.err
    for part in named:
        assert part in found.err
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["teacher", "--task", "imdb", "--model", "./none"], ["model directory './none'"]),
        (["teacher", "--task", "imdb", "--model", "no-such-model"], ["hub cannot be reached"]),
        (["teacher", "--task", "imdb", "--texts", "none.txt"], ["cannot read none.txt"]),
        (["tag", "--model", "none", "."], ["directory"]),
        (
            ["tag", "--model", "none"],
            ["none is no model directory (it has no config.json); `pipeline student`"],
        ),
        (["tag", "--model", "."], [". is no model directory"]),
        (["tag", "--model", "a.onnx"], ["a.onnx is not there; `pipeline export` makes it"]),
        (["evaluate", "--model", "none", "--data", "x.txt"], ["none is no student"]),
        (["task", "check", "imdb", "--model", "./none"], ["model directory './none'"]),
        (["task", "check", "imdb", "--model", "."], ["cannot load the tokenizer"]),
        (["task", "check", "imdb", "--chat"], ["has no chat template", "turn the template off"]),
    ],
)
def test_what_fails_is_said_in_one_line_and_ends_with_1(
    arguments: list[str], named: list[str]
) -> None:
    found = run_here(*arguments)
    assert found.code in (1, 2) if arguments[-1] == "." and arguments[0] == "tag" else 1
    assert found.out == ""
    assert "Traceback" not in found.err
    for part in named:
        assert part in found.err


class TestTasks:
    def test_list_names_each(self) -> None:
        found = run_here("task", "list")
        assert found.code == 0
        assert [line.split()[0] for line in found.out.splitlines()] == [
            "ag_news",
            "emotions",
            "imdb",
            "reddit",
        ]
        data = json.loads(run_here("task", "list", "--json").out)
        assert [entry["name"] for entry in data] == ["ag_news", "emotions", "imdb", "reddit"]

    def test_show_gives_everything(self, mood: Path) -> None:
        found = run_here("task", "show", mood)
        for part in ("mood", r"Is this good or bad?\n", r"\nAnswer:", "12 tokens", "Good, Great"):
            assert part in found.out
        assert json.loads(run_here("task", "show", mood, "--json").out) == {
            "name": "mood",
            "prompt": "Is this good or bad?\n",
            "suffix": "\nAnswer:",
            "max_length": 12,
            "labels": {"bad": ["Bad", "Poor"], "good": ["Good", "Great"]},
        }

    def test_check_lists_tokens(self, mood: Path, llm: Path) -> None:
        found = run_here("task", "check", mood, "--model", llm)
        assert found.code == 0
        for word in ("Bad", "Poor", "Good", "Great"):
            assert any(f"Ġ{word}" in line.split() for line in found.out.splitlines())
        assert f"task mood can be used with {llm}" in found.out

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

    @pytest.mark.parametrize("name", ["imdb", "ag_news", "reddit"])
    def test_the_bundled_tasks_fit_the_bundled_model(self, name: str) -> None:
        found = run_here("task", "check", name)
        assert found.code == 0
        assert f"task {name} can be used with mini" in found.out

    def test_check_refuses_labels_that_share_a_token_and_warns_of_splits(
        self, llm: Path, mood: Path, here: Path
    ) -> None:
        (here / "a.yaml").write_text(mood.read_text().replace("Poor]", "Qqa]"))
        found = run_here("task", "check", "a.yaml", "--model", llm)
        assert found.code == 0
        assert "warning:" in found.err
        assert "'Qqa'" in found.err
        (here / "b.yaml").write_text(
            mood.read_text().replace("Poor]", "Qqa]").replace("Great]", "Qqb]")
        )
        found = run_here("task", "check", "b.yaml", "--model", llm)
        assert found.code == 2
        for part in ("'bad'", "'good'", "'Qqa'", "'Qqb'"):
            assert part in found.err

    def test_check_uses_the_real_llama_2_tokenizer(self, shared: Path, tmp_path: Path) -> None:
        model = shared / "llama2-tokenizer"
        found = run_here("task", "check", "imdb", "--model", model)
        assert found.code == 0
        assert "▁Un f avor able" in found.out
        assert "warning:" not in found.err
        first = tmp_path / "first.yaml"
        bundled = (Path(__file__).parents[2] / "stages/tasks/imdb.yaml").read_text()
        first.write_text(f"{bundled}word_score: first-token\n")
        assert run_here("task", "check", first, "--model", model).err.count("warning:") == 7


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

    def test_list_of_nothing_and_of_what_is_no_cache(self, here: Path) -> None:
        assert "no caches below data/cache" in run_here("cache", "list").out
        assert json.loads(run_here("cache", "list", "--json").out) == []
        (here / "data" / "cache" / "mood" / "junk").mkdir(parents=True)
        found = run_here("cache", "list")
        assert found.code == 0
        assert "unreadable" in found.out
        assert "junk" in found.out


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
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "task", "list"],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode != 0
