"""The console in a real browser, as a person uses it: uploads that survive, a terminal, processes, all by keyboard."""

import hashlib
import json
import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.cli.progress import size
from tests.conftest import UNIT, Daemon, StartDaemon
from tests.deploy.browser import SHIFT, Browser
from tests.deploy.prefixing import prefixed
from tests.terminals import lives

BIG = 200 << 20  # bytes
# By view, what is there once it shows what it has.
VIEWS = {
    "files": "tbody tr",
    "terminal": ".tabs [data-state=open]",
    "processes": ".list button",
    "status": ".marks li",
    "docs": ".operations button",
}
# What is expected to be complained of: the question whether a token is needed, refusals, and a daemon that is gone.
EXPECTED = ("status of 401", "status of 404", "status of 409", "net::ERR_")
# Each part takes a moment, so that an upload has a middle.
SLOWLY = """
    const digest = crypto.subtle.digest.bind(crypto.subtle);
    crypto.subtle.digest = (...given) => new Promise((go) => setTimeout(go, 150)).then(() => digest(...given));
"""
FOCUS = """(() => {
    const on = document.activeElement, style = getComputedStyle(on);
    return {name: on.ariaLabel || on.innerText || on.labels?.[0]?.innerText || on.title || "", tag: on.tagName,
            class: on.className, seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0};
})()"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("console")
    (place / "root").mkdir()
    daemon = Daemon(place / "root", place / "stderr", (), {})
    yield daemon
    assert daemon.term() == 0


@pytest.fixture(scope="module")
def browser(needs: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    needs("chromium")
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Browser]:
    """The browser; nothing may be complained of in the test, but for what is expected."""
    browser.complaints.clear()
    yield browser
    browser.send("Page.navigate", url="about:blank")
    assert [one for one in browser.complaints if not any(known in one for known in EXPECTED)] == []


@pytest.fixture
def opened(page: Browser, daemon: Daemon) -> Browser:
    enter(page, daemon)
    return page


def enter(page: Browser, daemon: Daemon, path: str = "/console") -> None:
    page.goto(daemon.url + path)
    page.until("document.activeElement.id === 'token'")
    page.write(daemon.token)
    page.press("Enter")
    page.until("document.querySelector('#main .view')")


def view(page: Browser, name: str, place: str) -> None:
    page.click(f"[data-view={name}]")
    page.until(f"document.querySelector({json.dumps(place)})")


def click(page: Browser, label: str) -> None:
    page.click(f"[aria-label={json.dumps(label)}]")


def button(page: Browser, text: str) -> None:
    """Clicks the button that is called so."""
    named = f"[...document.querySelectorAll('button')].find(one => one.innerText.trim() === {json.dumps(text)})"
    page.until(named)
    page.run(f"{named}.click()")


def big(path: Path) -> str:
    """Writes a large file without a pattern; its SHA-256."""
    piece, digest = os.urandom(1 << 20), hashlib.sha256()
    with path.open("wb") as file:
        for number in range(BIG >> 20):
            content = number.to_bytes(4, "big") + piece[4:]
            digest.update(content)
            file.write(content)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def folder(path: Path) -> Path:
    """A folder with what is hard to pack: deep, empty, long and foreign names."""
    (path / "deep/er/empty").mkdir(parents=True)
    for number in range(120):
        (path / f"deep/{number}.txt").write_text(f"{number}\n" * number)
    (path / "deep/er" / ("long" * 40)).write_text("long")
    (path / "grüße ☃.txt").write_text("snow")
    (path / "nothing").write_text("")
    return path


def tree(path: Path) -> dict[str, bytes | None]:
    found = {str(one.relative_to(path)): one for one in path.rglob("*")}
    return {name: one.read_bytes() if one.is_file() else None for name, one in found.items()}


def uploads(daemon: Daemon) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = daemon.call("GET", "/v1/uploads").json()["items"]
    return items


def test_a_wrong_token_is_told_and_the_right_one_opens_the_files(page: Browser, daemon: Daemon) -> None:
    page.goto(f"{daemon.url}/console")
    page.until("document.activeElement.id === 'token'")
    page.write("no such token")
    page.press("Enter")
    page.sees("The daemon does not know this token", "[role=alert]")
    page.write(daemon.token)
    page.press("Enter")
    page.sees("New folder")
    kept = page.run("[location.href, document.cookie, localStorage.length, sessionStorage.length].join(' ')")
    assert kept == f"{daemon.url}/console  0 0"
    asked = page.run("performance.getEntriesByType('resource').map(one => one.name)")
    assert [url for url in asked if not url.startswith(daemon.url) or daemon.token in url] == []


@pytest.mark.timeout(120 * UNIT)
def test_what_was_dropped_arrives_though_the_daemon_is_killed_in_the_middle(
    page: Browser, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon("--listen", f"127.0.0.1:{free_port()}")
    source, target = tmp_path / "source", daemon.root / "workspace"
    given, digest = folder(source / "folder"), big(source / "big.bin")
    enter(page, daemon)
    page.run(SLOWLY)
    page.sees("New folder")
    page.drop(given, source / "big.bin")
    while not any(one["accepted_bytes"] for one in uploads(daemon) if one["kind"] == "file"):
        page.run("1")
    daemon.kill9()
    page.sees("Trying again", "#uploads")
    daemon.restart()
    page.sees("2 uploads done", "#uploads", 60 * UNIT)
    assert sha256(target / "big.bin") == digest
    assert tree(target / "folder") == tree(given)


def test_a_paused_upload_rests_and_goes_on_when_it_is_resumed(opened: Browser, daemon: Daemon, tmp_path: Path) -> None:
    digest = big(tmp_path / "paused.bin")
    opened.run(SLOWLY)
    opened.choose("#pick-files", tmp_path / "paused.bin")
    opened.until("document.querySelector('#uploads li progress').value > 0.05")
    click(opened, "Pause all")
    opened.sees("paused", "#uploads")
    (rests,) = (one["accepted_bytes"] for one in uploads(daemon) if one["target_path"].endswith("paused.bin"))
    assert rests < BIG
    click(opened, "Resume all")
    opened.sees("1 upload done", "#uploads", 60 * UNIT)
    assert sha256(daemon.root / "workspace/paused.bin") == digest


def test_an_upload_of_a_closed_page_goes_on_with_the_parts_that_are_missing(
    opened: Browser, daemon: Daemon, tmp_path: Path
) -> None:
    (tmp_path / "left.bin").write_bytes(content := os.urandom(20 << 20))
    wanted = {"kind": "file", "source_kind": "restartable_file", "target_path": "left.bin", "content_length": 20 << 20}
    session = daemon.call("POST", "/v1/uploads", wanted).json()["session"]
    part = f"/v1/uploads/{session['upload_id']}/parts/0"
    assert daemon.call("PUT", part, content[: session["part_size"]]).status == 200
    view(opened, "status", "table")
    # The file is chosen in a dialog of the browser's own.
    opened.run("HTMLInputElement.prototype.click = function () { this.id = 'asked-for'; document.body.append(this); }")
    click_go_on = "[...document.querySelectorAll('button')].find(one => one.innerText === 'Go on…')"
    opened.until(click_go_on)
    opened.run(f"{click_go_on}.click()")
    opened.choose("#asked-for", tmp_path / "left.bin")
    opened.sees("1 upload done", "#uploads")
    assert (daemon.root / "workspace/left.bin").read_bytes() == content


def test_refuse_leaves_what_is_there_and_says_so(opened: Browser, daemon: Daemon, tmp_path: Path) -> None:
    (daemon.root / "workspace/there.txt").write_text("old")
    (tmp_path / "there.txt").write_text("new")
    opened.run("document.querySelector('#conflict').value = 'error'")
    opened.choose("#pick-files", tmp_path / "there.txt")
    opened.sees("exists", "#uploads [data-state=failed]")
    assert (daemon.root / "workspace/there.txt").read_text() == "old"


def test_what_is_typed_at_a_terminal_is_run_and_a_reload_finds_it_again(opened: Browser, daemon: Daemon) -> None:
    view(opened, "terminal", ".tabs [data-state=open]")
    opened.until("document.activeElement.className === 'xterm-helper-textarea'")
    opened.write("printf '\\033[38;2;1;2;200m%s\\033[0m\\n' $((6 * 7))seen; pwd > here")
    opened.press("Enter")
    opened.sees("42seen", ".screen")
    opened.press("F6", modifiers=SHIFT)
    assert opened.run("document.activeElement.getAttribute('role')") == "tab"
    assert (daemon.root / "workspace/here").read_text().strip().endswith("/workspace")
    enter(opened, daemon)
    view(opened, "terminal", ".tabs [data-state=open]")
    opened.sees("42seen", ".screen")
    button(opened, "End")
    opened.click("dialog .danger")
    opened.sees("No terminal is open.")


def test_a_flood_of_output_is_drawn_to_its_end_and_the_terminal_still_answers(opened: Browser) -> None:
    view(opened, "terminal", ".tabs [data-state=open]")
    opened.until("document.activeElement.className === 'xterm-helper-textarea'")
    opened.write("yes $(seq 20) | head -c 20000000; echo the-$((1 + 1))-end")
    opened.press("Enter")
    opened.sees("the-2-end", ".screen", 60 * UNIT)
    opened.write("echo still-$((2 + 2))-here")
    opened.press("Enter")
    opened.sees("still-4-here", ".screen")


def test_a_process_is_started_seen_fed_and_killed(opened: Browser, daemon: Daemon) -> None:
    view(opened, "processes", "#command")
    opened.run("document.querySelector('#command').focus()")
    opened.write("echo $$ > pid; echo begun; read line; echo got $line; echo wrong >&2; sleep 1000")
    opened.press("Enter")
    opened.sees("begun", "[role=log]")
    opened.run("document.querySelector('#stdin').focus()")
    opened.write("a line")
    opened.press("Enter")
    opened.sees("got a line", "[role=log]")
    opened.sees("wrong", "[role=log] .stderr")
    pid = int((daemon.root / "workspace/pid").read_text())
    button(opened, "Kill")
    opened.sees("KILL", ".facts")
    assert not lives(pid)
    opened.until("document.querySelector('.list button[aria-pressed=true] .state').innerText === 'ended'")


def walk(page: Browser, wanted: str, most: int = 30) -> None:
    """Tab, until what has the focus is called so; each stop has a name and can be seen."""
    for _ in range(most):
        page.press("Tab")
        stop = page.run(FOCUS)
        assert stop["seen"], stop
        assert stop["name"].strip(), stop
        if stop["name"].strip().startswith(wanted):
            return
    raise AssertionError(f"no stop called {wanted!r}")


@pytest.fixture
def place(daemon: Daemon, tmp_path: Path) -> Path:
    """A folder of the test's own in the workspace, with a folder and a file."""
    place = daemon.root / "workspace" / tmp_path.name
    (place / "inner").mkdir(parents=True)
    (place / "text.txt").write_text("the text")
    return place


