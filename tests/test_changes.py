"""How a newer wish replaces an undelivered older one."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.changes import Change, Kind, coalesce

addresses = st.sampled_from(["", "a@x.test", "A@X.test", "b@x.test", "c@x.test", "d@x.test"])
changes = st.builds(
    Change,
    contact_id=st.just("7"),
    kind=st.sampled_from([Kind.PRESENT, Kind.ABSENT]),
    address=addresses,
    first_name=st.none() | st.just("Маша") | st.just(""),
    last_name=st.none() | st.just("Иванова"),
    old_addresses=st.lists(addresses.filter(bool), max_size=2, unique_by=str.lower).map(tuple),
    seq=st.integers(1, 100),
)


def test_without_an_older_one_the_newer_stands() -> None:
    newer = Change("7", Kind.PRESENT, "a@x.test", old_addresses=("b@x.test",))
    assert coalesce(None, newer) == newer


def test_two_address_changes_keep_every_address_that_may_be_at_the_esp() -> None:
    first = Change("7", Kind.PRESENT, "b@x.test", old_addresses=("a@x.test",))
    second = Change("7", Kind.PRESENT, "c@x.test", old_addresses=("b@x.test",))
    assert coalesce(first, second).old_addresses == ("a@x.test", "b@x.test")


def test_changing_back_leaves_the_other_address_to_be_removed() -> None:
    first = Change("7", Kind.PRESENT, "b@x.test", old_addresses=("a@x.test",))
    back = Change("7", Kind.PRESENT, "A@x.test", old_addresses=("b@x.test",))
    assert coalesce(first, back).old_addresses == ("b@x.test",)


def test_an_addition_after_a_removal_knows_the_removed_address() -> None:
    removed = Change("7", Kind.ABSENT, "a@x.test")
    assert coalesce(removed, Change("7", Kind.PRESENT, "b@x.test")).old_addresses == ("a@x.test",)


def test_names_that_are_not_told_again_stay_and_emptied_ones_go() -> None:
    first = Change("7", Kind.PRESENT, "a@x.test", "Маша", "Иванова")
    both = coalesce(first, Change("7", Kind.PRESENT, "a@x.test", None, ""))
    assert (both.first_name, both.last_name) == ("Маша", "")


def test_the_age_is_that_of_the_oldest() -> None:
    first = Change("7", Kind.PRESENT, "a@x.test", created_at=10.0)
    assert coalesce(first, Change("7", Kind.ABSENT, "a@x.test", created_at=20.0)).created_at == 10.0


@given(st.lists(changes, min_size=1, max_size=6))
def test_any_row_of_wishes_ends_in_the_last_and_loses_no_address(wishes: list[Change]) -> None:
    together: Change | None = None
    for wish in wishes:
        together = coalesce(together, wish)
    assert together is not None
    assert (together.kind, together.address, together.seq) == (wishes[-1].kind, wishes[-1].address, wishes[-1].seq)
    told = {a.lower() for wish in wishes for a in (wish.address, *wish.old_addresses) if a}
    if len(wishes) > 1:
        assert {a.lower() for a in together.old_addresses} == told - {together.address.lower()}
