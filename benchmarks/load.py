"""Planfix as a load: many clients that each send the next request when the last one is answered."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import aiohttp
import msgspec

from benchmarks.machine import token_of
from bridge.sample_contacts import made_up

TIMEOUT: Final = aiohttp.ClientTimeout(total=3600)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds that requests waited for their answers."""

    seconds: list[float]

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.seconds) * 1000

    @property
    def p99_ms(self) -> float:
        return statistics.quantiles(self.seconds, n=100)[98] * 1000


class Planfix:
    """Requests to one URL, in the name of one account."""

    def __init__(self, url: str, account: str = "main", clients: int = 1) -> None:
        self._url = url
        self._token = token_of(account)
        self._clients = clients
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> "Planfix":
        connector = aiohttp.TCPConnector(limit=self._clients)
        self._session = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def body(self, action: str, data: dict[str, Any]) -> bytes:
        return msgspec.json.encode({"action": action, "authToken": self._token, "data": data})

    async def send(self, body: bytes) -> dict[str, Any]:
        async with self._session.post(self._url, data=body) as response:
            answer: dict[str, Any] = msgspec.json.decode(await response.read())
        if not answer.get("success"):
            raise RuntimeError(f"the bridge answered {answer}")
        return answer

    async def create_list(self, name: str) -> str:
        return str((await self.send(self.body("createList", {"listName": name})))["listId"])

    def import_body(self, list_id: str, contacts: list[dict[str, Any]]) -> bytes:
        return self.body("importContacts", {"listId": list_id, "contacts": contacts})

    def updates(self, list_id: str, first_id: int) -> Iterator[bytes]:
        """One updateContact after the other, each of another contact with another address, from this id on."""
        for contact in people(first_id):
            yield self.body("updateContact", {"listId": list_id, "action": "add", "contact": contact})

    async def burst(self, bodies: list[bytes]) -> Latencies:
        """Sends all, `clients` at one time."""
        waiting = iter(bodies)
        seconds: list[float] = []

        async def client() -> None:
            for body in waiting:
                started_s = time.perf_counter()
                await self.send(body)
                seconds.append(time.perf_counter() - started_s)

        await asyncio.gather(*(client() for _ in range(self._clients)))
        return Latencies(seconds)


def people(first_id: int = 0) -> Iterator[dict[str, Any]]:
    """Made-up contacts with Cyrillic names, as Planfix sends them; those of different ids have different addresses."""
    for number, contact in enumerate(made_up(1, "post.test"), first_id):
        yield {
            "id": number,
            "email": f"n{number}.{contact.address}"[:120],
            "firstName": contact.first_name,
            "lastName": contact.last_name,
        }


def some_people(count: int) -> list[dict[str, Any]]:
    return list(islice(people(), count))
