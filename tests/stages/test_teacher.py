from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tiny import FAMILY_NAMES, MOOD, make_language_model, make_tokenizer
from torch import nn

from stages.errors import ModelError
from stages.language_model import load_language_model, load_tokenizer
from stages.task import Task, load_task, parse_task
from stages.teacher import Teacher
from stages.verbaliser import build_verbaliser

LENGTHS = (0, 1, 5, 24)


def make_task(suffix: str = "\nAnswer:", prompt: str | None = None) -> Task:

    task = parse_task(yaml.safe_load(MOOD), "mood", "mood")
    return replace(task, suffix=suffix, prompt=prompt or task.prompt, max_length=24)


def draw_ids(rows: int, length: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(7))


@torch.inference_mode()
def ask_plainly(family: str, task: Task, ids: torch.Tensor) -> torch.Tensor:
    """Probabilities of one ordinary forward pass over prompt, input and suffix as token ids."""
    tokenizer = make_tokenizer()
    model = make_language_model(family, len(tokenizer))
    verbaliser = build_verbaliser(task, tokenizer)
    prefix = [tokenizer.bos_token_id, *tokenizer.encode(task.prompt, add_special_tokens=False)]
    suffix = tokenizer.encode(task.suffix, add_special_tokens=False)
    around = [
        torch.tensor(part, dtype=torch.long).expand(len(ids), -1) for part in (prefix, suffix)
    ]
    logits = model(input_ids=torch.cat([around[0], ids, around[1]], dim=1)).logits[:, -1]
    return verbaliser.compute_class_logits(logits[:, list(verbaliser.token_ids)]).softmax(dim=1)


@pytest.mark.parametrize("suffix", ["\nAnswer:", ""])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_teacher_answers_as_a_plain_forward_pass(family: str, suffix: str) -> None:
    tokenizer, task = make_tokenizer(), make_task(suffix)
    teacher = Teacher(make_language_model(family, len(tokenizer)), tokenizer, task)
    answers = []
    # Batches of 1 and of 7 by turns, so that one call's leavings would show in the next.
    for rows, length in [(rows, length) for length in LENGTHS for rows in (1, 7, 1)]:
        ids = draw_ids(rows, length, len(tokenizer))
        found = teacher.compute_class_logits(teacher.table[ids])
        assert found.dtype == torch.float32
        answers.append(found.softmax(dim=1))
        wanted = ask_plainly(family, task, ids)
        torch.testing.assert_close(answers[-1], wanted, atol=1e-5, rtol=0)
    assert torch.cat(answers).std(dim=0).max() > 0.005, "answers this alike prove nothing"
    reused = {"mamba": False}.get(family, True)
    assert teacher.prefix_reused == reused, teacher.full_pass_reason


def test_a_family_without_keys_and_values_says_why_its_prompt_is_run_anew() -> None:
    tokenizer = make_tokenizer()
    teacher = Teacher(make_language_model("mamba", len(tokenizer)), tokenizer, make_task())
    assert not teacher.prefix_reused
    assert "MambaForCausalLM keeps no keys and values" in teacher.full_pass_reason


def test_only_the_label_words_are_multiplied() -> None:
    tokenizer = make_tokenizer()
    model = make_language_model("gpt2", len(tokenizer))
    teacher = Teacher(model, tokenizer, make_task())
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    assert head.out_features == len(teacher.verbaliser.words) == 4
    assert teacher.table.shape == (len(tokenizer), 32)


def test_a_tokenizer_without_a_start_token_adds_none() -> None:
    tokenizer = make_tokenizer(start=None)
    teacher = Teacher(make_language_model("gpt2", len(tokenizer)), tokenizer, make_task())
    assert tokenizer.decode(teacher.prefix_ids) == make_task().prompt
    assert tokenizer.decode(teacher.suffix_ids) == "\nAnswer:"


@pytest.mark.parametrize("family", ["llama", "gemma2", "mamba"])
def test_the_average_next_token_is_a_plain_forward_pass_s(family: str) -> None:
    tokenizer, task = make_tokenizer(), make_task()
    teacher = Teacher(make_language_model(family, len(tokenizer)), tokenizer, task)
    ids = draw_ids(3, 6, len(tokenizer))
    found = teacher.average_next_token(ids)
    model = make_language_model(family, len(tokenizer))
    prefix = torch.tensor(teacher.prefix_ids).expand(3, -1)
    with torch.inference_mode():
        logits = model(input_ids=torch.cat([prefix, ids], dim=1)).logits
    wanted = logits[:, prefix.shape[1] - 1 : -1].softmax(dim=-1).double().mean(dim=(0, 1))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert found.sum().item() == pytest.approx(1.0)
    assert teacher.compute_class_logits(teacher.table[ids]).shape == (3, 2)


def test_a_task_too_long_for_the_model_is_refused_with_what_fits() -> None:
    tokenizer = make_tokenizer()
    task = replace(make_task(), max_length=500)
    with pytest.raises(ModelError, match="the model has 512; set max_length to at most") as found:
        Teacher(make_language_model("llama", len(tokenizer)), tokenizer, task)
    room = int(str(found.value).rsplit(" ", 1)[1])
    Teacher(make_language_model("llama", len(tokenizer)), tokenizer, replace(task, max_length=room))


class TestBundledModel:
    FOLDER = Path(__file__).parents[2] / "stages" / "mini"

    def test_it_is_an_ordinary_model_of_at_most_8_mb(self) -> None:
        assert (self.FOLDER / "model.safetensors").stat().st_size <= 8_000_000
        assert sum(path.stat().st_size for path in self.FOLDER.glob("*.*")) <= 10_000_000
        assert {path.suffix for path in self.FOLDER.iterdir() if path.is_file()} <= {
            ".json",
            ".py",
            ".safetensors",
        }

    def test_it_answers_each_bundled_task_as_a_plain_forward_pass(self) -> None:
        tokenizer = load_tokenizer(self.FOLDER)
        for name in ("imdb", "ag_news", "reddit"):
            task = load_task(name)
            plain = load_language_model(self.FOLDER, "cpu", "float32")
            teacher = Teacher(load_language_model(self.FOLDER, "cpu", "float32"), tokenizer, task)
            assert teacher.prefix_reused
            owners = {word.token_id: word.label for word in teacher.verbaliser.words}
            assert sorted(set(owners.values())) == sorted(task.label_names)
            ids = draw_ids(5, 20, len(tokenizer))
            prefix, suffix = (
                torch.tensor(part).expand(5, -1)
                for part in (teacher.prefix_ids, teacher.suffix_ids)
            )
            with torch.inference_mode():
                logits = plain(input_ids=torch.cat([prefix, ids, suffix], dim=1)).logits[:, -1]
            words = logits[:, list(teacher.verbaliser.token_ids)]
            torch.testing.assert_close(
                teacher.compute_class_logits(teacher.table[ids]).softmax(dim=1),
                teacher.verbaliser.compute_class_logits(words).softmax(dim=1),
                atol=1e-5,
                rtol=0,
            )

    def test_it_generates_text(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.FOLDER)
        model = AutoModelForCausalLM.from_pretrained(self.FOLDER, dtype=torch.float32)
        torch.manual_seed(0)
        given = tokenizer("this movie", return_tensors="pt")
        out = model.generate(**given, max_new_tokens=24)[0, given["input_ids"].shape[1] :]
        assert len(set(out.tolist())) > 5
        assert any(char.isalpha() for char in tokenizer.decode(out))