def test_files_are_browsed_and_read_by_keyboard_alone(page: Browser, daemon: Daemon, place: Path) -> None:
    enter(page, daemon)
    page.sees(place.name)
    walk(page, place.name, 200)
    page.press("Enter")
    page.sees("text.txt")
    walk(page, "inner", 40)
    page.press("ArrowDown", "Enter")
    page.sees("the text", "dialog")
    page.press("Escape")
    page.until("!document.querySelector('dialog') && document.activeElement.innerText === 'text.txt'")


def test_entries_are_renamed_and_deleted_by_keyboard_alone(page: Browser, daemon: Daemon, place: Path) -> None:
    enter(page, daemon, f"/console#files/workspace/{place.name}")
    page.sees("text.txt")
    walk(page, "text.txt", 40)
    page.press("F2")
    page.write("renamed")
    page.press("Enter")
    page.until("document.activeElement.innerText === 'renamed.txt'")
    page.press("ArrowUp", "Delete")
    page.sees("Delete inner?")
    page.press("Tab", "Enter")
    page.until("!document.querySelector('dialog') && !document.querySelector('[data-path$=inner]')")
    assert os.listdir(place) == ["renamed.txt"]


def test_where_no_token_is_asked_for_everything_is_there_at_once(
    page: Browser, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon("--insecure")
    page.goto(f"{daemon.url}/console")
    page.sees("New folder")
    (tmp_path / "open.txt").write_text("open")
    page.choose("#pick-files", tmp_path / "open.txt")
    page.sees("1 upload done", "#uploads")
    view(page, "terminal", ".tabs [data-state=open]")
    assert (daemon.root / "workspace/open.txt").read_text() == "open"


def test_a_large_directory_comes_page_by_page(opened: Browser, daemon: Daemon) -> None:
    place = daemon.root / "workspace/many"
    place.mkdir()
    for number in range(450):
        (place / f"{number:04}").touch()
    opened.run(f"location.href = {json.dumps(f'{daemon.url}/console#files/workspace/many')}")
    opened.until("document.querySelectorAll('tbody tr').length === 200")
    button(opened, "Show more")
    opened.until("document.querySelectorAll('tbody tr').length === 400")
    button(opened, "Show more")
    opened.until("document.querySelectorAll('tbody tr').length === 450")
    opened.sees("450 entries")
    assert opened.run("document.querySelector('tbody tr:last-child .name .name').innerText") == "0449"


def test_a_file_is_downloaded_as_it_is_and_a_folder_as_an_archive(
    opened: Browser, daemon: Daemon, tmp_path: Path
) -> None:
    place = daemon.root / "workspace/given"
    (place / "inner").mkdir(parents=True)
    (place / "it's.bin").write_bytes(content := os.urandom(100_000))
    (place / "inner/one").write_text("one")
    opened.save_to(tmp_path)
    opened.run(f"location.href = {json.dumps(f'{daemon.url}/console#files/workspace/given')}")
    click(opened, "Download it's.bin")
    opened.saved(tmp_path / "it's.bin")
    click(opened, "Download inner as an archive")
    opened.saved(tmp_path / "inner.tar.gz")
    assert (tmp_path / "it's.bin").read_bytes() == content
    with tarfile.open(tmp_path / "inner.tar.gz") as archive:
        assert [name for name in archive.getnames() if name.endswith("one")]


def test_where_the_native_api_is_not_served_there_is_the_description_alone(
    page: Browser, start_daemon: StartDaemon
) -> None:
    enter(page, start_daemon("--dialects", "daytona"))
    page.until("document.querySelectorAll('.operations button').length > 20")
    assert page.run("[...document.querySelectorAll('#views a')].map(one => one.innerText)") == ["API"]


def test_the_api_is_read_and_tried(page: Browser, daemon: Daemon) -> None:
    enter(page, daemon, "/docs")
    page.until("document.querySelectorAll('.operations button').length > 40")
    page.run("document.querySelector('#filter').focus()")
    page.write("post files/exists")
    page.until("document.querySelectorAll('.operations button').length === 1")
    page.run("document.querySelector('.operations button').click()")
    page.sees("path: string")
    page.run("document.querySelector('#try-body').value = JSON.stringify({path: '/workspace'})")
    button(page, "Send POST")
    page.sees('"exists": true', ".result")
    page.run("document.querySelector('#dialect').value = 'daytona'")
    page.run("document.querySelector('#dialect').dispatchEvent(new Event('change'))")
    page.until("[...document.querySelectorAll('.operations code')].every(one => one.innerText.startsWith('/daytona'))")


def test_a_view_that_could_not_be_had_opens_once_the_daemon_is_back(page: Browser, start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--listen", f"127.0.0.1:{free_port()}")
    enter(page, daemon)
    page.sees("New folder")
    daemon.kill9()
    page.click("[data-view=processes]")
    page.sees("The daemon cannot be reached.", "#toasts")
    daemon.restart()
    page.click("[data-view=files]")
    view(page, "processes", "#main .view .list")


def test_sizes_are_in_the_units_of_the_command_line(opened: Browser) -> None:
    sizes = [0, 1023, 1024, 1536, 300_000_000, (1 << 20) - 1, 5 << 40]
    shown = opened.run(f"import('./console/dom.js').then(({{ bytes }}) => {sizes}.map(bytes))")
    assert shown == ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "286.1 MiB", "1.0 MiB", "5.0 TiB"]
    assert shown[:5] == [size(one) for one in sizes[:5]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_a_narrow_screen(page: Browser, daemon: Daemon, scheme: str) -> None:
    page.emulate(scheme, 375, 740)
    (daemon.root / "workspace" / ("a long name" * 8)).touch()
    daemon.call("POST", "/v1/sessions", {"session_id": f"one-with-a-long-name-{scheme}"})
    enter(page, daemon)
    for name, there in VIEWS.items():
        view(page, name, there)
        assert page.run("document.documentElement.scrollWidth") <= 375, name
    page.emulate("light")


def test_the_page_works_below_a_prefix_of_a_proxy(page: Browser, daemon: Daemon, tmp_path: Path) -> None:
    with prefixed(daemon.port, "/box/one") as url:
        page.goto(f"{url}/console")
        page.until("document.activeElement.id === 'token'")
        page.write(daemon.token)
        page.press("Enter")
        page.sees("New folder")
        (tmp_path / "through.txt").write_text("through")
        page.choose("#pick-files", tmp_path / "through.txt")
        page.sees("1 upload done", "#uploads")
        view(page, "docs", ".operations button")
        assert page.run("location.pathname") == "/box/one/docs"
    assert (daemon.root / "workspace/through.txt").read_text() == "through"
