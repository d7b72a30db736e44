"""Code that is executed in contexts: state, output, results, errors, and interpreters that die."""

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UNIT, Daemon

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
needs_node = pytest.mark.skipif(shutil.which("node", path=PATH) is None, reason="no node in this machine")

PLOT = """import sys
from importlib.machinery import ModuleSpec
class Figure:
    def savefig(self, file, **_): file.write(b"png")
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("matplotlib", "matplotlib.pyplot"): return ModuleSpec(name, self, is_package=name == "matplotlib")
    def create_module(self, spec): return None
    def exec_module(self, module):
        open_ = {1: Figure(), 2: Figure()}
        module.__dict__.update(get_fignums=lambda: list(open_), figure=open_.get, close=lambda _: open_.clear(),
                               switch_backend=lambda name: print("backend", name))
sys.meta_path.append(Finder())
import matplotlib.pyplot as plt
plt.show()
print("then")"""

Events = list[dict[str, Any]]


@pytest.fixture
def context(shared: Daemon) -> Iterator[str]:
    """A Python context of the test's own."""
    made = shared.call("POST", "/v1/code/contexts", {})
    assert made.status == 201
    yield made.json()["id"]
    shared.call("DELETE", f"/v1/code/contexts/{made.json()['id']}")


def run(daemon: Daemon, code: str, **named: Any) -> Events:
    """What happens when ``code`` is executed, as server-sent events."""
    answer = daemon.call("POST", "/v1/code/execute", {"code": code, **named})
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream"), answer.body
    return [json.loads(line[6:]) for line in answer.body.split(b"\n") if line.startswith(b"data: ")]


def kinds(events: Events) -> list[str]:
    return [event["type"] for event in events]


def text(events: Events, kind: str = "stdout") -> str:
    return "".join(event["text"] for event in events if event["type"] == kind)


def last(events: Events) -> dict[str, Any]:
    return events[-1]


def test_variables_stay_from_one_execution_to_the_next(shared: Daemon, context: str) -> None:
    run(shared, "import math\nx = 5\ndef double(n): return 2 * n", context_id=context)
    events = run(shared, "double(x) + math.floor(0.5)", context_id=context)
    assert events == [
        {"type": "number_of_executions", "execution_count": 2},
        {"type": "result", "text": "10", "is_main_result": True},
    ]


def test_contexts_do_not_see_each_others_variables(shared: Daemon, context: str) -> None:
    run(shared, "secret = 1", context_id=context)
    assert last(run(shared, "secret"))["name"] == "NameError"


def test_output_arrives_in_the_order_in_which_it_was_written(shared: Daemon, context: str) -> None:
    code = "import sys\nprint('a', end='')\nprint('b', file=sys.stderr)\ndisplay(1)\nprint('c')\n2"
    events = run(shared, code, context_id=context)
    assert [event["text"] for event in events[1:]] == ["a", "b\n", "1", "c\n", "2"]
    assert all(isinstance(event["timestamp"], int) for event in events if event["type"] in ("stdout", "stderr"))


def test_output_of_programs_that_the_code_starts_is_output(shared: Daemon, context: str) -> None:
    code = """import os, subprocess
for i in range(20):
    print(i)
    os.system(f'echo s{i}')
    subprocess.run(['sh', '-c', f'echo p{i} >&2'])"""
    found = [event["text"] for event in run(shared, code, context_id=context)[1:]]
    assert found == [f"{kind}{i}\n" for i in range(20) for kind in ("", "s", "p")]


def test_output_that_is_no_utf8_and_characters_cut_in_two_are_text(shared: Daemon, context: str) -> None:
    code = "import os\nfor byte in 'ü'.encode() + b'\\xff': os.write(1, bytes([byte]))\nprint('\\udc80')"
    assert text(run(shared, code, context_id=context)) == "ü\ufffd\\udc80\n"


def test_ten_megabytes_of_output_arrive_whole(shared: Daemon, context: str) -> None:
    events = run(shared, "for i in range(10): print('x' * 999_999)\nimport os\nos.system('seq 100000');")
    assert len(text(events)) == 10_000_000 + sum(len(f"{i}\n") for i in range(1, 100_001))


