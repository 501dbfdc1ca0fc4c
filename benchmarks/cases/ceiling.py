"""Ceiling: what a trivial endpoint of the same HTTP library does on the same core, in the same run.

As a process (`python -m benchmarks.cases.ceiling PORT`) it is that endpoint: it reads a JSON body and answers one.
"""

import sys
from itertools import islice

import msgspec
from aiohttp import web

from benchmarks.load import Planfix
from benchmarks.machine import Meter, free_ports, pinned, until_it_answers
from benchmarks.results import Case

REQUESTS = 4000


async def _answer(request: web.Request) -> web.Response:
    msgspec.json.decode(await request.read())
    return web.Response(body=b'{"success":true}', content_type="application/json")


async def measure(clients: int) -> tuple[float, float, float, float]:
    """Requests a second, CPU milliseconds of a request, p50 and p99 of its latency in milliseconds."""
    (port,) = free_ports(1)
    with pinned("-m", "benchmarks.cases.ceiling", str(port)) as process:
        url = f"http://127.0.0.1:{port}/"
        await until_it_answers(url, process)
        async with Planfix(url, clients=clients) as planfix:
            bodies = list(islice(planfix.updates("x", 1), REQUESTS))
            await planfix.burst(bodies[:500])
            async with Meter(process.pid) as meter:
                told = await planfix.burst(bodies)
    return REQUESTS / meter.cost.wall_s, meter.cost.cpu_s / REQUESTS * 1000, told.p50_ms, told.p99_ms


async def run() -> Case:
    case = Case(
        "Ceiling", (__doc__ or "").split("\n")[0], ("clients", "requests/s", "CPU ms/request", "p50 ms", "p99 ms")
    )
    for clients in (1, 64):
        requests_per_s, cpu_ms, p50_ms, p99_ms = await measure(clients)
        case.row(clients, round(requests_per_s), round(cpu_ms, 3), round(p50_ms, 1), round(p99_ms, 1))
    return case


async def _main(request: web.Request) -> web.Response:
    return await _answer(request) if request.can_read_body else web.Response()


if __name__ == "__main__":
    app = web.Application()
    app.router.add_route("*", "/", _main)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
