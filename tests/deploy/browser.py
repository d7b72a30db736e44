"""A headless Chromium as a person's browser, driven by the DevTools protocol over a pair of pipes.

https://chromedevtools.github.io/devtools-protocol: JSON messages, each ended by a zero byte; the browser reads them
from its file descriptor 3 and writes to 4.
"""

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.conftest import UNIT

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
    *("--proxy-server=direct://", "--disable-features=DialMediaRouteProvider", "--mute-audio"),
)
SECONDS = 20 * UNIT
# By name: the code, the number and the text of a key (DOM UI Events).
KEYS: Mapping[str, tuple[str, int, str]] = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "F2": ("F2", 113, ""),
    "F6": ("F6", 117, ""),
    "Delete": ("Delete", 46, ""),
}
SHIFT = 8


class PageFailed(Exception):
    """A script of the test failed in the page."""


class Browser:
    """One browser with one page, and a profile below ``directory``. complaints: what the page's console said of errors,
    exceptions and violated policies."""

    def __init__(self, directory: Path, size: tuple[int, int] = (1280, 860)) -> None:
        low_in, self._out = os.pipe()
        self._in, low_out = os.pipe()
        # The shell gives the pipes the numbers 3 and 4, which they must not have before; the browser takes its place.
        theirs_in, theirs_out = (fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (low_in, low_out))
        command = ("bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", "chromium", *FLAGS)
        more = (f"--user-data-dir={directory / 'profile'}", f"--window-size={size[0]},{size[1]}", "about:blank")
        self._process = subprocess.Popen(
            [*command, *more],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(directory)},
            start_new_session=True,
        )
        for one in (low_in, low_out, theirs_in, theirs_out):
            os.close(one)
        self._rest = b""
        self._last = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            self._session = None
            self.send("Browser.close")
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command, and its result. Raises PageFailed."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise PageFailed(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], SECONDS)[0]:
                raise TimeoutError("the browser says nothing")
            piece = os.read(self._in, 1 << 20)
            if not piece:
                raise RuntimeError(f"the browser ended with {self._process.wait()}")
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))

    def goto(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """The value of an expression, awaited. Raises PageFailed."""
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise PageFailed(f"{expression}: {result['exceptionDetails']['exception'].get('description')}")
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = SECONDS) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self._tried(f"Boolean({expression})"):
            if time.monotonic() > end:
                page = self._tried("document.body.innerText")
                raise TimeoutError(f"never true: {expression}\n{page}\n{self.complaints}")
            select.select([], [], [], 0.05)

    def _tried(self, expression: str) -> Any:
        """A page that is being left, or that is not complete yet, is no failure."""
        with suppress(PageFailed):
            return self.run(expression)

    def sees(self, text: str, where: str = "body", seconds: float = SECONDS) -> None:
        """Waits until a text can be read."""
        self.until(f"document.querySelector({json.dumps(where)})?.innerText.includes({json.dumps(text)})", seconds)

    def click(self, selector: str) -> None:
        self.until(f"document.querySelector({json.dumps(selector)})")
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def write(self, text: str) -> None:
        """As if typed, into what has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, *keys: str, modifiers: int = 0) -> None:
        for key in keys:
            code, number, text = KEYS[key]
            named = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
            self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **named)
            self.send("Input.dispatchKeyEvent", type="keyUp", **named)

    def choose(self, selector: str, *paths: Path) -> None:
        """As if chosen in the dialog of a field for files; a directory for one that takes folders."""
        found = self.send("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        files = [str(path) for path in paths]
        self.send("DOM.setFileInputFiles", files=files, objectId=found["result"]["objectId"])

    def drop(self, *paths: Path) -> None:
        """As if dragged from a file manager onto the middle of the page."""
        dragged = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=600, y=400, data=dragged)

    def save_to(self, directory: Path) -> None:
        """Where downloads go from now on."""
        self.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(directory))

    def saved(self, path: Path) -> None:
        """Waits until a download is there; the browser gives it its name once it is complete."""
        end = time.monotonic() + SECONDS
        while not path.exists():
            if time.monotonic() > end:
                raise TimeoutError(f"no download {path.name}: {os.listdir(path.parent)}")
            select.select([], [], [], 0.05)

    def emulate(self, scheme: str, width: int = 1280, height: int = 860) -> None:
        """scheme: light or dark."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def picture(self, path: Path) -> None:
        """Writes a PNG of what is seen."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
