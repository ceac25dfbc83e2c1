from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from stages.errors import ExportError
from stages.student.tokenizer import PADDING, TokenRemap, build_tokenizer, remap_tokenizer


def add_tokens(kind: str) -> Tokenizer:
    tokenizer = make_tokenizer(kind)._tokenizer
    # Outside the vocabulary, as the special tokens of most models.
    tokenizer.add_special_tokens(["<|end|>", "<|user|>"])
    tokenizer.add_tokens([AddedToken("good", single_word=True), "🙂🙂"])
    return tokenizer


TOKENIZERS = {kind: add_tokens(kind) for kind in ("bytes", "metaspace")}
PARTS = st.sampled_from(
    ["<s>", "</s>", "<|end|>", "<|user|>", "good", "🙂🙂", "<unk>", " ", "<pad>"]
)
TEXTS = st.lists(PARTS | st.text(max_size=5), max_size=8).map("".join)


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@pytest.mark.parametrize("source", [0, 1, 300])
@settings(max_examples=25)
@given(text=TEXTS)
def test_every_text_is_cut_as_before(kind: str, source: int, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    remapped = remap(kind, source)
    before = [
        900 if id_ == source else id_
        for id_ in tokenizer.encode(text, add_special_tokens=False).ids
    ]
    assert remapped.encode(text, add_special_tokens=False).ids == before
    assert remapped.token_to_id(PADDING) == source
    assert remapped.token_to_id(tokenizer.id_to_token(source)) == 900


@functools.cache
def remap(kind: str, source: int) -> Tokenizer:
    return remap_tokenizer(TOKENIZERS[kind], TokenRemap(source, 900))


def test_a_tokenizer_that_would_cut_otherwise_is_refused() -> None:
    tokenizer = add_tokens("metaspace")
    # Matched at the beginning of a word only, as long as it is no token of the vocabulary.
    tokenizer.add_tokens(["🙃"])
    with pytest.raises(ExportError, match="cuts 'a🙃 b 🙃' otherwise"):
        remap_tokenizer(tokenizer, TokenRemap(1, 900))


def test_the_llama_2_tokenizer_gives_its_start_token_away(shared: Path, tmp_path: Path) -> None:
    from stages.checkpoints import load_tokenizer

    llama = load_tokenizer(shared / "llama2-tokenizer")
    llama.save_pretrained(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    remapped = build_tokenizer(files, llama.bos_token_id, 20, TokenRemap(1, 32000))
    assert remapped.pad_token_id == 1
    for text, plain in (("Good <s> film", True), ("Good <s> film", False)):
        settings = {"add_special_tokens": False, "split_special_tokens": plain}
        wanted = [1, *llama(text, **settings)["input_ids"]]
        found = remapped(text, split_special_tokens=plain)["input_ids"]
        assert found == [32000 if id_ == 1 else id_ for id_ in wanted]


def test_a_vocabulary_that_is_a_list_is_refused() -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(ExportError, match=r"reserves the token id 1.*\(Unigram\)"):
        remap_tokenizer(tokenizer, TokenRemap(1, 2))


def test_an_id_that_is_taken_is_refused() -> None:
    with pytest.raises(ExportError, match="use another encoder"):
        remap_tokenizer(TOKENIZERS["bytes"], TokenRemap(1, 300))
