"""The methods of UniSender's API that are more than one call or one field: errors, imports, exports."""

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta
from msgspec.structs import replace

from providers.answers import Answer, ErrorTable
from providers.base import AuthFailed, Message, Reason, Secret, Settings, Transient
from providers.http import Auth, FormAuth
from providers.jobs import Polling, follow
from providers.pace import Rate
from providers.rest import RestProvider
from providers.unisender.records import NO_LIST, rows_of

IMPORTED_AT_ONCE: Final = 500
BASE_URLS: Final = {  # the language is that of the errors
    "unisender": "https://api.unisender.com/en/api",
    "selzy": "https://api.selzy.com/en/api",
}
_EXPORT_ENDED: Final = frozenset({"completed", "failed", "error", "canceled", "cancelled"})


class UniSenderSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret, Meta(description="the API key (Настройки, Интеграция и API)")]
    brand: Annotated[Literal["unisender", "selzy"], Meta(description="which of the two sites has the account")] = (
        "unisender"
    )
    first_name: Annotated[str, Meta(min_length=1, description="field of first names; made when missing")] = "Name"
    last_name: Annotated[str, Meta(min_length=1, description="field of last names; made when missing")] = "LastName"
    reads_list_opt_outs: Annotated[
        bool,
        Meta(description="before adding people read who left the list; false only if an import is known to heed it"),
    ] = True


def _is_error(answer: Answer) -> bool:
    """UniSender answers 200 to everything; an error has the key `error`."""
    body = answer.json_or_none()
    return not answer.ok or (isinstance(body, dict) and "error" in body)


class UniSenderApi(RestProvider[UniSenderSettings], ABC):
    """How UniSender is called."""

    default_base_url = BASE_URLS["unisender"]
    errors = ErrorTable(
        codes=lambda body: [body["code"]],
        by_code={
            "invalid_api_key": AuthFailed,
            "access_denied": AuthFailed,
            "not_enough_money": Reason.PLAN_LIMIT,
            "retry_later": Transient,
            "api_call_limit_exceeded_for_api_key": Transient,
            "api_call_limit_exceeded_for_ip": Transient,
        },
        is_error=_is_error,
    )
    rates: ClassVar = {"": [Rate(1200, 60)], "exports": [Rate(20, 60)]}
    key_advice = Message(
        "Copy the API key out of the account (Настройки, Интеграция и API) and switch access by API on there."
        " The setting `brand` must name the site that has the account."
    )
    polling: ClassVar = Polling(first_s=2, longest_s=30, budget_s=900)

    def __init__(self, settings: UniSenderSettings) -> None:
        super().__init__(replace(settings, base_url=settings.base_url or BASE_URLS[settings.brand]))

    def auth(self) -> Auth:
        return FormAuth("api_key", self.settings.api_key)

    async def ask(self, method: str, fields: Sequence[tuple[str, str]] = (), *, bucket: str = "") -> Any:
        """The `result` of one method. All goes into the body: UniSender fails on a query beside it."""
        answer = await self.call(method, "POST", f"/{method}", form=[("format", "json"), *fields], bucket=bucket)
        told = answer.json()
        if not isinstance(told, dict) or "result" not in told:
            raise Transient(f"{method}: an answer without a result")
        return told["result"]

    async def import_rows(self, rows: Sequence[Mapping[str, str]]) -> list[str | None]:
        """One import of rows with equal columns: what it complained about in each, None throughout when it took all.

        A complaint may be a warning: the log does not tell which of its entries are errors.
        """
        fields = [(f"field_names[{column}]", name) for column, name in enumerate(rows[0])]
        for number, row in enumerate(rows):
            fields += [(f"data[{number}][{column}]", value) for column, value in enumerate(row.values())]
        told = await self.ask("importContacts", [*fields, ("overwrite_lists", "0"), ("overwrite_tags", "0")])
        invalid = int(told.get("invalid") or 0)
        log = {int(entry["index"]): str(entry.get("message") or entry.get("code")) for entry in told.get("log") or ()}
        unnamed = None if len(log) >= invalid else "UniSender did not import some of these contacts"
        return [log.get(number, unnamed) for number in range(len(rows))]

    async def export_rows(self, list_id: str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
        """The contacts of a list, or with `NO_LIST` those of the account, as rows by column. Those of whom the phone
        alone is there are among them."""
        fields = [("list_id", list_id)] if list_id != NO_LIST else []
        fields += ((f"field_names[{number}]", name) for number, name in enumerate(columns))
        task = (await self.ask("async/exportContacts", fields, bucket="exports"))["task_uuid"]
        ended = await follow(
            lambda: self.ask("async/getTaskResult", [("task_uuid", task)]),
            lambda told: told["status"] in _EXPORT_ENDED,
            self.polling,
        )
        if ended["status"] != "completed":
            raise Transient(f"an export of UniSender ended as {ended['status']}")
        return rows_of((await self.download("export", ended["file_to_download"])).body, columns)
