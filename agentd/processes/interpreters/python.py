"""The Python interpreter of a code context: executes one piece of code after the other in one namespace.

It runs as the sandbox's user, under whatever ``python3`` the sandbox has (3.8 or later), which reads it from an fd: it
imports nothing but the standard library, and never agentd. See `processes.packets` for what is said on the fds REQUESTS
and EVENTS. The code's output goes out as packets, in order with its results; what child processes write to the fds 1
and 2 is read there by the daemon.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import builtins
import contextlib
import faulthandler
import importlib.abc
import importlib.util
import inspect
import io
import json
import linecache
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType, ModuleType, TracebackType
from typing import Any

REQUESTS, EVENTS = 3, 4
PACKET = 60_000
MOST_RESULT = 16 << 20
MOST_TEXT = 1 << 20
MOST_ROWS = 1000
FLUSH_SECONDS = 0.01
CELL = "<cell "
# What the interpreter tells before it starts a program, which writes past us (sys.addaudithook).
STARTS = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec")

# MIME types, by the event's key that they are sent as, with the method that gives them.
FORMS = {
    "text/plain": ("text", None),
    "text/html": ("html", "_repr_html_"),
    "text/markdown": ("markdown", "_repr_markdown_"),
    "image/svg+xml": ("svg", "_repr_svg_"),
    "image/png": ("png", "_repr_png_"),
    "image/jpeg": ("jpeg", "_repr_jpeg_"),
    "application/pdf": ("pdf", "_repr_pdf_"),
    "text/latex": ("latex", "_repr_latex_"),
    "application/json": ("json", "_repr_json_"),
    "application/javascript": ("javascript", "_repr_javascript_"),
}


class Channel:
    """What goes to the daemon. Every packet is one write, so that those of forked children never mix with ours."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kind = b""
        self._parts: list[bytes] = []
        self._size = 0
        self._sent = 0.0
        self._pending: threading.Event | None = None
        self._events: socket.socket | None = socket.socket(fileno=EVENTS)
        os.register_at_fork(before=self.flush, after_in_child=self._forked)
        sys.addaudithook(lambda event, _: self._catch_up() if event in STARTS else None)

    def _forked(self) -> None:
        """The child has none of our threads, and a lock may be held by one of them. The answers are its parent's."""
        self._lock, self._pending, self._events = threading.RLock(), None, None

    def _catch_up(self) -> None:
        """A program is about to start: returns when the daemon has taken what was written before, so that what the
        program writes to its own fds comes after it."""
        with self._lock:
            self.flush()
            if self._events is not None:
                with contextlib.suppress(BlockingIOError):
                    while self._events.recv(16, socket.MSG_DONTWAIT):
                        pass  # answers that an interrupt kept somebody from waiting for
                os.write(EVENTS, b"K")
                self._events.recv(16)

    def output(self, kind: bytes, text: bytes) -> None:
        with self._lock:
            if kind != self._kind:
                self.flush()
                self._kind = kind
            self._parts.append(text)
            self._size += len(text)
            if self._size >= PACKET or (time.monotonic() - self._sent > FLUSH_SECONDS and text.endswith(b"\n")):
                self.flush()
            else:
                self._remember()

    def _remember(self) -> None:
        if self._pending is None:
            self._pending = threading.Event()
            threading.Thread(target=self._flush_later, args=(self._pending,), daemon=True).start()
        self._pending.set()

    def flush(self) -> None:
        with self._lock:
            parts, self._parts, self._size = b"".join(self._parts), [], 0
            self._sent = time.monotonic()
            for start in range(0, len(parts), PACKET):
                os.write(EVENTS, self._kind + parts[start : start + PACKET])

    def _flush_later(self, pending: threading.Event) -> None:
        while True:
            pending.wait()
            pending.clear()
            threading.Event().wait(FLUSH_SECONDS)
            self.flush()

    def send(self, message: dict[str, Any]) -> None:
        """A message in as many packets as it needs: ``B`` begins it, ``C`` goes on, ``M`` is the last or only one."""
        text = json.dumps(message, default=repr, skipkeys=True).encode("ascii")
        with self._lock:
            self.flush()
            pieces = [text[start : start + PACKET] for start in range(0, len(text), PACKET)]
            for number, piece in enumerate(pieces):
                last = number == len(pieces) - 1
                os.write(EVENTS, ((b"M" if last else b"C") if number else (b"S" if last else b"B")) + piece)


class Raw(io.RawIOBase):
    """What ``sys.stdout.buffer`` is."""

    def __init__(self, channel: Channel, kind: bytes, fd: int) -> None:
        self._channel, self._kind, self._fd = channel, kind, fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, text: Any) -> int:
        written = bytes(text)
        self._channel.output(self._kind, written)
        return len(written)


