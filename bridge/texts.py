"""Every text that reaches Planfix, by code, in English. People read them: what is wrong, then what to do.

The codes are those of `providers.base.Reason`, of `planfix.BadRequest`, of `planfix.Failure` and of the HTTP errors.
The other languages are in the catalogs of `bridge.languages`.
"""

from collections.abc import Mapping
from typing import Final

from bridge.languages import translations
from providers.base import Message, redact

VALUE_MAX_CHARS: Final = 200


def gettext_noop(text: str) -> str:
    """Marks a text for the catalogs."""
    return text


TEXTS: Final[Mapping[str, str]] = {
    # one contact is refused
    "no_address": gettext_noop("The contact has no email address. Fill it in."),
    "invalid_address": gettext_noop("The email address is not valid. Correct it."),
    "forgotten": gettext_noop(
        "The contact was deleted at the email service for good. Only the person can subscribe again."
    ),
    "unconfirmed": gettext_noop(
        "The person has not confirmed the subscription yet. Ask them to, then save the contact again."
    ),
    "too_often": gettext_noop(
        "The email service sees too many sign-ups of this address. Save the contact again later."
    ),
    "contact_refused": gettext_noop("The email service refused the contact. Check its address and names."),
    "all_refused": gettext_noop("No contact was accepted. Refused: %(count)s. The first reason: %(reason)s"),
    # the email service refuses a whole request
    "auth_failed": gettext_noop(
        "The email service refused its key. Put a working key into the bridge's configuration."
    ),
    "rights": gettext_noop("The key of the email service lacks rights. Allow it to manage lists and contacts."),
    "plan_limit": gettext_noop(
        "The plan of the email service is used up. Remove contacts there or take a larger plan."
    ),
    "list_limit": gettext_noop(
        "The email service allows no more lists. Delete unused ones there or take a larger plan."
    ),
    "list_gone": gettext_noop(
        "The list is gone at the email service. Turn the mailing of the filter off and on again."
    ),
    "name_taken": gettext_noop("The email service already has a list of this name. Rename the filter."),
    "request_refused": gettext_noop("The email service refused the request. The bridge's log tells why."),
    "unsupported": gettext_noop("The email service cannot do this. The bridge's log tells what to do instead."),
    "esp_down": gettext_noop("The email service does not answer. Try again in a few minutes."),
    # the bridge holds removals back; shown by its commands
    "held": gettext_noop(
        "Too many removals at once: they wait. Look, then let them go: planfix-bridge pending --release LIST."
    ),
    # the bridge refuses
    "unknown_list": gettext_noop(
        "The bridge does not know this list. Turn the mailing of the filter off and on again."
    ),
    "list_deleted": gettext_noop("This list has been deleted. Turn the mailing of the filter off and on again."),
    "provider_missing": gettext_noop(
        "The list's email service is not in the bridge's configuration any more. Put it back there."
    ),
    "storage": gettext_noop("The bridge could not store the change. Check its database and repeat the change."),
    "internal": gettext_noop("The bridge failed. Look at its log and repeat the request."),
    "unauthorized": gettext_noop(
        "The API key is wrong. Type the token of the bridge's account into the Planfix settings."
    ),
    "not_found": gettext_noop("There is nothing at this URL. Check the URL in the Planfix settings."),
    "method_not_allowed": gettext_noop("This URL does not take this HTTP method. Send a POST."),
    "too_large": gettext_noop("The request is too large. Raise server.max_body_mb in the bridge's configuration."),
    "too_slow": gettext_noop("The request did not arrive in time. Send it again."),
    "busy": gettext_noop("Too many connections at once. Try again in a minute."),
    "bad_http": gettext_noop("This is not a proper HTTP request. Check the URL and the proxy before the bridge."),
    # the request is malformed
    "malformed": gettext_noop("The body is not a JSON object. Send one JSON object in UTF-8."),
    "not_utf8": gettext_noop("The body is not UTF-8. Send it in UTF-8."),
    "duplicate_key": gettext_noop("An object in the body has the same key twice. Send every key once."),
    "too_deep": gettext_noop("The JSON is nested too deeply. Send only the documented fields."),
    "unknown_action": gettext_noop(
        "%(field)s: no known action. Send createList, deleteList, importContacts or updateContact."
    ),
    "unknown_change": gettext_noop("%(field)s: no known change. Send add, update or delete."),
    "missing_field": gettext_noop("%(field)s: missing or empty. Fill it in."),
    "not_text": gettext_noop("%(field)s: not a text. Send a string."),
    "not_id": gettext_noop("%(field)s: not an id. Send a whole number or a short text."),
    "not_object": gettext_noop("%(field)s: not an object. Send a JSON object."),
    "not_array": gettext_noop("%(field)s: not an array. Send a JSON array."),
    "too_long": gettext_noop("%(field)s: the text is too long. Shorten it."),
}


def text(code: str, language: str, **values: object) -> str:
    """The text of `code` with its placeholders filled in; `values` may be anything, they come out `presentable`.

    A code or language that does not exist, or a value that is missing, is a KeyError: a fault of the caller.
    """
    return _filled_in(TEXTS[code], language, values)


def translated(message: Message, language: str) -> str:
    """A message in `language`, in English where nobody has translated it; its values come out `presentable`, those that
    are messages translated."""
    return _filled_in(message.template, language, message.values)


def presentable(value: object) -> str:
    """`value` as one line for people: redacted, of at most `VALUE_MAX_CHARS` characters, always UTF-8."""
    line = redact(" ".join(str(value).encode("utf-8", "replace").decode().split()))
    return line if len(line) <= VALUE_MAX_CHARS else line[: VALUE_MAX_CHARS - 1] + "…"


def _filled_in(template: str, language: str, values: Mapping[str, object]) -> str:
    shown = {
        name: translated(value, language) if isinstance(value, Message) else presentable(value)
        for name, value in values.items()
    }
    return translations(language).gettext(template) % shown
