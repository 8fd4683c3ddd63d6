"""Models behind a server that speaks OpenAI's protocol: vLLM, llama-server, Ollama and others."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import shutil
import threading
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from importlib import metadata, util
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from iepile_cli.backends.openai_call import Caller
from iepile_cli.backends.protocol import (
    Answer,
    Backend,
    Options,
    Probe,
    Request,
    Runner,
    ServerModel,
)
from iepile_cli.backends.servers import Server, identify
from iepile_cli.backends.tokenizers import GuessedTokenizer
from iepile_cli.errors import ModelError, UsageError, install_hint
from iepile_cli.templates import Tokenizer

_CONCURRENCY = 16
_TIMEOUT = 120.0
_RETRIES = 4
# How long a server may take to say what it is, in seconds.
_PROBE_TIMEOUT = 10.0
# The longest that the client waits before it tries again, in seconds.
_LONGEST_WAIT = 120
# Requests that may be finished and waiting for an earlier one, for each that is under way.
_AHEAD = 4
# The context of a server that does not say how much it has.
_CONTEXT = 4096
# Far above what an answer is; a server that sends without end must not fill the memory.
_LONGEST = 1 << 26
# So many failures in a row, and no answer at all between them, are the server's fault.
_MOST_FAILURES = 8

Result = TypeVar("Result")


class OpenAI(Backend):
    """The backend ``openai``."""

    remote = True
    takes = frozenset(
        {"context", "base_url", "api_key_env", "server", "tokenizer", "concurrency", "timeout"}
    )

    def probe(self) -> Probe:
        """Whether the client is there, without loading it."""
        if util.find_spec("openai") is None:
            return Probe(False, f"openai is not installed; {install_hint('server')}")
        return Probe(True, details={"openai": metadata.version("openai")})

    def describe(self) -> Mapping[str, str]:
        """Which servers could be started on this machine."""
        here = [name for name in ("vllm", "llama-server", "ollama") if shutil.which(name)]
        if util.find_spec("llama_cpp") and util.find_spec("uvicorn"):
            here.append("llama-cpp-python")
        none = "none here, which does not matter for one elsewhere; see iepile serve"
        return {"servers": ", ".join(here) or none}

    def open(self, model: ServerModel, options: Options) -> OpenAIRunner:
        """Find out what server there is; raises ``ModelError`` or ``UsageError``."""
        return OpenAIRunner(model, options)


OPENAI = OpenAI()


class OpenAIRunner(Runner):
    """A server that answers requests, several at a time."""

    def __init__(self, model: ServerModel, options: Options) -> None:
        import openai

        base = options.base_url or os.environ.get("OPENAI_BASE_URL", "")
        parts = _address_parts(base)
        address = base.rstrip("/")
        key = _key(options.api_key_env, parts.netloc)
        # What messages name: the address without the password that it may hold.
        self._url = address.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1)
        password = parts.password or ""
        self._secrets = [part for part in (key, password, unquote(password)) if len(part) >= 4]
        self.concurrency = options.concurrency or _CONCURRENCY
        self._client = openai.AsyncOpenAI(
            base_url=address,
            api_key=key,
            timeout=options.timeout or _TIMEOUT,
            max_retries=_RETRIES,
            http_client=_bounded_client(address, options.timeout or _TIMEOUT),
        )
        self._loop = _Background()
        self.tokenizer: Tokenizer = model.tokenizer or GuessedTokenizer()
        try:
            found = self._loop.run(self._identify(options.server or "", model.name)).result()
        except BaseException:
            self.close()
            raise
        known = found.context or _CONTEXT
        self.context = min(options.context, known) if options.context else known
        self.server = found.kind.name
        if found.slots:
            self.concurrency = min(self.concurrency, found.slots)
        takes_prompts = found.kind.takes_prompts and model.writes
        takes_ids = found.kind.takes_ids and model.tokenizer is not None
        form = "chat" if not takes_prompts else "ids" if takes_ids else "text"
        self._caller = Caller(self._client, found, self.tokenizer, self.context, form, self._hide)
        self.notes = self._caller.notes
        self._failures = 0

    def generate(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer each request, in order, ``concurrency`` at a time.

        A request that the server cannot answer gives an ``Answer`` that says so in ``failed``.
        Raises ``ModelError`` when the server is gone, refuses us, or answers nothing at all; what
        was answered behind the request where that shows is given first.
        """
        waiting: deque[Future[Answer]] = deque()
        free = asyncio.Semaphore(self.concurrency)

        async def answer(request: Request) -> Answer:
            async with free:
                return await self._answer(request)

        try:
            for request in requests:
                waiting.append(self._loop.run(answer(request)))
                while waiting and (waiting[0].done() or len(waiting) >= _AHEAD * self.concurrency):
                    yield self._checked(waiting[0].result())
                    waiting.popleft()
            while waiting:
                yield self._checked(waiting[0].result())
                waiting.popleft()
        except ModelError as error:
            yield from _saved(waiting, error.message)
            raise
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Leave the server."""
        self._loop.run(self._client.close()).result()
        self._loop.close()

    async def _identify(self, asked: str, model: str) -> Server:
        import openai

        # Of the list of models only: other addresses are tried to see what server it is.
        gone: list[openai.APIConnectionError] = []
        refused: list[openai.APIStatusError] = []
        client = self._client.with_options(max_retries=0, timeout=_PROBE_TIMEOUT)

        async def fetch(path: str) -> Any:
            try:
                found = await client.get(path, cast_to=object)
                return json.loads(found) if isinstance(found, str) else found
            except openai.APIConnectionError as error:
                gone.extend([error] if path == "models" else [])
            except openai.APIStatusError as error:
                refused.extend([error] if path == "models" else [])
            except (openai.OpenAIError, ValueError):
                pass
            return None

        root = str(self._client.base_url).rstrip("/").removesuffix("/v1")
        found = await identify(fetch, root, asked, model)
        if gone:
            raise self._gone(gone[0])
        denied = [error for error in refused if error.status_code in (401, 403)]
        if denied:
            raise self._refused(denied[0])
        unready = [error for error in refused if error.status_code >= 500]
        if unready:
            # llama-server, for one, says so while it loads its model.
            raise ModelError(
                f"{self._url}: the server is not ready: {self._said(unready[0])}",
                hint="try again when it is",
            )
        if not found.model:
            raise ModelError(
                f"{self._url}: this server does not say which models it has",
                hint="name one with --model; the address usually ends in /v1",
            )
        return found

    async def _answer(self, request: Request) -> Answer:
        """An answer, or why there is none; raises ``ModelError`` when there will be no other."""
        import openai

        failed = ""
        for attempt in range(_RETRIES):
            if attempt:
                await asyncio.sleep(min(8.0, 0.5 * 2**attempt))
            try:
                return await self._caller.answer(request)
            except openai.APITimeoutError:
                # The client itself has tried again; one more round would wait for hours.
                waited = f"{self._client.timeout:g} s, {_RETRIES + 1} times over"
                return Answer("", failed=f"the server did not answer in {waited}")
            except openai.APIStatusError as error:
                if error.status_code in (401, 403, 404):
                    raise self._refused(error) from None
                return Answer("", failed=self._said(error))
            except openai.APIConnectionError as error:
                # Some servers close the connection over one text, and are there for the others.
                if not await self._is_there():
                    raise self._gone(error) from None
                return Answer("", failed=f"the server gave no answer: {self._cause(error)}")
            # A stream that breaks off, or that holds something else than what was agreed upon.
            except Exception as error:
                if not _is_transport(error):
                    raise
                failed = f"the server's answer broke off: {error or type(error).__name__}"
        return Answer("", failed=self._hide(" ".join(failed.split()))[:300])

    async def _is_there(self) -> bool:
        """Whether the server answers anything at all."""
        import openai

        client = self._client.with_options(max_retries=0, timeout=_PROBE_TIMEOUT)
        try:
            await client.get("models", cast_to=object)
        except openai.APIConnectionError:
            return False
        except (openai.OpenAIError, ValueError):
            pass
        return True

    def _checked(self, answer: Answer) -> Answer:
        self._failures = self._failures + 1 if answer.failed else 0
        if self._failures >= _MOST_FAILURES:
            raise ModelError(
                f"{self._url}: {_MOST_FAILURES} requests in a row failed: {answer.failed}"
            )
        return answer

    def _gone(self, error: Exception) -> ModelError:
        return ModelError(
            f"{self._url}: no server answers there: {self._cause(error)}", hint="see iepile serve"
        )

    def _refused(self, error: Any) -> ModelError:
        place = "" if self._url.endswith("/v1") else "; the address usually ends in /v1"
        hint = {
            401: "--api-key-env names the variable that holds the key",
            404: f"see --model{place}",
        }
        return ModelError(
            f"{self._url}: the server refuses: {self._said(error)}",
            hint=hint.get(error.status_code, ""),
        )

    def _hide(self, text: str) -> str:
        """A text without the key and the password: servers repeat what they were sent."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _cause(self, error: Exception) -> str:
        """What an error of the connection says, in one line."""
        # Some, that it took too long for one, have no text.
        said = " ".join(str(error.__cause__ or "").split()) or " ".join(str(error).split())
        return self._hide(said)[:300] or type(error).__name__

    def _said(self, error: Any) -> str:
        """What a server says of a request that it refuses, in one line."""
        body = error.body
        said = body.get("message") if isinstance(body, dict) else None
        line = self._hide(" ".join(f"{error.status_code} {said or error.message}".split()))[:300]
        wait = str(error.response.headers.get("retry-after", ""))
        # The client waits as long as it is asked to, but not for hours.
        patience = wait.isdigit() and int(wait) > _LONGEST_WAIT
        return f"{line} (it asks to wait {wait} s)" if patience else line


