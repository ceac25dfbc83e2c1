"""Exports on a model hub, uploaded by huggingface_hub.

A repository is looked at before it is written to, and written to on what was seen, so that nobody
else's model, nor a change made meanwhile, is overwritten.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, ModelInfo, constants, errors
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    filter_repo_objects,
    validate_repo_id,
)

from stages.checkpoints import explained, one_line
from stages.errors import HubError, SettingError, StageError
from stages.records import RECORD, read_record
from stages.reporter import Reporter

HIDDEN = [".*", "*/.*"]
NO_MODEL = [".gitattributes", "README.md", "LICENSE*"]
"""What a repository may hold, as one made by hand does, without holding somebody's model."""

WEIGHTS = ["model*.safetensors*", "onnx/model*.onnx*"]
OURS = [RECORD, "README.md", "config.json", "tokenizer.json", "tokenizer_config.json", *WEIGHTS]
"""What exports consist of, and so what of an older one does not stay with a newer one."""

SECONDS = 60.0
"""Longest wait for the first answer."""

WHAT_TO_DO = {
    401: "it does not take the token; run 'hf auth login --force', or set another HF_TOKEN",
    403: "the token may not write there; give it the right to, or choose another owner",
    **dict.fromkeys((409, 412), "it was changed meanwhile; give the same command again"),
}
"""By the status that a hub answers with."""


def check_push(repo: str) -> None:
    """Check what can be known of an upload to ``name`` or ``owner/name`` without asking the hub.

    SettingError: it is no name of a repository; HubError: no token, or the hub is not to be asked.
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
    with explained(HubError, f"cannot upload to {repo}: no token"):
        token = huggingface_hub.get_token()
    if not token:
        raise HubError(
            f"cannot upload to {repo}: there is no token; run 'hf auth login', or set HF_TOKEN"
        )


def push_folder(folder: Path, repo: str, private: bool, reporter: Reporter) -> str:
    """Upload an export, but no hidden files, to a model repository, and return its address.

    A bare name is under the token's owner; a repository is made where it is new.  SettingError: it
    is no name, or public and to be private; HubError: the hub does not take it, or cannot be
    reached.
    """
    check_push(repo)
    task = one_line(read_record(folder)["task"]["name"])
    every = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = list(filter_repo_objects(every, ignore_patterns=HIDDEN))
    if len(files) < len(every):
        hidden = ", ".join(filter_repo_objects(every, allow_patterns=HIDDEN))
        reporter.warn(f"hidden files are not uploaded: {hidden}")
    api = HfApi()
    with _explain(repo, api.endpoint):
        # A bare name alone would also find repositories of no owner, which are others'.
        name = repo if "/" in repo else f"{api.whoami()['name']}/{repo}"
        address = f"{api.endpoint}/{name}"
        # Where it need not be private, an organisation may still have settled that new ones are.
        api.create_repo(name, private=private or None, exist_ok=True)
        info = api.model_info(name, timeout=SECONDS)
        reporter.say(f"repository: {name} ({'private' if info.private else 'public'})")
        if private and not info.private:
            raise SettingError(
                f"{name} is there and public; make it private at {address}/settings first, or "
                "choose another name"
            )
        _check_contents(info, address, reporter)
        reporter.say(f"uploading {len(files)} files to {name}: {', '.join(files)}")
        if not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None:
            reporter.say(
                "large files go by xet to a server of their own, which is tried for many minutes "
                "where it cannot be reached; HF_HUB_DISABLE_XET=1 sends them without it"
            )
        reporter.check_stop()
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=f"Upload a student of the task {task}",
            parent_commit=info.sha,
            ignore_patterns=list(HIDDEN),
            delete_patterns=OURS,
        )
    if commit.oid == info.sha:
        reporter.say(f"{name} holds these very files already; nothing was changed")
    else:
        reporter.say(f"commit: {commit.commit_url}")
    return address


def _check_contents(info: ModelInfo, address: str, reporter: Reporter) -> None:
    """Check that a repository holds nothing but an older export, or no model."""
    there = sorted(each.rfilename for each in info.siblings or ())
    known = [*NO_MODEL, *OURS] if RECORD in there else NO_MODEL
    others = list(filter_repo_objects(there, ignore_patterns=known))
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise HubError(
            f"{info.id} holds something else than a student of this project "
            f"({', '.join(others[:3])}{more}); choose another name, or remove these files at "
            f"{address}/tree/main"
        )
    if RECORD in there:
        reporter.say(
            f"{info.id} holds a student, whose files this one replaces; they stay in the "
            "repository's history"
        )
    elif "README.md" in there:
        reporter.warn(
            f"the README.md of {info.id} is replaced; the older one stays in the repository's "
            "history"
        )


@contextmanager
def _explain(repo: str, endpoint: str) -> Iterator[None]:
    """Have failures of the upload say what to do."""
    try:
        yield
    except StageError:
        raise
    except Exception as error:  # huggingface_hub, its HTTP client and hf_xet raise dozens of types
        # The upload of a file wraps what stopped it.
        answered = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__
        reason = one_line(error)
        if isinstance(answered, errors.HfHubHTTPError) and not isinstance(error, ValueError):
            status = answered.response.status_code
            said = f" ({one_line(answered.server_message)})" if answered.server_message else ""
            what = WHAT_TO_DO.get(status, "try again later")
            reason = f"the hub answered {status}{said}: {what}"
        elif not isinstance(error, ValueError):  # of the model card, or of what the hub answered
            reason += "; check the network, and HF_ENDPOINT where it is set, and try again"
        raise HubError(f"cannot upload to {repo} at {endpoint}: {reason}") from error
