"""That the benchmarks run. What they measure is for people to read."""

import pytest

from tests.bench.__main__ import ROWS, main

pytestmark = pytest.mark.exhaustive


@pytest.mark.parametrize("row", [name for name in ROWS if name != "9"])
def test_every_row_is_measured_with_small_sizes(row: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--rows", f"{row},9"]) == 0
    printed = capsys.readouterr().out
    assert f"| {row} | " in printed
    assert "| 9 | peak resident memory" in printed


@pytest.mark.timeout(300)
def test_all_rows_are_measured_in_one_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert [row for row in ROWS if f"\n| {row} | " not in printed] == []
