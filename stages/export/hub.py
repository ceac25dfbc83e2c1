"""Exports on a model hub; what is said to it is huggingface_hub's business.

A repository is looked at before it is written to, and written to in one commit on what was seen, so
that nobody else's model, nor a change made meanwhile, is overwritten.
"""

from __future__ import annotations

import fnmatch
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ExportError, HubError, SettingError, StageError
from stages.records import RECORD, read_record
from stages.reporter import Interrupted

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

    from stages.reporter import Reporter

NO_MODEL = (".gitattributes", "README.md", "LICENSE*")
"""What a repository may hold, as one made by hand does, without holding somebody's model."""

OURS = (
    RECORD,
    "README.md",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model*.safetensors*",
    "onnx/model*.onnx*",
)
"""What exports consist of, and so what of an older one does not stay beside a newer one."""

SHOWN = 3
"""Most files that a refusal names."""

SECONDS = 60.0
"""Longest wait for the first answer."""


def check_push(repo: str) -> None:
    """Check what can be known of an upload without asking the hub.

    Args:
        repo: ``name`` or ``owner/name``.

    Raises:
        SettingError: It is no name of a repository.
        HubError: The hub must not be asked, or there is no token.
    """
    from huggingface_hub import get_token, is_offline_mode
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise SettingError(
            f"{repo!r} is no name of a repository, which is NAME or OWNER/NAME: {_flatten(error)}"
        ) from error
    if is_offline_mode():
        raise HubError(
            f"cannot upload to {repo}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids it; unset it"
        )
    try:
        token = get_token()
    except Exception as error:  # of an exchange with a CI provider, where that is asked for
        raise HubError(f"cannot upload to {repo}: no token: {_flatten(error)}") from error
    if not token:
        raise HubError(
            f"cannot upload to {repo}: there is no token; run 'hf auth login', or set HF_TOKEN"
        )


def push_folder(folder: Path, repo: str, private: bool, reporter: Reporter) -> str:
    """Upload an export to a model repository, in one commit.

    Args:
        folder: What :func:`stages.export.stage.export_student` wrote; hidden files stay here.
        repo: ``name``, which is under the token's owner, or ``owner/name``; made where it is new.
        private: Whether it must be private.
        reporter: Told what is uploaded.

    Returns:
        The repository's address.

    Raises:
        SettingError: It is no name of a repository, or a public one and to be private.
        ExportError: The folder is no student.
        HubError: The hub cannot be reached, does not allow it, or has something else there.
        Interrupted: A stop was asked for before the upload.
    """
    check_push(repo)
    record = read_record(folder)
    files = _list_files(folder, reporter)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

    api = HfApi()
    with _explain(repo, api.endpoint, reporter):
        # A bare name alone would also find repositories of no owner, which are others'.
        name = repo if "/" in repo else f"{api.whoami()['name']}/{repo}"
        address = f"{api.endpoint}/{name}"
        info = _find_repository(api, name, private, reporter)
        if private and not info.private:
            raise SettingError(
                f"{name} is there and public; make it private at {address}/settings first, or "
                "choose another name"
            )
        there = sorted(each.rfilename for each in info.siblings or ())
        _check_contents(api, info, there, address, reporter)
        old = [each for each in there if each not in files and _is_any(each, OURS)]
        sizes = {each: path.stat().st_size for each, path in files.items()}
        reporter.say(f"uploading {len(files)} files, {_format_size(sum(sizes.values()))}, {name}:")
        for each, size in sizes.items():
            reporter.say(f"  {each}, {_format_size(size)}")
        if old:
            reporter.say(f"removing what the older student has beside them: {', '.join(old)}")
        if not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None:
            reporter.say(
                "large files go by xet to a server of their own, which is tried for many minutes "
                "where it cannot be reached; HF_HUB_DISABLE_XET=1 sends them without it"
            )
        reporter.check_stop()
        # Not upload_folder, which makes several commits of slow uploads.
        commit = api.create_commit(
            name,
            [CommitOperationDelete(each) for each in old]
            + [CommitOperationAdd(each, path) for each, path in files.items()],
            commit_message=f"Upload a student of the task {_flatten(record['task']['name'])}",
            parent_commit=info.sha,
        )
    if commit.oid == info.sha:
        reporter.say(f"{name} holds these very files already; nothing was changed")
    else:
        reporter.say(f"commit: {commit.commit_url}")
    return address


