"""`agentd put` and `agentd get`, as a person or a script uses them, against a real daemon."""

import hashlib
import importlib
import io
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentd import __version__
from agentd.cli import COMMANDS
from tests.conftest import UNIT, Daemon, StartDaemon
from tests.process.harness.cli import SECONDS, Cli

PART = 64 << 10

pytestmark = pytest.mark.timeout(120 * UNIT)


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon("--uploads-part-size", str(PART))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def cli(daemon: Daemon, place: Path) -> Cli:
    return Cli(daemon, place)


@pytest.fixture
def content() -> bytes:
    """Eleven parts, the last one short."""
    return os.urandom(10 * PART + 17)


def paused(daemon: Daemon) -> None:
    """Returns when the daemon has come to its failpoint and stopped."""
    with ThreadPoolExecutor(1) as watcher:
        event = watcher.submit(os.waitid, os.P_PID, daemon.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            change = event.result(SECONDS)
        except TimeoutError:
            daemon.process.kill()
            raise
    assert change
    assert change.si_code == os.CLD_STOPPED


def test_what_was_put_can_be_got(cli: Cli, daemon: Daemon, place: Path, content: bytes) -> None:
    (place / "file").write_bytes(content)
    put = cli.run("put", "file", "/workspace/deep/er/file")
    assert put.returncode == 0, put.stderr
    sha256 = hashlib.sha256(content).hexdigest()
    assert put.stdout.decode() == f"/workspace/deep/er/file: {len(content)} bytes, sha256 {sha256}\n"
    assert (daemon.root / "workspace/deep/er/file").read_bytes() == content
    assert cli.run("get", "/workspace/deep/er/file", "back").returncode == 0
    assert (place / "back").read_bytes() == content


def test_standard_input_and_output_stand_for_a_file(cli: Cli, content: bytes) -> None:
    assert cli.run("put", "-", "/workspace/piped", given=content).returncode == 0
    got = cli.run("get", "/workspace/piped", "-")
    assert (got.returncode, got.stdout) == (0, content)


def test_an_empty_file_is_put_and_got(cli: Cli, place: Path) -> None:
    assert cli.run("put", "-", "/workspace/empty").returncode == 0
    assert cli.run("get", "/workspace/empty").returncode == 0
    assert (place / "empty").read_bytes() == b""


def test_a_directory_arrives_as_a_tree(cli: Cli, daemon: Daemon, place: Path, content: bytes) -> None:
    (place / "tree/sub").mkdir(parents=True)
    (place / "tree/sub/tool").write_bytes(content)
    (place / "tree/sub/tool").chmod(0o755)
    (place / "tree/link").symlink_to("sub/tool")
    put = cli.run("put", "tree", "/workspace/tree", "--conflict", "error")
    assert put.returncode == 0, put.stderr
    arrived = daemon.root / "workspace/tree"
    assert (arrived / "link").read_bytes() == content
    assert (arrived / "link").is_symlink()
    assert (arrived / "sub/tool").stat().st_mode & 0o777 == 0o755


def test_replace_leaves_nothing_of_the_old_tree_and_merge_leaves_the_rest(
    cli: Cli, daemon: Daemon, place: Path
) -> None:
    kept = daemon.root / "workspace/tree/old"
    kept.parent.mkdir()
    kept.touch()
    (place / "tree").mkdir()
    assert cli.run("put", "tree", "/workspace/tree", "--conflict", "merge").returncode == 0
    assert kept.exists()
    assert cli.run("put", "tree", "/workspace/tree", "--conflict", "replace").returncode == 0
    assert not kept.exists()


def test_the_user_that_is_named_owns_the_file(cli: Cli, daemon: Daemon) -> None:
    assert cli.run("put", "-", "/workspace/theirs", "--user", "nobody").returncode == 0
    assert (daemon.root / "workspace/theirs").owner() == "nobody"


def test_an_interrupted_put_names_the_line_that_resumes_it(
    start_daemon: StartDaemon, place: Path, content: bytes
) -> None:
    armed = {"AGENTD_FAILPOINT": "part.after_digest=pause:5"}
    daemon = start_daemon("--uploads-part-size", str(PART), environment=armed)
    cli = Cli(daemon, place)
    (place / "a file").write_bytes(content)
    with cli.start("put", "a file", "/workspace/file", "--concurrency", "2") as put:
        paused(daemon)
        put.send_signal(signal.SIGINT)
        err = put.communicate(timeout=SECONDS)[1].decode()
    daemon.signal(signal.SIGCONT)
    assert put.returncode == 130
    line = err.splitlines()[-1].removeprefix("resume with: agentd ")
    assert cli.run(*shlex.split(line)).returncode == 0
    assert (daemon.root / "workspace/file").read_bytes() == content


def test_standard_input_is_resumed_by_the_same_input(start_daemon: StartDaemon, place: Path, content: bytes) -> None:
    armed = {"AGENTD_FAILPOINT": "part.after_digest=pause:5"}
    daemon = start_daemon("--uploads-part-size", str(PART), environment=armed)
    cli = Cli(daemon, place)
    with cli.start("put", "-", "/workspace/file") as put:
        put.stdin.write(content)  # type: ignore[union-attr]
        put.stdin.close()  # type: ignore[union-attr]
        put.stdin = None
        paused(daemon)
        put.send_signal(signal.SIGTERM)
        upload_id = put.communicate(timeout=SECONDS)[1].decode().split("upload id: ")[1].split()[0]
    daemon.signal(signal.SIGCONT)
    assert cli.run("put", "-", "/workspace/file", "--resume", upload_id, given=content[:-1]).returncode == 1
    assert cli.run("put", "-", "/workspace/file", "--resume", upload_id, given=content).returncode == 0
    assert (daemon.root / "workspace/file").read_bytes() == content


def test_a_put_outlives_the_daemon_that_it_began_with(start_daemon: StartDaemon, place: Path, content: bytes) -> None:
    armed = {"AGENTD_FAILPOINT": "part.after_digest=exit:5"}
    daemon = start_daemon("--uploads-part-size", str(PART), environment=armed)
    cli = Cli(daemon, place)
    with cli.start("put", "-", "/workspace/file") as put:
        put.stdin.write(content)  # type: ignore[union-attr]
        put.stdin.close()  # type: ignore[union-attr]
        put.stdin = None
        daemon.wait()
        daemon.restart("--listen", f"127.0.0.1:{daemon.port}", environment={})
        assert put.communicate(timeout=SECONDS)[1]
    assert put.returncode == 0
    assert (daemon.root / "workspace/file").read_bytes() == content


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("put", "nothing", "/workspace/x"), 1, "agentd put: nothing: No such file or directory"),
        (("put", "-", "/workspace/.nullspace/x"), 1, "permission_denied, HTTP 403"),
        (("put", "-", "/workspace/x", "--user", "nobody-such"), 1, "unknown_user, HTTP 400"),
        (("put", "-", "/workspace", "--conflict", "error"), 1, "target_conflict, HTTP 409"),
        (("put", "-", "/workspace/x", "--resume", "up_unknown"), 1, "upload_not_found, HTTP 404"),
        (("put", "-", "/workspace/x", "--url", "nonsense"), 2, "neither http://HOST:PORT nor unix:PATH"),
        (("put", "-", "/workspace/x", "--token-file", "none"), 2, "the token file none: No such file"),
        (("put", "-", "/workspace/x", "--token-file", "/dev/null"), 2, "the token file /dev/null is empty"),
        (("put", "-", "/workspace/x", "--concurrency", "0"), 2, "--concurrency"),
        (("put", "only-one-word"), 2, "TARGET"),
        (("get", "/workspace/nothing"), 1, "not_found, HTTP 404"),
        (("get", "/workspace/x", "/dev/null"), 2, "not a regular file; - writes to standard output"),
        (("get", "/workspace/x/"), 2, "names no file"),
        (("get", "/workspace/x", "no/such/place"), 1, "No such file or directory"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_status(
    cli: Cli, place: Path, words: tuple[str, ...], status: int, said: str
) -> None:
    done = cli.run(*words)
    assert said in done.stderr.decode().splitlines()[-1]
    assert (done.returncode, done.stdout) == (status, b"")
    assert list(place.iterdir()) == []


def test_a_missing_token_is_said_together_with_what_helps(cli: Cli) -> None:
    del cli.environment["AGENTD_TOKEN_FILE"]
    done = cli.run("get", "/workspace/x")
    assert done.returncode == 1
    assert b"--token-file or AGENTD_TOKEN_FILE" in done.stderr
    assert b"AGENTD_TOKEN is not read" not in done.stderr
    cli.environment["AGENTD_TOKEN"] = "a-token"
    assert b"AGENTD_TOKEN_FILE; AGENTD_TOKEN is not read)" in cli.run("get", "/workspace/x").stderr


def test_a_failure_after_the_upload_began_names_its_id(cli: Cli, daemon: Daemon, place: Path) -> None:
    daemon.restart(environment={"AGENTD_FAILPOINT": "complete.after_hash=error"})
    cli = Cli(daemon, place)
    done = cli.run("put", "-", "/workspace/x", given=b"abc")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    upload_id = lines[-2].removeprefix("upload id: ")
    words = f"agentd put --resume {upload_id} -- - /workspace/x"
    assert lines[-1] == f"resume, giving it the same standard input, with: {words}"


def test_a_download_that_fails_leaves_the_old_file_and_nothing_else(cli: Cli, place: Path, content: bytes) -> None:
    cli.run("put", "-", "/workspace/new", given=content)
    (place / "file").write_bytes(b"old")
    limit: Callable[[], None] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (PART, PART))  # noqa: E731
    got = cli.run("get", "/workspace/new", "file", preexec_fn=limit)
    assert (got.returncode, b"File too large" in got.stderr) == (1, True)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {"file": b"old"}


