"""Imports: many new subscribers in one file. listmonk runs one import at a time, in the background."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from providers.base import Contact
from providers.http import json_body
from providers.jobs import follow
from providers.listmonk.records import new_subscriber
from providers.rest import RestProvider

_RUNNING: Final = ("importing", "stopping")


async def import_new(provider: RestProvider[Any], list_id: str, contacts: Sequence[Contact]) -> None:
    """Makes people whom listmonk does not know, as far as that works; who was made is for the caller to see. Raises
    Overdue when the import does not end in time."""
    file_name = f"planfix-{uuid4().hex}.csv"
    params = {
        "mode": "subscribe",
        "subscription_status": "confirmed",
        "lists": [int(list_id)],
        "delim": ",",
        # Should one of them have come meanwhile, nothing about them changes.
        "overwrite": False,
        "overwrite_userinfo": False,
        "overwrite_subscription_status": False,
    }
    content_type, body = _form(params, file_name, _table(contacts))

    async with provider.job(list_id, contacts) as known_as:
        answer = await provider.call(
            "import",
            "POST",
            "/api/import/subscribers",
            body=body,
            headers={"Content-Type": content_type},
            accept=[400, 403],  # another import is running; the permission is missing
        )
        if answer.ok:
            await known_as(file_name)  # not before: that of an import which has not begun yet would count as over
            await follow(lambda: has_ended(provider, file_name), bool, provider.polling)


async def has_ended(provider: RestProvider[Any], file_name: str) -> bool:
    """Whether the import of a file is over: it is done, or another one has begun."""
    job = (await provider.call("job", "GET", "/api/import/subscribers")).json()["data"]
    return job["name"] != file_name or job["status"] not in _RUNNING


def _table(contacts: Iterable[Contact]) -> bytes:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["email", "name", "attributes"])
    for contact in contacts:
        new = new_subscriber(contact)
        writer.writerow([new["email"], new["name"], json_body(new["attribs"]).decode()])
    return table.getvalue().encode()


def _form(params: Mapping[str, Any], file_name: str, file: bytes) -> tuple[str, bytes]:
    """Content type and body of a form with these parameters and one file (RFC 7578)."""
    boundary = uuid4().hex
    parts = (
        b'Content-Disposition: form-data; name="params"\r\n\r\n' + json_body(params),
        f'Content-Disposition: form-data; name="file"; filename="{file_name}"\r\n'.encode()
        + b"Content-Type: text/csv\r\n\r\n"
        + file,
    )
    body = b"".join(f"--{boundary}\r\n".encode() + part + b"\r\n" for part in parts)
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()
