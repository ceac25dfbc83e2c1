from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, Repository, serve
from huggingface_hub import close_session, constants
from processes import run_here

from stages.errors import ExportError, HubError, SettingError, StageError
from stages.export import check_push, push_folder
from stages.records import RECORD
from stages.reporter import Interrupted, SilentReporter

HEAD = "---\nlibrary_name: transformers\n---\n"
MADE = {"task": {"name": "mood"}, "start_id": 0, "fingerprint": "0123456789", "held_out": {}}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on loopback, which huggingface_hub takes for its own."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", "good")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Weights go by LFS, since nothing here speaks xet; see the test of what is said of it.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    close_session()
    with serve() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        template = found.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found
    close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export")


def write_export(folder: Path, **own: bytes | str) -> Path:
    files: dict[str, bytes | str] = {
        RECORD: json.dumps(MADE),
        "README.md": HEAD,
        "config.json": "{}",
        "model.safetensors": b"weights" * 100,
        "onnx/model.onnx": b"graph" * 100,
    }
    for name, content in (files | own).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read_all(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def push(folder: Path, repo: str, private: bool = False) -> SilentReporter:
    reporter = SilentReporter()
    address = push_folder(folder, repo, private, reporter)
    assert address.endswith(f"/me/{repo.rpartition('/')[2]}")
    return reporter


@pytest.mark.parametrize(("repo", "private"), [("mood", False), ("me/mood", True)])
def test_a_new_repository_holds_the_folder_after_one_commit(
    repo: str, private: bool, hub: Hub, folder: Path
) -> None:
    reporter = push(folder, repo, private)
    made = hub.repositories["me/mood"]
    assert made.files == read_all(folder) | {".gitattributes": b""}
    assert made.private is private
    assert [each["summary"] for each in made.commits] == ["Upload a student of the task mood"]
    kind = "private" if private else "public"
    assert reporter.lines[0] == f"repository: me/mood ({kind})"
    names = "README.md, config.json, model.safetensors, onnx/model.onnx, training.json"
    assert f"uploading 5 files to me/mood: {names}" in reporter.lines
    assert reporter.lines[-1] == f"commit: {hub.address}/me/mood/commit/{made.sha}"
    assert reporter.warnings == []
    assert ("GET /api/whoami-v2" in hub.asked) == (repo == "mood")


def test_an_older_student_is_replaced_and_what_else_is_there_stays(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    push(folder, "mood")
    made = hub.repositories["me/mood"]
    made.files |= {"LICENSE": b"mine", "onnx/model_int8.onnx": b"old"}
    newer = write_export(tmp_path / "newer", **{"config.json": '{"a": 1}'})
    (newer / "onnx" / "model.onnx").unlink()
    reporter = push(newer, "mood")
    stays = {".gitattributes": b"", "LICENSE": b"mine"}
    assert made.files == read_all(newer) | stays
    said = "me/mood holds a student, whose files this one replaces; they stay in the repository's"
    assert reporter.lines[1].startswith(said)
    # The same files again are no commit, and hidden ones stay here.
    (newer / ".cache").write_text("mine")
    reporter = push(newer, "mood")
    assert reporter.warnings == ["hidden files are not uploaded: .cache"]
    assert reporter.lines[-1] == "me/mood holds these very files already; nothing was changed"
    assert len(made.commits) == 2 and ".cache" not in made.files


def test_a_repository_made_by_hand_is_filled_and_its_card_s_loss_is_said(
    hub: Hub, folder: Path
) -> None:
    files = {".gitattributes": b"", "README.md": b"mine", "LICENSE.txt": b"mine"}
    hub.repositories["me/mood"] = Repository(True, files)
    reporter = push(folder, "mood", private=True)
    assert reporter.warnings == [
        "the README.md of me/mood is replaced; the older one stays in the repository's history"
    ]
    assert hub.repositories["me/mood"].files["README.md"] == HEAD.encode()


@pytest.mark.parametrize(
    ("there", "listed"),
    [
        ({"config.json": b"theirs", "model.safetensors": b"theirs"}, "config.json, model"),
        ({RECORD: b"[]", "config.json": b"", "pytorch_model.bin": b"theirs"}, "pytorch_model.bin"),
        ({RECORD: b"{}", "z.png": b"", "y": b"", "x": b"", "a": b""}, "a, x, y and 1 more"),
    ],
)
def test_what_is_not_of_a_student_is_never_overwritten(
    there: dict[str, bytes], listed: str, hub: Hub, folder: Path
) -> None:
    files = dict(there)
    hub.repositories["me/mood"] = Repository(False, dict(files))
    with pytest.raises(HubError, match=rf"else than a student of this project \({listed}"):
        push(folder, "mood")
    assert hub.repositories["me/mood"].files == files


def test_what_is_to_be_private_does_not_go_into_a_public_repository(hub: Hub, folder: Path) -> None:
    hub.repositories["me/mood"] = Repository(False)
    with pytest.raises(SettingError, match="me/mood is there and public; make it private at http"):
        push(folder, "mood", private=True)
    assert hub.repositories["me/mood"].commits == []


def test_a_change_made_meanwhile_is_not_overwritten(hub: Hub, folder: Path) -> None:
    push(folder, "mood")
    (folder / "config.json").write_text("newer")
    hub.before_commit = lambda repository: repository.files.update({"a": b"theirs"})
    with pytest.raises(HubError, match=r"answered 412 .*: it was changed meanwhile; give the same"):
        push(folder, "mood")
    assert hub.repositories["me/mood"].files["config.json"] == b"{}"


@pytest.mark.parametrize(
    ("token", "repo", "refuse", "said"),
    [
        ("bad", "mood", {}, r"answered 401.*: it does not take the token; run 'hf auth login"),
        ("weak", "me/mood", {}, r"answered 403 .*the token may not write there"),
        ("good", "other/mood", {}, r"answered 403 .*the token may not write there"),
        ("good", "mood", {"GET /api/models": 500}, r"answered 500 \(as told\): try again later"),
        ("good", "mood", {"PUT /large": 403}, r"answered 403.*: the token may not write there"),
        ("good", "mood", {"POST /api/models/me/mood/commit": 413}, r"answered 413"),
    ],
)
def test_refusals_say_what_to_do(
    token: str,
    repo: str,
    refuse: dict[str, int],
    said: str,
    hub: Hub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.refuse = refuse
    with pytest.raises(HubError, match=rf"^cannot upload to {repo} at http://\S+: .*{said}"):
        push(folder, repo)
    for made in hub.repositories.values():
        assert (made.commits, set(made.files)) == ([], {".gitattributes"})


def test_a_hub_that_is_not_there_or_refuses_the_card(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "README.md").write_text("---\nmodel-index: wrong\n---\n")
    with pytest.raises(HubError, match=r'Invalid metadata in README\.md\. - "model-index" must be'):
        push(folder, "mood")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"at http://127\.0\.0\.1:9: .*refused; check the network"):
        push(folder, "me/mood")


def test_a_stop_before_the_commit_leaves_nothing(hub: Hub, folder: Path) -> None:
    class Stopped(SilentReporter):
        def check_stop(self) -> None:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        push_folder(folder, "mood", False, Stopped())
    assert hub.repositories["me/mood"].commits == []


@pytest.mark.parametrize("repo", ["", "a/b/c", "/mood", "me/", "a b", "a--b", "x" * 97, "a.git"])
def test_a_name_that_is_none_is_said_first(repo: str) -> None:
    # Offline and without a folder: nothing else was looked at.
    with pytest.raises(SettingError, match="is no name of a repository, which is NAME or OWNER"):
        push_folder(Path("nowhere"), repo, False, SilentReporter())


def test_offline_without_a_token_and_without_a_student(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match="is no student"):
        push(tmp_path, "mood")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="there is no token; run 'hf auth login', or set HF_TOKEN"):
        check_push("mood")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids it"):
        check_push("mood")
    assert hub.asked == []
    assert issubclass(HubError, StageError) and not HubError.usage


def test_the_command_uploads_what_it_wrote(
    hub: Hub, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    common = ("export", "--model", student, "--format", "transformers", "--out", out)
    done = run_here(*common, "--push-to-hub", "mood", "--private")
    assert done.code == 0, done.err
    assert done.out == f"{hub.address}/me/mood\n"
    assert hub.repositories["me/mood"].files == read_all(out) | {".gitattributes": b""}
    refused = run_here(*common, "--push-to-hub", "no such/name")
    assert (refused.code, refused.out) == (2, "")
    assert "is no name of a repository" in refused.err
    hub.repositories["me/theirs"] = Repository(False, {"weights.bin": b"theirs"})
    foreign = run_here(*common, "--push-to-hub", "me/theirs")
    assert (foreign.code, foreign.out) == (1, "")
    assert foreign.err.splitlines()[-1].startswith("error: me/theirs holds something else than a")
    monkeypatch.setenv("HF_TOKEN", "weak")
    weak = run_here(*common, "--push-to-hub", "me/new")
    assert (weak.code, weak.out) == (1, "")
    assert "error: cannot upload to me/new at " in weak.err.splitlines()[-1]


def test_without_xet_s_server_the_failure_is_one_sentence(hub: Hub, folder: Path) -> None:
    # Not in this process, which tests fork: xet's threads and signal handler stay.
    code = (
        "import sys; from pathlib import Path; from stages.export import push_folder\n"
        "from stages.errors import HubError; from stages.reporter import SilentReporter\n"
        "reporter = SilentReporter()\n"
        "try: print(push_folder(Path(sys.argv[1]), 'mood', False, reporter))\n"
        "except HubError as error: reporter.say(f'error: {error}')\n"
        "print(*reporter.lines, sep=chr(10), file=sys.stderr)\n"
    )
    own = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": f"{folder.parent}/home"}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | own)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()
    said = done.stderr.decode().splitlines()
    assert said[-1].startswith(f"error: cannot upload to mood at {hub.address}: ")
    assert any("HF_HUB_DISABLE_XET=1 sends them without it" in line for line in said)
    assert any("xet-write-token" in each for each in hub.asked)
    assert hub.repositories["me/mood"].commits == []
