"""What an object store refuses is said in one sentence, without a secret."""

import os
from collections.abc import Callable, Mapping

import pytest
from object_server import LAX

import cache.stores.bucket
from cache.errors import StorageError
from cache.stores.bucket import open_bucket
from cache.stores.leases import LeasedClaims
from cache.stores.places import parse_place


def test_a_forked_child_says_so_instead_of_waiting_for_ever(s3: str) -> None:
    files = open_bucket(s3)
    files.write({"a": b""})
    child = os.fork()
    if child == 0:
        try:
            files.size("a")
        except StorageError as error:
            os._exit(0 if "forked" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_a_store_without_conditional_writes_is_refused(s3: str) -> None:
    with pytest.raises(StorageError, match="does not support conditional writes"):
        LeasedClaims(s3.replace("caches", LAX)).take_first([0], lambda shard: False)


NOWHERE = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
NOBODY = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
NOBODY |= {"AWS_METADATA_ENDPOINT": "http://127.0.0.1:9"}
WRONG = {"AWS_ACCESS_KEY_ID": "wrong", "AWS_SESSION_TOKEN": "a-secret-token"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (NOWHERE, r"http://127\.0\.0\.1:9 cannot be reached \(Connection refused\)"),
        ({"AWS_ENDPOINT_URL": "localhost:9000"}, "AWS_ENDPOINT_URL must be http://host:port"),
        ({"AWS_ENDPOINT_URL": "http://me:a-secret-key@x"}, "AWS_ENDPOINT_URL must be"),
        ({"AWS_ENDPOINT_URL": "http://x:port"}, "AWS_ENDPOINT_URL must be"),
        ({"AWS_ENDPOINT_URL": ""}, "AWS_ENDPOINT_URL must be http"),
        ({"AWS_REGION": "a/b"}, "AWS_REGION is empty, or holds a space"),
        ({"AWS_SECRET_ACCESS_KEY": "a-secret-key\n"}, "AWS_SECRET_ACCESS_KEY is empty, or"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "there are no credentials; set AWS_ACCESS_KEY_ID"),
        (WRONG, r"refuses it \(SignatureDoesNotMatch\); check AWS_ACCESS_KEY_ID"),
        (NOBODY, "there are no credentials; set AWS_ACCESS_KEY_ID"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_without_a_secret(
    s3: str, monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, str | None], told: str
) -> None:
    monkeypatch.setattr(cache.stores.bucket, "RETRIES", 1)
    for name, value in changes.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=told) as caught:
        open_bucket(s3).read("a", 1)
    said = str(caught.value)
    assert "secret" not in said and "\n" not in said and len(said) < 300


def test_a_missing_bucket_is_named_by_every_call_that_can_know(s3: str) -> None:
    files = open_bucket("s3://nowhere/prefix")
    calls: list[Callable[[], object]] = [
        lambda: files.read("a", 1),
        lambda: files.write({"a": b""}),
        lambda: files.put_if_absent("a", b""),
        lambda: files.remove("a"),
        lambda: files.names("a"),
        lambda: list(files.walk()),
        files.names,
        parse_place("s3://nowhere/prefix").list_places,
    ]
    for call in calls:
        with pytest.raises(StorageError, match="there is no bucket 'nowhere'; make it"):
            call()
