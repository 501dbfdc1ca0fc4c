"""Doing several calls at one time: all or none, in parts, one call for each item."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def chunks(items: Iterable[T], size: int) -> list[list[T]]:
    """`items` in order, in parts of at most `size`."""
    all_items = list(items)
    return [all_items[start : start + size] for start in range(0, len(all_items), size)]


def chunks_within(items: Iterable[T], size: int, weight: Callable[[T], int], most: int) -> list[list[T]]:
    """`items` in order, in parts of at most `size` that together weigh no more than `most`; who alone weighs more is a
    part of its own."""
    parts: list[list[T]] = []
    left = 0
    for item in items:
        weighs = weight(item)
        if not parts or len(parts[-1]) == size or weighs > left:
            parts.append([])
            left = most
        parts[-1].append(item)
        left -= weighs
    return parts


async def together(work: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """All results in order; the first failure stops the rest before it is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def each(items: Sequence[T], work: Callable[[T], Awaitable[R]], at_once: int) -> list[R]:
    """`work` for every item, results in order, at most `at_once` under way; the first failure stops the rest."""
    results: dict[int, R] = {}
    waiting = iter(enumerate(items))

    async def worker() -> None:
        for index, item in waiting:
            results[index] = await work(item)

    await together(worker() for _ in range(min(at_once, len(items))))
    return [results[index] for index in range(len(items))]
