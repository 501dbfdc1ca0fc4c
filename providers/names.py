"""Names as a service can hold them: of people in one field, of lists without what a service forbids."""

import re

from anyascii import anyascii

from providers.contact import Contact

_SPACES = re.compile(r"\s+")
_NOT_IN_SLUG = re.compile(r"[^a-z0-9]+")
_EMOJI = re.compile(r"[\U00010000-\U0010ffff\u2600-\u27bf\u2b00-\u2bff\ufe0f\u200d]")


def joined(first_name: str | None, last_name: str | None, max_chars: int | None = None) -> str:
    """Both names in one text, cut to `max_chars`; empty where neither is known. A caller whose
    contact has None for both sends no name at all: the ESP's own is left alone."""
    return " ".join(part for part in (first_name, last_name) if part)[:max_chars].strip()


def name_fields(contact: Contact, first: str, last: str) -> dict[str, str]:
    """The names that are told, under the service's keys; who is not told keeps what the service has."""
    names = {first: contact.first_name, last: contact.last_name}
    return {key: name for key, name in names.items() if name is not None}


def without(name: str, characters: str) -> str:
    """`name` with each run of these characters, and of spaces, as one space."""
    return _SPACES.sub(" ", re.sub(f"[{re.escape(characters)}]", " ", name)).strip()


def without_emoji(name: str) -> str:
    """`name` without emoji and what joins them: pictures of the basic plane, and everything beyond it."""
    return _SPACES.sub(" ", _EMOJI.sub(" ", name)).strip()


def slug(name: str, max_chars: int) -> str:
    """`name` in small ASCII letters, digits and hyphens, Cyrillic and others transliterated; may come out empty."""
    return _NOT_IN_SLUG.sub("-", anyascii(name).lower()).strip("-")[:max_chars].strip("-")
