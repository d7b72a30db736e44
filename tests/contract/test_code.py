"""What the published client experiences when it executes code."""

import pytest

from tests.conftest import UNIT
from tests.contract.clients import Client, Refused


@pytest.fixture
def context(client: Client) -> str:
    """The id of a context of the test's own."""
    made: str = client("code_interpreter.create_code_context").id
    return made


def test_code_gives_its_output_its_result_and_its_number(client: Client, context: str) -> None:
    code = "import sys\nx = 5\nprint('out')\nprint('err', file=sys.stderr)\nx * 2"
    found = client("code_interpreter.run_code", code, context=context, timeout=int(20 * UNIT))
    assert ("".join(found.logs.stdout), "".join(found.logs.stderr)) == ("out\n", "err\n")
    assert [(result.text, result.is_main_result) for result in found.results] == [("10", True)]
    assert (found.error, found.execution_count) == (None, 1)
    client("code_interpreter.remove_code_context", context)


def test_an_exception_is_part_of_the_answer(client: Client, context: str) -> None:
    found = client("code_interpreter.run_code", "1 / 0", context=context, envs={"A": "1"})
    assert (found.error.name, found.error.value) == ("ZeroDivisionError", "division by zero")
    assert "1 / 0" in found.error.traceback
    client("code_interpreter.remove_code_context", context)


def test_rich_results_arrive_in_their_forms(client: Client, context: str) -> None:
    code = "class H:\n    def _repr_html_(self): return '<b>'\n    def _repr_png_(self): return b'png'\ndisplay(H())"
    (result,) = client("code_interpreter.run_code", code, context=context).results
    assert (result.html, result.png, result.is_main_result) == ("<b>", "cG5n", False)
    client("code_interpreter.remove_code_context", context)


def test_output_is_handed_over_as_it_comes(client: Client) -> None:
    client.start("code_interpreter.run_code", "print(1); print(2)", on_stdout=True)
    assert "OutputMessage(line='1" in str(client.finish_with_progress()[1])


def test_contexts_are_listed_restarted_interrupted_and_removed(client: Client, context: str) -> None:
    client("code_interpreter.run_code", "x = 1", context=context)
    assert context in [found.id for found in client("code_interpreter.list_code_contexts")]
    client("code_interpreter.interrupt_code_context", context)
    client("code_interpreter.restart_code_context", context)
    assert client("code_interpreter.run_code", "x", context=context).error.name == "NameError"
    client("code_interpreter.remove_code_context", context)
    with pytest.raises(Refused) as refused:
        client("code_interpreter.run_code", "x", context=context)
    assert refused.value.word == ("NotFoundError", "context_not_found")


def test_packages_are_installed_by_a_command(client: Client) -> None:
    found = client("code_interpreter.install_packages", ["--help > /dev/null; echo installed"])
    assert "".join(found.logs.stdout) == "installed\n"


def test_a_language_that_is_not_there_is_refused(client: Client) -> None:
    with pytest.raises(Refused) as refused:
        client("code_interpreter.run_code", "1", language="cobol")
    assert refused.value.word == ("NotImplementedError", "not_implemented")


def test_the_machine_tells_what_it_is_used_for(client: Client) -> None:
    (sample,) = client("machine.get_metrics")
    assert 0 < sample.mem_used_bytes < sample.mem_total_bytes
    assert sample.network_rx_bytes >= 0