def test_a_download_takes_the_mode_and_the_link_of_what_it_replaces(cli: Cli, place: Path) -> None:
    cli.run("put", "-", "/workspace/new", given=b"new")
    (place / "file").write_bytes(b"old")
    (place / "file").chmod(0o640)
    (place / "link").symlink_to("file")
    assert cli.run("get", "/workspace/new", "link").returncode == 0
    assert (place / "link").is_symlink()
    assert (place / "file").read_bytes() == b"new"
    assert (place / "file").stat().st_mode & 0o777 == 0o640


def test_a_reader_that_leaves_early_ends_the_download_quietly(cli: Cli) -> None:
    cli.run("put", "-", "/workspace/big", given=bytes(4 << 20))
    with cli.start("get", "/workspace/big", "-") as got:
        got.stdout.read(10)  # type: ignore[union-attr]
        got.stdout.close()  # type: ignore[union-attr]
        assert b"agentd get:" not in got.stderr.read()  # type: ignore[union-attr]
    assert got.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("words", [("ls", "--json", "-aR", "/"), ("completion", "bash"), ("doctor",), ("ps", "-a")])
def test_a_reader_that_leaves_early_is_no_news_to_any_command(cli: Cli, words: tuple[str, ...]) -> None:
    with cli.start(*words) as process:
        process.stdout.close()  # type: ignore[union-attr]
        assert process.stderr.read() == b""  # type: ignore[union-attr]
    assert process.returncode == 141


