"""The official descriptions of the services, which the fakes hold every request of the providers against."""

from typing import Any

import pytest

from tests.fakes.mailchimp import mailchimp_spec
from tests.fakes.sendgrid import sendgrid_spec
from tests.specs import SPECS, Spec

SERVICES = {"mailchimp": mailchimp_spec, "sendgrid": sendgrid_spec}


def spec_of(service: str) -> Spec:
    found = SERVICES[service]()
    if found is None:
        pytest.skip(f"{SPECS.name} of {service} are not here: its requests were not held against them")
    return found


@pytest.mark.parametrize(
    ("service", "method", "path", "query", "body"),
    [
        ("mailchimp", "POST", "/lists/abc/segments", {}, b'{"name": "x", "static_segment": []}'),
        ("sendgrid", "PUT", "/v3/marketing/contacts", {}, b'{"contacts": [{"email": "a@b.test"}]}'),
        ("sendgrid", "GET", "/v3/asm/suppressions/global/a%40b.test", {}, b""),
    ],
)
def test_a_request_that_the_service_describes_is_well(
    service: str, method: str, path: str, query: dict[str, str], body: bytes
) -> None:
    assert spec_of(service).faults(method, path, query, {}, body) == []


@pytest.mark.parametrize(
    ("service", "method", "path", "query", "body", "fault"),
    [
        ("mailchimp", "POST", "/lists/abc/segments", {}, b'{"nam": "x"}', "'name' is a required property"),
        ("mailchimp", "POST", "/lists/abc", {}, b'{"members": [{"status": "bogus"}]}', "'bogus' is not one of"),
        ("mailchimp", "PATCH", "/lists/abc/nonsense", {}, b"{}", "no such operation"),
        ("mailchimp", "GET", "/lists", {"bogus": "1"}, b"", "query parameter 'bogus'"),
        ("sendgrid", "PUT", "/v3/marketing/contacts", {}, b'{"list_ids": ["x"], "contacts": []}', "not a 'uuid'"),
    ],
)
def test_a_request_that_it_does_not_is_a_fault(
    service: str, method: str, path: str, query: dict[str, str], body: bytes, fault: str
) -> None:
    faults: list[Any] = spec_of(service).faults(method, path, query, {}, body)
    assert any(fault in each for each in faults), faults
