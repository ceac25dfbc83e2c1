from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from stages.errors import ModelError
from stages.lm import resolve_model, resolve_tokenizer


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[object]]:
        """Replaces the hub by one answer."""

        def answer(what: object) -> list[object]:
            asked: list[object] = []

            def download(name: str, allow_patterns: list[str]) -> object:
                asked.extend([name, allow_patterns])
                if isinstance(what, Exception):
                    raise what
                return what

            monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
            return asked

        return answer

    def test_a_hub_model_is_fetched_without_code(
        self, hub: Callable[[object], list[object]], llm: Path
    ) -> None:
        asked = hub(str(llm))
        assert resolve_model("some/model") == llm
        name, patterns = asked
        assert name == "some/model"
        assert isinstance(patterns, list)
        assert "*.safetensors" in patterns
        assert not {"*.py", "*.bin", "*.pt"} & set(patterns)
        asked = hub(str(llm))
        assert resolve_tokenizer("some/model") == llm
        assert "*.safetensors" not in str(asked[1])

    @pytest.mark.parametrize(
        ("error", "named"),
        [
            (GatedRepoError, "some/model is gated: accept its licence"),
            (RepositoryNotFoundError, "neither a directory nor a hub model 'some/model'"),
            (HFValidationError, "neither a directory nor a hub model 'some/model'"),
            (ConnectionError, "hub cannot be reached"),
        ],
    )
    def test_what_the_hub_refuses_is_explained(
        self,
        error: type[Exception],
        named: str,
        hub: Callable[[object], list[object]],
    ) -> None:
        made = error.__new__(error)
        Exception.__init__(made, "what the hub said")
        hub(made)
        with pytest.raises(ModelError, match=named):
            resolve_model("some/model")
