"""Looks for what no log may hold, in every line of every test: keys, tokens, whole addresses."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from bridge.logs import _json, redact_texts
from providers.base import Secret, redact

SECRET_MIN_CHARS = 16
"""A shorter text may stand in a line by chance; no token is shorter."""

_ADDRESS = re.compile(r"[\w.+-]+(?:@|%40)[\w-]+\.[\w.-]*\w", re.IGNORECASE)
_made: list[set[str]] = [set()]  # while modules are imported, and by each test that runs
_init = Secret.__init__


def _remembering(secret: Secret, text: str) -> None:
    _init(secret, text)
    _made[-1].add(text)


def watch_secrets() -> None:
    """From now on every `Secret` is known to `leaks_in`: whatever is a key or token in settings is one."""
    Secret.__init__ = _remembering  # type: ignore[method-assign]  # a spy that changes nothing


def leaks_in(text: str, also: Iterable[str] = ()) -> list[str]:
    """What of the known secrets, and of those of `also`, and of addresses a text holds."""
    secrets = {secret for secret in set(also).union(*_made) if len(secret) >= SECRET_MIN_CHARS}
    return [secret for secret in secrets if secret in text] + _ADDRESS.findall(text)


@contextmanager
def watched_logs(
    records: Callable[[], Iterable[logging.LogRecord]],
) -> Iterator[list[MutableMapping[str, Any]]]:
    """Keeps what is logged while the block runs, instead of printing it, and fails at its end when a line of it, as
    the bridge would write it, holds what it may not. `records` are those of other loggers than the bridge's."""
    capture = structlog.testing.LogCapture()
    lines: list[str] = []

    def keep(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        written = structlog.processors.format_exc_info(logger, name, dict(event))
        lines.append(_json(redact_texts(logger, name, written)).decode())
        return event

    _made.append(set())
    structlog.configure(processors=[keep, capture], cache_logger_on_first_use=False)
    yield capture.entries
    structlog.reset_defaults()
    formatter = logging.Formatter()
    lines += (redact(formatter.format(record)) for record in records())
    leaks = leaks_in("\n".join(lines))
    _made.pop()
    assert not leaks, [line for line in lines if any(leak in line for leak in leaks)]
