"""A reverse proxy that serves a daemon below a prefix, which it takes off: one thread, one request a connection."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tests.conftest import ANSWER_SECONDS

PER_HOP = ("connection", "transfer-encoding", "keep-alive", "content-length")


@contextmanager
def prefixed(port: int, prefix: str) -> Iterator[str]:
    """The URL at which the daemon of this port is served, without a slash at its end."""

    class Proxy(BaseHTTPRequestHandler):
        def do(self) -> None:
            if not self.path.startswith(prefix):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            daemon = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
            daemon.request(self.command, self.path.removeprefix(prefix), body, dict(self.headers))
            answer = daemon.getresponse()
            content = answer.read()
            daemon.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in PER_HOP:
                    self.send_header(name, value)
            if answer.status not in (204, 304):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{prefix}"
        finally:
            server.shutdown()
            thread.join()