def test_versions_are_ours_and_the_daemons(cli: Cli) -> None:
    assert cli.says("--version") == f"agentd {__version__}\n"
    assert cli.says("version").splitlines()[1].startswith(f"daemon {__version__}")
    assert json.loads(cli.says("version", "--json"))["daemon"]["version"] == __version__
    done = cli.run("version", "--json", "--url", "http://127.0.0.1:1")
    assert (done.returncode, json.loads(done.stdout)["daemon"]) == (1, None)


def test_the_help_says_what_a_status_means(cli: Cli) -> None:
    assert "127  there is no such command" in cli.says("--help")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_known_without_being_run(command: str) -> None:
    parser = importlib.import_module(f"agentd.cli.{command}").parser()
    assert parser.prog == f"agentd {command}"
    assert all(action.help for action in parser._actions if action.option_strings)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nonsense",), "agentd: there is no command 'nonsense'; see agentd --help"),
        (("put",), "agentd put: the following arguments are required: FILE, TARGET; see agentd put --help"),
        (("ps", "--no-such"), "agentd ps: unrecognized arguments: --no-such; see agentd ps --help"),
        (
            ("exec", "--timeout", "x"),
            "agentd exec: argument --timeout: invalid seconds value: 'x'; see agentd exec --help",
        ),
        (("doctor", "x"), "agentd doctor: unrecognized arguments: x; see agentd doctor --help"),
        (("health", "x", "y"), "agentd health: unrecognized arguments: y; see agentd health --help"),
        (("manifest",), "agentd manifest: the following arguments are required: TARGET; see agentd manifest --help"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(cli: Cli, words: tuple[str, ...], said: str) -> None:
    done = cli.run(*words)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", f"{said}\n")


def test_without_a_command_the_help_is_shown(cli: Cli) -> None:
    done = cli.run()
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", cli.says("--help"))


@pytest.mark.parametrize(("command", "imported"), [("ls", "aiohttp"), ("serve", "uvloop"), ("version", "msgspec")])
def test_ctrl_c_ends_a_command_that_is_still_being_loaded_without_a_word(
    cli: Cli, place: Path, command: str, imported: str
) -> None:
    (place / f"{imported}.py").write_text("import time; print(end='.', flush=True); time.sleep(600)")
    with cli.start(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) as process:
        assert process.stdout.read(1) == b"."  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""  # type: ignore[union-attr]
    assert process.returncode == 130


def test_what_a_download_brought_is_said_with_its_size(cli: Cli) -> None:
    for content, said in ((b"abc", "3 B in "), (bytes(3 << 20), "3.0 MiB in ")):
        cli.run("put", "-", "/workspace/x", given=content)
        last = cli.run("get", "/workspace/x").stderr.decode().splitlines()[-1]
        assert last.startswith(f"/workspace/x: {said}")


def test_json_says_what_was_done(cli: Cli, place: Path) -> None:
    sha256 = hashlib.sha256(b"abc").hexdigest()
    put = json.loads(cli.says("put", "--json", "-", "/workspace/x", given=b"abc"))
    assert {name: put[name] for name in ("path", "bytes", "sha256")} == {
        "path": "/workspace/x",
        "bytes": 3,
        "sha256": sha256,
    }
    got = json.loads(cli.says("get", "--json", "/workspace/x"))
    assert got == {"path": "/workspace/x", "file": str(place / "x"), "bytes": 3}
    assert cli.run("get", "--json", "/workspace/x", "-").returncode == 2


def test_a_unix_socket_will_do(start_daemon: StartDaemon, place: Path) -> None:
    daemon = start_daemon("--listen", f"unix:{place}/socket")
    cli = Cli(daemon, place)
    assert cli.run("put", "-", "/workspace/x", "--url", f"unix:{place}/socket", given=b"abc").returncode == 0
    assert (daemon.root / "workspace/x").read_bytes() == b"abc"


def on_a_terminal(cli: Cli, code: str, *words: str) -> str:
    """What `agentd` writes on stderr when that is a terminal; `code` runs before it."""
    ours, theirs = os.openpty()
    run = f"import sys; {code}; from agentd.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", run, *words], cwd=cli.place, env=cli.environment, stderr=theirs
    ) as put:
        os.close(theirs)
        written = b""
        with open(ours, "rb", buffering=0) as terminal:
            while put.poll() is None or written == b"":
                try:
                    written += terminal.read(65536) or b""
                except OSError:  # Linux says EIO when the other side has gone
                    break
    assert put.returncode == 0
    return written.decode()


