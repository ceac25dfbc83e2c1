"""Exports on a model hub; what is said to it is huggingface_hub's business.

A repository is looked at before it is written to, and written to in one commit on what was seen, so
that nobody else's model, nor a change made meanwhile, is overwritten.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
from huggingface_hub import HfApi, ModelInfo, constants, errors
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    filter_repo_objects,
    validate_repo_id,
)

from stages.errors import ExportError, HubError, SettingError, StageError
from stages.loading import one_line
from stages.records import RECORD, read_record
from stages.reporter import Interrupted

if TYPE_CHECKING:
    from stages.reporter import Reporter

NO_MODEL = [".gitattributes", "README.md", "LICENSE*"]
"""What a repository may hold, as one made by hand does, without holding somebody's model."""

OURS = [
    RECORD,
    "README.md",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model*.safetensors*",
    "onnx/model*.onnx*",
]
"""What exports consist of, and so what of an older one does not stay with a newer one."""

SECONDS = 60.0
"""Longest wait for the first answer."""

MEANWHILE = "it was changed meanwhile; give the same command again"
WHAT_TO_DO = {
    401: "it does not take the token; run 'hf auth login --force', or set another HF_TOKEN",
    403: "the token may not write there; give it the right to, or choose another owner",
    404: "it is not there, or the token may not see it",
    409: MEANWHILE,
    412: MEANWHILE,
    429: "it was asked too often; try again later",
}
"""By the status that a hub answers with."""


def check_push(repo: str) -> None:
    """Check what can be known of an upload without asking the hub.

    Args:
        repo: ``name`` or ``owner/name``.

    Raises:
        SettingError: It is no name of a repository.
        HubError: The hub must not be asked, or there is no token.
    """
    try:
        validate_repo_id(repo)
    except errors.HFValidationError as error:
        raise SettingError(
            f"{repo!r} is no name of a repository, which is NAME or OWNER/NAME: {one_line(error)}"
        ) from error
    if huggingface_hub.is_offline_mode():
        raise HubError(
            f"cannot upload to {repo}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids it; unset it"
        )
    try:
        token = huggingface_hub.get_token()
    except Exception as error:  # of an exchange with a CI provider, where that is asked for
        raise HubError(f"cannot upload to {repo}: no token: {one_line(error)}") from error
    if not token:
        raise HubError(
            f"cannot upload to {repo}: there is no token; run 'hf auth login', or set HF_TOKEN"
        )


def push_folder(folder: Path, repo: str, private: bool, reporter: Reporter) -> str:
    """Upload an export to a model repository, in one commit.

    Args:
        folder: What :func:`stages.export.export_student` wrote; hidden files stay here.
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
    api = HfApi()
    with _explain(repo, api.endpoint):
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
        old = [
            each for each in filter_repo_objects(there, allow_patterns=OURS) if each not in files
        ]
        reporter.say(f"uploading {len(files)} files to {name}: {', '.join(files)}")
        if old:
            reporter.say(f"removing what the older student has besides: {', '.join(old)}")
        if not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None:
            reporter.say(
                "large files go by xet to a server of their own, which is tried for many minutes "
                "where it cannot be reached; HF_HUB_DISABLE_XET=1 sends them without it"
            )
        reporter.check_stop()
        # Not upload_folder, which makes several commits of slow uploads, only the first of them
        # on the parent that was looked at.
        commit = api.create_commit(
            name,
            [huggingface_hub.CommitOperationDelete(each) for each in old]
            + [huggingface_hub.CommitOperationAdd(each, path) for each, path in files.items()],
            commit_message=f"Upload a student of the task {one_line(record['task']['name'])}",
            parent_commit=info.sha,
        )
    if commit.oid == info.sha:
        reporter.say(f"{name} holds these very files already; nothing was changed")
    else:
        reporter.say(f"commit: {commit.commit_url}")
    return address


def _list_files(folder: Path, reporter: Reporter) -> dict[str, Path]:
    """Return a folder's files by their paths below it."""
    every = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    hidden = [name for name in every if any(part.startswith(".") for part in name.split("/"))]
    if hidden:
        reporter.warn(f"hidden files are not uploaded: {', '.join(hidden)}")
    return {name: path for name, path in every.items() if name not in hidden}


def _find_repository(api: HfApi, name: str, private: bool, reporter: Reporter) -> ModelInfo:
    """Return what a repository holds, which is made where there is none."""
    try:
        return api.model_info(name, timeout=SECONDS)
    except errors.RepositoryNotFoundError as error:
        # 401 is also what is said to those whose token is none.
        if isinstance(error, errors.GatedRepoError) or error.response.status_code != 404:
            raise
    # Where it need not be private, an organisation may still have settled that new ones are.
    api.create_repo(name, private=True if private else None, exist_ok=True)
    info = api.model_info(name, timeout=SECONDS)
    reporter.say(f"made the repository {name} ({'private' if info.private else 'public'})")
    return info


def _check_contents(
    api: HfApi, info: ModelInfo, there: list[str], address: str, reporter: Reporter
) -> None:
    """Check that what a repository holds is an older student, or no model."""
    older = _read_remote_record(api, info) if RECORD in there else None
    if older is not None:
        reporter.say(
            f"{info.id} holds a student of the task {one_line(older['task'].get('name'))} (cache "
            f"{one_line(older['fingerprint'])[:12]}), which this one replaces; it stays in the "
            "repository's history"
        )
        return
    others = list(filter_repo_objects(there, ignore_patterns=NO_MODEL))
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise HubError(
            f"{info.id} holds something else than a student of this project "
            f"({', '.join(others[:3])}{more}); choose another name, or remove these files at "
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
def _explain(repo: str, endpoint: str) -> Iterator[None]:
    """Have failures of the upload say what to do."""
    try:
        yield
    except (StageError, Interrupted):
        raise
    except Exception as error:  # huggingface_hub, its HTTP client and hf_xet raise dozens of types
        raise HubError(f"cannot upload to {repo} at {endpoint}: {_find_reason(error)}") from error


def _find_reason(error: BaseException) -> str:
    if isinstance(error, ValueError):  # of the model card, or of what the hub answered
        return one_line(error)
    # The upload of a file wraps what stopped it.
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for each in causes:
        if isinstance(each, errors.HfHubHTTPError):
            status = each.response.status_code
            said = f" ({one_line(each.server_message)})" if each.server_message else ""
            return f"the hub answered {status}{said}: {WHAT_TO_DO.get(status, 'try again later')}"
    # What it was in the end is in the last one, unless that has no words.
    words = next((one_line(each) for each in reversed(causes) if str(each)), one_line(error))
    return f"{words}; check the network, and HF_ENDPOINT where it is set, and try again"
