"""The OpenAPI document of the endpoint says what the bridge does; schemathesis tries it on a bridge that listens."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from bridge.envelope import ACTIONS
from bridge.openapi import document
from providers.base import AuthFailed, Refused, Transient
from tests.clock import DrivenClock
from tests.http_bench import HttpBench, beside
from tests.postbox import install

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
async def http(tmp_path: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpBench]:
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    bench = HttpBench(f"sqlite:///{tmp_path / 'bridge.db'}", clock)
    await bench.start()
    yield bench
    await bench.stop()


async def served(http: HttpBench) -> dict[str, Any]:
    answer = await http.admin("/openapi.json")
    assert answer.status == 200
    return answer.body


async def test_it_is_served_on_the_admin_port_and_valid(http: HttpBench) -> None:
    described = await served(http)
    OpenAPIV31SpecValidator(described).validate()
    assert described == document(http.config)
    assert set(described["paths"]) == {"/planfix", "/planfix/{anything}", "/healthz"}
    post = described["paths"]["/planfix"]["post"]
    assert set(post["responses"]) == {"200", "400", "401", "408", "413", "500", "503", "default"}
    examples = post["requestBody"]["content"]["application/json"]["examples"]
    assert list(examples) == list(ACTIONS)


async def test_it_follows_the_settings(http: HttpBench) -> None:
    server = replace(http.config.server, error_status="always_200", path="/other")
    described = document(replace(http.config, server=server, language="ru"))
    assert set(described["paths"]["/other"]["post"]["responses"]) == {"200", "408", "413", "500", "503", "default"}


@pytest.mark.parametrize("action", ACTIONS)
async def test_its_examples_are_understood(http: HttpBench, action: str) -> None:
    post = (await served(http))["paths"]["/planfix"]["post"]
    example = post["requestBody"]["content"]["application/json"]["examples"][action]["value"]
    assert (await http.ask(action, **example["data"])).status == 200
    assert (await http.ask(action, example["authToken"], **example["data"])).status == 401


def written(value: Any) -> Any:
    """JSON Schema calls 1.0 an integer; nobody writes an id so, and the bridge does not take it."""
    match value:
        case dict():
            return {key: written(each) for key, each in value.items()}
        case list():
            return [written(each) for each in value]
        case float() if value.is_integer():
            return int(value)
    return value


# The bridge draws its pauses from `random` while the other thread draws a case: hypothesis takes that for the case's.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("path", ["/planfix", "/planfix/{anything}", "/healthz"])
async def test_the_bridge_does_what_it_says(http: HttpBench, path: str) -> None:
    """With the token, and lists that are there: what the document allows is never refused as not understood."""
    list_id = (await http.ask("createList", listName="A")).body["listId"]
    described = schemathesis.openapi.from_dict(await served(http))
    operation = described[path]["GET" if path == "/healthz" else "POST"]
    base_url = http.url.removesuffix("/planfix")
    endings = st.sampled_from([None, None, Transient("503"), AuthFailed("401"), Refused(detail="no")])

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(), is_known=st.booleans(), ending=endings)
    def check(case: schemathesis.Case, is_known: bool, ending: Any) -> None:
        if path != "/healthz":
            case.body = written(case.body) | {"authToken": http.token}
            if is_known and "listId" in case.body["data"]:
                case.body["data"]["listId"] = list_id
            http.esp.script = [ending]
        response = case.call_and_validate(base_url=base_url, checks=CHECKS)
        assert response.status_code in (200, 503), (case.body, response.json())

    await beside(http, check)


async def test_what_it_does_not_allow_gets_an_answer_that_it_describes(http: HttpBench) -> None:
    described = schemathesis.openapi.from_dict(await served(http))
    operation = described["/planfix"]["POST"]
    base_url = http.url.removesuffix("/planfix")
    strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @settings(
        max_examples=80,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=strategy, is_known=st.booleans())
    def check(case: schemathesis.Case, is_known: bool) -> None:
        if is_known and isinstance(case.body, dict):
            case.body["authToken"] = http.token
        response = case.call_and_validate(base_url=base_url, checks=CHECKS)
        assert response.status_code in (200, 400, 401), response.json()

    await beside(http, check)