def test_a_terminal_sees_a_bar(cli: Cli, place: Path) -> None:
    (place / "file").write_bytes(b"abc")
    cli.environment["TERM"] = "xterm"
    assert "━━━" in on_a_terminal(cli, "pass", "put", "file", "/workspace/x")


def test_without_the_extra_a_terminal_sees_lines_and_what_to_install(cli: Cli, place: Path) -> None:
    (place / "file").write_bytes(b"abc")
    seen = on_a_terminal(cli, "sys.modules['rich'] = None", "put", "file", "/workspace/x").splitlines()
    assert seen[0] == "progress bars need the extra 'cli': pip install 'agentd[cli]'"
    assert seen[1].startswith("file: 3 B in ")


def test_memory_does_not_grow_with_parts_or_file(start_daemon: StartDaemon, place: Path) -> None:
    cli = Cli(start_daemon("--uploads-part-size", "64MiB"), place)
    with open(place / "sparse", "wb") as file:
        file.truncate(128 << 20)
    report = "status = main(sys.argv[1:]); print(open('/proc/self/status').read()); sys.exit(status)"
    run = f"import sys; from agentd.cli import main; {report}"
    command = [sys.executable, "-c", run, "put", "sparse", "/workspace/x"]
    done = subprocess.run(command, cwd=place, env=cli.environment, capture_output=True, check=True, timeout=SECONDS)
    peak = next(line for line in io.StringIO(done.stdout.decode()) if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 100 << 10
