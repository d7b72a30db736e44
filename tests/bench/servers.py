"""The servers that are compared, each a process of its own below one directory."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.measure import peak_bytes, quiet
from tests.bench.sending import Connection, Put, Source
from tests.conftest import Daemon

GiB = 1 << 30
RAISED = (
    *("--insecure", "--uploads-parts-per-upload", "16", "--uploads-max-parts", "200000"),
    *("--uploads-max-upload-bytes", "200GiB", "--uploads-quota-bytes", "500GiB"),
)

NGINX = """
daemon off; master_process off; worker_processes 1; user root;
pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; tcp_nopush on; client_max_body_size 0; client_body_buffer_size 256k;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi; keepalive_requests 100000;
  server {{ listen 127.0.0.1:{port}; root {home}/files; dav_methods PUT; }}
}}
"""


class Agentd:
    """agentd on a directory of its own. Uploads are named by the answer to their creation."""

    def __init__(self, home: Path, *flags: str) -> None:
        self.root = home / "root"
        self.root.mkdir(parents=True)
        self._daemon = Daemon(self.root, home / "log", (*RAISED, *flags), {})
        self.pid = self._daemon.pid
        self.port = self._daemon.port

    def create(self, size: int, target: str = "target") -> Any:
        with Connection(self.port) as connection:
            asked = {"kind": "file", "source_kind": "restartable_file", "content_length": size, "conflict": "replace"}
            return connection.call("POST", "/v1/uploads", {**asked, "target_path": f"/workspace/{target}"})["session"]

    def parts(self, session: Any, numbers: range, digests: list[str] | None = None) -> Iterator[Put]:
        """The ``numbers`` of an upload, with the source's bytes in their order."""
        size = session["part_size"]
        for position, number in enumerate(numbers):
            length = min(size, session["content_length"] - number * size)
            declared = "" if digests is None else f"x-nullspace-part-sha256: {digests[position]}\r\n"
            yield Put(f"/v1/uploads/{session['upload_id']}/parts/{number}", position * size, length, declared)

    def all_parts(self, session: Any, digests: list[str] | None = None) -> Iterator[Put]:
        return self.parts(session, range(session["part_count"]), digests)

    def complete(self, session: Any, digest: str | None = None) -> None:
        with Connection(self.port) as connection:
            self.complete_on(connection, session, digest)

    def complete_on(self, connection: Connection, session: Any, digest: str | None = None) -> None:
        body = {} if digest is None else {"whole_checksum_sha256": digest}
        connection.call("POST", f"/v1/uploads/{session['upload_id']}/complete", body)

    def abort(self, session: Any) -> None:
        with Connection(self.port) as connection:
            connection.call("DELETE", f"/v1/uploads/{session['upload_id']}")
        quiet(self.pid)

    def remove(self, target: str = "target") -> None:
        (self.root / "workspace" / target).unlink()
        quiet(self.pid)

    @property
    def peak(self) -> int:
        return peak_bytes(self.pid)

    def close(self) -> None:
        self._daemon.term()


class Bare:
    """A way of `tests.bench.bare`, writing to files of ``directory``."""

    def __init__(self, home: Path, way: str) -> None:
        home.mkdir(parents=True)
        self._directory = home
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bare", way, str(home)], stdout=subprocess.PIPE, cwd=Path.cwd()
        )
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.port = int(self._process.stdout.readline())

    def create(self, size: int) -> None:
        with (self._directory / "target").open("wb") as file:
            file.truncate(size)

    def parts(self, source: Source, size: int) -> Iterator[Put]:
        return (Put(f"/target/{offset}", offset, size) for offset in range(0, source.size, size))

    def remove(self) -> None:
        (self._directory / "target").unlink()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Nginx:
    """One process, with the configuration above."""

    def __init__(self, home: Path) -> None:
        self.files = home / "files"
        self.files.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (home / "nginx.conf").write_text(NGINX.format(home=home, port=self.port))
        command = [nginx_path(), "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
        self._process = subprocess.Popen(command)
        self.pid = self._process.pid
        self._await()

    def _await(self) -> None:
        for _ in range(100):
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                threading.Event().wait(0.05)
        raise TimeoutError("nginx does not listen")

    def parts(self, source: Source, size: int) -> Iterator[Put]:
        """The source as files of ``size`` bytes."""
        return (Put(f"/{offset}", offset, size) for offset in range(0, source.size, size))

    def remove(self) -> None:
        for file in self.files.iterdir():
            file.unlink()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def nginx_path() -> str:
    """Empty where there is none."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""
