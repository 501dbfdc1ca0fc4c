"""Reading a listing page by page, in each way that services number their pages. Memory holds one page."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from providers.errors import Transient

T = TypeVar("T")
C = TypeVar("C")


async def by_offset(page_at: Callable[[int], Awaitable[Sequence[T]]], size: int) -> AsyncIterator[T]:
    """All items; `page_at` gets the number of items before the page. A page shorter than `size` is the last."""
    offset = 0
    while True:
        items = await page_at(offset)
        for item in items:
            yield item
        if len(items) < size:
            return
        offset += size


async def by_page(page: Callable[[int], Awaitable[Sequence[T]]], size: int, first: int = 1) -> AsyncIterator[T]:
    """All items; `page` gets the number of the page. A page shorter than `size` is the last."""
    number = first
    while True:
        items = await page(number)
        for item in items:
            yield item
        if len(items) < size:
            return
        number += 1


async def until_empty(page_at: Callable[[int], Awaitable[Sequence[T]]]) -> AsyncIterator[T]:
    """All items; `page_at` gets the number of items before the page. For services that may cut a page shorter than was
    asked for: the last page is empty.

    Raises Transient for a page that begins as the one before: the service counts pages otherwise, or the listing has
    changed, and whatever is not told might be an opt-out.
    """
    offset = 0
    first: T | None = None
    while items := await page_at(offset):
        if items[0] == first:
            raise Transient("a listing told the same page twice, so that items may be missing")
        for item in items:
            yield item
        first = items[0]
        offset += len(items)


async def by_cursor(page_after: Callable[[C | None], Awaitable[tuple[Sequence[T], C | None]]]) -> AsyncIterator[T]:
    """All items; `page_after` gets what the page before told of the next one, None for the first, and tells it with
    the items. Ends where nothing is told; raises Transient where the same is told again."""
    cursor: C | None = None
    while True:
        items, following = await page_after(cursor)
        for item in items:
            yield item
        if following is None:
            return
        if following == cursor:
            raise Transient("a listing pointed to the same page twice, so that items may be missing")
        cursor = following
