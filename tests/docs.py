"""The tables in README.md that are taken from the code.

``python -m tests.docs`` rewrites what stands between ``<!-- generated:NAME -->`` and ``<!-- end -->``;
with ``--check`` it changes nothing, prints what differs and ends with 1.
"""

import difflib
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from agentd import config, errors
from agentd.apis import dialects_of
from agentd.claim import Claim
from agentd.http.about import about
from agentd.http.access import Access, Brake
from agentd.http.endpoint import Dialect, Endpoint
from agentd.rooms import Rooms
from agentd.telemetry import Metrics

README = Path(__file__).parent.parent / "README.md"
TABLE = re.compile(r"(?P<start><!-- generated:(?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; what would break a cell is escaped."""
    cells = [[str(cell).replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def word(error: type[errors.AgentError]) -> str:
    """What a program reads to know the error: the reason where there is one, else the code."""
    return f"`{getattr(error, 'reason', error.code)}`"


def errors_table() -> str:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.AgentError)]
    kinds = [c for c in classes if c not in (errors.AgentError, errors.UploadError)]
    rows = ((word(c), c.status, c.title, "yes" if c.retryable else "no") for c in sorted(kinds, key=lambda c: c.status))
    return table(("code or reason", "status", "meaning", "repeat?"), rows)


def dialects() -> list[Dialect]:
    """Every API with its rows, those of stand-alone mode too, which are the same with or without rooms behind them."""
    nobody: Any = dict.fromkeys(Rooms.__struct_fields__)
    found = dialects_of(Rooms(**nobody), config.Config(standalone=True))
    claim = Claim(-1, Access(lambda: None, Brake(1, time.monotonic)), lambda _: None)
    return [*found, about(found, Metrics(), {}, more=(claim.endpoint(),))]


def endpoints_table() -> str:
    return "\n".join(map(dialect_table, dialects()))


def dialect_table(dialect: Dialect) -> str:
    own = [row for row in dialect.endpoints if not row.mounts]
    alone = [row for row in dialect.endpoints if row.mounts]
    text = f"**{dialect.name}**{_below(dialect.mounts)}\n\n" + rows_table(own)
    if alone:
        text += f"\n**{dialect.name}**, with `--standalone`{_below(alone[0].mounts)}\n\n" + rows_table(alone)
    return text


def rows_table(rows: Iterable[Endpoint]) -> str:
    cells = (
        (row.method, f"`{row.path}`" if row.path else "", row.summary, ", ".join(dict.fromkeys(map(word, row.errors))))
        for row in rows
    )
    return table(("method", "path", "what", "errors of its own"), cells)


def _below(mounts: Iterable[str]) -> str:
    named = " and ".join(f"`{mount}`" for mount in mounts if mount)
    return f", below {named}" if named else ""


def configuration_table() -> str:
    rows = (
        (f"`{s.key}`", f"`{s.flag}`", f"`{s.environment}`", f"`{s.default}`" if s.default else "", s.meaning)
        for s in config.describe()
    )
    return table(("key", "flag", "environment", "default", "meaning"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "endpoints": endpoints_table,
    "errors": errors_table,
    "configuration": configuration_table,
}


def generate(text: str) -> str:
    """The text with every table made anew. An unknown or a missing table is an error."""
    names = [match["name"] for match in TABLE.finditer(text)]
    if sorted(names) != sorted(TABLES):
        raise SystemExit(f"README.md has the tables {names}, the code has {list(TABLES)}")
    return TABLE.sub(lambda match: match["start"] + TABLES[match["name"]]() + match["end"], text)


def main(arguments: list[str]) -> int:
    old = README.read_text()
    new = generate(old)
    if arguments == ["--check"]:
        lines = difflib.unified_diff(
            old.splitlines(), new.splitlines(), "README.md", "README.md from the code", lineterm="", n=1
        )
        print(*lines, sep="\n", end="\n" if old != new else "")
        return int(old != new)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
