"""Sentences that a provider says to people: English here, translated by whoever shows them."""

from collections.abc import Mapping


class Message:
    """An English sentence and the values that go into it: `%(name)s` in it stands for the value of that name.

    The sentence is the key of its translation. It must stand as a literal where this is called, for there the
    catalogs of translations find it. A `%` that is meant as such is written `%%`.
    """

    __slots__ = ("template", "values")

    def __init__(self, template: str, /, **values: object) -> None:
        self.template = template
        self.values: Mapping[str, object] = values

    def __str__(self) -> str:
        return self.template % self.values

    def __repr__(self) -> str:
        return f"Message({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and (other.template, other.values) == (self.template, self.values)

    def __hash__(self) -> int:
        return hash(self.template)
