"""What the published client experiences when it runs commands."""

import time
from pathlib import Path

import pytest

from tests.conftest import UNIT
from tests.contract.clients import Client, Refused


def test_a_command_gives_its_streams_and_its_status(client: Client) -> None:
    result = client("commands.run", "printf", ["%s|", "a b", "$X"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "a b|$X|", "")


def test_a_line_for_the_shell_gets_its_directory_and_variables(client: Client, here: Path, place: str) -> None:
    here.mkdir()
    options = {"shell": True, "cwd": place, "envs": {"X": "1"}, "timeout": 7}
    result = client("commands.run", "echo $X; pwd; echo e >&2; exit 3", **options)
    assert (result.exit_code, result.stdout, result.stderr) == (3, f"1\n{here}\n", "e\n")


def test_a_program_that_is_not_there_is_refused(client: Client) -> None:
    with pytest.raises(Refused) as refused:
        client("commands.run", "no-such-program")
    assert refused.value.word == (client.any_error, "exec_failed")


def test_time_that_is_up_is_refused_with_the_output(client: Client) -> None:
    with pytest.raises(Refused) as refused:
        client("commands.run", "echo said; sleep 100", shell=True, timeout=1)
    assert refused.value.word == (client.any_error, "exec_timeout")


def test_a_command_in_the_background_can_be_fed_waited_for_and_listed(client: Client) -> None:
    pid = client("commands.run", "read line; echo got $line; exit 4", shell=True, background=True).pid
    assert [p.running for p in client("commands.list") if p.pid == pid] == [True]
    client("commands.send_stdin", pid, "line\n")
    result = client("handle.wait")
    assert (result.exit_code, result.stdout) == (4, "got line\n")
    logs = client("commands.get_logs", pid)
    assert (logs.stdout, logs.stderr, logs.output, logs.exit_code) == ("got line\n", "", "got line\n", 4)
    assert [p.running for p in client("commands.list") if p.pid == pid] == [False]


def test_a_command_in_the_background_is_killed_with_all_it_started(client: Client) -> None:
    client("commands.run", "setsid sleep 1000 & sleep 1000", shell=True, background=True)
    client("handle.kill")
    assert client("handle.wait").exit_code in (137, 143)


def test_the_output_of_a_command_in_the_background_is_gone_through_as_it_comes(client: Client) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.1; done; echo err >&2"
    client("commands.run", script, shell=True, background=True)
    pieces = client("handle")
    assert "".join(stdout or "" for stdout, _, _ in pieces) == "1\n2\n3\n"
    assert "".join(stderr or "" for _, stderr, _ in pieces) == "err\n"


def test_output_is_streamed_while_the_command_runs(client: Client) -> None:
    script = "echo one; sleep 0.1; echo two >&2; printf '\\303'; sleep 0.1; printf '\\251'; exit 4"
    client.start("commands.run", script, shell=True, on_stdout=True, on_stderr=True)
    result, told = client.finish_with_progress()
    assert (result.exit_code, result.stdout, result.stderr) == (4, "one\né", "two\n")
    assert [*map(tuple, told)][:2] == [("stdout", "one\n"), ("stderr", "two\n")]


def test_a_program_that_is_not_there_is_refused_on_a_stream_too(client: Client) -> None:
    with pytest.raises(Refused, match="exec_failed"):
        client("commands.run", "no-such-program", on_stdout=True)


def test_time_that_is_up_is_refused_on_a_stream_too(client: Client) -> None:
    begun = time.monotonic()
    with pytest.raises(Refused, match="exec_timeout"):
        client("commands.run", "sleep", ["100"], timeout=1, on_stdout=True)
    assert time.monotonic() - begun < 20 * UNIT


def test_a_command_is_connected_to_from_its_beginning(client: Client) -> None:
    pid = client("commands.run", "echo one; sleep 0.3; echo two", shell=True, background=True).pid
    client("commands.connect", pid)
    result = client("handle.wait")
    assert (result.exit_code, result.stdout) == (0, "one\ntwo\n")


def test_a_command_in_the_background_is_streamed_too(client: Client) -> None:
    client("commands.run", "echo one; sleep 0.1; exit 5", shell=True, background=True, on_stdout=True)
    result = client("handle.wait")
    assert (result.exit_code, result.stdout) == (5, "one\n")


def test_megabytes_arrive_in_frames_that_a_client_takes(client: Client) -> None:
    client.start("commands.run", "head -c 3000000 /dev/zero", shell=True, on_stdout=True)
    result, told = client.finish_with_progress()
    assert result.stdout == "\0" * 3_000_000
    assert len(told) > 3


@pytest.mark.parametrize(("language", "code"), [("python", "print(6 * 7)"), ("bash", "echo $((6 * 7))")])
def test_code_is_run(client: Client, language: str, code: str) -> None:
    result = client("process.code_run", code, language=language)
    assert (result.exit_code, result.stdout) == (0, "42\n")
