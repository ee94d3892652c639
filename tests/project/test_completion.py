"""The completion scripts, read by the shells that they are for."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from rate_limiter.cli.completion import Shell, commands_of, script
from rate_limiter.cli.main import main, parser

COMMANDS = {
    command.path: {*command.words, *(flag for each in command.options for flag in each.flags)}
    for command in commands_of(parser())
}
# bash and zsh: `{before}` once, then for each line the words, and what is offered.
WORDS = (
    "COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _rate_limiter; "
    'echo @@; printf "%s\\n" "${{COMPREPLY[@]}}"'
)
BEFORE = {
    "bash": "source {file}",
    "zsh": "autoload -U compinit && compinit -u -D; source {file}; setopt ksharrays",
    "fish": "source {file}",
}
ASK = {"bash": WORDS, "zsh": WORDS, "fish": "echo @@; complete -C {line}"}
SHELLS: tuple[Shell, ...] = ("bash", "zsh", "fish")


def complete(shell: Shell, folder: Path, *lines: tuple[str, ...]) -> list[set[str]]:
    """Return what `shell` offers for the last word of each line."""
    file = folder / "script"
    file.write_text(script(shell, parser()), encoding="utf-8")
    program = [BEFORE[shell].format(file=shlex.quote(str(file)))]
    for line in lines:
        words = ("rate-limiter", *line)
        whole, listed = shlex.quote(" ".join(words)), " ".join(map(shlex.quote, words))
        program.append(ASK[shell].format(words=listed, line=whole))
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *options, "-c", "\n".join(program)],
        cwd=folder,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stderr == ""
    offered: list[set[str]] = []
    for line, answer in zip(lines, done.stdout.split("@@\n")[1:], strict=True):
        found = {row.partition("\t")[0] for row in answer.splitlines() if row}
        # zsh itself drops the words that do not match.
        offered.append({word for word in found if shell != "zsh" or word.startswith(line[-1])})
    return offered


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_are_completed(shell: Shell, tmp_path: Path) -> None:
    lines = (("",), ("be",), ("rules", "ch"), ("completion", "z"))
    commands, *others = complete(shell, tmp_path, *lines)
    assert commands >= {"load", "inspect", "rules", "bench", "completion"}
    assert others == [{"bench"}, {"check"}, {"zsh"}]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_is_completed(shell: Shell, tmp_path: Path) -> None:
    """Each command is offered its own options, and those of no other command."""
    expected = [{word for word in words if word[:2] == "--"} for words in COMMANDS.values()]
    assert complete(shell, tmp_path, *((*path, "--") for path in COMMANDS)) == expected
    assert {"--url"} < expected[list(COMMANDS).index(("load",))]


def test_script_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in SHELLS:
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == script(shell, parser())


def test_another_shell_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["completion", "tcsh"])
    assert exit_.value.code == 2
    assert "'tcsh'" in capsys.readouterr().err
