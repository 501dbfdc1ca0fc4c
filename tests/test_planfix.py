"""The wire: what Planfix may send, what becomes of it, and what it is told."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.envelope import UNSAFE, open_envelope
from bridge.languages import LANGUAGES
from bridge.planfix import (
    CONTACT_ID_MAX_CHARS,
    LIST_ID_MAX_CHARS,
    LIST_NAME_MAX_CHARS,
    CreateList,
    DeleteList,
    ImportContacts,
    Request,
    UpdateContact,
    WireContact,
    read_request,
)
from bridge.replies import (
    Failure,
    ListCreated,
    Outcome,
    Refusal,
    Reply,
    Tally,
    Unavailable,
    bad_request_reply,
    error_reply,
    reply_to,
    unauthorized_reply,
)
from bridge.strict_json import NESTING_MAX_LEVELS, BadRequest, read_body, read_data, read_item
from bridge.texts import TEXTS, text
from bridge.tickets import REJECTED_SHOWN
from providers.base import ADDRESS_MAX_CHARS, Reason

TOKEN = "the-token-of-the-account"
MASHA = {"id": 123, "email": "masha@example.com", "firstName": "Маша", "lastName": "Иванова"}
WIRE_MASHA = WireContact("123", "masha@example.com", "Маша", "Иванова")
UPDATE = {"listId": "sandbox:1", "action": "update", "contact": MASHA, "oldEmail": "old@example.com"}
BOM = b"\xef\xbb\xbf"


def body_of(action: Any, data: Any) -> bytes:
    return json.dumps({"action": action, "authToken": TOKEN, "data": data}).encode()


def read(action: Any, data: Any) -> Request:
    return whole(read_request(open_envelope(body_of(action, data))))


def whole(request: Request) -> Request:
    """The request with its contacts made, if it is an import."""
    return replace(request, contacts=list(request.contacts)) if isinstance(request, ImportContacts) else request


def read_contact(**fields: Any) -> WireContact:
    request = read("updateContact", {"listId": 1, "action": "add", "contact": {"id": 1} | fields})
    assert isinstance(request, UpdateContact)
    return request.contact


def read_update(**fields: Any) -> UpdateContact:
    request = read("updateContact", UPDATE | fields)
    assert isinstance(request, UpdateContact)
    return request


def fault_of(step: Callable[[], object]) -> tuple[str, str]:
    """Code and field of the BadRequest that `step` raises."""
    with pytest.raises(BadRequest) as caught:
        step()
    return caught.value.code, caught.value.field


# The four requests


@pytest.mark.parametrize(
    ("action", "data", "request_"),
    [
        ("createList", {"listName": "Название списка"}, CreateList("Название списка")),
        ("deleteList", {"listId": "mailchimp:a1"}, DeleteList("mailchimp:a1")),
        ("deleteList", {"listId": 17}, DeleteList("17")),
        ("importContacts", {"listId": "x:1", "contacts": [MASHA]}, ImportContacts("x:1", [WIRE_MASHA])),
        ("importContacts", {"listId": "x:1", "contacts": []}, ImportContacts("x:1", [])),
        ("updateContact", UPDATE, UpdateContact("sandbox:1", "update", WIRE_MASHA, "old@example.com")),
        ("updateContact", UPDATE | {"action": "add"}, UpdateContact("sandbox:1", "add", WIRE_MASHA, "old@example.com")),
        (
            "updateContact",
            {"listId": 1, "action": "delete", "contact": {"id": 5}},
            UpdateContact("1", "delete", WireContact("5", "", None, None, Reason.NO_ADDRESS), None),
        ),
    ],
)
def test_a_request_is_read(action: str, data: Any, request_: Request) -> None:
    assert read(action, data) == request_
    assert read(action, data | {"unknown": [{"deep": 1}], "more": 1.5}) == request_


def test_unknown_fields_of_a_contact_and_of_the_envelope_are_ignored() -> None:
    assert read_contact(**MASHA, phone=["+7"]) == WIRE_MASHA
    envelope = open_envelope(b'{"action": "createList", "version": 2, "data": {"listName": "a"}}')
    assert read_request(envelope) == CreateList("a")


def test_nothing_secret_or_personal_is_printed() -> None:
    envelope = open_envelope(body_of("updateContact", UPDATE))
    for printed in (repr(envelope), repr(read_request(envelope))):
        assert TOKEN not in printed
        assert "@example.com" not in printed
        assert "Иванова" not in printed


# From bytes to the envelope

PLAIN = body_of("createList", {"listName": "Осень & зима + 100%"})
FIELDS = {"action": "createList", "authToken": TOKEN, "data": json.dumps({"listName": "Осень & зима + 100%"})}


@pytest.mark.parametrize(
    "body",
    [
        PLAIN,
        BOM + PLAIN,
        b" \r\n\t" + PLAIN + b"\r\n",
        BOM + b"\n" + PLAIN,
        json.dumps(json.loads(PLAIN), ensure_ascii=False).encode(),
        urlencode({"json": PLAIN.decode()}).encode(),
        urlencode({"": PLAIN.decode()}).encode(),
        urlencode({"data": PLAIN.decode()}, quote_via=quote).encode() + b"\r\n",
        urlencode(FIELDS).encode(),
        urlencode(FIELDS | {"more": ""}).encode(),
        BOM + urlencode(FIELDS).encode(),
    ],
)
def test_the_body_may_be_json_or_a_form(body: bytes) -> None:
    envelope = open_envelope(body)
    assert envelope.token == TOKEN
    assert read_request(envelope) == CreateList("Осень & зима + 100%")


def nested(levels: int) -> bytes:
    """A body whose JSON has so many levels."""
    return b'{"action": "deleteList", "data":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed"),
        (BOM, "malformed"),
        (b"null", "malformed"),
        (b"[]", "malformed"),
        (b"[" + PLAIN + b"]", "malformed"),
        (b'"text"', "malformed"),
        (b"12", "malformed"),
        (PLAIN[:-1], "malformed"),
        (PLAIN + PLAIN, "malformed"),
        (b'{"action": NaN}', "malformed"),
        (b'{"action": -Infinity}', "malformed"),
        (b'{"data": "raw \n control"}', "malformed"),
        (b"{'action': 'createList'}", "malformed"),
        (PLAIN.decode().encode("utf-16"), "not_utf8"),
        (PLAIN.decode().encode("utf-16-le"), "malformed"),
        ('{"data": "Осень"}'.encode("cp1251"), "not_utf8"),
        (b"\x00", "malformed"),
        (b"&", "malformed"),
        (nested(100_000), "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
        (b"json=not+json", "malformed"),
        (b"json=[]", "malformed"),
        (b"json=" + quote('{"data": "').encode() + b"%FF%22}", "not_utf8"),
        (b"json=" + quote('{"data": "').encode() + b"100%}", "malformed"),
        (b"json={}%", "malformed"),
        (b"action=createList&action=deleteList&data={}", "duplicate_key"),
        (b"&".join(b"f%d=1" % number for number in range(100)), "malformed"),
    ],
)
def test_a_broken_body_is_refused(body: bytes, code: str) -> None:
    assert fault_of(lambda: open_envelope(body)) == (code, "")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"action": "deleteList", "data": {"listId": ' + b"9" * 5000 + b"}}", "malformed"),
        (b'{"action": "deleteList", "action": "deleteList"}', "duplicate_key"),
        (b'{"action": "deleteList", "id": 1, "\\u0069d": 2}', "duplicate_key"),
        (b'{"action": "deleteList", "data": {"contacts": [{"id": 1, "x": {"y": 1, "y": 1}}]}}', "duplicate_key"),
        (nested(NESTING_MAX_LEVELS + 1), "too_deep"),
        (b"action=deleteList&data=broken", "malformed"),
        (b"action=deleteList&data=" + quote('{"a":1,"a":1}').encode(), "duplicate_key"),
    ],
)
def test_what_is_broken_inside_is_told_only_to_who_has_shown_a_token(body: bytes, code: str) -> None:
    envelope = open_envelope(body)
    assert fault_of(lambda: read_request(envelope)) == (code, "")


def test_as_many_levels_as_allowed_are_read() -> None:
    assert open_envelope(nested(NESTING_MAX_LEVELS)).read_data() is not None


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [' + b"[]," * 1_000_000 + b"[]]}",
        b'{"authToken": [' + b"{}," * 1_000_000 + b"{}]}",
        b"json=" + quote('{"data": [').encode() + b"%5B%5D%2C" * 300_000 + b"%5B%5D%5D%7D",
        b"action=createList&data=" + b"%5B%5D%2C" * 300_000,
        b'{"data": "' + rb"\ud83d" * 500_000 + b'"}',
    ],
    ids=["in data", "in the token", "form", "field of a form", "halves of characters"],
)
def test_what_a_stranger_sends_is_made_into_nothing_much(body: bytes) -> None:
    tracemalloc.start()
    try:
        assert open_envelope(body).token == ""
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 6 * len(body)


@pytest.mark.parametrize("token", ["ключ", "🔑", "a/b"])
def test_halves_of_characters_in_the_data_do_not_hide_the_token(token: str) -> None:
    data = {"listName": "cut in the middle \ud83d"}
    envelope = open_envelope(json.dumps({"action": "createList", "authToken": token, "data": data}).encode())
    assert read_request(envelope) == CreateList("cut in the middle")
    # The one price: a character that is written as two halves, as nobody has in a token.
    assert envelope.token == ("" if token == "🔑" else token)


@pytest.mark.parametrize("token", [None, "", 12, True, ["x"], {"x": 1}, "\ud800", "a\x00b"])
def test_a_token_that_can_be_none_is_empty(token: Any) -> None:
    assert open_envelope(json.dumps({"action": "createList", "authToken": token}).encode()).token == ""
    assert open_envelope(b'{"action": "createList"}').token == ""


def test_the_token_is_told_before_the_rest_is_judged() -> None:
    envelope = open_envelope(json.dumps({"action": 5, "authToken": TOKEN, "data": "x"}).encode())
    assert (envelope.action, envelope.token, envelope.read_data()) == ("", TOKEN, "x")


def test_what_is_printable_need_not_be_looked_through() -> None:
    assert not [letter for letter in map(chr, range(0x110000)) if letter.isprintable() and UNSAFE.match(letter)]


# Contacts are made one by one


def test_an_import_is_not_made_into_objects_before_they_are_asked_for() -> None:
    people = [MASHA | {"id": number} for number in range(5000)]
    body = json.dumps({"action": "importContacts", "data": {"listId": 1, "contacts": people}}).encode()
    tracemalloc.start()
    try:
        request = read_request(open_envelope(body))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 * len(body)
    assert isinstance(request, ImportContacts)
    assert [contact.id for contact in request.contacts] == [str(number) for number in range(5000)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ('{"listId": 1, "contacts": [{"id": 1, "id": 1}]}', "duplicate_key"),
        ('{"listId": 1, "contacts": [{"id": 1}], "contacts": [{"id": 1}]}', "duplicate_key"),
        ('{"listId": 1, "contacts": [{"id": 1}], "contacts": 5}', "duplicate_key"),
        ('{"listId": 1, "listId": 1, "contacts": [{"id": 1}]}', "duplicate_key"),
        ('{"listId": 1, "contacts": [{"id": NaN}]}', "malformed"),
        ('{"listId": 1, "contacts": [{"id": 1},]}', "malformed"),
        ('{"listId": 1, "contacts": [' + "[" * 18 + "]" * 18 + "]}", "too_deep"),
    ],
)
@pytest.mark.parametrize("as_form", [False, True])
def test_contacts_are_read_as_strictly_as_the_rest(data: str, code: str, as_form: bool) -> None:
    if as_form:
        body = urlencode({"action": "importContacts", "authToken": TOKEN, "data": data})
    else:
        body = f'{{"action": "importContacts", "authToken": "{TOKEN}", "data": {data}}}'
    assert fault_of(lambda: read_request(open_envelope(body.encode())))[0] == code


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda of: st.lists(of) | st.dictionaries(st.sampled_from(["data", "contacts", "id"]), of),
        max_leaves=20,
    )
)
def test_a_body_is_read_as_json_is_but_for_the_time_at_which_its_contacts_are(document: Any) -> None:
    content = json.dumps(document).encode()
    assert read_all(read_body(content)) == read_all(read_data(content)) == document


def read_all(value: Any) -> Any:
    """The value with what was left unread in it."""
    if isinstance(value, list):
        return [read_all(read_item(item)) for item in value]
    return {key: read_all(each) for key, each in value.items()} if isinstance(value, dict) else value


# Faults name their field


@pytest.mark.parametrize("action", ["", "CREATELIST", "createList ", "subscribe", None, 1, True, ["createList"], {}])
def test_an_unknown_action_is_refused(action: Any) -> None:
    assert fault_of(lambda: read(action, {"listName": "a"})) == ("unknown_action", "action")
    assert open_envelope(body_of(action, {})).action == ""


def with_second_contact(**fields: Any) -> dict[str, Any]:
    return {"listId": 1, "contacts": [MASHA, MASHA | fields]}


@pytest.mark.parametrize(
    ("action", "data", "fault"),
    [
        ("createList", None, ("missing_field", "data")),
        ("createList", [], ("not_object", "data")),
        ("createList", "listName", ("not_object", "data")),
        ("createList", {}, ("missing_field", "data.listName")),
        ("createList", {"listName": None}, ("missing_field", "data.listName")),
        ("createList", {"listName": " \u00a0\x00"}, ("missing_field", "data.listName")),
        ("createList", {"listName": 2025}, ("not_text", "data.listName")),
        ("createList", {"listName": "я" * (LIST_NAME_MAX_CHARS + 1)}, ("too_long", "data.listName")),
        ("deleteList", {}, ("missing_field", "data.listId")),
        ("deleteList", {"listId": True}, ("not_id", "data.listId")),
        ("deleteList", {"listId": 1.5}, ("not_id", "data.listId")),
        ("deleteList", {"listId": "sandbox:\ud800"}, ("not_id", "data.listId")),
        ("deleteList", {"listId": "  "}, ("missing_field", "data.listId")),
        ("deleteList", {"listId": "x" * (LIST_ID_MAX_CHARS + 1)}, ("not_id", "data.listId")),
        ("importContacts", {"listId": 1}, ("missing_field", "data.contacts")),
        ("importContacts", {"contacts": []}, ("missing_field", "data.listId")),
        ("importContacts", {"listId": 1, "contacts": {}}, ("not_array", "data.contacts")),
        ("importContacts", {"listId": 1, "contacts": [MASHA, 5]}, ("not_object", "data.contacts[1]")),
        ("importContacts", {"listId": 1, "contacts": [None]}, ("missing_field", "data.contacts[0]")),
        ("importContacts", with_second_contact(id=None), ("missing_field", "data.contacts[1].id")),
        ("importContacts", with_second_contact(id=False), ("not_id", "data.contacts[1].id")),
        ("importContacts", with_second_contact(email=5), ("not_text", "data.contacts[1].email")),
        ("importContacts", with_second_contact(email=[]), ("not_text", "data.contacts[1].email")),
        ("importContacts", with_second_contact(firstName=5), ("not_text", "data.contacts[1].firstName")),
        ("importContacts", with_second_contact(lastName={}), ("not_text", "data.contacts[1].lastName")),
        ("updateContact", UPDATE | {"action": None}, ("unknown_change", "data.action")),
        ("updateContact", UPDATE | {"action": "upsert"}, ("unknown_change", "data.action")),
        ("updateContact", UPDATE | {"action": 1}, ("not_text", "data.action")),
        ("updateContact", UPDATE | {"contact": None}, ("missing_field", "data.contact")),
        ("updateContact", UPDATE | {"contact": [MASHA]}, ("not_object", "data.contact")),
        ("updateContact", UPDATE | {"contact": {"email": "a@b"}}, ("missing_field", "data.contact.id")),
        ("updateContact", UPDATE | {"listId": None}, ("missing_field", "data.listId")),
        ("updateContact", UPDATE | {"oldEmail": 5}, ("not_text", "data.oldEmail")),
    ],
)
def test_a_fault_names_its_field(action: str, data: Any, fault: tuple[str, str]) -> None:
    assert fault_of(lambda: read(action, data)) == fault


# Ids, names, addresses


@pytest.mark.parametrize(
    ("sent", "kept"),
    [(123, "123"), (0, "0"), (-5, "-5"), ("123", "123"), (" 00a-Я \n", "00a-Я"), ("9" * CONTACT_ID_MAX_CHARS,) * 2],
)
def test_an_id_is_kept_as_text(sent: Any, kept: str) -> None:
    assert read_contact(id=sent).id == kept


@pytest.mark.parametrize(
    "sent",
    [True, 1.0, 1e3, [], {}, 10**CONTACT_ID_MAX_CHARS, "9" * (CONTACT_ID_MAX_CHARS + 1), "a\x00b", "a\nb", "a\ud800"],
)
def test_what_is_no_id_is_refused_and_never_mended(sent: Any) -> None:
    assert fault_of(lambda: read_contact(id=sent)) == ("not_id", "data.contact.id")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (None, None),
        ("", ""),
        ("  ", ""),
        (" Анна-Мария ", "Анна-Мария"),
        ("Ан\x00на\tМария\r\n", "Ан на Мария"),
        ("Анна\ud83d", "Анна"),
        ("Анна \U0001f600", "Анна \U0001f600"),
        ("Tom &amp; Co <b>", "Tom &amp; Co <b>"),
    ],
)
def test_names_are_cleaned_and_an_untold_one_stays_untold(sent: str | None, kept: str | None) -> None:
    contact = read_contact(firstName=sent, lastName=sent)
    assert (contact.first_name, contact.last_name) == (kept, kept)
    assert read_contact() == WireContact("1", "", None, None, Reason.NO_ADDRESS)


def test_a_list_name_is_cleaned() -> None:
    assert read("createList", {"listName": " Осень\x002025\n"}) == CreateList("Осень 2025")
    assert read("createList", {"listName": "я" * LIST_NAME_MAX_CHARS}) == CreateList("я" * LIST_NAME_MAX_CHARS)


LONGEST = "a" * (ADDRESS_MAX_CHARS - len("@example.com")) + "@example.com"


@pytest.mark.parametrize(
    ("sent", "address"),
    [
        ("Masha.O'Neil+news@Example.COM", "Masha.O'Neil+news@Example.COM"),
        (" masha@example.com\r\n", "masha@example.com"),
        ("маша@пример.рф", "маша@пример.рф"),
        ("root@localhost", "root@localhost"),
        (LONGEST, LONGEST),
        ("a@example.com, b@example.com", "a@example.com"),
        ("a@example.com,b@example.com", "a@example.com"),
        ("a@example.com; b@example.com", "a@example.com"),
        ("a@example.com b@example.com", "a@example.com"),
        (", ;a@example.com,", "a@example.com"),
        ("Masha <masha@example.com>", "masha@example.com"),
        ("<masha@example.com>", "masha@example.com"),
        ('"Иванова, Маша" < masha@example.com >', "masha@example.com"),
        ("A <a@example.com>, B <b@example.com>", "a@example.com"),
    ],
)
def test_the_address_is_taken_from_the_text(sent: str, address: str) -> None:
    contact = read_contact(email=sent)
    assert (contact.address, contact.problem) == (address, None)


@pytest.mark.parametrize("sent", [None, "", " ", "\t\n\u00a0"])
def test_no_address_is_a_problem_of_the_contact(sent: str | None) -> None:
    assert read_contact(email=sent) == WireContact("1", "", None, None, Reason.NO_ADDRESS)


@pytest.mark.parametrize(
    "sent",
    [
        *["masha", "@", "@example.com", "masha@", "a@b@example.com", "masha@ example.com", "<masha>", ","],
        *["ma\x00sha@example.com", "masha@exam\ud800ple.com", "a" + LONGEST],
        # slips of which a part alone would be the address of somebody else
        *["masha ivanova@example.com", "masha,ivanova@example.com", '"masha ivanova"@example.com'],
        *["masha(ivanova@example.com", "mailto:masha@example.com"],
        *["masha@example.co m", "masha@example,com", "masha@example.com, none"],
    ],
)
def test_a_text_that_is_no_address_is_a_problem_of_the_contact(sent: str) -> None:
    assert read_contact(email=sent) == WireContact("1", "", None, None, Reason.INVALID_ADDRESS)


def test_a_bad_address_does_not_touch_the_other_contacts() -> None:
    request = read("importContacts", {"listId": 1, "contacts": [MASHA, {"id": 2, "email": "?"}, MASHA]})
    assert request == ImportContacts("1", [WIRE_MASHA, WIRE_MASHA], (("2", Reason.INVALID_ADDRESS),))


@pytest.mark.parametrize(
    ("sent", "old_address"),
    [
        ("Old@example.com", "Old@example.com"),
        (" old@example.com, more@example.com", "old@example.com"),
        (None, None),
        ("", None),
        ("nonsense", None),
        ("masha@example.com", None),
        ("MASHA@example.com", None),
    ],
)
def test_an_old_address_counts_only_when_it_differs(sent: str | None, old_address: str | None) -> None:
    assert read_update(oldEmail=sent).old_address == old_address


def test_an_old_address_counts_when_the_new_one_is_missing() -> None:
    request = read_update(contact={"id": 1, "email": ""})
    assert (request.contact.problem, request.old_address) == (Reason.NO_ADDRESS, "old@example.com")


# Whatever is sent

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
anything = json_values | st.sampled_from([1, "x:1", "a@example.com", "add", "update", "delete", MASHA, [MASHA]])
contacts = st.fixed_dictionaries(
    {}, optional={"id": anything, "email": anything, "firstName": anything, "lastName": anything}
)
data = json_values | st.fixed_dictionaries(
    {},
    optional={
        "listName": anything,
        "listId": anything,
        "action": anything,
        "contact": contacts | anything,
        "contacts": st.lists(contacts | anything, max_size=3) | anything,
        "oldEmail": anything,
    },
)
documents = st.fixed_dictionaries(
    {"action": st.sampled_from(["createList", "deleteList", "importContacts", "updateContact"]) | json_values},
    optional={"data": data, "authToken": json_values, "more": json_values},
)
pieces = st.sampled_from([BOM, PLAIN, b"{", b"}", b"[", b'"', b"=", b"&", b"%", b"+", b":", b",", b"\\ud800"])


@given(st.binary() | st.lists(pieces | st.binary(max_size=3)).map(b"".join))
def test_any_bytes_are_an_envelope_or_a_bad_request(body: bytes) -> None:
    try:
        envelope = open_envelope(body)
        read_request(envelope)
    except BadRequest as error:
        assert_told(error)


def texts_in(request: Request) -> list[str]:
    match request:
        case CreateList(name):
            return [name]
        case DeleteList(list_id):
            return [list_id]
        case ImportContacts(list_id, contacts, refused):
            found = [*contacts, *(WireContact(contact_id, "", None, None) for contact_id, _ in refused)]
        case UpdateContact(list_id, _, contact, old_address):
            found = [contact, WireContact("old", old_address or "", None, None)]
    names = [name for contact in found for name in (contact.first_name, contact.last_name) if name is not None]
    return [list_id, *names, *(contact.address for contact in found), *(contact.id for contact in found)]


@given(documents)
def test_any_json_is_a_clean_request_or_a_bad_request(document: dict[str, Any]) -> None:
    envelope = open_envelope(json.dumps(document).encode())
    envelope.token.encode()
    try:
        request = read_request(envelope)
    except BadRequest as error:
        assert_told(error)
        return
    for kept in texts_in(request):
        kept.encode()
        assert kept == kept.strip()
        assert not any(letter < " " for letter in kept)


def assert_told(error: BadRequest) -> None:
    for language in LANGUAGES:
        reply = bad_request_reply(error, language, always_200=False)
        assert_canonical(reply)
        assert reply.status == 400
        assert error.field in told(reply)["error"]


words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
ids = st.integers(-(10**30), 10**30) | words
addresses = st.builds("{}@{}".format, *[st.text("abcЯя.-+'", min_size=1, max_size=20)] * 2)
good_contacts = st.fixed_dictionaries(
    {"id": ids, "email": addresses}, optional={"firstName": words | st.none(), "lastName": words | st.none()}
)


def as_wire(contact: dict[str, Any]) -> WireContact:
    return WireContact(str(contact["id"]), contact["email"], contact.get("firstName"), contact.get("lastName"))


@given(ids, st.lists(good_contacts, max_size=5), words, st.booleans(), st.booleans())
def test_a_good_import_comes_through_unchanged(
    list_id: int | str, sent: list[dict[str, Any]], token: str, escaped: bool, as_form: bool
) -> None:
    document = {"action": "importContacts", "authToken": token, "data": {"listId": list_id, "contacts": sent}}
    content = json.dumps(document, ensure_ascii=escaped)
    envelope = open_envelope((urlencode({"json": content}) if as_form else content).encode())
    assert envelope.token == token
    assert whole(read_request(envelope)) == ImportContacts(str(list_id), [as_wire(contact) for contact in sent])


@given(ids, good_contacts, st.sampled_from(["add", "update", "delete"]), addresses)
def test_a_good_change_comes_through_unchanged(
    list_id: int | str, sent: dict[str, Any], change: Any, old_address: str
) -> None:
    differs = old_address.lower() != sent["email"].lower()
    assert read_update(listId=list_id, contact=sent, action=change, oldEmail=old_address) == UpdateContact(
        str(list_id), change, as_wire(sent), old_address if differs else None
    )


# Replies


def told(reply: Reply) -> Any:
    return json.loads(reply.encode().decode("utf-8"))


def assert_canonical(reply: Reply) -> None:
    """One JSON object that holds `success: true` or an error text, never both, never neither."""
    body = told(reply)
    assert ("success" in body) != ("error" in body)
    if "success" in body:
        assert body["success"] is True
        assert reply.status == 200
    else:
        assert body.keys() == {"error"}
        assert body["error"].strip()


REFUSALS = [Refusal("1", Reason.INVALID_ADDRESS), Refusal("2", Reason.FORGOTTEN)]


@pytest.mark.parametrize(
    ("outcome", "body"),
    [
        (ListCreated("mailchimp:a1"), {"success": True, "listId": "mailchimp:a1"}),
        (Tally(), {"success": True}),
        (Tally(delivered=3), {"success": True}),
        (Tally(delivered=3, pending=2), {"success": True, "pending": 2}),
        (
            Tally(delivered=3, pending=4, rejected=REFUSALS, rejected_count=2),
            {
                "success": True,
                "delivered": 3,
                "pending": 4,
                "rejected": [
                    {"id": "1", "reason": text("invalid_address", "ru")},
                    {"id": "2", "reason": text("forgotten", "ru")},
                ],
            },
        ),
        (
            Tally(pending=1, rejected=REFUSALS[1:], rejected_count=1),
            {
                "success": True,
                "delivered": 0,
                "pending": 1,
                "rejected": [{"id": "2", "reason": text("forgotten", "ru")}],
            },
        ),
        (Tally(rejected=REFUSALS[1:], rejected_count=1), {"error": text("forgotten", "ru")}),
        (
            Tally(rejected=REFUSALS, rejected_count=300),
            {
                "error": "Ни один контакт не принят. Отклонено: 300. "
                "Первая причина: Некорректный email-адрес. Исправьте его."
            },
        ),
        (Failure("auth_failed"), {"error": text("auth_failed", "ru")}),
        (Failure(Reason.LIST_LIMIT, "403 limit 5"), {"error": text("list_limit", "ru") + " (403 limit 5)"}),
        (Tally(delivered=5, failure=Failure("auth_failed")), {"error": text("auth_failed", "ru")}),
    ],
)
def test_an_outcome_is_told(outcome: Outcome, body: dict[str, object]) -> None:
    reply = reply_to(outcome, "ru", always_200=False)
    assert (reply.status, told(reply)) == (200, body)
    assert_canonical(reply)
    assert reply_to(outcome, "ru", always_200=True) == reply


def test_only_the_first_refused_contacts_are_named() -> None:
    refusals = [Refusal(str(number), Reason.CONTACT_REFUSED) for number in range(250)]
    body = told(reply_to(Tally(1, 0, refusals, 250), "en", always_200=False))
    assert [refused["id"] for refused in body["rejected"]] == [str(number) for number in range(REJECTED_SHOWN)]


def test_some_statuses_become_200_on_request() -> None:
    for always_200, statuses in ((False, [400, 401, 503]), (True, [200, 200, 200])):
        replies = [
            bad_request_reply(BadRequest("missing_field", "data.listId"), "en", always_200),
            unauthorized_reply("en", always_200),
            reply_to(Unavailable(), "en", always_200),
        ]
        assert [reply.status for reply in replies] == statuses
        for reply in replies:
            assert_canonical(reply)


def test_an_error_outside_the_actions_keeps_its_status() -> None:
    reply = error_reply(404, "not_found", "en")
    assert (reply.status, told(reply)) == (404, {"error": text("not_found", "en")})


def test_the_detail_of_a_failure_is_safe_and_bounded() -> None:
    error = told(reply_to(Failure("request_refused", "masha@example.com\n" + "x" * 9999 + "\ud800"), "en", False))[
        "error"
    ]
    assert "masha@example.com" not in error
    assert "\n" not in error
    assert len(error) < 400


outcomes = st.one_of(
    st.builds(ListCreated, words),
    st.builds(Failure, st.sampled_from([*Reason, "auth_failed", "storage"]), st.text(alphabet=st.characters())),
    st.just(Unavailable()),
    st.builds(
        lambda delivered, pending, rejected, failure: Tally(delivered, pending, rejected, len(rejected), failure),
        st.integers(0, 5),
        st.integers(0, 5),
        st.lists(st.builds(Refusal, words, st.sampled_from(Reason)), max_size=3),
        st.none() | st.just(Failure("auth_failed")),
    ),
)


@given(outcomes, st.sampled_from(LANGUAGES), st.booleans())
def test_every_reply_is_success_or_error(outcome: Outcome, language: str, always_200: bool) -> None:
    reply = reply_to(outcome, language, always_200)
    assert_canonical(reply)
    assert reply.status == 200 or not always_200


@pytest.mark.parametrize(
    "body",
    [
        body_of(TOKEN, {}),
        body_of("createList", TOKEN),
        body_of("createList", {"listName": [TOKEN]}),
        body_of("deleteList", {"listId": TOKEN * 50}),
        body_of("updateContact", UPDATE | {"action": TOKEN}),
        json.dumps({"authToken": TOKEN}).encode()[:-1],
        f'{{"{TOKEN}": 1, "{TOKEN}": 2}}'.encode(),
        f"authToken={TOKEN}&data={TOKEN}".encode(),
        TOKEN.encode(),
    ],
)
def test_what_the_client_sent_is_never_quoted(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        read_request(open_envelope(body))
    assert TOKEN not in str(caught.value)
    for language in LANGUAGES:
        assert TOKEN not in str(told(bad_request_reply(caught.value, language, always_200=False)))


def test_every_text_of_a_bad_request_takes_a_field() -> None:
    with_field = {code for code, template in TEXTS.items() if "%(field)s" in template}
    without_field = {"malformed", "not_utf8", "duplicate_key", "too_deep"}
    for code in with_field | without_field:
        assert_told(BadRequest(code, "data.contacts[3].email" if code in with_field else ""))
