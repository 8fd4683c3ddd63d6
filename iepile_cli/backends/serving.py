"""The command that starts a server for a model and its adapters: vLLM, llama.cpp's or Ollama."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import util
from pathlib import Path
from typing import Literal

from iepile_cli.backends.gguf import adapter_file
from iepile_cli.backends.gguf_merging import has_merged_form, merged_form
from iepile_cli.errors import UsageError
from iepile_cli.fields import check_fields, option, option_fields
from iepile_cli.models import Resolved, resolve_model

# The ranks that vLLM keeps room for.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# How long a server may take to end when it is told to, in seconds.
_STOP_TIMEOUT = 15.0
# Tokens of one sequence for servers that would otherwise take what one model was trained with for
# all of them together, or keep memory for the longest that it can: enough for a passage of the
# usual size, its schema and its answer.
_CONTEXT = 2048
_OLLAMA_CONTEXT = 4096


@dataclass(frozen=True)
class Serving:
    """How a model is served; raises ``UsageError`` for values that cannot be."""

    server: Literal["vllm", "llama-server", "llama-cpp-python", "ollama"] | None = option(
        None, help="Default: llama-server for a GGUF file, else vllm."
    )
    host: str = option("127.0.0.1", help="Address to listen at.")
    port: int = option(8000, help="Port to listen at.", least=1, most=65535)
    context: int = option(
        0,
        help="Longest sequence in tokens. 0: vllm: the model's own; llama.cpp's: 2048; "
        "ollama: 4096.",
        least=0,
    )
    parallel: int = option(8, help="llama-server: answers at once.", least=1)
    gpus: int = option(1, help="vllm: tensor parallel size (GPUs).", least=1)
    nodes: int = option(
        1, help="vllm: pipeline parallel size (machines of a Ray cluster).", least=1
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Command:
    """A command, the files (name to content) it needs beside it, and the name it serves under.

    ``tokenizer`` is what ``extract --tokenizer`` must be given, "" where the server writes prompts,
    ``template`` what ``--template`` must be for a model whose tokenizer is not here; ``context``
    what ``--context`` must be, 0 where the server says it. ``remark`` is what a user should know.
    """

    argv: list[str]
    served: str
    base_url: str
    tokenizer: str
    files: dict[str, str] = field(default_factory=dict)
    context: int = 0
    template: str = ""
    remark: str = ""

    def script(self) -> str:
        """The command as lines for a shell."""
        written = [
            f"cat > {shlex.quote(name)} <<'END'\n{content}END\n"
            for name, content in self.files.items()
        ]
        return "".join(written) + shlex.join(self.argv) + "\n"

    def missing(self) -> str:
        """What must be installed here to run it; "" when nothing is."""
        if shutil.which(self.argv[0]) is None:
            return self.argv[0]
        if "llama_cpp.server" in self.argv and util.find_spec("uvicorn") is None:
            return "llama-cpp-python[server]"
        return ""

    def extract(self) -> str:
        """The call of ``iepile extract`` that uses the server."""
        words = ["iepile", "extract", "--base-url", self.base_url, "--model", self.served]
        words += ["--tokenizer", self.tokenizer] if self.tokenizer else []
        words += ["--template", self.template] if self.template else []
        return shlex.join([*words, *(["--context", str(self.context)] if self.context else [])])


def command(
    name: str | None,
    adapters: Sequence[str] = (),
    serving: Serving | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Command:
    """The command that serves a model.

    The embedded model is served from the file that ``extract`` uses, made now if it is not there.
    Raises ``UsageError`` for what cannot be together, and what ``resolve_model`` raises.
    """
    how = serving or Serving()
    # vLLM fetches models and adapters from the hub by itself, on the machine that it runs on.
    found = resolve_model(name, adapters, from_hub=how.server in (None, "vllm"))
    chosen = how.server or ("llama-server" if found.format == "gguf" else "vllm")
    if found.format != "gguf" and chosen != "vllm":
        raise UsageError(
            f"{chosen} serves GGUF files, and {found.name} is none",
            hint="--server vllm, or a GGUF file of the model",
        )
    make, knows = _COMMANDS[chosen]
    for item in option_fields(Serving):
        if item.name not in knows | {"server"} and getattr(how, item.name) != item.default:
            raise UsageError(
                f"{item.flag} does not apply to {chosen}", hint=_INSTEAD.get(item.name, "")
            )
    if has_merged_form(found, adapters):
        merged = merged_form(found.path, found.adapters, on_note)
        found = replace(found, path=merged, adapters=()) if merged else found
    return make(found, how)


def run_server(argv: Sequence[str], folder: Path | None = None) -> int:
    """Run a server in a folder until it ends; gives its exit code, 128 and more for a signal's.

    Ctrl-C, SIGTERM and the end of the terminal end it and all that it started, and raise
    ``KeyboardInterrupt``.
    """
    own = sys.platform != "win32"
    # A group of its own: a server that is interrupted twice, by the terminal and by us, may leave
    # its workers behind.
    process = subprocess.Popen(argv, cwd=folder, start_new_session=own)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    ends = [signal.SIGTERM, *([signal.SIGHUP] if own else [])]
    before = {number: signal.signal(number, stop) for number in ends}
    try:
        code = process.wait()
        return code if code >= 0 else 128 - code
    finally:
        for number in ends:
            signal.signal(number, signal.SIG_IGN)
        _end(process, group=own)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes], *, group: bool) -> None:
    """End a process and what it started."""
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            if group:
                os.killpg(process.pid, number)
            else:
                process.terminate()
            process.wait(_STOP_TIMEOUT)


def _vllm(found: Resolved, how: Serving) -> Command:
    served = _plain(found.name)
    argv = ["vllm", "serve", str(found.path), "--served-model-name", served]
    if found.format == "gguf" and found.adapters:
        raise UsageError("vLLM has no adapters for GGUF files", hint="--server llama-server")
    if found.adapters:
        modules = [f"{_plain(path.name)}={path}" for path in found.adapters]
        rank = max(_rank(path) for path in found.adapters)
        argv += ["--enable-lora", "--lora-modules", *modules, "--max-lora-rank", str(rank)]
        served = _plain(found.adapters[-1].name)
    if how.gpus > 1:
        argv += ["--tensor-parallel-size", str(how.gpus)]
    if how.nodes > 1:
        argv += ["--pipeline-parallel-size", str(how.nodes)]
        argv += ["--distributed-executor-backend", "ray"]
    if how.context:
        argv += ["--max-model-len", str(how.context)]
    if found.entry and found.entry.remote_code:
        argv += ["--trust-remote-code"]
    # Only guidance knows the substrings of our grammars; the model's own sampling is not wanted.
    argv += ["--structured-outputs-config", json.dumps({"backend": "guidance"})]
    argv += ["--generation-config", "vllm", "--host", how.host, "--port", str(how.port)]
    names = ", ".join(_plain(path.name) for path in found.adapters)
    remark = f"vLLM applies one adapter at a time, by its name: {names}"
    made = Command(argv, served, _url(how), "", remark=remark if len(found.adapters) > 1 else "")
    # Without the tokenizer at hand, prompts can still be written in the model's template.
    foreign = bool(found.entry and found.entry.remote_code)
    if found.path.exists() and not foreign:
        return replace(made, tokenizer=found.name)
    return replace(made, template=found.template or "")


def _llama_server(found: Resolved, how: Serving) -> Command:
    argv = ["llama-server", "--model", str(found.path), "--alias", _plain(found.name)]
    for path in found.adapters:
        argv += ["--lora", str(adapter_file(path))]
    # Its slots share a context between them.
    argv += ["--ctx-size", str((how.context or _CONTEXT) * how.parallel)]
    argv += ["--parallel", str(how.parallel), "--host", how.host, "--port", str(how.port)]
    return Command(argv, _plain(found.name), _url(how), found.name)


def _llama_cpp_python(found: Resolved, how: Serving) -> Command:
    argv = [sys.executable, "-m", "llama_cpp.server", "--model", str(found.path)]
    argv += ["--model_alias", _plain(found.name), "--n_ctx", str(how.context or _CONTEXT)]
    # Unless it is told to, it leaves a GPU alone; a build for the CPU does not mind.
    argv += ["--n_gpu_layers", "-1"]
    if len(found.adapters) > 1:
        raise UsageError("llama_cpp.server takes one adapter", hint="--server llama-server")
    for path in found.adapters:
        argv += ["--lora_path", str(adapter_file(path))]
    # Unless it is told not to, it drops a request when the next one comes.
    argv += ["--interrupt_requests", "false", "--host", how.host, "--port", str(how.port)]
    context = how.context or _CONTEXT
    return Command(argv, _plain(found.name), _url(how), found.name, context=context)


def _ollama(found: Resolved, how: Serving) -> Command:
    # Ollama takes paths to start from the Modelfile's folder.
    adapters = [adapter_file(path).resolve() for path in found.adapters]
    lines = [f"FROM {found.path.resolve()}", *(f"ADAPTER {path}" for path in adapters)]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    # What does not fit into it Ollama cuts off a prompt without a word.
    context = how.context or _OLLAMA_CONTEXT
    lines += [f"PARAMETER num_ctx {context}"]
    # Not a name of Ollama's own library, whose model it would take the place of.
    served = f"iepile-{_plain(found.name)}"
    argv = ["ollama", "create", served, "-f", "Modelfile"]
    files = {"Modelfile": "".join(f"{line}\n" for line in lines)}
    remark = "Ollama itself must be running (ollama serve); the model then stays with it"
    return Command(
        argv, served, "http://127.0.0.1:11434/v1", "", files, context=context, remark=remark
    )


# Each with the fields of ``Serving`` that say something to it.
_COMMANDS: dict[str, tuple[Callable[[Resolved, Serving], Command], frozenset[str]]] = {
    "vllm": (_vllm, frozenset({"host", "port", "context", "gpus", "nodes"})),
    "llama-server": (_llama_server, frozenset({"host", "port", "context", "parallel"})),
    "llama-cpp-python": (_llama_cpp_python, frozenset({"host", "port", "context"})),
    "ollama": (_ollama, frozenset({"context"})),
}
_OLLAMAS_OWN = "Ollama listens where OLLAMA_HOST says, when it is started"
_INSTEAD = {
    "gpus": "servers of GGUF files take all GPUs by themselves; --server vllm counts them",
    "nodes": "only vLLM runs on several machines: --server vllm",
    "parallel": "it decides that by itself",
    "host": _OLLAMAS_OWN,
    "port": _OLLAMAS_OWN,
}


def _url(how: Serving) -> str:
    host = "127.0.0.1" if how.host in ("0.0.0.0", "::") else how.host
    return f"http://{f'[{host}]' if ':' in host else host}:{how.port}/v1"


def _plain(name: str) -> str:
    """A name that every server takes: the last part of a path, without its ending."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1].removesuffix(".gguf")
    return re.sub(r"[^\w.-]+", "-", last) or "model"


def _rank(path: Path) -> int:
    """The rank to keep room for, for an adapter: the next that vLLM knows."""
    try:
        settings = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        ranks = [settings.get("r"), *(settings.get("rank_pattern") or {}).values()]
        rank = max(rank for rank in ranks if isinstance(rank, int))
    except (OSError, ValueError, AttributeError):
        rank = 64
    return next((known for known in _RANKS if known >= rank), rank)
