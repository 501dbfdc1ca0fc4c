"""What the blocking vendor packages lack: a pool of connections, time limits, and threads of their own."""

import asyncio
import time
from abc import ABC
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter

from providers.answers import MAX_ANSWER_BYTES, Answer
from providers.base import Provider, ProviderError, SettingsT, Transient

P = ParamSpec("P")
R = TypeVar("R")


class PooledTransport:
    """One HTTP session: TLS verified, no redirects, no proxy or .netrc of the machine, every wait bounded."""

    def __init__(self, *, timeout_s: float, connections: int, auth: tuple[str, str] | None = None) -> None:
        self._timeout_s = timeout_s
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.auth = auth
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=connections, max_retries=0)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """One request and its whole answer, whatever its status. Raises Transient when there is no whole answer."""
        deadline_s = time.monotonic() + self._timeout_s
        try:
            with self._session.request(
                method, url, params=params, headers=headers, data=body,
                timeout=self._timeout_s, allow_redirects=False, stream=True,
            ) as response:  # fmt: skip
                chunks: list[bytes] = []
                size = 0
                # `read1` gives what has come; `iter_content` waits for a whole chunk, however slowly that drips in.
                while chunk := response.raw.read1(64 * 1024, decode_content=True):
                    size += len(chunk)
                    chunks.append(chunk)
                    if size > MAX_ANSWER_BYTES:
                        raise Transient(f"{method}: the answer is larger than {MAX_ANSWER_BYTES} bytes")
                    if time.monotonic() > deadline_s:
                        raise Transient(f"{method}: no whole answer within {self._timeout_s:g} s")
                return Answer(
                    response.status_code,
                    {name.lower(): value for name, value in response.headers.items()},
                    b"".join(chunks),
                )
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise Transient(f"{method}: {type(error).__name__}") from error

    def close(self) -> None:
        self._session.close()


class SdkProvider(Provider[SettingsT], ABC, Generic[SettingsT]):
    """A provider over a blocking package: its calls run in `parallel_calls` threads that nothing else uses."""

    def __init__(self, settings: SettingsT) -> None:
        super().__init__(settings)
        self._threads = ThreadPoolExecutor(self.parallel_calls, thread_name_prefix=type(self).__name__)

    async def call(self, operation: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs one blocking call in a thread and reports it under `operation`."""

        def timed() -> R:
            started_s = time.monotonic()
            ended = "ok"
            try:
                return function(*args, **kwargs)
            except ProviderError as error:
                ended = type(error).__name__
                raise
            finally:
                self.observe(operation, ended, time.monotonic() - started_s)

        return await asyncio.get_running_loop().run_in_executor(self._threads, timed)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
