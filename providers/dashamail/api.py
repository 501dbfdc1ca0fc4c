"""How DashaMail is called: methods, codes, pages; and what it tells of a base and of a member."""

import json
from abc import ABC
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from providers.answers import Answer, CallRefused, ErrorTable
from providers.base import BOUNCED, AuthFailed, Message, Reason, Secret, Settings, Transient
from providers.http import Auth, FormAuth
from providers.pace import Rate
from providers.paging import until_empty
from providers.rest import RestProvider

ADDING_FAILED, NO_DATA, NO_BASE, BAD_ADDRESS, NO_MEMBER, ALREADY_OUT = 2, 4, 5, 6, 9, 10
PLANFIX_ID: Final = "Planfix id"
_PAGE: Final = 1000
_NOTHING: Final[Mapping[str, object]] = {}
_OUT: Final = {  # parts of the words for states; only "active" is documented
    "unsub": "unsubscribed",
    "complain": "complained",
    "spam": "complained",
    "bounc": BOUNCED,
    "hard": BOUNCED,
}


class DashaMailSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret, Meta(description="the API key (Аккаунт, API и интеграции)")]
    first_name: Annotated[str, Meta(min_length=1, description="title of the field of first names in new bases")] = "Имя"
    last_name: Annotated[str, Meta(min_length=1, description="title of the field of last names in new bases")] = (
        "Фамилия"
    )
    contacts_per_call: Annotated[
        int, Meta(ge=1, le=5000, description="contacts in one call; DashaMail publishes no limit")
    ] = 200


def _code(body: Any) -> int:
    """0 for a success; a number, which may be written as text."""
    return int(body["response"]["msg"]["err_code"])


def _is_error(answer: Answer) -> bool:
    """DashaMail answers 200 to everything. An answer of another shape is no error of its own: `ask` judges it."""
    try:
        return not answer.ok or _code(answer.json_or_none()) != 0
    except (KeyError, TypeError, ValueError):
        return not answer.ok


class DashaMailApi(RestProvider[DashaMailSettings], ABC):
    """How DashaMail is called."""

    default_base_url = "https://api.dashamail.com"
    errors = ErrorTable(
        codes=lambda body: [_code(body)],
        by_code={
            1: AuthFailed,  # wrong key
            ADDING_FAILED: Transient,
            NO_BASE: Reason.LIST_GONE,
            8: Reason.PLAN_LIMIT,
            47: AuthFailed,  # this machine's address is not allowed
            58: Transient,  # too many calls
            100: AuthFailed,
        },
        is_error=_is_error,
    )
    rates: ClassVar = {"": [Rate(4)]}
    key_advice = Message(
        "Copy the API key out of the account (Аккаунт, API и интеграции). If the account allows the API to some IP"
        " addresses only, add this machine's."
    )

    def auth(self) -> Auth:
        return FormAuth("api_key", self.settings.api_key)

    async def ask(self, method: str, fields: Mapping[str, object] = _NOTHING, accept: Collection[int] = ()) -> Any:
        """The data of one method, an empty object where there are none; None where the answer is one of the codes in
        `accept`."""
        form = [(name, str(value)) for name, value in fields.items()]
        try:
            answer = await self.call(method, "POST", "/", query={"method": method}, form=form)
        except CallRefused as refused:
            if refused.code in accept:
                return None
            raise
        told = answer.json()
        response = told.get("response") if isinstance(told, dict) else None
        if not isinstance(response, dict) or "msg" not in response:
            raise Transient(f"{method}: an answer of another shape")
        data = response.get("data")
        return {} if data is None else data

    async def some_rows(self, method: str, fields: Mapping[str, object]) -> list[dict[str, Any]]:
        """The rows that one call tells. Raises Transient for a success that tells of no rows: that there are none is
        said by a code."""
        told = await self.ask(method, fields, (NO_DATA, NO_BASE, NO_MEMBER))
        if told is not None and not isinstance(told, list):
            raise Transient(f"{method}: an answer without rows")
        return told or []

    async def rows(self, method: str, list_id: str) -> AsyncIterator[dict[str, Any]]:
        """All rows of a listing of one base; none of a base that is gone."""

        async def page_at(start: int) -> list[dict[str, Any]]:
            return await self.some_rows(method, {"list_id": list_id, "start": start, "limit": _PAGE})

        async for row in until_empty(page_at):
            yield row


def how_out(row: Mapping[str, Any]) -> str | None:
    """How a member is kept out, None for who is not. A state that is not known is told as it is: it is not active."""
    state = str(row["state"]).lower()
    if state == "active" or is_unconfirmed(row):
        return None
    return next((how for part, how in _OUT.items() if part in state), state)


def is_unconfirmed(row: Mapping[str, Any]) -> bool:
    """Whether a member still has to confirm."""
    return "confirm" in str(row["state"]).lower()


def fields_of(base: Mapping[str, Any]) -> dict[str, str] | None:
    """The fields of a base by title, each as its column ("merge_1"); None when the answer tells of none at all."""
    columns = [key for key in base if key.startswith("merge_") and key[6:].isdigit()]
    if not columns:
        return None
    return {title: column for column in columns for title in _titles(base[column])}


def _titles(told: Any) -> list[str]:
    """The texts in the description of a field, which is a title, JSON, or what PHP serializes."""
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except ValueError:
            return [told, *told.split('"')[1::2]]
    return [str(value) for value in told.values()] if isinstance(told, dict) else [str(told)] if told else []
