"""What a check of a SendGrid account looks at."""

from functools import partial
from typing import Final

from providers.base import AuthFailed, Finding, Message, Refused
from providers.sendgrid.account import FIELD, Account
from providers.sendgrid.client import RightsMissing

LISTS_MAX: Final = 1000


async def check(account: Account, unknown_opt_outs: str) -> list[Finding]:
    """The key, its rights, room for lists, the custom field and whether opt-outs can be read. Raises only Transient."""
    try:
        scopes = await account.scopes()
    except (AuthFailed, Refused) as error:
        advice = Message(
            "Make an API key in SendGrid (Settings, API Keys) and put it into api_key. EU keys need base_url."
        )
        return [Finding(False, Message("SendGrid refuses the API key: %(detail)s", detail=error.detail), advice)]
    findings = [Finding(True, Message("the API key works"))]
    looks = (partial(_lists, account, scopes), partial(_field, account), partial(_opt_outs, account, unknown_opt_outs))
    for look in looks:
        try:
            findings.append(await look())
        except (AuthFailed, Refused) as error:
            refused = Message("SendGrid refused a call: %(detail)s", detail=error.detail)
            findings.append(Finding(False, refused, Message("Test the key's rights.")))
    return findings


async def _lists(account: Account, scopes: list[str]) -> Finding:
    try:
        count = len(await account.lists())
    except RightsMissing:
        if any(scope.startswith("marketing") for scope in scopes):
            advice = Message("The account has no Marketing Campaigns, or the legacy product: add the plan in SendGrid.")
        else:
            advice = Message("Give the key Full Access to Marketing (Settings, API Keys).")
        return Finding(False, Message("the key may not use Marketing Campaigns"), advice)
    room = count < LISTS_MAX
    in_use = Message("Lists in use: %(count)s of %(most)s.", count=count, most=LISTS_MAX)
    return Finding(room, in_use, None if room else Message("Delete lists that nobody needs."))


async def _field(account: Account) -> Finding:
    field = await account.find_field()
    if field is None:
        return Finding(True, Message("the custom field %(field)s will be made with the first contact", field=FIELD))
    if field.field_type != "Text":
        no_text = Message("the custom field %(field)s is no Text field", field=field.name)
        return Finding(False, no_text, Message("Rename or delete it in SendGrid."))
    return Finding(True, Message("the custom field %(field)s is there", field=FIELD))


async def _opt_outs(account: Account, unknown: str) -> Finding:
    try:
        await account.opt_outs("check@example.com")
    except RightsMissing:
        if unknown == "add":
            text = Message("opt-outs cannot be read: changed addresses are added all the same, as set")
            return Finding(True, text)
        advice = Message("Give the key Full Access to Suppressions and Unsubscribe Groups, or set unknown_opt_outs.")
        return Finding(False, Message("opt-outs cannot be read: changed addresses will not be added"), advice)
    return Finding(True, Message("opt-outs can be read"))
