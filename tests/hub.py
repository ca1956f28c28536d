"""A small model hub on the loopback address, for tests: it serves folders, counts requests, and can fail on purpose."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `models` (name -> folder) and lists in `requests` what came.

    It fails on purpose: `damage` names a file whose bytes arrive changed; `cut` one of which each answer brings at most
    `cut_after` bytes before the connection breaks; `short` one that is sent a byte shorter than announced; `refuse` is
    a status, such as 401, for every file, and `gated` says that the model's licence must be accepted first.
    """

    daemon_threads = True
    cut = short = refuse = None
    cut_after, gated = 20_000, False

    def __init__(self, models: dict[str, Path], damage: str | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ranges: list[tuple[str, str]] = []
        self.models, self.damage, self.requests = models, damage, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *_):
        """Keep the test's output quiet."""

    def _answer(self, body: bool) -> None:
        self.server.requests.append((self.command, self.path))
        path = self.path.split("?")[0].strip("/")
        for name, folder in self.server.models.items():
            if path in (f"api/models/{name}", f"api/models/{name}/revision/main", f"api/models/{name}/revision/{COMMIT}"):
                return self._send(json.dumps(_listing(name, folder)).encode(), "application/json", body)
            for revision in ("main", COMMIT):
                file = folder / path.removeprefix(f"{name}/resolve/{revision}/")
                if path.startswith(f"{name}/resolve/{revision}/") and file.is_file():
                    return self._send_file(file, body)
        missing = "EntryNotFound" if "/resolve/" in path or "/tree/" in path else "RepoNotFound"
        self._send(b"not found", "text/plain", body, status=404, headers={"X-Error-Code": missing})

    def _send_file(self, file: Path, body: bool) -> None:
        if self.server.refuse:
            code = {"X-Error-Code": "GatedRepo"} if self.server.gated else {}
            return self._send(b"refused", "text/plain", body, status=self.server.refuse, headers=code)
        data = file.read_bytes()
        # The real hub names large files by their SHA-256 and small ones by a shorter hash.
        large = file.suffix == ".safetensors"
        etag = hashlib.sha256(data).hexdigest() if large else hashlib.sha1(data).hexdigest()
        if file.name == self.server.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        status, total, wanted = 200, len(data), self.headers.get("Range")
        if body and wanted:
            self.server.ranges.append((file.name, wanted))
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            status, data = 206, data[start:]
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        if body and file.name == self.server.short:
            data = data[:-1]
        stop = self.server.cut_after if body and file.name == self.server.cut else None
        self._send(data, "application/octet-stream", body, status, headers, stop)

    def _send(self, data: bytes, kind: str, body: bool, status: int = 200, headers: dict | None = None,
              stop: int | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:stop])
            self.close_connection |= stop is not None


def _listing(name: str, folder: Path) -> dict:
    files = sorted(file.name for file in folder.iterdir())
    return {"id": name, "modelId": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}


@contextlib.contextmanager
def serve(models: dict[str, Path], damage: str | None = None):
    """Run a hub while the block runs: `with serve({"team/tiny": folder}) as hub: ... hub.url ...`."""
    hub = Hub(models, damage)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
