"""How Sendsay is called: actions, several in one call, their errors, and work that it does later."""

from abc import ABC
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from providers.answers import Answer, CallRefused, ErrorTable
from providers.base import AuthFailed, Message, Secret, Settings, Transient
from providers.http import Auth, HeaderAuth, json_body
from providers.jobs import Polling, follow
from providers.pace import Rate
from providers.rest import RestProvider

_TRACK_DONE: Final = -1


def _errors_of(told: Any) -> list[Any]:
    """The errors in an answer, or in one of the answers of a batch: under `errors`, or one under `error`."""
    if not isinstance(told, dict):
        return []
    return list(told.get("errors") or ([told["error"]] if told.get("error") else []))


def _is_error(answer: Answer) -> bool:
    """Sendsay answers 200 to everything."""
    return not answer.ok or bool(_errors_of(answer.json_or_none()))


def _codes(told: Any) -> Iterator[str]:
    """Each code and its family: "error/auth/failed" is one of "error/auth"."""
    for error in _errors_of(told):
        yield error["id"]
        yield error["id"].rpartition("/")[0]


class SendsaySettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret, Meta(description="the API key of a further user (Настройки системы, Пользователи)")]
    account: Annotated[
        str,
        Meta(pattern=r"^[\w.-]+$", description="code of the account: the login of its owner", examples=["my_company"]),
    ]
    first_name: Annotated[str, Meta(min_length=1, description="question that holds first names")] = "base.firstName"
    last_name: Annotated[str, Meta(min_length=1, description="question that holds last names")] = "base.lastName"
    planfix_id: Annotated[
        str | None,
        Meta(
            description="question that holds Planfix ids; without one they are not kept", examples=["custom.planfix_id"]
        ),
    ] = None
    contacts_per_call: Annotated[
        int, Meta(ge=1, le=1000, description="contacts in one call; Sendsay publishes no limit")
    ] = 100


class SendsayApi(RestProvider[SendsaySettings], ABC):
    """How Sendsay is called."""

    default_base_url = "https://api.sendsay.ru/general/api/v100/json"
    errors = ErrorTable(codes=_codes, by_code={"error/auth": AuthFailed}, is_error=_is_error)
    rates: ClassVar = {"": [Rate(4)]}
    key_advice = Message(
        "The owner of an account has no key: add a user (Настройки системы, Пользователи) with the role Менеджер, and"
        " make a key in that user's settings. `account` is the login of the owner."
    )
    polling: ClassVar = Polling(first_s=1, longest_s=30, budget_s=600)

    def auth(self) -> Auth:
        return HeaderAuth(self.settings.api_key, prefix="sendsay apikey=")

    async def ask(self, action: str, operation: str = "", **fields: Any) -> dict[str, Any]:
        body = {"action": action, **fields}
        told = (await self.call(operation or action, "POST", "/{}", self.settings.account, json=body)).json()
        if not isinstance(told, dict):
            raise Transient(f"{action}: an answer of another shape")
        return told

    async def batch(self, operation: str, actions: Sequence[dict[str, Any]]) -> list[Any]:
        """The answers to several actions in one call, errors among them."""
        results = (await self.ask("batch", operation, stop_on_error=0, do=actions)).get("result")
        if not isinstance(results, list) or len(results) != len(actions):
            raise Transient(f"{operation}: a batch that was not answered one for one")
        return results

    def refused(self, operation: str, result: Any) -> CallRefused | None:
        """The error of one action of a batch, None when there is none. What is worth repeating is raised."""
        if not _errors_of(result):
            return None
        error = self.errors.error_of(Answer(200, {}, json_body(result)), operation)
        if not isinstance(error, CallRefused):
            raise error
        return error

    async def wait_for(self, track: object) -> None:
        """Returns when the track of a removal has ended well."""

        async def status() -> int:
            return int((await self.ask("track.get", id=track))["obj"]["status"])

        if (ended := await follow(status, lambda code: code < 0, self.polling)) != _TRACK_DONE:
            raise Transient(f"a removal of Sendsay ended with status {ended}")
