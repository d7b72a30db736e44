"""``python -m tests.bench``: what the daemon costs, as ratios to something that runs beside it.

Each pair is measured in turn, in one run; the ratio is that of the medians, the spread that of the single rounds. CPU
is the server's, from the kernel's accounting of its process. Nothing here passes or fails.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from tests.bench import form_rows, listing_rows, process_rows, rows, shells, start_rows
from tests.bench.rows import QUICK, Bench, Line, Sizes
from tests.docs import README, table

ROWS = rows.ROWS | shells.ROWS | process_rows.ROWS | listing_rows.ROWS | form_rows.ROWS | start_rows.ROWS
HEADS = ("row", "what", "goal", "ours", "against", "ratio", "spread")
START, END = "<!-- bench -->\n", "<!-- end -->"


def machine() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(": ")[2] if models else platform.machine()
    kernel, python, load = platform.release().partition("-")[0], platform.python_version(), os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({model}), Linux {kernel}, Python {python}; load when it began {load:.1f}"


def cells(line: Line) -> tuple[str, ...]:
    middle, _, spread = str(line.ratio).partition(" | ") if line.ratio else ("", "", "")
    return line.row, line.what, line.goal, line.ours, line.against, middle, spread


def measured(bench: Bench, names: Iterable[str]) -> list[Line]:
    lines = []
    for name in names:
        for line in ROWS[name](bench):
            print(" | ".join(cells(line)), file=sys.stderr, flush=True)
            lines.append(line)
    return lines


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs, not what it costs")
    parser.add_argument("--rows", default=",".join(ROWS), help="such as 1,4")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    chosen = parser.parse_args(arguments)
    names = chosen.rows.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    where = machine()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentd-bench-")))
        lines = measured(Bench(home, QUICK if chosen.quick else Sizes(), stack), names)
    command = " ".join(("python -m tests.bench", *(word for word in arguments if word != "--write")))
    text = f"`{command}` on {where}.\n\n{table(HEADS, map(cells, lines))}"
    print(text, end="")
    if chosen.write:
        _write(text)
    return 0


def _write(text: str) -> None:
    old = README.read_text()
    before, start, rest = old.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"README.md has no {START.strip()} ... {END}")
    README.write_text(before + start + text + end + after)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
