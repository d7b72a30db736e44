"""ModuleX's twelve actions over the ``daytona`` SDK: six inside a sandbox, six on the sandbox itself."""

import base64
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.contract.clients import Driver
from tests.contract.conftest import start
from tests.contract.sdk import Refused, Sdk, make, ready
from tests.githttp import PASSWORD, USER, serve

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(300)]

MOST = 100 << 20  # bytes of a download


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    made = start(tmp_path_factory.mktemp("alone"), "--standalone", "--processes-grace", "1")
    yield made
    assert made.term() == 0


@pytest.fixture
def sdk(sdk_driver: Driver, daemon: Daemon) -> Iterator[Sdk]:
    """With a sandbox that is kept as ``box``."""
    made = ready(daemon, sdk_driver, "sync")
    made.create("box", labels={"by": "modulex"})
    yield made
    for one in made("client.list"):
        made("client.get", one["id"], keep="left")
        made("left.delete")


def ident(sdk: Sdk, name: str = "box") -> str:
    found: str = sdk(f"{name}.model_dump")["id"]
    return found


@pytest.mark.parametrize(
    ("language", "program", "code"),
    [
        ("python", "python3", "import os, sys; print(os.environ['A'], sys.argv[1:])"),
        ("javascript", "node", "console.log(process.env.A, JSON.stringify(process.argv.slice(2)))"),
        ("typescript", "deno", "const a: string = Deno.env.get('A')!; console.log(a, JSON.stringify(Deno.args))"),
    ],
)
def test_run_code(sdk: Sdk, language: str, program: str, code: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} in this machine")
    sdk.create("coder", language=language)
    ran = sdk("coder.process.code_run", code, make("CodeRunParams", argv=["x"], env={"A": "1"}), timeout=10)
    assert (ran["exit_code"], ran["result"].replace("'", '"')) == (0, '1 ["x"]\n')
    assert ran["artifacts"]["stdout"] == ran["result"]


def test_run_code_is_ended_when_its_time_is_up(sdk: Sdk) -> None:
    with pytest.raises(Refused, match="Timeout"):
        sdk("box.process.code_run", "import time; time.sleep(60)", timeout=1)


def test_execute_command(sdk: Sdk, daemon: Daemon) -> None:
    (daemon.root / "workspace/commands").mkdir(exist_ok=True)
    code, said = sdk.run("box", "echo $A; pwd; exit 3", cwd="commands", env={"A": "1"}, timeout=10)
    assert (code, said) == (3, f"1\n{daemon.root}/workspace/commands\n")
    with pytest.raises(Refused, match="Timeout"):
        sdk.run("box", "sleep 60", timeout=1)


@pytest.mark.parametrize("target", ["up/named.txt", "up/"])
def test_upload_file(sdk: Sdk, daemon: Daemon, target: str) -> None:
    """Its content comes in base64; into a directory it goes by its own name."""
    content = base64.b64decode("aMOpbGxv")
    path = f"{target}own.txt" if target.endswith("/") else target
    sdk("box.fs.upload_file", {"latin1": content.decode("latin-1")}, path)
    assert (daemon.root / "workspace" / path).read_bytes() == content


def test_download_file(sdk: Sdk, daemon: Daemon, tmp_path: Path) -> None:
    piece = bytes(range(256)) * 4096
    with (daemon.root / "workspace/large").open("wb") as file:
        file.writelines(piece for _ in range(MOST >> 20))
    sdk("box.fs.download_file", "large", str(tmp_path / "large"))
    with (tmp_path / "large").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    assert found == hashlib.sha256(piece * (MOST >> 20)).hexdigest()
    described = sdk("box.fs.get_file_info", "large")
    assert (described["name"], described["size"]) == ("large", MOST)
    (tmp_path / "large").unlink()
    (daemon.root / "workspace/large").unlink()


