"""Completion scripts for four shells, and putting one where its shell finds it.

Each script, a file in ``completions``, calls the program with the words of the command line (see
``completion.py``) and offers what it answers, or files where it answers nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from iepile_cli.errors import UsageError
from iepile_cli.writing import write_atomic

FOLDER = Path(__file__).with_name("completions")
FILES = {"bash": "iepile.bash", "zsh": "_iepile", "fish": "iepile.fish", "powershell": "iepile.ps1"}


def script(shell: str) -> str:
    """The script of a shell."""
    return (FOLDER / FILES[shell]).read_text(encoding="utf-8")


def current_shell() -> str:
    """The shell that the program was called from; raises ``UsageError`` for one without script."""
    name = _detected() or Path(os.environ.get("SHELL", "")).name
    name = {"pwsh": "powershell"}.get(name, name)
    if name not in FILES:
        raise UsageError(
            f"no completion for the shell {name!r}" if name else "cannot tell which shell this is",
            hint=f"there are scripts for {', '.join(FILES)}; SHELL=bash names one",
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
    write_atomic(path, script(shell))
    if shell == "bash":
        _add_line(Path.home() / ".bashrc", f"[ -r '{path}' ] && . '{path}'")
    elif shell == "zsh":
        line = f"fpath+=('{path.parent}'); autoload -Uz compinit; compinit"
        _add_line(path.parent.parent / ".zshrc", line)
    return path


def _add_line(path: Path, line: str) -> None:
    # Appended, not replaced: the file is the user's, and may be a link into a repository.
    there = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
    if line in there.splitlines():
        return
    start = "" if not there or there.endswith("\n") else "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{start}{line}\n")
