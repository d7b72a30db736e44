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
