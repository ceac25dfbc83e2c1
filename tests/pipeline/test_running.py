from __future__ import annotations

import json
from pathlib import Path

from processes import run_here
from tiny import make_tokenizer, write_language_model

from cache.draw.samplers import SAMPLERS
from pipeline import options
from stages.inputs.preparation import MODEL_SAMPLERS

SMALL = ("--rows", 96, "--chunk-rows", 8, "--shard-rows", 32, "--sampler", "vocabulary")

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def test_a_dry_run_prints_what_a_run_would_take(llm: Path, mood: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    command = ("teacher", "--task", mood, "--model", llm, "--cache", root, *SMALL, "--dry-run")
    found = run_here(*command)
    assert found.code == 0, found.err
    names = [line.split(":")[0] for line in found.out.splitlines()]
    wanted = "rows, batch, speed, time, writing, disk, answers, verdict, dry run"
    assert names == wanted.split(", ")
    for part in ("96", "rows a second, from", "one worker", f"in {root}/mood/", "nothing was"):
        assert part in found.out
    assert "measured to be fastest" in found.err
    assert not root.exists()


def test_what_is_found_by_trial_is_kept_with_the_cache(
    llm: Path, mood: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cache"
    command = ("teacher", "--task", mood, "--model", llm, "--cache", root, *SMALL)
    assert run_here(*command).code == 0
    (manifest,) = root.glob("mood/*/manifest.json")
    written = json.loads(manifest.read_text())
    tuning = written["notes"]["tuning"]
    assert written["inputs"]["compute"]["batch_positions"] == "auto"
    assert tuning["positions_per_second"] > 0
    shown = run_here("cache", "show", manifest.parent.name[:8], "--cache", root)
    assert f"{tuning['batch_positions']} positions a batch\n" in shown.out
    assert written["notes"]["own_texts"] == 1024
    assert "1024, written by the model itself" in shown.out
    # One shard less: who continues does as the first one did.
    (manifest.parent / "commits" / "000001.json").unlink()
    again = run_here(*command)
    assert again.code == 0
    assert f"batch: {tuning['batch_positions']:,} positions, not compiled, as found" in again.err
    assert "computed 32 rows" in again.err


def test_a_prompt_goes_through_the_chat_template_when_asked(mood: Path, tmp_path: Path) -> None:
    model, root = write_language_model(tmp_path / "chat"), tmp_path / "cache"
    quick = (*SMALL, "--self-generated", 0, "--batch-positions", 512)
    command = ("teacher", "--task", mood, "--model", model, "--cache", root, *quick)
    refused = run_here(*command, "--chat")
    assert refused.code == 1
    assert "has no chat template; turn the template off" in refused.err
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    plain, chat = run_here(*command), run_here(*command, "--chat")
    assert (plain.code, chat.code) == (0, 0), chat.err
    assert "the tokenizer has a chat template, which is off" in plain.err
    found = [json.loads(path.read_text())["inputs"] for path in root.glob("mood/*/manifest.json")]
    assert len(found) == 2
    (framed,) = [inputs["chat"] for inputs in found if "chat" in inputs]
    decoded = tokenizer.decode(framed["prefix_ids"])
    assert decoded == "<s><|user|>\nIs this good or bad?\n"
    assert tokenizer.decode(framed["suffix_ids"]) == "\nAnswer:<|end|>\n<|assistant|>\n"
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Good", "label": "good"}\n')
    asked = ("evaluate", "--teacher", model, "--task", mood, "--data", texts)
    assert run_here(*asked, "--chat").code == 0
    assert run_here(*asked).code == 0


def test_the_samplers_that_a_command_takes_are_those_that_there_are() -> None:
    # They are named twice so that `pipeline --help` need not import what knows them.
    assert set(options.SAMPLERS) == {*SAMPLERS, *MODEL_SAMPLERS}
