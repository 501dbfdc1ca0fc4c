"""Logs of the whole process: JSON lines that hold no token, key, body or whole address, whoever writes them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TOKEN = "Kq7-planfix-token-Zw9"
ESP_KEY = "0123456789abcdef0123456789abcdef-us21"
LONG_KEY = "fedcba9876543210" * 3  # as `openssl rand -hex 24` makes them
ADDRESSES = ("anna.petrova@clients.example", "old.anna@clients.example", "boris%40clients.example")
SECRETS = (TOKEN, ESP_KEY, LONG_KEY, LONG_KEY[-16:], *ADDRESSES, "Петрова")

SESSION = """
import asyncio, json, logging, sys
from pathlib import Path
import aiohttp
from msgspec.structs import replace
from bridge import logs
from bridge.config import Account, Admin, Server, sandbox_config
from bridge.server import listening
from providers.base import AuthFailed, Reason, Refused, Secret, Transient
from providers.sandbox import SandboxProvider

TOKEN, KEY, LONG_KEY, ANNA, OLD, BORIS = json.loads(sys.argv[2])
CONTACT = {"id": 1, "email": ANNA, "firstName": "Анна", "lastName": "Петрова"}
SAID = f"key {KEY} may not add {ANNA}"
ERRORS = (Transient(SAID, retry_after_s=60), AuthFailed(SAID), Refused(Reason.RIGHTS, SAID), RuntimeError(SAID))
logs.set_up()
config = replace(
    sandbox_config(Path(sys.argv[1]), server=Server(port=0, reply_within_s=0.2, grace_s=0.0), admin=Admin(port=0)),
    accounts={"main": Account(name="main", tokens=(Secret(TOKEN),), provider="sandbox")},
)
statuses = []


async def post(running, body, **headers):
    async with aiohttp.ClientSession() as http, http.post(running.url, data=body, headers=headers) as response:
        statuses.append(response.status)
        return await response.json()


async def ask(running, action, token=TOKEN, /, **data):
    return await post(running, json.dumps({"action": action, "authToken": token, "data": data}))


async def good_and_bad_requests(running):
    list_id = (await ask(running, "createList", listName=f"Filter of {ANNA}"))["listId"]
    bad = {"id": 2, "email": ANNA + " nonsense"}
    await ask(running, "importContacts", listId=list_id, contacts=[CONTACT, bad])
    await ask(running, "updateContact", listId=list_id, action="update", contact=CONTACT, oldEmail=OLD)
    await ask(running, "createList", "wrong " + ANNA, listName="A")
    await ask(running, ANNA)
    await ask(running, "importContacts", listId=f"sandbox:{ANNA}", contacts=[CONTACT])
    await post(running, TOKEN + ANNA)
    await post(running, b"\\x00" + TOKEN.encode(), **{"Content-Encoding": "gzip"})
    reader, writer = await asyncio.open_connection("127.0.0.1", int(running.url.split(":")[2].split("/")[0]))
    writer.write(f"POST {TOKEN} {ANNA}\\r\\n{KEY}\\r\\n\\r\\n".encode())
    await reader.read()
    writer.close()
    return list_id


async def session():
    async with listening(config) as running:
        list_id = await good_and_bad_requests(running)
    for error in ERRORS:
        async def fail(*_):
            raise error

        SandboxProvider.upsert_batch = fail
        async with listening(config) as running:
            await ask(running, "updateContact", listId=list_id, action="add", contact=CONTACT)
            if error is ERRORS[-1]:
                running.bridge.handle = fail
                await ask(running, "createList", listName="B")
    print(json.dumps(statuses))


async def strangers():
    foreign = logging.getLogger("some.library")
    foreign.info("kept %s with %s", ANNA, LONG_KEY)
    foreign.debug("not shown")
    logging.getLogger("urllib3").info("GET /3.0/?key=%s", KEY)
    try:
        raise ValueError(f"{KEY} of {ANNA} and {BORIS}")
    except ValueError:
        foreign.exception("it broke")
    asyncio.get_running_loop().call_exception_handler({"message": "lost", "exception": ValueError(f"for {ANNA}")})


asyncio.run(session())
asyncio.run(strangers())
"""


def run(script: str, *args: str) -> tuple[str, list[dict[str, Any]]]:
    """What a process printed, and its log lines."""
    done = subprocess.run(  # a process of its own: logging is set up for the whole of it
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for secret in SECRETS:
        assert secret not in done.stderr, secret
    return done.stdout, [json.loads(line) for line in done.stderr.splitlines()]


def test_a_whole_session_is_json_lines_without_secrets(tmp_path: Path) -> None:
    stdout, lines = run(SESSION, str(tmp_path), json.dumps([TOKEN, ESP_KEY, LONG_KEY, *ADDRESSES]))
    assert json.loads(stdout) == [200, 200, 200, 401, 400, 200, 400, 400, 200, 200, 200, 200, 500]
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    events = [line["event"] for line in lines]
    assert {
        "started",
        "list_created",
        "batch_settled",
        "wrong_token",
        "bad_request",
        "list_adopted",
        "bad_http",
        "provider_away",
        "delivery_broke_off",
        "request_broke_off",
        "stopping",
    } <= set(events)
    for line in lines:
        if line["event"] in ("delivery_broke_off", "request_broke_off"):
            assert "Traceback" in line["exception"]
            assert "RuntimeError: key <secret> may not add a***@c***" in line["exception"]
    requests = [line for line in lines if line["event"] == "request"]
    assert requests[0] | {"duration_s": 0, "timestamp": "", "request": ""} == {
        "event": "request",
        "level": "info",
        "account": "main",
        "action": "createList",
        "list": "sandbox:1",
        "duration_s": 0,
        "timestamp": "",
        "request": "",
    }
    assert len({line["request"] for line in requests}) == len(requests), "each has its own mark"
    foreign = [line for line in lines if line["event"].startswith(("kept", "it broke", "lost"))]
    assert [line["level"] for line in foreign] == ["info", "error", "error"]
    assert foreign[0]["event"] == "kept a***@c*** with <secret>"
    assert "ValueError: <secret> of a***@c***" in foreign[1]["exception"]
    assert "GET" not in " ".join(events), "libraries that write requests are kept quiet"
    assert "not shown" not in events
