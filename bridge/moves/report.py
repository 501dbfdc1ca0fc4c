"""The file that tells what became of everybody: Planfix ids and reasons, no addresses."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bridge.store import Copied

COLUMNS = ("list", "planfix_id", "result", "reason", "detail")


class Report:
    """A CSV file for its owner's eyes, written line by line. Use it as a context manager; raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        opened = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = open(opened, "w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._csv.writerow(COLUMNS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def people(self, public_id: str, copied: Sequence[Copied]) -> None:
        """What became of contacts of a list."""
        self._csv.writerows((public_id, each.contact_id, each.result, each.reason, each.detail) for each in copied)
        self._file.flush()

    def whole_list(self, public_id: str, result: str, reason: str) -> None:
        """What became of a list."""
        self._csv.writerow((public_id, "", result, reason, ""))
        self._file.flush()
