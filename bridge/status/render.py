"""Pages in the reader's language: Jinja with the catalogs, and times and numbers as that language writes them."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import aiohttp_jinja2
from aiohttp import web
from babel.dates import format_datetime, format_timedelta, get_timezone_gmt
from babel.numbers import format_decimal
from jinja2 import PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from bridge.languages import LANGUAGES, translations
from bridge.texts import presentable, text, translated
from providers.base import Message

_ACCEPTED: Final = re.compile(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q=([01](?:\.\d{1,3})?)\s*)?")


def set_up(app: web.Application) -> None:
    """Makes `page` work for the application."""
    environment = aiohttp_jinja2.setup(
        app,
        loader=PackageLoader("bridge.status"),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
        filters=_FILTERS,
    )
    environment.install_gettext_callables(  # type: ignore[attr-defined]  # the extension adds this method
        _gettext, _ngettext, newstyle=True
    )


def page(
    request: web.Request, template: str, context: Mapping[str, object], default_language: str, status: int = 200
) -> web.Response:
    """A template filled in for who asks."""
    language = language_of(request, default_language)
    return aiohttp_jinja2.render_template(
        template, request, {**context, "language": language, "languages": LANGUAGES}, status=status
    )


def language_of(request: web.Request, default: str) -> str:
    """The language that the URL names, else the one that the browser likes best, else the bridge's own."""
    asked = request.query.get("lang")
    if asked in LANGUAGES:
        return str(asked)
    return _liked_best(request.headers.get("Accept-Language", "")) or default


def _liked_best(header: str) -> str | None:
    """The language of ours that an Accept-Language ranks highest (RFC 9110, 12.5.4); what is malformed counts not."""
    ranked: list[tuple[float, str]] = []
    for part in header.split(","):
        found = _ACCEPTED.fullmatch(part)
        if found is not None and (language := found[1].lower()) in LANGUAGES:
            ranked.append((float(found[2] or 1), language))
    best = max(ranked, key=lambda item: item[0], default=(0.0, None))
    return best[1] if best[0] > 0 else None


@pass_context
def _gettext(context: Context, message: str) -> str:
    return translations(context["language"]).gettext(message)


@pass_context
def _ngettext(context: Context, singular: str, plural: str, n: int) -> str:
    return translations(context["language"]).ngettext(singular, plural, n)


@pass_context
def _say(context: Context, message: Message) -> str:
    return translated(message, context["language"])


@pass_context
def _reason(context: Context, code: str) -> str:
    return text(code, context["language"])


@pass_context
def _number(context: Context, value: int) -> str:
    return format_decimal(value, locale=context["language"])


@pass_context
def _when(context: Context, at: float, seconds: bool = False) -> Markup:
    """A Unix time in the machine's zone, short to read and exact to machines."""
    moment = _local(at)
    pattern = "d\u00a0MMM, HH:mm:ss" if seconds else "d\u00a0MMM, HH:mm"
    shown = format_datetime(moment, pattern, locale=context["language"])
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(timespec="seconds"), shown)


@pass_context
def _ago(context: Context, at: float, now: float) -> str:
    return format_timedelta(timedelta(seconds=min(-1, at - now)), add_direction=True, locale=context["language"])


@pass_context
def _lasting(context: Context, seconds: float) -> str:
    return format_timedelta(timedelta(seconds=seconds), locale=context["language"])


@pass_context
def _zone(context: Context, at: float) -> str:
    return get_timezone_gmt(_local(at), "long", locale=context["language"])


def _local(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).astimezone()


_FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "ago": _ago,
    "lasting": _lasting,
    "line": presentable,
    "number": _number,
    "reason": _reason,
    "say": _say,
    "when": _when,
    "zone": _zone,
}
