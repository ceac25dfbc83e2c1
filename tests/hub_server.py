"""A model hub on loopback: the few requests that huggingface_hub 2 makes for an upload.

Repositories are kept in memory.  Tokens: ``good`` may write to ``me``, ``weak`` may read, any other
is refused.  Requests whose method and path hold a key of ``refuse`` get that status.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

LARGE = (".safetensors", ".onnx")


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        known = repr((sorted(self.files.items()), len(self.commits)))
        return hashlib.sha1(known.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    before_commit: Callable[[Repository], None] = lambda repository: None

    def answer(self, method: str, path: str, who: str, body: bytes) -> tuple[int, Any]:
        """Return a status and what is said, or a file's bytes."""
        self.asked.append(f"{method} {path}")
        for part, status in self.refuse.items():
            if part in self.asked[-1]:
                return status, {"error": "as told"}
        if path.startswith("/large/"):
            self.large[path.removeprefix("/large/")] = body
            return 200, {}
        if who not in ("good", "weak"):
            return 401, {"error": "Invalid credentials in Authorization header"}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user"}
        if method == "POST" and who == "weak":
            return 403, {"error": "Forbidden"}
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(**json.loads(body))
        found = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/.]+)(?:\.git|/)?(.*)", path)
        if found is None or found[1] not in self.repositories:
            return 404, {"error": "Repository not found"}
        return self._answer_about(found[1], found[2], body)

    def _answer_about(self, name: str, rest: str, body: bytes) -> tuple[int, Any]:
        repository = self.repositories[name]
        if rest in ("", "revision/main"):
            files = [{"rfilename": each} for each in repository.files]
            own = {"private": repository.private, "sha": repository.sha, "siblings": files}
            return 200, {"id": name, **own}
        if rest == "tree/main":
            kind = {"type": "file", "oid": ""}
            return 200, [kind | {"path": p, "size": len(d)} for p, d in repository.files.items()]
        if rest.startswith("resolve/"):
            return 200, repository.files[rest.split("/", 2)[2]]
        if rest == "preupload/main":
            return 200, {"files": [self._plan(repository, **f) for f in json.loads(body)["files"]]}
        if rest == "/info/lfs/objects/batch":
            own = {"transfer": "basic"}
            return 200, own | {"objects": [self._place(**o) for o in json.loads(body)["objects"]]}
        if rest == "commit/main":
            self.before_commit(repository)
            return self._commit(name, [json.loads(line) for line in body.splitlines()])
        return 404, {"error": f"no {rest}"}

    def _validate(self, content: str) -> tuple[int, Any]:
        if "model-index: wrong" in content:
            return 400, {"errors": [{"message": '"model-index" must be an array'}], "warnings": []}
        return 200, {"errors": [], "warnings": []}

    def _create(self, name: str, organization: str, **own: Any) -> tuple[int, Any]:
        if organization != "me":
            return 403, {"error": f"You don't have the rights to create under {organization}"}
        repository = f"{organization}/{name}"
        if repository in self.repositories:
            said = "You already created this model repo"
            return 409, {"error": said, "url": f"{self.address}/{repository}"}
        self.repositories[repository] = Repository(own.get("visibility") == "private")
        return 200, {"url": f"{self.address}/{repository}"}

    def _plan(self, repository: Repository, path: str, **own: Any) -> dict[str, Any]:
        mode = "lfs" if path.endswith(LARGE) else "regular"
        found = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        if path in repository.files:
            content = repository.files[path]
            blob = b"blob %d\0" % len(content) + content
            git = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
            found["oid"] = hashlib.sha256(content).hexdigest() if mode == "lfs" else git
        return found

    def _place(self, oid: str, size: int) -> dict[str, Any]:
        upload = {"href": f"{self.address}/large/{oid}"}
        return {"oid": oid, "size": size} | (
            {} if oid in self.large else {"actions": {"upload": upload}}
        )

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        repository = self.repositories[name]
        head, *changes = ((line["key"], line["value"]) for line in lines)
        if head[1].get("parentCommit", repository.sha) != repository.sha:
            return 412, {"error": "A commit has happened since. Please refresh and try again."}
        for kind, value in changes:
            if kind == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                repository.files[value["path"]] = self.large[value["oid"]]
            else:
                del repository.files[value["path"]]
        repository.commits.append(head[1])
        sha = repository.sha
        return 200, {"commitUrl": f"{self.address}/{name}/commit/{sha}", "commitOid": sha}


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve a hub of its own on a free port."""
    hub, lock = Hub(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            path = unquote(urlparse(self.path).path)
            with lock:
                status, said = hub.answer(self.command, path, token, body)
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            if isinstance(said, bytes):
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", path.split("/")[4])
            elif "error" in said:
                self.send_header("X-Error-Message", said["error"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = _handle  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