def test_an_exception_is_told_with_the_codes_own_lines_alone(shared: Daemon, context: str) -> None:
    error = last(run(shared, "def f(n):\n    return 1 / n\nf(0)", context_id=context))
    assert (error["type"], error["name"], error["value"]) == ("error", "ZeroDivisionError", "division by zero")
    assert error["traceback"].startswith('Traceback (most recent call last):\n  File "<cell 1>", line 3, in <module>')
    assert "return 1 / n" in error["traceback"]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("1 +", "SyntaxError"),
        ("input('name? ')", "EOFError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("exit()", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): f()\nf()", "RecursionError"),
        ("class E(Exception):\n    def __str__(self): raise E\nraise E", "E"),
        ("raise ValueError('\\udcff')", "ValueError"),
        ("open(3).close(); x\0", "SyntaxError"),
        ("'\udcff'", "UnicodeEncodeError"),
    ],
)
def test_whatever_is_raised_leaves_the_context_usable(
    shared: Daemon,
    context: str,
    code: str,
    name: str,
) -> None:
    run(shared, "kept = 1", context_id=context)
    error = last(run(shared, code, context_id=context))
    assert error["type"] == "error"
    assert error["name"] in (name, "ValueError")
    assert last(run(shared, "kept", context_id=context))["text"] == "1"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("None", None),
        ("x = 3", None),
        ("3;", None),
        ("3  # comment", "3"),
        ("import asyncio\nawait asyncio.sleep(0, 'awaited')", "'awaited'"),
        ("[n async for n in (lambda: (_ for _ in ()))()] if 0 else 'plain'", "'plain'"),
        ("if True:\n    4", None),
        ("class B:\n    def __repr__(self): raise ValueError\nB()", "<B whose repr() failed: ValueError>"),
    ],
)
def test_the_value_of_the_last_expression_is_the_main_result(
    shared: Daemon,
    context: str,
    code: str,
    shown: str | None,
) -> None:
    results = [event for event in run(shared, code, context_id=context) if event["type"] == "result"]
    assert [(event["text"], event["is_main_result"]) for event in results] == ([(shown, True)] if shown else [])


def test_objects_show_themselves_in_the_forms_that_they_have(shared: Daemon, context: str) -> None:
    code = """class Page:
    def _repr_html_(self): return "<b>x</b>"
    def _repr_png_(self): return b"\\x89PNG"
    def _repr_latex_(self): raise ValueError
    def _repr_mimebundle_(self, include=None, exclude=None): return {"application/x-own": [1], "text/plain": "a page"}
Page()"""
    shown = last(run(shared, code, context_id=context))
    assert shown == {
        "type": "result",
        "text": "a page",
        "html": "<b>x</b>",
        "png": "iVBORw==",
        "data": {"application/x-own": [1]},
        "is_main_result": True,
    }


def test_figures_of_a_plotting_library_are_shown_and_closed(shared: Daemon, context: str) -> None:
    """With a library of the same names and habits: the real one is too large to install for a test."""
    events = run(shared, PLOT, context_id=context)
    assert kinds(events)[1:] == ["stdout", "result", "result", "stdout"]
    assert (events[1]["text"], events[2]["png"]) == ("backend agg\n", "cG5n")


def test_a_table_brings_its_columns(shared: Daemon, context: str) -> None:
    """With a class of the same name and habits as pandas has."""
    code = """import json
class DataFrame:
    def __len__(self): return 2
    def to_json(self, **_): return json.dumps({"columns": ["a", 1], "data": [[1, None], [2, "x"]]})
DataFrame.__module__ = "pandas.core.frame"
DataFrame()"""
    assert last(run(shared, code, context_id=context))["data"] == {"a": [1, 2], "1": [None, "x"]}


def test_lines_that_begin_with_an_exclamation_mark_are_commands(shared: Daemon, context: str) -> None:
    events = run(shared, 'print(1)\nif True:\n    !echo "it\'s" 2\n!exit 3', context_id=context)
    assert (text(events), kinds(events)[-1]) == ("1\nit's 2\n", "stdout")


