"""`agentd ls`: like ls(1), of the sandbox."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.cli import SECONDS, Cli, at_a_terminal
from tests.processes import running

pytestmark = pytest.mark.timeout(60 * UNIT)

NASTY = "red\x1b[31m\nline\u202egnp"
NOT_UTF8 = os.fsdecode(b"\xff")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("ls")) as daemon:
        fill(daemon.root / "workspace/dir")
        yield daemon


def fill(top: Path) -> None:
    (top / "below").mkdir(parents=True)
    (top / "below/deep").write_bytes(b"")
    (top / "big").write_bytes(bytes(2000))
    (top / "small").write_bytes(b"x")
    (top / ".hidden").write_bytes(b"")
    (top / "link").symlink_to("big")
    (top / "run").write_bytes(b"")
    (top / "run").chmod(0o4755)
    for at, name in enumerate(("small", "run", "big", "below")):
        os.utime(top / name, (1e9 + at, 1e9 + at))
    os.chown(top / "small", 40001, 40001)


@pytest.fixture
def cli(daemon: Daemon, tmp_path: Path) -> Cli:
    return Cli(daemon, tmp_path)


def test_a_pipe_gets_a_name_a_line_and_no_colours(cli: Cli) -> None:
    assert cli.says("ls", "/workspace/dir").splitlines() == ["below", "big", "link", "run", "small"]


def test_hidden_names_are_shown_with_a(cli: Cli) -> None:
    assert ".hidden" in cli.says("ls", "-a", "/workspace/dir").splitlines()
    assert ".nullspace" not in cli.says("ls", "-a", "/workspace").splitlines()


def test_long_lines_have_mode_owner_size_time_and_target(cli: Cli) -> None:
    cli.environment["TZ"] = "UTC"
    lines = cli.says("ls", "-l", "/workspace/dir").splitlines()
    assert [" ".join(line.split()) for line in lines if line.endswith(("small", "run"))] == [
        "-rwsr-xr-x 1 root root 0 Sep 9 2001 run",
        "-rw-r--r-- 1 bob 40001 1 Sep 9 2001 small",
    ]
    assert any(line.startswith("lrwxrwxrwx") and line.endswith("link -> big") for line in lines)
    assert "2.0 KiB" in cli.says("ls", "-l", "--human", "/workspace/dir")


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (("--sort", "size"), {"below", "big"}),
        (("--sort", "size", "-r"), {"run"}),
        (("--sort", "time"), {"link"}),
        (("--sort", "time", "-r"), {"small"}),
        (("-r",), {"small"}),
        (("--sort", "none"), {"below", "big", "link", "run", "small"}),
    ],
)
def test_the_order_is_the_one_asked_for(cli: Cli, words: tuple[str, ...], first: set[str]) -> None:
    assert cli.says("ls", *words, "/workspace/dir").splitlines()[0] in first


def test_a_tree_has_each_directory_under_its_name(cli: Cli) -> None:
    said = cli.says("ls", "-R", "/workspace/dir")
    assert said.startswith("/workspace/dir:\nbelow\n")
    assert said.endswith("\n\n/workspace/dir/below:\ndeep\n")


def test_a_tree_may_be_deep(cli: Cli, daemon: Daemon) -> None:
    (daemon.root / "workspace/deep" / "/".join("d" * 300)).mkdir(parents=True)
    assert cli.says("ls", "-R", "/workspace/deep").count(":\n") == 301


def test_json_is_an_entry_a_line_of_a_tree_too(cli: Cli) -> None:
    entries = [json.loads(line) for line in cli.says("ls", "--json", "-R", "/workspace/dir").splitlines()]
    assert {entry["path"].removeprefix("/workspace/dir/") for entry in entries} >= {"below", "below/deep", "big"}
    assert [entry["size"] for entry in entries if entry["name"] == "big"] == [2000]


def test_a_file_is_listed_itself(cli: Cli) -> None:
    assert cli.says("ls", "/workspace/dir/big") == "big\n"
    assert cli.says("ls", "-l", "/workspace/dir/link").endswith("link -> big\n")
    assert json.loads(cli.says("ls", "--json", "/workspace/dir/big"))["size"] == 2000
    assert b"not_found" in cli.run("ls", "/workspace/dir/nothing").stderr


def test_names_that_could_steer_a_terminal_do_not(cli: Cli, daemon: Daemon) -> None:
    for name in (NASTY, NOT_UTF8):
        (daemon.root / "workspace/nasty" / name).parent.mkdir(exist_ok=True)
        (daemon.root / "workspace/nasty" / name).write_bytes(b"")
    with at_a_terminal(cli, "ls", "-1", "/workspace/nasty") as seat:
        assert seat.ended() == 0
    assert seat.seen.splitlines() == [rb"red\x1b[31m\nline\u202egnp", rb"\xff"]
    assert cli.run("ls", "/workspace/nasty").stdout == os.fsencode(f"{NASTY}\n{NOT_UTF8}\n")
    told = cli.says("ls", "--json", "/workspace/nasty")
    assert told.isascii()
    assert {json.loads(line)["name"] for line in told.splitlines()} == {NASTY, NOT_UTF8}


def test_a_terminal_sees_columns_and_colours_unless_it_wants_none(cli: Cli) -> None:
    with at_a_terminal(cli, "ls", "/workspace/dir") as seat:
        seat.ended()
    assert seat.seen.count(b"\n") == 1
    assert b"\x1b[1;34mbelow\x1b[0m" in seat.seen
    cli.environment["NO_COLOR"] = "1"
    with at_a_terminal(cli, "ls", "/workspace/dir", cols=16) as seat:
        seat.ended()
    assert seat.seen.split(b"\r\n") == [b"below  run", b"big    small", b"link", b""]


def test_what_cannot_be_read_is_said_and_the_rest_is_listed(cli: Cli, daemon: Daemon) -> None:
    (daemon.root / "workspace/part/ok").mkdir(parents=True)
    (daemon.root / "workspace/part/gone").symlink_to("loop")
    done = cli.run("ls", "-R", "/workspace/part", "--user", "nobody-such")
    assert (done.returncode, b"unknown_user" in done.stderr) == (1, True)
    assert "ok" in cli.says("ls", "-R", "/workspace/part")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_directory(cli: Cli, daemon: Daemon) -> None:
    (daemon.root / "workspace/many").mkdir()
    for number in range(12_000):
        os.close(os.open(daemon.root / f"workspace/many/{number:060}", os.O_CREAT))
    report = "status = main(sys.argv[1:]); print(open('/proc/self/status').read(), file=sys.stderr); sys.exit(status)"
    peaks = []
    for path in ("dir", "many"):
        run = ["-c", f"import sys; from agentd.cli import main; {report}", "ls", "-l", f"/workspace/{path}"]
        done = subprocess.run([sys.executable, *run], env=cli.environment, capture_output=True, timeout=SECONDS)
        peaks.append(int(done.stderr.decode().split("VmHWM:")[1].split()[0]))
    assert done.stdout.count(b"\n") == 12_000
    assert peaks[1] - peaks[0] < 6 << 10


def test_a_small_command_imports_no_server(cli: Cli) -> None:
    run = "import sys; from agentd.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", run, "ls", "/"], env=cli.environment, capture_output=True, check=True)
    heavy = {"aiohttp.web", "agentd.daemon", "uvloop", "rich", "re2"}
    assert heavy & set(done.stdout.decode().split()) == set()


def test_the_daemon_is_waited_for_but_not_for_long_where_none_ever_answered(cli: Cli) -> None:
    began = time.monotonic()
    done = cli.run("ls", "--url", "http://127.0.0.1:1")
    assert b"does `agentd serve` run there?" in done.stderr
    assert (done.returncode, time.monotonic() - began < 5 * UNIT) == (1, True)
