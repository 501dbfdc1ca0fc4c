"""Contacts for the simulator: made up, or out of a CSV file."""

import csv
import io
import random
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from providers.base import Contact

_COLUMNS: Final = ("id", "email", "firstname", "lastname")
_FIRST_NAMES: Final = ("Анна", "Иван Петрович", "Ольга Сергеевна", "Пётр", "Зульфия", "Siobhán", "Łukasz", "Mary Ann")
_LAST_NAMES: Final = (
    "Иванова",
    "Щукин",
    "Солов'яненко",
    "Римская-Корсакова",
    "O'Brien",
    "D'Angelo",
    "Müller",
    "de Vries",
)
_COMPANIES: Final = ("ООО «Ромашка»", 'ТОВ "Явір"', "Smith & Sons", "Kraft/Werk 24")
_COMPANY_SHARE: Final = 0.1
_LOCAL_PARTS: Final = ("anna", "ivan.petrov", "O'Brien", "M_Mueller", "crm+olga")


def made_up(seed: int, domain: str, *, without: Collection[Contact] = ()) -> Iterator[Contact]:
    """Contacts without end, the same for the same seed; no id and no address twice, nor any of `without`.

    A company has an empty last name, and first names may hold a patronymic, both as in Planfix.
    """
    dice = random.Random(seed)  # noqa: S311 - guards nothing
    ids = {contact.id for contact in without}
    addresses = {contact.address.lower() for contact in without}
    number = 0
    while True:
        number += 1
        company = dice.random() < _COMPANY_SHARE
        contact = Contact(
            id=str(number),
            address=f"{dice.choice(_LOCAL_PARTS)}.{number}@{domain}",
            first_name=dice.choice(_COMPANIES if company else _FIRST_NAMES),
            last_name="" if company else dice.choice(_LAST_NAMES),
        )
        if contact.id not in ids and contact.address.lower() not in addresses:
            yield contact


class BadCsv(ValueError):
    """The file cannot be used; the text names the line."""


def read_csv(content: bytes) -> list[Contact]:
    """Contacts of a CSV file in UTF-8, with commas or semicolons, its columns named in the first line.

    `id` and `email` must be there, `firstName` and `lastName` may be, others are ignored. Addresses are not judged:
    Planfix does not judge them either. Raises BadCsv.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadCsv(f"line {line}: not UTF-8; save the file as CSV in UTF-8") from error
    header = text.partition("\n")[0]
    delimiter = ";" if header.count(";") > header.count(",") else ","
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return _contacts(rows, [name.strip().lower() for name in next(rows, [])])
    except csv.Error as error:
        raise BadCsv(f"line {rows.line_num}: {error}") from error
    except BadCsv as error:
        raise BadCsv(f"line {max(rows.line_num, 1)}: {error}") from error


def _contacts(rows: Iterator[list[str]], header: Sequence[str]) -> list[Contact]:
    for name in _COLUMNS:
        if header.count(name) > 1:
            raise BadCsv(f"the column {name} is there twice")
    if not {"id", "email"} <= set(header):
        raise BadCsv("it must name the columns: id,email,firstName,lastName (the names may be left out)")
    found: dict[str, Contact] = {}
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise BadCsv(f"{len(row)} cells, but {len(header)} columns")
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
        if not cells["id"]:
            raise BadCsv("the id is empty")
        if cells["id"] in found:
            raise BadCsv("an earlier line has the same id")
        found[cells["id"]] = Contact(cells["id"], cells["email"], cells.get("firstname"), cells.get("lastname"))
    return list(found.values())
