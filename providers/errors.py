"""What may go wrong at an email service, sorted by what the caller should do; and texts that are safe to show.

ProviderError
├── Transient          try again later; the change is kept. RateLimited: the ESP has done nothing
├── AuthFailed         key or rights refused; the change is kept until somebody mends the key
├── Refused            the request is wrong for good: plan limit, list gone
├── ContactRefused     some contact of the batch is wrong for good and the ESP does not say which
└── Unsupported        the ESP cannot express this
"""

import enum
import re

_PART = r"[^\s@<>\"'(),;:=/?&\[\]]"
_ADDRESS_IN_TEXT = re.compile(rf"({_PART}?){_PART}{{0,64}}(?:@|%40)({_PART}){_PART}*", re.IGNORECASE)
_KEY_IN_TEXT = re.compile(r"(SG\.[\w.-]{8,}|[0-9a-f]{32,}(?:-us\d+)?|(?:Bearer|Basic)\s+[\w.~+/=-]{8,})", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with every email address cut to its first letters and every key replaced; safe to log and to show."""
    if "@" in text or "%40" in text:  # most log texts hold none, and the search is dear
        text = _ADDRESS_IN_TEXT.sub(r"\1***@\2***", text)
    return _KEY_IN_TEXT.sub("<secret>", text)


class Secret:
    """A text that prints as `<secret>`; `reveal()` gives it back to the one place that needs it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "<secret>"


class Reason(enum.StrEnum):
    """Why something was refused for good. People read it in their language (`bridge.texts`)."""

    # one contact
    NO_ADDRESS = "no_address"
    INVALID_ADDRESS = "invalid_address"
    FORGOTTEN = "forgotten"  # deleted at the ESP for good: only the person can come back
    UNCONFIRMED = "unconfirmed"  # the person was asked to confirm, and has not yet
    TOO_OFTEN = "too_often"  # the ESP sees too many sign-ups of this address right now
    CONTACT_REFUSED = "contact_refused"
    # a whole request
    LIST_GONE = "list_gone"
    LIST_LIMIT = "list_limit"
    PLAN_LIMIT = "plan_limit"
    RIGHTS = "rights"
    NAME_TAKEN = "name_taken"
    REQUEST_REFUSED = "request_refused"


class ProviderError(Exception):
    """The root of all that a provider raises.

    `detail` is for the log: what the ESP said, redacted here, with status and request id where known. `job_goes_on`:
    it was raised by a look at a job, which the ESP carries out all the same.
    """

    job_goes_on = False

    def __init__(self, detail: str = "") -> None:
        self.detail = redact(detail)
        super().__init__(self.detail)


class Transient(ProviderError):
    """Worth repeating unchanged. `retry_after_s` is the ESP's own wish, None when it gave none."""

    def __init__(self, detail: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class RateLimited(Transient):
    """The ESP takes no more calls for now: it has not begun what was asked."""


class AuthFailed(ProviderError):
    """The ESP refused the key or its rights. Nothing about the contacts is known."""


class Refused(ProviderError):
    """The ESP refused the whole request for good."""

    def __init__(self, reason: Reason = Reason.REQUEST_REFUSED, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason


class ContactRefused(Refused):
    """The ESP refused a batch because of a contact that it did not name. The bridge halves the batch and repeats."""

    def __init__(self, reason: Reason = Reason.CONTACT_REFUSED, detail: str = "") -> None:
        super().__init__(reason, detail)


class Unsupported(ProviderError):
    """The ESP cannot express what was asked; `detail` says what and what to do instead."""
