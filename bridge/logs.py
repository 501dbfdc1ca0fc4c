"""Logging: one JSON line an event on standard error, with no key, token, body or whole address in it."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from providers.base import redact


def set_up(level: str = "INFO") -> None:
    """Every logger of the process, those of libraries too, writes JSON lines from here on."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact_texts,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # These write requests, with keys and contacts, when the level lets them.
    for name in ("alembic", "asyncio", "python_http_client", "sqlalchemy", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


def redact_texts(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The net under everything: no line leaves with an address or a key, whoever wrote it."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = redact(value)
    return event
