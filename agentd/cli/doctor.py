"""`agentd doctor`: whether the daemon has here what it needs, and what to do where it has not."""

import argparse
import os
from collections.abc import Iterator, Sequence

import msgspec

from agentd import config
from agentd.cli import DEGRADED, FAILED, OK, connection, diagnosis, showing
from agentd.cli.diagnosis import Finding, access, machine, storage
from agentd.cli.parser import Parser
from agentd.cli.showing import coloured, harmless

COLOURS = {"ok": showing.GREEN, "note": showing.BLUE, "degraded": showing.YELLOW, "broken": showing.RED}
STATUSES = {"ok": OK, "note": OK, "degraded": DEGRADED, "broken": FAILED}


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="agentd doctor",
        usage="agentd doctor [--json] [--config FILE] [FLAGS of agentd serve]",
        description="Looks whether the daemon has here what it needs, with the configuration that agentd serve would "
        "have. Run it as the daemon's user. Ends with 0 where all is well, 3 where something is degraded, 1 where "
        "something is broken.",
        allow_abbrev=False,
    )
    connection.add_json(made, "the worst level, and all findings")
    made.add_argument("--config", metavar="FILE", default=os.environ.get("AGENTD_CONFIG"), help="a TOML file of keys")
    made.add_argument("--url", help="the daemon that has to answer (default: $AGENTD_URL, else one that may)")
    config.add_flags(made)
    return made


def main(arguments: Sequence[str]) -> int:
    flags = vars(parser().parse_args(arguments))
    as_json, file, url = flags.pop("json"), flags.pop("config"), flags.pop("url")
    return connection.carry_out("doctor", lambda: _diagnose(file, url, flags, as_json=as_json))


def _diagnose(file: str | None, url: str | None, flags: dict[str, object], *, as_json: bool) -> int:
    found = list[Finding]()
    for one in _findings(file, url or os.environ.get("AGENTD_URL"), flags):
        found.append(one)
        if not as_json:
            _show(one)
    worst = max((one.level for one in found), key=diagnosis.LEVELS.index)
    if as_json:
        showing.put_json({"level": worst, "findings": msgspec.to_builtins(found)})
    return STATUSES[worst]


def _findings(file: str | None, url: str | None, flags: dict[str, object]) -> Iterator[Finding]:
    try:
        loaded = config.load(file, os.environ, flags)
    except config.ConfigError as error:
        yield Finding(
            "configuration", diagnosis.BROKEN, str(error), "correct it; agentd serve --print-config shows all"
        )
        return
    changed = sum(origin != "default" for origin in loaded.origins.values())
    yield Finding("configuration", diagnosis.OK, f"{changed} of {len(loaded.origins)} settings are not the default")
    with diagnosis.prepared(loaded.config) as (place, findings):
        yield from findings
        taken = False
        for check in (*storage.CHECKS, *access.CHECKS, *machine.CHECKS):
            for one in check(place):
                taken |= (one.name, one.level) == ("listen", diagnosis.BROKEN)
                yield one
        # Where somebody else has the address, there is nobody to be asked.
        if url or not taken:
            yield from access.daemon(place, url)


def _show(one: Finding) -> None:
    showing.put_out(f"{coloured(f'{one.level:8}', COLOURS[one.level])}  {one.name:14}  {harmless(one.what)}")
    if one.advice:
        showing.put_out(f"{'':26}-> {harmless(one.advice)}")
