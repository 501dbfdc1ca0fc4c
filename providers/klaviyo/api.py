"""How Klaviyo is called: its errors, rates, pages and jobs."""

from abc import ABC
from collections.abc import AsyncIterator
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from msgspec import Meta

from providers.answers import Answer, ErrorTable
from providers.base import AuthFailed, Secret, Settings, Transient
from providers.http import Auth, HeaderAuth, Query
from providers.jobs import Polling, follow
from providers.pace import Rate
from providers.paging import by_cursor
from providers.rest import RestProvider

_PAGE: Final = 100


class KlaviyoSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret, Meta(description="a private API key, pk_... (Settings, API keys)")]


class KlaviyoApi(RestProvider[KlaviyoSettings], ABC):
    """JSON:API, by revision."""

    default_base_url = "https://a.klaviyo.com/api"
    headers: ClassVar = {
        "Accept": "application/vnd.api+json",
        "Content-Type": "application/vnd.api+json",
        "revision": "2026-07-15",
    }
    errors = ErrorTable(
        codes=lambda body: [error["code"] for error in body["errors"]],
        by_status={410: AuthFailed},  # this revision has ended: changes are kept until the bridge is newer
        marks=frozenset({"errors"}),
    )
    rates: ClassVar = {"": [Rate(75), Rate(700, 60)], "lists": [Rate(10), Rate(150, 60)]}
    polling: ClassVar = Polling(first_s=2, longest_s=30, budget_s=1800)

    def auth(self) -> Auth:
        return HeaderAuth(self.settings.api_key, prefix="Klaviyo-API-Key ")

    async def done(self, started: Answer, path: str) -> Any:
        """A job that was started, as it is at its end."""
        job_id = started.json()["data"]["id"]
        job = await follow(lambda: self.look_at(path, job_id), has_ended, self.polling)
        if job["attributes"]["status"] != "complete":
            raise Transient("a job of Klaviyo was cancelled")
        return job

    async def look_at(self, path: str, job_id: str) -> Any:
        """A job as it is now."""
        return (await self.call("job", "GET", path + "/{}", job_id, bucket="lists")).json()["data"]

    def pages(
        self, operation: str, template: str, *parts: object, size: int = _PAGE, query: Query | None = None
    ) -> AsyncIterator[Any]:
        """All items of a listing."""

        async def page_after(cursor: str | None) -> tuple[list[Any], str | None]:
            asked: dict[str, Any] = {"page[size]": size, **(query or {})}
            if cursor is not None:
                asked["page[cursor]"] = cursor
            told = (await self.call(operation, "GET", template, *parts, query=asked)).json()
            following = parse_qs(urlsplit((told.get("links") or {}).get("next") or "").query)
            return told["data"], following.get("page[cursor]", [None])[0]

        return by_cursor(page_after)


def has_ended(job: Any) -> bool:
    """Whether nothing more comes of a job."""
    return job["attributes"]["status"] in ("complete", "cancelled")
