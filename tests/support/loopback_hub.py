"""A model hub on 127.0.0.1, so that tests download over HTTP with the real huggingface_hub and without a network.

    with loopback_hub({"UMUTeam/tiny-es": folder}, home=tmp_path / "hub") as hub:
        download("UMUTeam/tiny-es")                        # asked from 127.0.0.1, cached below `home`
        hub.files_sent()                                   # ["config.json", "model.safetensors"]
        sha = hub.commit("UMUTeam/tiny-es", other_folder)  # main moves on; older commits stay
        hub.commit("UMUTeam/tiny-es", folder, "v1")        # a branch or tag
        hub.faults["/UMUTeam/tiny-es/resolve"] = Fault(403, "GatedRepo")
        hub.faults["/api/models"] = "close"
        with hub_environment(HF_HUB_OFFLINE="1"):          # as if the variable had been set from the start
            download("UMUTeam/tiny-es")
        hub.stop()                                         # from here on connections are refused

A repository's content is a folder or a mapping {name: bytes or file}; files are read when they are asked for, so leave
them as they are. `hub.requests` lists every request as "METHOD /path". `hub.faults` maps the beginning of a path to
what happens there. Inside the `with` this process and its children have HF_ENDPOINT and HF_HOME set, and no token or
offline mode of the user's. What another library copied from huggingface_hub's constants on import keeps its old value.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

Content = Path | Mapping[str, bytes | Path]

_ID = r"(?P<id>[^/]+(?:/[^/]+)?)"
_INFO = re.compile(rf"/api/models/{_ID}(?:/revision/(?P<revision>[^/]+))?")
_TREE = re.compile(rf"/api/models/{_ID}/tree/(?P<revision>[^/]+)")
_FILE = re.compile(rf"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass(frozen=True)
class Fault:
    """An answer in place of the right one: an HTTP status, the hub's X-Error-Code, and a body that is not JSON."""

    status: int
    code: str = ""


@dataclass(frozen=True)
class _File:
    content: bytes | Path
    size: int
    etag: str

    @classmethod
    def of(cls, content: bytes | Path) -> _File:
        with _opened(content) as stream:
            etag = hashlib.file_digest(stream, "sha256").hexdigest()
            return cls(content, stream.seek(0, io.SEEK_END), etag)


def _opened(content: bytes | Path) -> io.BytesIO | io.BufferedReader:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


class LoopbackHub:
    """The server; made by `loopback_hub`.

    faults: {beginning of a path: Fault, "close" (no answer) or "cut" (a file ends in the middle)}
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.faults: dict[str, Fault | Literal["close", "cut"]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.commits: dict[str, dict[str, _File]] = {}
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        # A short poll, since stopping waits for one.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def commit(self, model_id: str, content: Content, revision: str = "main") -> str:
        """Let a branch or tag of a repository hold this content; returns the commit's sha."""
        if isinstance(content, Path):
            folder = content
            content = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        files = {name: _File.of(data) for name, data in content.items()}
        listing = [(name, file.etag) for name, file in sorted(files.items())]
        sha = hashlib.sha1(repr((model_id, listing)).encode()).hexdigest()
        self.commits[sha] = files
        self.refs.setdefault(model_id, {})[revision] = sha
        return sha

    def files_sent(self) -> list[str]:
        """The names of the files that were downloaded so far, sorted; one that was fetched twice is there twice."""
        sent = (_FILE.fullmatch(line.removeprefix("GET ")) for line in self.requests if line.startswith("GET "))
        return sorted(match["name"] for match in sent if match)

    def stop(self) -> None:
        """Refuse all further connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: LoopbackHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):  # speaks HTTP/1.0: one request a connection, so that `stop` leaves none open
    @property
    def hub(self) -> LoopbackHub:
        assert isinstance(self.server, _Server)
        return self.server.hub

    def do_GET(self) -> None:
        hub = self.hub
        path = urlsplit(self.path).path
        hub.requests.append(f"{self.command} {unquote(path)}")
        fault = next((fault for start, fault in hub.faults.items() if unquote(path).startswith(start)), None)
        if fault == "close":
            return
        if isinstance(fault, Fault):
            self._send(fault.status, b"<html>a page for people</html>", "text/html", {"X-Error-Code": fault.code})
        elif match := _INFO.fullmatch(path):
            if sha := self._resolve(match):
                self._send_json(200, {"id": unquote(match["id"]), "sha": sha})
        elif match := _TREE.fullmatch(path):
            if sha := self._resolve(match):
                files = hub.commits[sha].items()
                listing = [{"type": "file", "path": n, "size": f.size, "oid": f.etag[:40]} for n, f in files]
                self._send_json(200, listing)
        elif (match := _FILE.fullmatch(path)) and (sha := self._resolve(match)):
            if file := hub.commits[sha].get(unquote(match["name"])):
                self._send_file(file, sha, cut=fault == "cut")
            else:
                self._send_json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        elif not match:
            self._send_json(404, {"error": "Not found"})

    do_HEAD = do_GET

    def _resolve(self, match: re.Match[str]) -> str | None:
        """The commit a path names; where there is none, the error is sent."""
        refs = self.hub.refs.get(unquote(match["id"]))
        if refs is None:  # the real hub, too, does not tell a stranger "missing" from "private"
            self._send_json(401, {"error": "Invalid username or password."}, {"X-Error-Code": "RepoNotFound"})
            return None
        revision = unquote(match["revision"] or "main")
        sha = revision if revision in self.hub.commits else refs.get(revision)
        if sha is None:
            self._send_json(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        return sha

    def _send_json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers or {})

    def _send(self, status: int, body: bytes, content_type: str, headers: Mapping[str, str]) -> None:
        self._send_head(status, {"Content-Type": content_type, "Content-Length": str(len(body)), **headers})
        if self.command == "GET":
            self.wfile.write(body)

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _send_file(self, file: _File, sha: str, cut: bool) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": sha, "Content-Length": str(file.size - start)}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{file.size - 1}/{file.size}"
        self._send_head(206 if wanted else 200, headers)
        if self.command == "HEAD":
            return
        end = file.size // 2 if cut else file.size
        with _opened(file.content) as stream:
            stream.seek(start)
            while start < end and (chunk := stream.read(min(1 << 20, end - start))):
                self.wfile.write(chunk)
                start += len(chunk)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def hub_environment(**variables: str | None) -> Iterator[None]:
    """Set (None: remove) environment variables, as if they had been so when huggingface_hub was imported."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                if value is None:
                    patch.delenv(name, raising=False)
                else:
                    patch.setenv(name, value)
            _reread_environment()
            yield
    finally:
        _reread_environment()


def _reread_environment() -> None:
    close_session()  # its client has read the proxy settings
    importlib.reload(constants)


@contextmanager
def loopback_hub(repositories: Mapping[str, Content], home: Path) -> Iterator[LoopbackHub]:
    """Serve {hub id: content} to this process and its children, which keep their cache below `home`."""
    unset = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE", "HF_TOKEN_PATH", "HF_TOKEN")
    unset += ("HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGINGFACE_CO_STAGING")
    direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    hub = LoopbackHub()
    try:
        for model_id, content in repositories.items():
            hub.commit(model_id, content)
        with hub_environment(HF_ENDPOINT=hub.endpoint, HF_HOME=str(home), **direct, **dict.fromkeys(unset)):
            yield hub
    finally:
        hub.stop()