def _list_files(folder: Path, reporter: Reporter) -> dict[str, Path]:
    """Return a folder's files by their paths below it."""
    every = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    hidden = [place for place in every if any(part.startswith(".") for part in place.parts)]
    if hidden:
        reporter.warn(f"hidden files are not uploaded: {', '.join(map(str, hidden))}")
    return {place.as_posix(): path for place, path in every.items() if place not in hidden}


def _find_repository(api: HfApi, name: str, private: bool, reporter: Reporter) -> ModelInfo:
    """Return what a repository holds, which is made where there is none."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return api.model_info(name, timeout=SECONDS)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError as error:
        # 401 is also what is said to those whose token is none.
        if error.response.status_code != 404:
            raise
    # Where it need not be private, an organisation may still have settled that new ones are.
    api.create_repo(name, private=True if private else None, exist_ok=True)
    info = api.model_info(name, timeout=SECONDS)
    reporter.say(f"made the repository {name} ({'private' if info.private else 'public'})")
    return info


def _check_contents(
    api: HfApi, info: ModelInfo, there: Sequence[str], address: str, reporter: Reporter
) -> None:
    """Check that what a repository holds is an older student, or no model."""
    older = _read_remote_record(api, info) if RECORD in there else None
    if older is not None:
        reporter.say(
            f"{info.id} holds a student of the task {_flatten(older['task'].get('name'))} (cache "
            f"{_flatten(older['fingerprint'])[:12]}), which this one replaces; it stays in the "
            "repository's history"
        )
        return
    others = [each for each in there if not _is_any(each, NO_MODEL)]
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        raise HubError(
            f"{info.id} holds something else than a student of this project "
            f"({', '.join(others[:SHOWN])}{more}); choose another name, or remove these files at "
            f"{address}/tree/main"
        )
    if "README.md" in there:
        reporter.warn(
            f"the README.md of {info.id} is replaced; the older one stays in the repository's "
            "history"
        )


def _read_remote_record(api: HfApi, info: ModelInfo) -> dict[str, Any] | None:
    """Return the record of the student that a repository holds, or None where it is none."""
    with tempfile.TemporaryDirectory() as folder:
        api.hf_hub_download(info.id, RECORD, revision=info.sha, local_dir=folder)
        try:
            record = read_record(Path(folder))
        except ExportError:
            return None
    return record if isinstance(record["task"], dict) else None


@contextmanager
def _explain(repo: str, endpoint: str, reporter: Reporter) -> Iterator[None]:
    """Have failures of the upload say what to do, and warnings go where others go."""
    try:
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always", UserWarning)
            yield
    except (StageError, Interrupted):
        raise
    except Exception as error:  # huggingface_hub, its HTTP client and hf_xet raise dozens of types
        raise HubError(f"cannot upload to {repo} at {endpoint}: {_find_reason(error)}") from error
    for each in noted:
        if issubclass(each.category, UserWarning):
            reporter.warn(_flatten(each.message))


def _find_reason(error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, ValueError):  # of the model card, or of what the hub answered
        return _flatten(error)
    # The upload of a file wraps what stopped it.
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for each in causes:
        if isinstance(each, HfHubHTTPError):
            return _explain_status(each.response.status_code, _flatten(each.server_message or ""))
    # What it was in the end is in the last one, unless that has no words.
    words = next((_flatten(each) for each in reversed(causes) if str(each)), type(error).__name__)
    return f"{words}; check the network, and HF_ENDPOINT where it is set, and try again"


def _explain_status(status: int, said: str) -> str:
    known = {
        401: "it does not take the token; run 'hf auth login --force', or set another HF_TOKEN",
        403: "the token may not write there; give it the right to, or choose another owner",
        404: "it is not there, or the token may not see it",
        409: "it was changed meanwhile; give the same command again",
        412: "it was changed meanwhile; give the same command again",
        429: "it was asked too often; try again later",
    }
    answered = f"the hub answered {status}" + (f" ({said})" if said else "")
    return f"{answered}: {known.get(status, 'try again later')}"


def _is_any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _format_size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def _flatten(text: object) -> str:
    """Return text in one line, and not for ever."""
    return " ".join(str(text).split())[:300]
