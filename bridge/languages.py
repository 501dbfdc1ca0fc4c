"""The languages in which people are spoken to, and where their words are.

English stands in the code and in the templates. Every other language is a gettext catalog,
`bridge/locale/<language>/LC_MESSAGES/bridge.po`. It is read as it is written: so there is no compiled copy that could
be stale, or missing from a package. `make catalogs` brings the catalogs up to date with the code.
"""

from functools import cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

Language: TypeAlias = Literal["en", "ru"]

LANGUAGES: Final[tuple[str, ...]] = get_args(Language)
CATALOGS: Final = Path(__file__).resolve().parent / "locale"
DOMAIN: Final = "bridge"
_OF_THE_CODE: Final = "en"


@cache
def translations(language: str) -> NullTranslations:
    """What turns English into `language`; what has no translation stays English.

    Raises KeyError for a language that is not one of LANGUAGES.
    """
    if language not in LANGUAGES:
        raise KeyError(language)
    if language == _OF_THE_CODE:
        return NullTranslations()
    compiled = BytesIO()
    with (CATALOGS / language / "LC_MESSAGES" / f"{DOMAIN}.po").open("rb") as file:
        write_mo(compiled, read_po(file, locale=language, abort_invalid=True))
    compiled.seek(0)
    return GNUTranslations(compiled)
