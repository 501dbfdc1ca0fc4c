"""What somebody who typed an unknown name probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, else all that are known.

    `word` itself is never quoted: what somebody typed in the wrong place may be a secret.
    """
    names = {name.lower(): name for name in known}
    for match in get_close_matches(word.lower(), names, n=1):
        return f'did you mean "{names[match]}"?'
    return f"known: {', '.join(names.values())}" if names else "there is none to choose from"
