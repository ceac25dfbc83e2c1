"""What an object store's errors mean, in words that say what to do and never hold a secret.

The store's own text is never passed on: S3 answers a wrong signature with what was signed, and the
session's token is part of that.
"""

import os
import re
from urllib.parse import urlsplit

from cache.errors import StorageError

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN where there is one)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_ADDRESS = {
    "s3": "AWS_ENDPOINT_URL, AWS_REGION",
    "gs": "GOOGLE_BASE_URL",
    "az": "AZURE_STORAGE_ENDPOINT",
}
# The services of virtual machines that are asked where the environment gives none, and a half.
_NO_CREDENTIALS = ("169.254.169.254", "/latest/api/token", "metadata.google", "source: Missing")
_ENDPOINT = re.compile(
    r"(?i:https?)://([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    r"(:[0-9]{0,5})?([/?#][!-~]*)?"
)
_KEY = re.compile(r"[!-~]+")
_SETTINGS = {
    **dict.fromkeys(("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"), _ENDPOINT),
    **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), _KEY),
    **dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), re.compile(r"[A-Za-z0-9-]+")),
}
"""What the library does not check itself before it uses it."""

_CODE = re.compile(r"<Code>([A-Za-z0-9_.]{1,60})</Code>")
_STATUS = re.compile(r"status code: ([0-9]{3})")
_SERVER = re.compile(r"performing [A-Z]+ (https?://[A-Za-z0-9.:\[\]_-]+)")
_CAUSE = re.compile(r'(?:message|error): "([A-Za-z0-9 ,.:_-]{1,120})"')


def check_environment(scheme: str) -> None:
    """Raise StorageError that names a setting which cannot be used, ``s3``'s alone.

    It does not say the value, which may be a secret.
    """
    for name, form in _SETTINGS.items() if scheme == "s3" else ():
        value = os.environ.get(name)
        if value is not None and not form.fullmatch(value):
            fault = "is empty, or holds a space, a line break or another character that cannot be"
            if form is _ENDPOINT:
                fault = "must be http://host:port or https://host:port, nothing before the host"
            raise StorageError(f"the environment variable {name} {fault}; set it anew or unset it")


def explain(text: str, url: str, missing: bool = False) -> str:
    """Return why a request failed, and what to do about it.

    Of the library's text only words known to be harmless are used; ``missing`` says that what the
    store did not find can only be the bucket.
    """
    parts = urlsplit(url)
    credentials, address = _CREDENTIALS[parts.scheme], _ADDRESS[parts.scheme]
    code, status = _find(_CODE, text), _find(_STATUS, text)
    if any(sign in text for sign in _NO_CREDENTIALS):
        return f"there are no credentials; set {credentials}"
    if missing or code in ("NoSuchBucket", "InvalidBucketName"):
        return f"there is no bucket {parts.netloc!r}; make it, or check {address} and the URL"
    if code == "RequestTimeTooSkewed":
        return "this machine's clock is wrong by too much for the store; set it"
    if status in ("301", "307") or code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
        return f"the bucket is elsewhere ({code or status}); set {address} to where it is"
    if status in ("401", "403") or code in ("InvalidToken", "ExpiredToken"):
        return (
            f"the store refuses it ({code or status}); check {credentials}, and what they may do "
            "with this bucket"
        )
    if "HTTP error" in text:
        server = _find(_SERVER, text) or "the store"
        late = "kind: Timeout" in text or "TimedOut" in text
        cause = "no answer in time" if late else _find(_CAUSE, text) or "no connection"
        return f"{server} cannot be reached ({cause}); check {address} and the network"
    if code or status:
        return f"the store answered {code or status}; the same command again continues"
    return "the store's library failed; check the URL and its settings in the environment"


def _find(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
