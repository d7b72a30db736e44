"""Code that is run once, by an interpreter of its own, and leaves no state: `start`. For code that does see `contexts`.

The interpreter reads the code on its standard input, which so may be of any length; the code itself finds no input.
"""

from collections.abc import Mapping

import msgspec

from agentd.errors import InvalidRequest, NotSupported, ProgramNotFound
from agentd.processes.process import Process
from agentd.processes.registry import Processes
from agentd.processes.terms import Order

_TYPES = ("--disable-warning=ExperimentalWarning", "--experimental-strip-types", "--input-type=commonjs-typescript")

# By language, what runs it: the first that the sandbox has is taken.
_PYTHON = (("python3", "-"), ("python", "-"))
_NODE = (("node", "-"), ("nodejs", "-"))
_TYPESCRIPT = (("deno", "run", "--allow-all", "--ext=ts", "-"), ("bun", "run", "-"), ("node", *_TYPES, "-"))
_PROGRAMS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(("python", "python3", "py"), _PYTHON),
    **dict.fromkeys(("javascript", "js", "node"), _NODE),
    **dict.fromkeys(("typescript", "ts"), _TYPESCRIPT),
}


class Script(msgspec.Struct, frozen=True):
    """argv: what the code finds behind its own name. env, timeout: as `terms.Order` has them."""

    language: str
    code: str
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    timeout: float | None = None


async def start(processes: Processes, script: Script) -> Process:
    """Raises NotSupported where the sandbox has nothing that runs it, InvalidRequest, and what `Processes.start`
    raises."""
    programs = _PROGRAMS.get(script.language.strip().lower())
    if programs is None:
        raise NotSupported(f"code in {script.language[:80]!r} is not run here; take python, javascript or typescript")
    try:
        code = script.code.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest("the code has characters that no file has; send UTF-8") from None
    for program in programs:
        try:
            return await processes.start(
                Order(
                    (*program, *script.argv),
                    command=f"{program[0]} (code)",
                    env=script.env,
                    stdin=code,
                    timeout=script.timeout,
                )
            )
        except ProgramNotFound:
            continue
    wanted = ", ".join(program[0] for program in programs)
    raise NotSupported(f"this sandbox has nothing that runs {script.language}; install one of {wanted}")
