"""`agentd demo` tells the truth: it really kills, really resumes, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import UNIT

SECONDS = 60 * UNIT

pytestmark = pytest.mark.timeout(100 * UNIT)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The directory for temporary files of the demo, which anybody may write to, as with /tmp."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch").chmod(0o1777)
    return tmp_path / "scratch"


# An ordinary user, who may read the interpreter and the checkout wherever they are, and nothing more.
ORDINARY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *(
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
        "--bounding-set=-all,+dac_read_search",
    ),
)


def demo(scratch: Path, *words: str, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "agentd", "demo", "--size", "8", *words],
        env=os.environ | {"TMPDIR": str(scratch), "PYTHONIOENCODING": "utf-8", "HOME": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def running_below(scratch: Path) -> list[str]:
    """Command lines of processes that name a file below a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it may have ended since
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(scratch) in line]


@pytest.mark.parametrize("prefix", [(), ORDINARY], ids=["as the tests", "as an ordinary user"])
def test_the_demo_ends_with_an_identical_file_and_cleans_up(scratch: Path, prefix: tuple[str, ...]) -> None:
    with demo(scratch, prefix=prefix) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out + err
    assert "32 parts of 256.0 KiB" in out
    assert "Acknowledged before the kill and sent again: none." in out
    assert "Identical" in out
    assert list(scratch.iterdir()) == []
    assert running_below(scratch) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up_too(scratch: Path, number: int) -> None:
    with demo(scratch) as process:
        assert process.stdout
        while not process.stdout.readline().startswith("2."):
            pass
        process.send_signal(number)
        assert process.communicate(timeout=SECONDS)[1].splitlines()[-1] == "agentd demo: interrupted"
    assert process.returncode == 130
    assert list(scratch.iterdir()) == []
    assert running_below(scratch) == []


def test_json_tells_what_came_of_it_and_no_story(scratch: Path) -> None:
    with demo(scratch, "--json") as process:
        out, _ = process.communicate(timeout=SECONDS)
    told = json.loads(out)
    assert (process.returncode, told["bytes"], told["parts"], told["sent_twice"]) == (0, 8 << 20, 32, 0)


def test_keep_leaves_the_evidence(scratch: Path) -> None:
    with demo(scratch, "--keep") as process:
        out, _ = process.communicate(timeout=SECONDS)
    (kept,) = scratch.iterdir()
    assert out.splitlines()[-1].strip() == f"Everything is kept in {kept}."
    assert (kept / "source.bin").read_bytes() == (kept / "root/workspace/demo.bin").read_bytes()
    assert (kept / "daemon.log").stat().st_size > 0
