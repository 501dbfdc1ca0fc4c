"""Which tokens are good enough to guard the bridge."""

import re

from providers.base import Secret

TOKEN_MIN_CHARS = 16
TOKEN_MIN_DIFFERENT_CHARS = 5

# No two ways to read one text: matching stays fast whatever the token.
_PLACEHOLDER_WORDS = re.compile(
    r"(change|replace|insert|put|fill|enter|paste|me|it|in|a|your|my|our|the|this|with|here|goes|some|long|random|"
    r"api|auth|key|token|secret|password|planfix|bridge|example|sample|default|placeholder|value|text|todo|x)+"
)


def check_token(token: Secret) -> str | None:
    """What is wrong with a token that guards the bridge, None when it will do. Never quotes the token."""
    text = token.reveal()
    if text != text.strip() or not text.isprintable():
        return "begins or ends with a space, or holds a line end"
    letters = re.sub(r"[\W_]", "", text.lower())
    if re.fullmatch(r"<.*>|\$?\{.*\}", text) or _PLACEHOLDER_WORDS.fullmatch(letters):
        return "is a placeholder; make a real one, for example with: openssl rand -hex 24"
    if len(text) < TOKEN_MIN_CHARS:
        return f"is too short: a token has at least {TOKEN_MIN_CHARS} characters"
    if len(set(text)) < TOKEN_MIN_DIFFERENT_CHARS:
        return "is too easy to guess: it repeats the same few characters"
    return None
