"""`agentd completion`: what it prints, in the shells themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.cli import COMMANDS
from tests.conftest import UNIT
from tests.process.harness.cli import SECONDS, Seat

pytestmark = pytest.mark.timeout(60 * UNIT)


def script(shell: str, where: Path) -> Path:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
    command = [sys.executable, "-m", "agentd", "completion", shell]
    made = subprocess.run(command, env=ours, capture_output=True, check=True, timeout=SECONDS).stdout
    (where / f"agentd.{shell}").write_bytes(made)
    (where / "local-file").touch()
    return where / f"agentd.{shell}"


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


ASKED = [
    ("doc", {"doctor"}),
    ("", {*COMMANDS}),
    ("ls --so", {"--sort"}),
    ("ls --sort ", {"name", "size", "time", "none"}),
    ("put --conflict r", {"replace"}),
    ("put loc", {"local-file"}),
    ("put --token-file loc", {"local-file"}),
    ("completion ", {"bash", "zsh", "fish"}),
    ("serve --uploads-part-s", {"--uploads-part-size"}),
    ("watch loc", set()),
]


@needs("bash")
@pytest.mark.parametrize(("line", "offered"), ASKED)
def test_bash_offers_what_the_parsers_take(tmp_path: Path, line: str, offered: set[str]) -> None:
    source = script("bash", tmp_path)
    words = ["agentd", *line.split(" ")]
    ask = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _agentd; printf "%s\\n" "${COMPREPLY[@]}"'
    command = ["bash", "--norc", "-c", ask, str(source), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True, timeout=SECONDS)
    assert (set(filter(None, done.stdout.split("\n"))), done.stderr) == (offered, "")


@needs("fish")
@pytest.mark.parametrize(("line", "offered"), ASKED)
def test_fish_offers_what_the_parsers_take(tmp_path: Path, line: str, offered: set[str]) -> None:
    source = script("fish", tmp_path)
    ask = f"source {source}; complete -C 'agentd {line}'"
    command = ["fish", "--no-config", "-c", ask]
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, check=True, text=True, timeout=SECONDS
    )
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == offered


@needs("zsh")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (b"agentd doc\t", b"agentd doctor"),
        (b"agentd ls --sor\t", b"--sort"),
        (b"agentd ls --sort siz\t", b"size"),
        (b"agentd put local-f\t", b"local-file"),
        (b"agentd completion fi\t", b"fish"),
    ],
)
def test_zsh_completes_what_the_parsers_take(tmp_path: Path, typed: bytes, completed: bytes) -> None:
    source = script("zsh", tmp_path)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "xterm", "PS1": "ready> "}
    with Seat(["zsh", "-f", "-i"], environment) as seat:
        seat.until(b"ready> ")
        setup = f"cd {tmp_path}; autoload -Uz compinit; compinit -u -D; source {source}; print -r loaded=$?"
        seat.type(setup.encode() + b"\r")
        seat.until(b"\nloaded=0")
        seat.until(b"loaded=0\r\n")
        seat.seen = b""
        seat.type(typed)
        seat.until(completed)