def test_variables_of_the_environment_are_set_for_one_execution(shared: Daemon, context: str) -> None:
    code = "import os\nos.environ.get('A'), os.environ['HOME'][:1]"
    assert last(run(shared, code, context_id=context, envs={"A": "1"}))["text"] == "('1', '/')"
    assert last(run(shared, code, context_id=context))["text"] == "(None, '/')"


def test_no_variable_of_the_daemon_reaches_the_code(shared: Daemon, context: str) -> None:
    names = last(run(shared, "import os\nsorted(os.environ)", context_id=context))["text"]
    assert "PYTEST" not in names
    assert "AGENTD" not in names


def test_code_that_takes_too_long_is_interrupted_and_keeps_its_state(
    shared: Daemon,
    context: str,
) -> None:
    run(shared, "x = 1", context_id=context)
    events = run(shared, "print('out')\nwhile True: pass", context_id=context, timeout=0.3 * UNIT)
    assert (text(events), last(events)["name"]) == ("out\n", "TimeoutError")
    assert last(run(shared, "x", context_id=context))["text"] == "1"


def test_code_that_does_not_heed_the_interrupt_loses_its_interpreter(
    shared: Daemon,
    context: str,
) -> None:
    run(shared, "import signal\nx = 1", context_id=context)
    code = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    error = last(run(shared, code, context_id=context, timeout=0.3 * UNIT))
    assert error["name"] == "TimeoutError"
    assert "lost" in error["value"]
    assert last(run(shared, "x", context_id=context))["name"] == "NameError"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os._exit(7)", "exit status 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL (perhaps because memory ran out)"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.closerange(3, 100)\nwhile True: pass", "was ended"),
    ],
)
def test_an_interpreter_that_dies_is_told_of_and_replaced(
    shared: Daemon,
    context: str,
    code: str,
    said: str,
) -> None:
    error = last(run(shared, code, context_id=context))
    assert (error["type"], error["name"]) == ("error", "InterpreterDied")
    assert said in error["value"]
    assert run(shared, "1", context_id=context)[0] == {"type": "number_of_executions", "execution_count": 1}


def test_nothing_that_code_writes_to_the_daemon_harms_it(shared: Daemon, context: str) -> None:
    """The code has the very socket that its interpreter talks on."""
    code = """import os
for packet in (b"", b"x", b"S", b"S{", b'S{"type": "result", "png": 3}', b"M[]", b"C" + b"x" * 60000, b"\\xff",
               b'S{"type":"done","token":99}', b"S" + b"[" * 50000, b'S{"type":"nothing"}', b"o\\xff\\n"):
    os.write(4, packet)
'survived'"""
    events = run(shared, code, context_id=context)
    assert last(events)["text"] == "'survived'"
    assert {event["name"] for event in events if event["type"] == "error"} == {"ResultUnreadable"}
    assert shared.call("GET", "/healthz").status == 200


def test_a_result_that_is_too_large_is_left_out(shared: Daemon, context: str) -> None:
    code = "class Huge:\n    def _repr_html_(self): return 'x' * (17 << 20)\nHuge()"
    assert "write it to a file" in last(run(shared, code, context_id=context))["text"]


def test_a_client_that_leaves_has_its_code_interrupted(shared: Daemon, context: str) -> None:
    body = json.dumps({"code": "import time\nleft = 1\nprint('on')\ntime.sleep(100)", "context_id": context}).encode()
    head = f"POST /v1/code/execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shared.token}\r\n"
    with socket.create_connection(("127.0.0.1", shared.port), 10 * UNIT) as gone:
        gone.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        seen = b""
        while b'"on\\n"' not in seen:
            seen += gone.recv(65536)
    assert last(run(shared, "left", context_id=context))["text"] == "1"


def test_one_piece_of_code_is_executed_at_a_time(shared: Daemon, context: str) -> None:
    code = "import time\nstart = time.monotonic()\ntime.sleep(0.05)\nstart, time.monotonic()"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: run(shared, code, context_id=context), range(4)))
    spans = sorted(json.loads(last(events)["text"].translate({40: 91, 41: 93})) for events in answers)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_code_can_be_interrupted_from_outside(shared: Daemon, context: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, shared, "import time\nprint('on', flush=True)\ntime.sleep(100)", context_id=context)
        while not running.done():
            answer = shared.call("POST", f"/v1/code/contexts/{context}/interrupt")
            assert (answer.status, answer.json()) == (200, {"status": "interrupted"})
    assert last(running.result())["name"] == "KeyboardInterrupt"


