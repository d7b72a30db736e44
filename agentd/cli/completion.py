"""`agentd completion bash|zsh|fish`: what a shell needs to complete these commands, made from their own parsers."""

import argparse
import importlib
import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

from agentd.cli import COMMANDS, connection, showing
from agentd.cli.parser import Parser

# What is written where a value is wanted, and means a file of this machine.
FILES = ("FILE", "SOURCE", "CONFIG")


class Option(NamedTuple):
    """names: ``-l``, ``--long``. value: whether one follows. choices: what it may be; empty for anything."""

    names: Sequence[str]
    help: str
    value: bool
    choices: Sequence[str]
    file: bool


class Completed(NamedTuple):
    """A command. choices, file: of its arguments that are no options."""

    name: str
    help: str
    options: Sequence[Option]
    choices: Sequence[str]
    file: bool


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="agentd completion",
        description="Prints a script that makes a shell complete agentd's commands and options.",
        epilog='bash: eval "$(agentd completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc, after compinit; '
        "fish: agentd completion fish > ~/.config/fish/completions/agentd.fish",
    )
    made.add_argument("shell", choices=SHELLS, help="which one")
    return made


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)

    def work() -> None:
        commands = [_completed(name, about) for name, about in COMMANDS.items()]
        showing.put_out(SHELLS[args.shell](commands).rstrip("\n"))

    return connection.carry_out("completion", work)


def _completed(name: str, about: str) -> Completed:
    made: argparse.ArgumentParser = importlib.import_module(f"agentd.cli.{name}").parser()
    actions = made._actions
    places = [action for action in actions if not action.option_strings]
    choices = [str(choice) for action in places for choice in action.choices or ()]
    options = [_option(action) for action in actions if action.option_strings and action.help != argparse.SUPPRESS]
    return Completed(name, about, options, choices, any(_takes_file(action) for action in places))


def _option(action: argparse.Action) -> Option:
    choices = [str(choice) for choice in action.choices or ()]
    about = (action.help or "").replace("%%", "%")
    return Option(action.option_strings, about, action.nargs != 0, choices, _takes_file(action))


def _takes_file(action: argparse.Action) -> bool:
    return any(str(action.metavar or "").endswith(word) for word in FILES)


BASH = """\
_agentd() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    local words='' files=''
    if [ "$COMP_CWORD" -eq 1 ]; then
        words={commands}
    else
        case ${{COMP_WORDS[1]}}:$previous in
{values}
        *) case $current:${{COMP_WORDS[1]}} in
{options}
{arguments}
            esac ;;
        esac
    fi
    COMPREPLY=()
    local word
    if [ -n "$files" ]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$current")
    fi
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$words" -- "$current")
}}
complete -F _agentd agentd
"""


def bash(commands: Sequence[Completed]) -> str:
    values, options, arguments = [], [], []
    for command in commands:
        for option in command.options:
            if option.value:
                pattern = "|".join(f"{command.name}:{name}" for name in option.names)
                values.append(f"        {pattern}) {_offered(option.choices, file=option.file)} ;;")
        names = [name for option in command.options for name in option.names]
        options.append(f"            -*:{command.name}) words={shlex.quote(' '.join(names))} ;;")
        arguments.append(f"            *:{command.name}) {_offered(command.choices, file=command.file)} ;;")
    lists = ("\n".join(lines) for lines in (values, options, arguments))
    named = dict(zip(("values", "options", "arguments"), lists, strict=True))
    return BASH.format(commands=shlex.quote(" ".join(COMMANDS)), **named)


def _offered(choices: Sequence[str], *, file: bool) -> str:
    return f"words={shlex.quote(' '.join(choices))} files={'1' if file else ''}"


ZSH = """\
#compdef agentd
_agentd() {{
    local -a commands
    commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{cases}
    esac
}}
if [ "$funcstack[1]" = _agentd ]; then _agentd "$@"; else compdef _agentd agentd; fi
"""


def zsh(commands: Sequence[Completed]) -> str:
    cases = []
    for command in commands:
        specs = [spec for option in command.options for spec in _zsh_specs(option)]
        specs.append(f"*:argument:{_zsh_values(command.choices, file=command.file)}")
        lines = " \\\n            ".join(map(shlex.quote, specs))
        cases.append(f"    {command.name}) _arguments \\\n            {lines} ;;")
    names = [f"        {shlex.quote(_zsh_text(one.name) + ':' + one.help)}" for one in commands]
    return ZSH.format(commands="\n".join(names), cases="\n".join(cases))


def _zsh_specs(option: Option) -> list[str]:
    value = f":value:{_zsh_values(option.choices, file=option.file)}" if option.value else ""
    return [f"*{name}[{_zsh_text(option.help)}]{value}" for name in option.names]


def _zsh_values(choices: Sequence[str], *, file: bool) -> str:
    if choices:
        return f"({' '.join(choices)})"
    return "_files" if file else " "


def _zsh_text(text: str) -> str:
    """What the specs of _arguments (zshcompsys(1)) give a meaning to."""
    return "".join(f"\\{one}" if one in "[]:\\" else one for one in text)


def fish(commands: Sequence[Completed]) -> str:
    lines = ["complete -c agentd -f"]
    for command in commands:
        lines.append(f"complete -c agentd -n __fish_use_subcommand -a {command.name} -d {_fish_text(command.help)}")
    for command in commands:
        begin = f"complete -c agentd -n '__fish_seen_subcommand_from {command.name}'"
        for option in command.options:
            flags = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
            needs = " -r" if option.value else ""
            lines.append(f"{begin} {' '.join(flags)}{needs}{_fish_values(option)} -d {_fish_text(option.help)}")
        if command.choices or command.file:
            lines.append(f"{begin}{_fish_values(command)}")
    return "\n".join(lines)


def _fish_values(one: Option | Completed) -> str:
    if one.choices:
        return f" -f -a {_fish_text(' '.join(one.choices))}"
    return " -F" if one.file else ""


def _fish_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SHELLS: dict[str, Callable[[Sequence[Completed]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
