"""Completion scripts for four shells, and putting one where its shell finds it.

``python -m iepile_cli.cli.completion_scripts FOLDER`` writes the scripts that the project ships.
Each calls the program with the words of the command line and offers what it answers, or files
where it answers nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from iepile_cli.cli.completion import VARIABLE, WORDS
from iepile_cli.errors import UsageError

_BASH = f"""\
# Completion of iepile for bash; needs nothing else.
_iepile() {{
    local IFS=$'\\n'
    COMPREPLY=($({VARIABLE}=bash "${{COMP_WORDS[0]/#\\~/$HOME}}" \\
        "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null))
}}
complete -o default -F _iepile iepile
"""

_ZSH = f"""\
#compdef iepile
# Completion of iepile for zsh: a file named _iepile in a folder of $fpath.
_iepile() {{
    local line
    local -a offered
    for line in "${{(@f)$({VARIABLE}=zsh "${{(@Q)words[1]}}" "${{(@Q)words[2,CURRENT]}}" \\
        2>/dev/null)}}"; do
        [[ -n $line ]] || continue
        if [[ $line == *$'\\t'* ]]; then
            offered+=("${{${{line%%$'\\t'*}}//:/\\\\:}}:${{line#*$'\\t'}}")
        else
            offered+=("${{line//:/\\\\:}}")
        fi
    done
    if (( $#offered )); then
        _describe -V iepile offered
    else
        _files
    fi
}}
# Read by compinit, this file is the function itself; read by source, it only defines it.
if [[ $funcstack[1] == _iepile ]]; then
    _iepile "$@"
else
    compdef _iepile iepile
fi
"""

_FISH = f"""\
# Completion of iepile for fish.
function __iepile_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    set -l offered (env {VARIABLE}=fish $program $words "$current" 2>/dev/null)
    if set -q offered[1]
        printf '%s\\n' $offered
    else
        __fish_complete_path "$current"
    end
end
complete --command iepile --no-files --keep-order --arguments '(__iepile_complete)'
"""

_POWERSHELL = f"""\
# Completion of iepile for PowerShell; load it from $PROFILE.
Register-ArgumentCompleter -Native -CommandName iepile -ScriptBlock {{
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements |
        Where-Object {{ $_.Extent.EndOffset -lt $cursorPosition }} |
        ForEach-Object {{ $_.Extent.Text }})
    $program = $commandAst.CommandElements[0].Extent.Text
    $given = @($words | Select-Object -Skip 1) + $wordToComplete
    $Env:{VARIABLE} = 'powershell'
    $Env:{WORDS} = $given -join "`n"
    try {{
        & $program 2>$null | ForEach-Object {{
            $value, $help = $_ -split "`t", 2
            if (-not $help) {{ $help = $value }}
            [System.Management.Automation.CompletionResult]::new(
                $value, $value, 'ParameterValue', $help)
        }}
    }} finally {{
        Remove-Item Env:{VARIABLE}, Env:{WORDS}
    }}
}}
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH, "powershell": _POWERSHELL}
FILES = {"bash": "iepile.bash", "zsh": "_iepile", "fish": "iepile.fish", "powershell": "iepile.ps1"}


def current_shell() -> str:
    """The shell that the program was called from; raises ``UsageError`` for one without script."""
    name = _detected() or Path(os.environ.get("SHELL", "")).name
    name = {"pwsh": "powershell"}.get(name, name)
    if name not in SCRIPTS:
        raise UsageError(
            f"no completion for the shell {name!r}" if name else "cannot tell which shell this is",
            hint=f"there are scripts for {', '.join(SCRIPTS)}; SHELL=bash names one",
        )
    return name


def _detected() -> str:
    try:
        import shellingham

        return str(shellingham.detect_shell()[0])
    except (ImportError, OSError, RuntimeError):
        return ""


def script_path(shell: str) -> Path:
    """Where a shell finds its script; raises ``UsageError`` for PowerShell.

    Only PowerShell knows its profile.
    """
    home = Path.home()
    if shell == "bash":
        data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
        return data / "bash-completion" / "completions" / "iepile"
    if shell == "zsh":
        return Path(os.environ.get("ZDOTDIR") or home) / ".zfunc" / FILES[shell]
    if shell == "fish":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return config / "fish" / "completions" / FILES[shell]
    raise UsageError(
        "the script is not installed by itself in PowerShell",
        hint="iepile --show-completion | Out-File -Append $PROFILE",
    )


def install(shell: str) -> Path:
    """Put a shell's script where it is found, and give that place; safe to repeat.

    bash and zsh also get a line in ``.bashrc`` or ``.zshrc``. Raises ``UsageError`` for PowerShell.
    """
    path = script_path(shell)
    _write(path, SCRIPTS[shell])
    if shell == "bash":
        _add_line(Path.home() / ".bashrc", f"[ -r '{path}' ] && . '{path}'")
    elif shell == "zsh":
        line = f"fpath+=('{path.parent}'); autoload -Uz compinit; compinit"
        _add_line(path.parent.parent / ".zshrc", line)
    return path


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(content, encoding="utf-8", newline="\n")
    os.replace(partial, path)


def _add_line(path: Path, line: str) -> None:
    # Appended, not replaced: the file is the user's, and may be a link into a repository.
    there = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
    if line in there.splitlines():
        return
    start = "" if not there or there.endswith("\n") else "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{start}{line}\n")


def write_all(folder: Path) -> None:
    """Write the scripts of all shells into a folder."""
    for shell, script in SCRIPTS.items():
        _write(folder / FILES[shell], script)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