def test_list_files(sdk: Sdk, daemon: Daemon) -> None:
    (daemon.root / "workspace/listed/d").mkdir(parents=True)
    (daemon.root / "workspace/listed/f").write_bytes(b"12345")
    (daemon.root / "workspace/listed/f").chmod(0o640)
    directory, file = sorted(sdk("box.fs.list_files", "listed"), key=lambda one: str(one["name"]))
    assert (directory["name"], directory["is_dir"]) == ("d", True)
    told = {key: file[key] for key in ("name", "is_dir", "size", "mode", "permissions", "owner", "group")}
    known = {"name": "f", "is_dir": False, "size": 5, "mode": "-rw-r-----", "permissions": "0640"}
    assert told == {**known, "owner": "0", "group": "0"}
    assert file["modified_at"].endswith("Z")


@pytest.mark.skipif(shutil.which("git") is None, reason="no git in this machine")
@pytest.mark.parametrize("what", ["branch", "commit_id"])
def test_git_clone(sdk: Sdk, daemon: Daemon, tmp_path: Path, what: str) -> None:
    work, author = tmp_path / "repositories/remote", ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    subprocess.run(["git", "init", "-q", "-b", "main", work], check=True)
    for message in ("first", "second"):
        subprocess.run(["git", "-C", work, *author, "commit", "-q", "--allow-empty", "-m", message], check=True)
    subprocess.run(["git", "-C", work, "branch", "old", "main~"], check=True)
    first = subprocess.run(["git", "-C", work, "rev-parse", "old"], capture_output=True, text=True, check=True)
    wanted = {"branch": "old", "commit_id": first.stdout.strip()}[what]
    with serve(tmp_path / "repositories") as site:
        named = {what: wanted, "username": USER, "password": PASSWORD}
        sdk("box.git.clone", f"{site.url}/remote/.git", f"cloned-{what}", **named)
    assert sdk.run("box", "git log --format=%s", cwd=f"cloned-{what}") == (0, "first\n")


def test_create_sandbox(sdk: Sdk) -> None:
    made = sdk.create("made", env_vars={"A": "1"}, labels={"k": "v"}, auto_stop_interval=15)
    assert (made["state"], made["env"], made["auto_stop_interval"]) == ("started", {"A": "1"}, 15)
    assert made["labels"]["k"] == "v"
    assert sdk.run("made", "echo $A") == (0, "1\n")


def test_list_sandboxes(sdk: Sdk) -> None:
    others = [sdk.create(f"other-{n}", labels={"n": str(n)})["id"] for n in range(3)]
    assert [one["id"] for one in sdk("client.list")] == [ident(sdk), *others]
    two = sdk("client.list", make("ListSandboxesQuery", labels={"n": "2"}))
    assert [one["id"] for one in two] == [others[2]]
    paged = sdk("client.list", make("ListSandboxesQuery", limit=1))
    assert [one["id"] for one in paged] == [ident(sdk), *others]


def test_get_sandbox(sdk: Sdk) -> None:
    found = sdk("client.get", ident(sdk))
    assert (found["state"], found["labels"]["by"], found["name"]) == ("started", "modulex", ident(sdk))
    with pytest.raises(Refused, match="DaytonaNotFoundError"):
        sdk("client.get", "sb_0000000000000000")


def test_stop_sandbox(sdk: Sdk) -> None:
    sdk("box.stop")
    assert sdk("client.get", ident(sdk))["state"] == "stopped"
    with pytest.raises(Refused, match="DaytonaConflictError") as refused:
        sdk.run("box", "true")
    assert refused.value.status == 409


def test_start_sandbox(sdk: Sdk) -> None:
    sdk("box.process.create_session", "s")
    sdk("box.stop")
    sdk("box.start")
    assert sdk("client.get", ident(sdk))["state"] == "started"
    assert sdk("box.process.list_sessions") == []
    assert sdk.run("box", "echo again") == (0, "again\n")


def test_delete_sandbox(sdk: Sdk) -> None:
    sdk.create("gone")
    gone = ident(sdk, "gone")
    sdk("gone.delete", wait=True)
    with pytest.raises(Refused, match="DaytonaNotFoundError"):
        sdk.run("gone", "true")
    assert gone not in [one["id"] for one in sdk("client.list")]
