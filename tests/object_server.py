"""An S3 server on loopback: moto's, with one request at a time, since its conditions race.

Run as a script it prints its port and serves until killed.  Keys that begin with "wrong" are
refused as S3 does it.  The bucket "lax" ignores conditions.  Below ``/_server/`` it tells
what it was asked, and takes orders: to carry out the next put of some path and lose the answer,
which makes a client ask again.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

BUCKET = "caches"
LAX = "lax"
REFUSAL = b"""<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code>\
<CanonicalRequest>x-amz-security-token:a-secret-token</CanonicalRequest></Error>"""


class Server:
    """A WSGI application around moto's."""

    def __init__(self, moto: Callable[..., Iterable[bytes]]) -> None:
        self._moto = moto
        self._lock = threading.Lock()
        self._asked: list[str] = []
        self._lose: list[str] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        # Before the lock: a client stopped in the middle of a put must not stop the others.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        with self._lock:
            if path.startswith("/_server/"):
                start("200 OK", [("Content-Type", "text/plain")])
                return self._obey(method, path.removeprefix("/_server/"))
            self._asked.append(f"{method} {path}?{environ['QUERY_STRING']}")
            if re.search("Credential=wrong", environ.get("HTTP_AUTHORIZATION", "")):
                start("403 Forbidden", [("Content-Type", "application/xml")])
                return [REFUSAL]
            if path.startswith(f"/{LAX}/"):
                environ.pop("HTTP_IF_NONE_MATCH", None)
                environ.pop("HTTP_IF_MATCH", None)
            if method == "PUT" and any(part in path for part in self._lose):
                self._lose.clear()
                b"".join(self._moto(environ, lambda *_: None))
                start("500 Internal Server Error", [])
                return [b""]
            return list(self._moto(environ, start))

    def _obey(self, method: str, order: str) -> list[bytes]:
        if method == "PUT":
            self._lose.append(order)
            return [b""]
        asked, self._asked = self._asked, []
        return ["\n".join(asked).encode()]


def ask(endpoint: str, path: str, method: str = "GET") -> str:
    request = urllib.request.Request(f"{endpoint}/{path}", method=method)  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return str(answer.read().decode())


@contextmanager
def serve() -> Iterator[str]:
    """Start the server, with one bucket; gives its address."""
    process = subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "AWS_ACCESS_KEY_ID": "moto", "AWS_SECRET_ACCESS_KEY": "moto"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
        for bucket in (BUCKET, LAX):
            ask(endpoint, bucket, "PUT")
        yield endpoint
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = Server(DomainDispatcherApplication(create_backend_app))
    listening = make_server("127.0.0.1", 0, server, threaded=True)
    print(listening.server_port, flush=True)  # noqa: T201
    listening.serve_forever()


if __name__ == "__main__":
    main()
