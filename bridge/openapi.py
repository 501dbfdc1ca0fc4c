"""The endpoint as an OpenAPI document, for who builds against it without Planfix. Tests hold the bridge to it."""

from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from bridge.config import Config
from bridge.envelope import ACTIONS
from bridge.planfix import CONTACT_ID_MAX_CHARS, LIST_ID_MAX_CHARS, LIST_NAME_MAX_CHARS
from bridge.texts import text
from bridge.tickets import REJECTED_SHOWN

Schema = dict[str, Any]

_UNSAFE: Final = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
_VISIBLE: Final = rf"[^\s{_UNSAFE}]"
_CONTACT: Final = {"id": 123, "email": "anna@example.com", "firstName": "Анна", "lastName": "Петрова"}
_DATA_EXAMPLES: Final[dict[str, Schema]] = {
    "createList": {"listName": "Клиенты"},
    "deleteList": {"listId": "sandbox:1"},
    "importContacts": {"listId": "sandbox:1", "contacts": [_CONTACT]},
    "updateContact": {
        "listId": "sandbox:1",
        "action": "update",
        "contact": _CONTACT,
        "oldEmail": "anna.old@example.com",
    },
}
_WHEN: Final = {
    HTTPStatus.OK: "Done, accepted, or refused by the email service for good.",
    HTTPStatus.BAD_REQUEST: "Not understood; the text names the field.",
    HTTPStatus.UNAUTHORIZED: "The token is missing or wrong. After some wrong ones the answer comes later and later.",
    HTTPStatus.REQUEST_TIMEOUT: "The request did not arrive within `server.receive_within_s`.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body has more than `server.max_body_mb`.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "A fault of the bridge; its log tells more.",
    HTTPStatus.SERVICE_UNAVAILABLE: "A list cannot be made while its email service is away; or too many connections.",
}
_OTHERWISE: Final = "Broken HTTP, another path or method, an expectation that is not met: 400, 404, 405, 417."
_MAY_BE_200: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED)


def document(config: Config) -> Schema:
    """The OpenAPI 3.1 document of the public port with these settings."""
    always_200 = config.server.error_status == "always_200"
    answers = {
        str(status.value): _answer(when, "Answer" if status is HTTPStatus.OK else "Error")
        for status, when in _WHEN.items()
        if not (always_200 and status in _MAY_BE_200)
    } | {"default": _answer(_OTHERWISE, "Error")}
    post = {
        "operationId": "planfix",
        "summary": "One of the four actions of Planfix",
        "description": "Any Content-Type is taken; a form whose one field holds the JSON, or of the three fields, too.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _ref("Request"),
                    "examples": {
                        action: {"value": {"action": action, "authToken": "the token of the account", "data": data}}
                        for action, data in _DATA_EXAMPLES.items()
                    },
                }
            },
        },
        "responses": answers,
    }
    anything = {"name": "anything", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Planfix mailing bridge",
            "version": version("planfix-bridge"),
            "description": "What Planfix calls to keep mailing lists in step with its contact filters.",
        },
        "paths": {
            config.server.path: {"post": post},
            config.server.path + "/{anything}": {
                "parameters": [anything],
                "post": post | {"operationId": "planfixUnderAnyPath"},
            },
            "/healthz": {
                "get": {
                    "operationId": "healthz",
                    "summary": "Whether the process runs",
                    "responses": {"200": _answer("It runs.", "Health"), "default": _answer(_OTHERWISE, "Error")},
                }
            },
        },
        "components": {"schemas": _schemas(config.language)},
    }


def _schemas(language: str) -> dict[str, Schema]:
    contact_id = _id(CONTACT_ID_MAX_CHARS, "of the contact in Planfix")
    list_id = _id(LIST_ID_MAX_CHARS, "as `createList` gave it")
    name = {"type": ["string", "null"], "description": "absent or null: not told"}
    data: dict[str, Schema] = {
        "createList": _object(
            {"listName": {"type": "string", "pattern": _VISIBLE, "maxLength": LIST_NAME_MAX_CHARS}}, "listName"
        ),
        "deleteList": _object({"listId": list_id}, "listId"),
        "importContacts": _object(
            {"listId": list_id, "contacts": {"type": "array", "items": _ref("Contact")}}, "listId", "contacts"
        ),
        "updateContact": _object(
            {
                "listId": list_id,
                "action": {"enum": ["add", "update", "delete"]},
                "contact": _ref("Contact"),
                "oldEmail": {"type": ["string", "null"], "description": "with `update`: the address that was left"},
            },
            *("listId", "action", "contact"),
        ),
    }
    requests = {
        action: _object(
            {"action": {"const": action}, "authToken": {"type": "string"}, "data": data[action]},
            *("action", "authToken", "data"),
        )
        for action in ACTIONS
    }
    number = {"type": "integer", "minimum": 0}
    refusal = _object({"id": {"type": "string"}, "reason": {"type": "string"}}, "id", "reason")
    success = _object(
        {
            "success": {"const": True},
            "listId": {"type": "string", "description": "of `createList` alone"},
            "pending": number | {"description": "contacts accepted and not delivered yet"},
            "delivered": number,
            "rejected": {"type": "array", "minItems": 1, "maxItems": REJECTED_SHOWN, "items": refusal},
        },
        "success",
    )
    message = {"type": "string", "minLength": 1, "examples": [text("unauthorized", language)]}
    mapping = {action: f"#/components/schemas/{action}" for action in ACTIONS}
    return requests | {
        "Request": {
            "oneOf": [_ref(action) for action in ACTIONS],
            "discriminator": {"propertyName": "action", "mapping": mapping},
        },
        "Contact": _object(
            {
                "id": contact_id,
                "email": {
                    "type": ["string", "null"],
                    "description": "one that cannot be used refuses this contact alone",
                },
                "firstName": name,
                "lastName": name,
            },
            "id",
        ),
        "Success": success
        | {"additionalProperties": False, "dependentRequired": {"rejected": ["delivered", "pending"]}},
        "Error": _object({"error": message}, "error") | {"additionalProperties": False},
        "Health": _object({"status": {"const": "ok"}, "version": {"type": "string"}}, "status", "version"),
        "Answer": {"oneOf": [_ref("Success"), _ref("Error")]},
    }


def _object(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _id(max_chars: int, what: str) -> Schema:
    # Bounds of 64 bits: longer numbers are taken too, as far as their digits go.
    number = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
    words = {"type": "string", "pattern": f"^[^{_UNSAFE}]*{_VISIBLE}[^{_UNSAFE}]*$", "maxLength": max_chars}
    return {"description": what, "oneOf": [number, words]}


def _answer(description: str, schema: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": _ref(schema)}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