class Output(io.TextIOBase):
    """``sys.stdout`` and ``sys.stderr``."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, channel: Channel, kind: bytes, name: str, fd: int) -> None:
        self._channel, self._kind, self._fd = channel, kind, fd
        self.name = name
        self.buffer = Raw(channel, kind, fd)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError("write() argument must be str, not " + type(text).__name__)
        self._channel.output(self._kind, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        self._channel.flush()

    def reconfigure(self, **_: Any) -> None:
        """Asked for by code that fears for its characters; they are safe as it is."""


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls ``adapt`` with a module of that name as soon as the code has imported it."""

    def __init__(self, adapt: dict[str, Callable[[Any], None]]) -> None:
        self._adapt = adapt

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        adapt = self._adapt.pop(name, None)
        if adapt is None:
            return None
        spec = importlib.util.find_spec(name)
        loader = spec.loader if spec else None
        if loader is None or not hasattr(loader, "exec_module"):
            return spec
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            with contextlib.suppress(Exception):  # an unknown version is left as it is
                adapt(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def clipped(text: str) -> str:
    """At most so much of it, and nothing that UTF-8 has no bytes for."""
    clean = text[:MOST_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")
    return clean if len(text) <= MOST_TEXT else clean + "..."


def plain(value: Any) -> str:
    try:
        return clipped(repr(value))
    except Exception as error:  # noqa: BLE001 - the code's own repr
        return f"<{type(value).__name__} whose repr() failed: {type(error).__name__}>"


def sendable(content: Any) -> Any:
    if isinstance(content, (bytes, bytearray)):
        return base64.b64encode(content).decode("ascii")
    return content.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(content, str) else content


def bundle(value: Any) -> dict[str, Any]:
    """What ``value`` looks like, by MIME type."""
    found: dict[str, Any] = {"text/plain": plain(value)}
    if isinstance(value, type):
        return found
    for mime, (_, method) in FORMS.items():
        content = represented(value, method) if method else None
        if isinstance(content, tuple):
            content = content[0]
        if content is not None:
            found[mime] = content
    made = represented(value, "_repr_mimebundle_")
    if isinstance(made, tuple):
        made = made[0]
    if isinstance(made, dict):
        found.update(made)
    return found


def represented(value: Any, method: str) -> Any:
    """What an object's own method gives; None where it has none, or fails."""
    try:
        if method not in dir(type(value)):
            return None
        return getattr(value, method)()
    except Exception:  # noqa: BLE001 - then it is shown without
        return None


def table(value: Any) -> Any:
    """The columns of a small pandas table."""
    kind = type(value)
    if kind.__module__.partition(".")[0] != "pandas" or kind.__name__ not in ("DataFrame", "Series"):
        return None
    try:
        if len(value) > MOST_ROWS:
            return None
        frame = value.to_frame() if kind.__name__ == "Series" else value
        columns = json.loads(frame.to_json(orient="split", date_format="iso"))
        return {str(name): [row[i] for row in columns["data"]] for i, name in enumerate(columns["columns"])}
    except Exception:  # noqa: BLE001 - then it is shown without
        return None


class Interpreter:
    def __init__(self) -> None:
        self.channel = Channel()
        self.module = ModuleType("__main__")
        self.module.__dict__.update(__builtins__=builtins, display=self.display)
        self.own, sys.modules["__main__"] = sys.modules["__main__"], self.module
        self.loop = asyncio.new_event_loop()
        sys.stdout = Output(self.channel, b"o", "<stdout>", 1)
        sys.stderr = Output(self.channel, b"e", "<stderr>", 2)
        sys.meta_path.insert(
            0,
            AfterImport(
                {
                    "matplotlib.pyplot": self.adapt_pyplot,
                    "IPython.display": self.adapt_display,
                    "IPython.core.display_functions": self.adapt_display,
                }
            ),
        )

    def serve(self) -> None:
        signal.signal(signal.SIGINT, too_late)
        asyncio.set_event_loop(self.loop)
        self.channel.send({"type": "ready"})
        with open(REQUESTS, "rb") as requests:
            for line in requests:
                request = json.loads(line)
                with contextlib.suppress(KeyboardInterrupt):  # which came when the code had ended
                    self.execute(request["code"], request["number"], request["envs"])
                self.channel.send({"type": "done", "token": request["token"]})

    def execute(self, code: str, number: int, envs: dict[str, str]) -> None:
        before = {name: os.environ.get(name) for name in envs}
        try:
            try:
                os.environ.update(envs)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                self.run(code, f"{CELL}{number}>")
                self.figures()
            finally:
                signal.signal(signal.SIGINT, too_late)
        except BaseException as error:  # noqa: BLE001 - whatever the code raised is its answer
            signal.signal(signal.SIGINT, too_late)
            self.tell(error)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def run(self, code: str, name: str) -> None:
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        tree = parsed(code, name)
        body, last = tree.body, None
        if body and isinstance(body[-1], ast.Expr) and not code.rstrip().endswith(";"):
            last = ast.Expression(body.pop().value)  # type: ignore[attr-defined]
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self.evaluate(compile(tree, name, "exec", flags, True))
        if last is not None:
            value = self.evaluate(compile(last, name, "eval", flags, True))
            if value is not None:
                self.module.__dict__["_"] = value
                self.show(value, is_main=True)

    def evaluate(self, compiled: Any) -> Any:
        value = eval(compiled, self.module.__dict__)  # noqa: S307 - this is what it is for
        if not compiled.co_flags & inspect.CO_COROUTINE:
            return value
        task = asyncio.Task(value, loop=self.loop)
        try:
            return self.loop.run_until_complete(task)
        except KeyboardInterrupt:
            task.cancel()
            self.loop.run_until_complete(asyncio.wait([task]))
            raise

    def tell(self, error: BaseException) -> None:
        trace = error.__traceback__
        while trace is not None and not trace.tb_frame.f_code.co_filename.startswith(CELL):
            trace = trace.tb_next
        try:
            value = str(error)
        except Exception:  # noqa: BLE001 - the code's own str
            value = "<an exception whose str() failed>"
        self.channel.send(
            {
                "type": "error",
                "name": type(error).__name__,
                "value": clipped(value),
                "traceback": clipped(told(error, trace)),
            }
        )

    def display(self, *values: Any, **_: Any) -> None:
        """Shows each value as a result of its own."""
        for value in values:
            self.show(value, is_main=False)

    def show(self, value: Any, is_main: bool) -> None:
        found = bundle(value)
        result: dict[str, Any] = {"type": "result", "is_main_result": is_main}
        others = {}
        for mime, content in found.items():
            if mime in FORMS:
                result[FORMS[mime][0]] = sendable(content)
            else:
                others[mime] = sendable(content)
        data = table(value)
        if data is not None or others:
            result["data"] = others if data is None else data
        if len(json.dumps(result, default=repr)) > MOST_RESULT:
            note = f"<a result of more than {MOST_RESULT >> 20} MiB; write it to a file>"
            result = {"type": "result", "is_main_result": is_main, "text": note}
        self.channel.send(result)

    def adapt_pyplot(self, pyplot: Any) -> None:
        if "MPLBACKEND" not in os.environ:
            pyplot.switch_backend("agg")
        pyplot.show = lambda *_, **__: self.figures()

    def adapt_display(self, module: Any) -> None:
        module.display = self.display

    def figures(self) -> None:
        """Shows and closes the figures that are open."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        for number in pyplot.get_fignums():
            image = io.BytesIO()
            figure = pyplot.figure(number)
            figure.savefig(image, format="png", bbox_inches="tight")
            png = base64.b64encode(image.getvalue()).decode("ascii")
            self.channel.send({"type": "result", "is_main_result": False, "text": plain(figure), "png": png})
        pyplot.close("all")


def too_late(number: int, frame: FrameType | None) -> None:
    """An interrupt that comes when no code runs."""


def parsed(code: str, name: str) -> ast.Module:
    """The code, in which a line ``!command`` or ``%pip ...`` runs a command, as notebooks have it."""
    try:
        return ast.parse(code, name)
    except SyntaxError:
        changed = re.sub(r"^([ \t]*)(!|%pip\b)(.*)$", command, code, flags=re.MULTILINE)
        if changed == code:
            raise
        return ast.parse(changed, name)


def command(line: re.Match[str]) -> str:
    text = line[3] if line[2] == "!" else f'"{sys.executable}" -m pip{line[3]}'
    return f"{line[1]}(__import__('subprocess').call({text.strip()!r}, shell=True), None)[1]"


def told(error: BaseException, trace: TracebackType | None) -> str:
    """The traceback as Python prints it, without our own frames."""
    try:
        return "".join(traceback.format_exception(type(error), error, trace)).rstrip("\n")
    except Exception:  # noqa: BLE001 - a class of the code's own that cannot be printed
        return type(error).__name__


if __name__ == "__main__":
    for fd in (REQUESTS, EVENTS):
        os.set_inheritable(fd, False)
    faulthandler.enable(2)
    Interpreter().serve()