def test_a_restarted_context_has_forgotten_everything(shared: Daemon, context: str) -> None:
    run(shared, "x = 1", context_id=context)
    assert shared.call("POST", f"/v1/code/contexts/{context}/restart").json() == {"status": "restarted"}
    events = run(shared, "x", context_id=context)
    assert (events[0]["execution_count"], last(events)["name"]) == (1, "NameError")


def test_a_deleted_context_is_gone_with_its_processes(shared: Daemon) -> None:
    id_ = shared.call("POST", "/v1/code/contexts", {}).json()["id"]
    code = "import os\nfrom subprocess import *\nos.getpid(), Popen(['sleep', '1000'], start_new_session=True).pid"
    pids = json.loads(last(run(shared, code, context_id=id_))["text"].translate({40: 91, 41: 93}))
    assert shared.call("DELETE", f"/v1/code/contexts/{id_}").status == 204
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    assert shared.call("DELETE", f"/v1/code/contexts/{id_}").json()["code"] == "context_not_found"


def test_a_context_has_a_directory_and_a_user_of_its_own(shared: Daemon, tmp_path: Path) -> None:
    (shared.root / "workspace" / tmp_path.name).mkdir()
    made = shared.call("POST", "/v1/code/contexts", {"cwd": tmp_path.name, "user": "65534"})
    assert made.json() == {**made.json(), "language": "python", "cwd": f"/workspace/{tmp_path.name}"}
    assert made.json() in shared.call("GET", "/v1/code/contexts").json()
    shown = last(run(shared, "import os\nos.getuid(), os.getgid(), os.getcwd()[-8:]", context_id=made.json()["id"]))
    assert shown["text"] == f"(65534, 65534, '{tmp_path.name[-8:]}')"
    shared.call("DELETE", f"/v1/code/contexts/{made.json()['id']}")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"code": "1", "language": "cobol"}, 501, "not_implemented"),
        ({"code": "1", "context_id": "ctx_none"}, 404, "context_not_found"),
        ({"code": "1", "timeout": 0}, 400, "invalid_request"),
        ({"code": "1", "envs": {"a b": "1"}}, 400, "invalid_request"),
        ({"code": "1", "user": "nobody-here"}, 400, "unknown_user"),
        ({"language": "python"}, 400, "invalid_request"),
        ({"code": "1", "timeout": 1e308}, 400, "invalid_request"),
        ({"code": "1", "envs": {"A": "\0"}}, 400, "invalid_request"),
        ({"code": "1", "envs": {"A": "\ud800"}}, 400, "invalid_request"),
        ({"code": "\ud800", "language": "sh"}, 400, "invalid_request"),
    ],
)
def test_what_cannot_be_executed_is_refused_before_anything_is_sent(
    shared: Daemon,
    body: dict[str, Any],
    status: int,
    code: str,
) -> None:
    answer = shared.call("POST", "/v1/code/execute", body)
    assert (answer.status, answer.json()["code"]) == (status, code)


def test_runs_and_artifacts_are_told_to_be_absent(shared: Daemon) -> None:
    for method, path in (("POST", "runs"), ("GET", "runs/r"), ("GET", "artifacts"), ("DELETE", "artifacts/a")):
        assert shared.call(method, f"/v1/code/{path}").status == 501


def test_the_last_words_of_an_interpreter_are_told(shared: Daemon, context: str) -> None:
    code = "import os\nfor i in range(100): print('x' * 100, flush=True)\nos.write(2, b'y' * 50_000)\nos._exit(1)"
    events = run(shared, code, context_id=context)
    assert (len(text(events)), len(text(events, "stderr"))) == (10_100, 50_000)


