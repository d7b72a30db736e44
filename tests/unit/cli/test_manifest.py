"""``agentd manifest``: what it prints is what stands in systemd/, and options end up where they belong."""

import subprocess
import sys
from pathlib import Path

import pytest

from agentd.cli.manifest import main

TOP = Path(__file__).parents[3]
UNITS = "etc/systemd/system"
AGAIN = "agentd manifest systemd --program /opt/agentd/bin/agentd --output systemd --force"


def files(place: Path) -> dict[str, str]:
    return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}


def test_the_units_of_the_repository_are_those_that_it_prints(tmp_path: Path) -> None:
    assert main(["systemd", "--program", "/opt/agentd/bin/agentd", "--output", str(tmp_path)]) == 0
    assert files(tmp_path) == files(TOP / "systemd"), f"write them again: {AGAIN}"


def test_it_prints_each_file_below_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systemd"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"# /{UNITS}/agentd.service\n[Unit]\n")
    assert f"\n# /{UNITS}/agentd.socket\n[Unit]\n" in text


def test_the_service_runs_the_installation_that_printed_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["systemd"])
    (command,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("ExecStart="))
    program = command.removeprefix("ExecStart=").removesuffix(" serve").split()
    shown = subprocess.run([*program, "--help"], stdout=subprocess.PIPE, text=True, check=True)
    assert Path(program[0]).parent == Path(sys.executable).parent
    assert shown.stdout.startswith("usage: agentd")


def test_options_end_up_in_all_files(tmp_path: Path) -> None:
    options = ["--user", "alice", "--workspace", "/srv/work", "--token-file", "/etc/agentd/token"]
    listen = ["--listen", "[::]:9000", "--listen", "10.0.0.1:80", "--listen", "unix:/run/other.sock"]
    assert main(["systemd", "--output", str(tmp_path), *options, *listen]) == 0
    written = files(tmp_path)
    assert "\nu alice " in written["etc/sysusers.d/agentd.conf"]
    assert "\nd /srv/work 0755 alice alice -\nd /home/alice " in written["etc/tmpfiles.d/agentd.conf"]
    service, socket = written[f"{UNITS}/agentd.service"], written[f"{UNITS}/agentd.socket"]
    assert "\nLoadCredential=token:/etc/agentd/token\n" in service
    assert "\nEnvironment=AGENTD_WORKSPACE=/srv/work\nEnvironment=AGENTD_DEFAULT_USER=alice\n" in service
    streams = ["[::]:9000", "10.0.0.1:80", "/run/other.sock"]
    assert [line for line in socket.splitlines() if line.startswith("Listen")] == [f"ListenStream={s}" for s in streams]


def test_root_needs_no_user_to_be_made(tmp_path: Path) -> None:
    assert main(["systemd", "--output", str(tmp_path), "--user", "root"]) == 0
    assert not (tmp_path / "etc/sysusers.d").exists()
    assert "/home" not in (tmp_path / "etc/tmpfiles.d/agentd.conf").read_text()


def test_what_is_there_is_only_overwritten_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["systemd", "--output", str(tmp_path)]
    assert [main(command), main(command)] == [0, 0]
    (tmp_path / UNITS / "agentd.socket").write_text("mine")
    assert main([*command, "--user", "alice"]) == 1
    assert f"{tmp_path / UNITS}/agentd.socket" in capsys.readouterr().err
    assert (tmp_path / UNITS / "agentd.socket").read_text() == "mine"
    assert main([*command, "--force"]) == 0
    assert (tmp_path / UNITS / "agentd.socket").read_text() != "mine"


def test_a_reader_that_leaves_is_no_failure_to_tell_of() -> None:
    command = f"{sys.executable} -m agentd manifest systemd; echo $? >&2"
    done = subprocess.run(["sh", "-c", f"({command}) | true"], stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr in ("141\n", "0\n")  # the latter where it was faster


def test_a_place_that_cannot_be_written_to_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["systemd", "--output", str(tmp_path / "file")]) == 1
    assert f"agentd manifest: {tmp_path}/file/etc" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--user", "Al ice"],
        ["--user", ""],
        ["--workspace", "relative"],
        ["--workspace", "/with space"],
        ["--workspace", "/100%"],
        ["--workspace", "//"],
        ["--program", "agentd"],
        ["--program", "/bin/sh -c 'x'"],
        ["--listen", "localhost:8811"],
        ["--listen", "127.0.0.1:0"],
        ["--listen", "8811"],
        ["--listen", "[fe80::1%x\nSocketMode=0777\n#]:80"],
        ["--listen", "unix:here"],
        ["--token-file", "token"],
    ],
)
def test_what_cannot_stand_in_a_unit_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["systemd", *options])
    assert refused.value.code == 2
    assert options[0] in capsys.readouterr().err
