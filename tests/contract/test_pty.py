"""What the published client experiences with terminals."""

import re
from typing import Any

import pytest

from tests.contract.clients import Client, Refused


def wait(client: Client) -> tuple[Any, str]:
    """The result of `wait` on the terminal that came last, and all that it was called with."""
    client.start("handle.wait", on_data=True, timeout=20)
    result, shown = client.finish_with_progress()
    return result, "".join(text for _, text in shown)


def lines(shown: str) -> list[str]:
    """Without what a shell says to the terminal, and its prompt."""
    return [line.rpartition("# ")[2] for line in re.sub(r"\x1b\[\?2004[hl]|\r", "", shown).splitlines()]


def test_a_terminal_runs_a_shell_and_gives_its_exit_code(client: Client) -> None:
    client("pty.create_session", cols=90, rows=20, cwd="/workspace", envs={"NAME": "value"})
    client("handle.send_input", "stty size; echo $NAME; basename $(pwd)\n")
    client("handle.send_input", {"latin1": "exit 7\n"})
    result, shown = wait(client)
    assert (result.exit_code, result.error, result.timed_out) == (7, None, False)
    assert {"20 90", "value", "workspace"} <= set(lines(shown))


def test_a_terminal_is_gone_through_to_its_end(client: Client) -> None:
    client("pty.create_session")
    client("handle.send_input", "echo he''re\nexit\n")
    assert "here" in lines("".join(client("handle")))


def test_bytes_arrive_as_they_are(client: Client) -> None:
    client("pty.create_session")
    client("handle.send_input", "stty raw -echo; echo rea''dy; head -c 2; exit\n")
    client("handle.send_input", {"latin1": "\xff\x80"})
    assert "\xff\x80" in wait(client)[1]


@pytest.mark.parametrize("by", ["session_id", "pid"])
def test_a_terminal_waits_for_the_client_to_come_back(client: Client, by: str) -> None:
    opened = client("pty.create_session")
    client("handle.disconnect")
    assert opened.session_id in [each.session_id for each in client("pty.list_sessions")]
    again = client("pty.connect", **{by: getattr(opened, by)})
    assert (again.session_id, again.pid) == (opened.session_id, opened.pid)
    client("handle.send_input", "echo ba''ck; exit 3\n")
    result, shown = wait(client)
    assert (result.exit_code, "back" in lines(shown)) == (3, True)


def test_a_size_is_told_and_changed(client: Client) -> None:
    opened = client("pty.create_session", cols=90, rows=20)
    client("handle.resize", 100, 30)
    client("pty.resize_session", opened.session_id, 101, 31)
    found = client("pty.get_session_info", opened.session_id)
    assert (found.session_id, found.pid, found.cols, found.rows) == (opened.session_id, opened.pid, 101, 31)
    client("handle.send_input", "stty size; exit\n")
    assert "31 101" in lines(wait(client)[1])


@pytest.mark.parametrize("way", ["handle", "session"])
def test_a_terminal_can_be_killed(client: Client, way: str) -> None:
    opened = client("pty.create_session")
    if way == "handle":
        client("handle.kill")
    else:
        client("pty.kill_session", opened.session_id)
    assert wait(client)[0].exit_code in (129, 137)
    assert opened.session_id not in [each.session_id for each in client("pty.list_sessions")]


def test_a_terminal_that_is_not_there_is_not_found(client: Client) -> None:
    with pytest.raises(Refused) as over_http:
        client("pty.get_session_info", "pty_no")
    assert over_http.value.word == ("NotFoundError", "terminal_not_found")
    with pytest.raises(Refused) as over_the_socket:
        client("pty.connect", session_id="pty_no")
    assert over_the_socket.value.word == (client.any_error, "terminal_not_found")


def test_a_terminal_in_a_place_that_is_not_there_is_refused(client: Client) -> None:
    with pytest.raises(Refused) as refused:
        client("pty.create_session", cwd="/no/such/place")
    assert refused.value.word == (client.any_error, "not_found")