def test_a_shell_is_its_users(shared: Daemon) -> None:
    id_ = shared.call("POST", "/v1/code/contexts", {"language": "sh", "user": "65534"}).json()["id"]
    assert text(run(shared, "id -u; id -g", context_id=id_)) == "65534\n65534\n"
    shared.call("DELETE", f"/v1/code/contexts/{id_}")


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_shell_keeps_its_state_and_tells_exit_statuses(shared: Daemon, shell: str) -> None:
    id_ = shared.call("POST", "/v1/code/contexts", {"language": shell}).json()["id"]
    run(shared, "cd /tmp; X=5; f() { echo f$1; }", context_id=id_)
    events = run(shared, 'f $X; pwd; echo "$A" >&2; false', context_id=id_, envs={"A": "it's"})
    assert (text(events), text(events, "stderr")) == ("f5\n/tmp\n", "it's\n")
    assert (last(events)["name"], last(events)["value"]) == ("ExitStatus", "1")
    assert last(run(shared, "if", context_id=id_))["name"] == "ExitStatus"
    assert last(run(shared, "sleep 100; echo after", context_id=id_, timeout=0.2))["name"] == "TimeoutError"
    assert text(run(shared, "echo $X$A; cat", context_id=id_)) == "5\n"
    assert last(run(shared, "exit 3", context_id=id_))["name"] == "InterpreterDied"
    shared.call("DELETE", f"/v1/code/contexts/{id_}")


def test_code_that_waits_in_a_deleted_context_is_told_so(shared: Daemon) -> None:
    before = interpreters(shared)
    id_ = shared.call("POST", "/v1/code/contexts", {}).json()["id"]
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(run, shared, "import time; time.sleep(100)", context_id=id_) for _ in range(2)]
        while interpreters(shared) == before:
            pass
        threading.Event().wait(0.2 * UNIT)
        assert shared.call("DELETE", f"/v1/code/contexts/{id_}").status == 204
    assert sorted(last(answer.result())["name"] for answer in answers) == ["ContextNotFound", "InterpreterDied"]
    assert interpreters(shared) == before


def test_output_that_nobody_takes_waits_in_the_code_and_not_in_the_daemon(shared: Daemon, context: str) -> None:
    body = json.dumps({"code": "while True: print('x' * 1000)", "context_id": context}).encode()
    head = f"POST /v1/code/execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shared.token}\r\n"
    before = memory(shared)
    with socket.create_connection(("127.0.0.1", shared.port), 10 * UNIT) as slow:
        slow.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        for _ in range(20):
            assert shared.call("GET", "/healthz").status == 200
            threading.Event().wait(0.02)
        assert memory(shared) - before < 32 << 20
    assert last(run(shared, "'free'", context_id=context))["text"] == "'free'"


def interpreters(daemon: Daemon) -> set[int]:
    """The pids of those that run."""
    found = daemon.call("GET", "/v1/processes").json()
    return {process["pid"] for process in found if process["running"] and "code context" in process["command"]}


def memory(daemon: Daemon) -> int:
    """Bytes of the daemon's resident set."""
    pages = Path(f"/proc/{daemon.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@needs_node
def test_javascript_keeps_its_state_and_awaits(shared: Daemon) -> None:
    id_ = shared.call("POST", "/v1/code/contexts", {"language": "javascript"}).json()["id"]
    run(shared, "const x = 5; function f() { throw new TypeError('bad') }", context_id=id_)
    code = "console.log('a'); console.error('b'); await new Promise(r => setTimeout(() => r({x}), 5))"
    events = run(shared, code, context_id=id_)
    assert [(event["type"], event.get("text")) for event in events[1:]] == [
        ("stdout", "a\n"),
        ("stderr", "b\n"),
        ("result", "{ x: 5 }"),
    ]
    error = last(run(shared, "f()", context_id=id_))
    assert (error["name"], error["value"], "node:" in error["traceback"]) == ("TypeError", "bad", False)
    for endless in ("while (true) {}", "await new Promise(() => {})"):
        assert last(run(shared, endless, context_id=id_, timeout=0.2))["name"] == "TimeoutError"
    assert last(run(shared, "process.env.A + x", context_id=id_, envs={"A": "a"}))["text"] == "'a5'"
    shared.call("DELETE", f"/v1/code/contexts/{id_}")
