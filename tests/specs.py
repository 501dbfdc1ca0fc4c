"""Holds requests of the providers against the official descriptions in `../shared/specs`, where those are present."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from openapi_core import OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from werkzeug.datastructures import Headers, ImmutableMultiDict

SPECS = Path(__file__).resolve().parents[2] / "shared" / "specs"
BASE_URL = "https://esp.invalid"

Mend = Callable[[dict[str, Any]], None]


class _Request:
    """The shape that openapi-core reads a request from."""

    def __init__(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> None:
        self.parameters = RequestParameters(query=ImmutableMultiDict(query), header=Headers(dict(headers)), cookie={})  # type: ignore[arg-type]
        self.host_url = BASE_URL
        self.path = unquote(path)
        self.full_url_pattern = BASE_URL + self.path
        self.method = method.lower()
        self.body = body or None
        told = headers.get("Content-Type", "application/json")
        self.content_type = told if told.startswith("multipart/") else told.partition(";")[0]  # it names the boundary


class Spec:
    """One service's description, possibly in several files. `faults` is empty for a request that it allows.

    `mend` repairs what is wrong with the description itself, so that it can be used."""

    def __init__(self, files: Sequence[Path], mend: Mend | None = None) -> None:
        documents = [yaml.safe_load(f.read_text()) if f.suffix != ".json" else json.loads(f.read_text()) for f in files]
        self._apis = []
        self._known: dict[Any, list[str]] = {}  # what was found of requests that came before
        for document in documents:
            # The fakes check the key; where the service lives is a setting.
            document["servers"] = [{"url": BASE_URL}]
            document.pop("security", None)
            if mend is not None:
                mend(document)
            for operations in document["paths"].values():
                operations.pop("servers", None)
                for operation in operations.values():
                    if isinstance(operation, dict):
                        operation.pop("security", None)
                        operation.pop("servers", None)
            self._apis.append((document, OpenAPI.from_dict(document)))

    def faults(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> list[str]:
        """What is wrong with a request. An equal one is not looked at twice: tests ask the same again and again."""
        said = frozenset((name.lower(), value) for name, value in headers.items() if name.lower() != "host")
        key = method, path, frozenset(query.items()), said, sha256(body).digest()
        if key not in self._known:
            self._known[key] = self._faults(method, path, query, headers, body)
        return self._known[key]

    def _faults(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> list[str]:
        request = _Request(method, path, query, headers, body)
        unknown = f"{method} {path}: no such operation"
        for document, api in self._apis:
            operation, shared = _operation(document, method, path)
            if operation is None:
                continue
            declared = {_resolve(document, p)["name"] for p in [*shared, *operation.get("parameters", [])]}
            found = [
                f"{method} {path}: query parameter {name!r} is not in the spec"
                for name in query
                if name not in declared
            ]
            try:
                api.validate_request(request)
            except OpenAPIError as error:
                cause = error.__cause__ or error
                details = [e.message for e in getattr(cause, "schema_errors", [])] or [str(cause)]
                found += [f"{method} {path}: {detail}" for detail in details]
            return found
        return [unknown]


def _operation(document: dict[str, Any], method: str, path: str) -> tuple[dict[str, Any] | None, list[Any]]:
    """The operation of a concrete path: the template with the fewest parameters wins, as OpenAPI says."""
    parts = path.split("/")
    matches = []
    for template, operations in document["paths"].items():
        wanted = template.split("/")
        if len(wanted) == len(parts) and all(w.startswith("{") or w == p for w, p in zip(wanted, parts, strict=True)):
            matches.append((template.count("{"), operations))
    for _, operations in sorted(matches, key=lambda m: m[0]):
        if method.lower() in operations:
            return operations[method.lower()], operations.get("parameters", [])
    return None, []


def _resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found: Any = document
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


@cache
def spec(service: str, *names: str, mend: Mend | None = None) -> Spec | None:
    """The description of a service from its files, None where `../shared` is not there (a user's machine)."""
    files = [SPECS / service / name for name in names]
    return Spec(files, mend) if all(f.is_file() for f in files) else None
