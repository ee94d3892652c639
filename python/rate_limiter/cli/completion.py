"""rate-limiter completion: a script that completes the command in bash, zsh or fish.

The scripts are made from the argument parsers, so they have every command and option.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

from rate_limiter.cli.common import DONE, epilog

Shell = Literal["bash", "zsh", "fish"]

EXAMPLES = """\
  rate-limiter completion bash > ~/.local/share/bash-completion/completions/rate-limiter
  rate-limiter completion fish > ~/.config/fish/completions/rate-limiter.fish
  source <(rate-limiter completion zsh)    (in ~/.zshrc, after compinit)
"""
_BASH = """\
_rate_limiter() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    local command= words= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$command ${{COMP_WORDS[i]}}" in
            {commands}) command="$command ${{COMP_WORDS[i]}}" ;;
        esac
    done
    COMPREPLY=()
    case "$command $previous" in
{values}
    esac
    case "$command" in
{words}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _rate_limiter rate-limiter
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        flags: its names, such as ("-h", "--help").
        text: its help.
        takes_value: a value follows it.
        choices: the words that the value may be; empty for any text.
    """

    flags: tuple[str, ...]
    text: str
    takes_value: bool
    choices: tuple[str, ...]


class Command(NamedTuple):
    """A command or subcommand.

    Attributes:
        path: its words, such as ("rules", "check"); empty for the program.
        options: its options.
        words: its subcommands, or the words that its arguments may be, each with its help.
    """

    path: tuple[str, ...]
    options: tuple[Option, ...]
    words: dict[str, str]


def commands_of(parser: argparse.ArgumentParser, *path: str) -> Iterator[Command]:
    """Yield the command of `parser` and all its subcommands, each before those below it."""
    options: list[Option] = []
    words: dict[str, str] = {}
    below: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            words |= {name: helps.get(name, "") for name in action.choices}
            below += action.choices.items()
        elif action.option_strings:
            choices = tuple(map(str, action.choices or ()))
            flags, takes_value = tuple(action.option_strings), action.nargs != 0
            options.append(Option(flags, action.help or "", takes_value, choices))
        else:
            words |= dict.fromkeys(map(str, action.choices or ()), "")
    yield Command(path, tuple(options), words)
    for name, child in below:
        yield from commands_of(child, *path, name)


# --- Scripts ---------------------------------------------------------------------------------


def bash_script(commands: list[Command]) -> str:
    """Return the script for bash."""
    names: list[str] = []
    values: list[str] = []
    words: list[str] = []
    for command in commands:
        path = "".join(f" {word}" for word in command.path)
        if path:
            names.append(f'"{path}"')
        for option in command.options:
            if option.takes_value:
                found = " ".join(option.choices)
                reply = f' COMPREPLY=($(compgen -W "{found}" -- "$word"));' if found else ""
                patterns = "|".join(f'"{path} {flag}"' for flag in option.flags)
                values.append(f"        {patterns}){reply} return ;;")
        flags = (flag for option in command.options for flag in option.flags)
        words.append(f'        "{path}") words="{" ".join((*command.words, *flags))}" ;;')
    return _BASH.format(commands="|".join(names), values="\n".join(values), words="\n".join(words))


def fish_script(commands: list[Command]) -> str:
    """Return the script for fish."""
    lines: list[str] = []
    for command in commands:
        below = tuple(command.words)
        here = f"complete -c rate-limiter -n {_fish_condition(command.path, below)}"
        lines += [
            f"{here} -f -a {shlex.quote(name)}{_fish_text(text)}"
            for name, text in command.words.items()
        ]
        there = f"complete -c rate-limiter -n {_fish_condition(command.path, ())}"
        for option in command.options:
            flags = " ".join(
                f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                for flag in option.flags
            )
            value = " -r" if option.takes_value else ""
            if option.choices:
                value = f" -x -a {shlex.quote(' '.join(option.choices))}"
            lines.append(f"{there} {flags}{value}{_fish_text(option.text)}")
    return "\n".join(lines) + "\n"


def _fish_condition(path: tuple[str, ...], below: tuple[str, ...]) -> str:
    """Return a condition: the words of `path` are in the line, none of `below` is."""
    tests = [f"__fish_seen_subcommand_from {word}" for word in path]
    if not path:
        tests.append("__fish_use_subcommand")
    elif below:
        tests.append(f"not __fish_seen_subcommand_from {' '.join(below)}")
    return shlex.quote("; and ".join(tests))


def _fish_text(text: str) -> str:
    plain = text.replace("%%", "%").replace("\\", "\\\\").replace("'", "\\'")
    return f" -d '{plain}'" if text else ""


def script(shell: Shell, parser: argparse.ArgumentParser) -> str:
    """Return the script that completes the command of `parser`.

    Args:
        shell: the shell that reads the script.
        parser: the parser with all commands.
    """
    commands = list(commands_of(parser))
    if shell == "fish":
        return fish_script(commands)
    return (_ZSH if shell == "zsh" else "") + bash_script(commands)


def add_parser(actions: Any, whole: argparse.ArgumentParser) -> None:
    """Add the command.

    Args:
        actions: the subcommands of the program.
        whole: the parser of the program.
    """
    parser = actions.add_parser(
        "completion",
        help="print a script that completes this command in a shell",
        description="Print a script that completes this command in bash, zsh or fish.",
        epilog=epilog(EXAMPLES),
    )
    parser.add_argument("shell", choices=get_args(Shell), help="the shell that reads the script")

    def run(given: argparse.Namespace) -> int:
        print(script(given.shell, whole), end="")
        return DONE

    parser.set_defaults(run=run)