def _saved(waiting: Iterable[Future[Answer]], reason: str) -> list[Answer]:
    """The answers up to the last one that has come, those before it that have not as failed."""
    came = [
        future.result() if future.done() and not future.exception() else Answer("", failed=reason)
        for future in waiting
    ]
    while came and came[-1].failed:
        came.pop()
    return came


class _Background:
    """An event loop in a thread of its own, so that this one may be inside another loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="iepile-server", daemon=True
        )
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start something; gives its future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Cancel what is under way, and end the thread."""

        async def cancel() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        self.run(cancel()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _key(variable: str, host: str) -> str:
    """The API key: from the variable named; OpenAI's own goes to nobody else."""
    if variable:
        found = os.environ.get(variable, "").strip()
        if not found:
            raise UsageError(f"--api-key-env {variable}: this variable is not set or empty")
        return found
    own = os.environ.get("OPENAI_API_KEY", "") if host == "api.openai.com" else ""
    return own or "none"


def _address_parts(base: str) -> SplitResult:
    """The parts of a server's address; raises ``UsageError``, which does not show a password."""
    with suppress(ValueError):
        parts = urlsplit(base)
        # To ask for the port is to check it.
        port = parts.port
        if (
            parts.scheme in ("http", "https")
            and parts.hostname
            and port != 0
            and base.isprintable()
        ):
            return parts
    shown = re.sub(r"(?<=//).*@|^[^/]*@", "", base)
    said = f"--base-url {shown!r} is no address" if base else "no --base-url: which server?"
    raise UsageError(said, hint="e.g. --base-url http://localhost:8000/v1")


def _bounded_client(address: str, timeout: float) -> Any:
    """An HTTP client whose responses end with an error after ``_LONGEST`` bytes."""
    import openai

    kind = openai.DefaultAsyncHttpxClient
    library: Any = importlib.import_module(kind.__mro__[1].__module__.partition(".")[0])

    class Bounded(library.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            count = 0
            async for block in self._stream:
                count += len(block)
                if count > _LONGEST:
                    raise ValueError(f"it is longer than {_LONGEST:,} bytes")
                yield block

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: Any) -> None:
        response.stream = Bounded(response.stream)

    return kind(base_url=address, timeout=timeout, event_hooks={"response": [bound]})


def _is_transport(error: Exception) -> bool:
    """Whether an error comes from the connection or from what came over it."""
    import openai

    module = type(error).__module__.split(".", 1)[0]
    return isinstance(error, (openai.OpenAIError, ValueError, OSError)) or (
        module in ("httpx", "httpx2", "httpcore", "httpcore2", "anyio", "h11")
    )
