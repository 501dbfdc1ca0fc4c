"""The registry finds providers of any package, imports one at a time, and names the package that is to blame."""

import subprocess
import sys
from pathlib import Path

import pytest

from bridge.registry import BrokenProvider, UnknownProvider, provider_class, provider_types
from tests.postbox import PostboxProvider, install


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path / "site"


def test_own_providers_and_those_of_other_packages_are_listed(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    install(monkeypatch, elsewhere, "planfix-postbox", postbox="tests.postbox:PostboxProvider")

    assert provider_types() == sorted(provider_types())
    assert {"mailchimp", "postbox", "sandbox", "sendgrid"} <= set(provider_types())
    assert provider_class("postbox") is PostboxProvider


@pytest.mark.parametrize("type_name", provider_types())
def test_every_own_provider_can_be_used(type_name: str) -> None:
    assert provider_class(type_name).name == type_name


def test_listing_imports_no_provider() -> None:
    program = (
        "import sys; from bridge.registry import provider_types; provider_types();"
        "print(*(name for name in sys.modules if name.startswith(('providers.', 'mailchimp', 'sendgrid'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rooms = ("base", "contact", "errors", "jobs", "messages")
    assert set(done.stdout.split()) == {f"providers.{name}" for name in rooms}


def test_unknown_type_names_the_nearest() -> None:
    with pytest.raises(UnknownProvider, match=r'no provider type "sandbax"; did you mean "sandbox"\?'):
        provider_class("sandbax")
    with pytest.raises(UnknownProvider, match=r"known: .*mailchimp, .*sandbox, sendgrid"):
        provider_class("carrier pigeon")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("planfix_lost_module:Lost", "ModuleNotFoundError: No module named 'planfix_lost_module'"),
        ("tests.postbox:Lost", "AttributeError: .*Lost"),
        ("tests.postbox:PostboxSettings", "not a subclass of providers.base.Provider"),
        ("tests.postbox:install", "not a subclass of providers.base.Provider"),
        ("tests.postbox:PostboxProvider", "does not call itself so in its attribute `name`"),
    ],
)
def test_a_broken_provider_names_its_package(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path, target: str, why: str
) -> None:
    install(monkeypatch, elsewhere, "planfix-broken", pigeon=target)

    with pytest.raises(BrokenProvider, match=f'type "pigeon" of package planfix-broken 1.5 cannot be used: .*{why}'):
        provider_class("pigeon")


def test_a_module_that_fails_while_it_is_imported_is_named_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    install(monkeypatch, elsewhere, "planfix-broken", pigeon="planfix_pigeon:Pigeon")
    (elsewhere / "planfix_pigeon.py").write_text("raise RuntimeError('no wings for anna@example.org')")

    with pytest.raises(BrokenProvider, match=r"planfix-broken 1\.5 cannot be used: RuntimeError: no wings") as caught:
        provider_class("pigeon")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "anna@example.org" not in str(caught.value)


def test_two_packages_with_one_type_are_refused(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    install(monkeypatch, elsewhere, "planfix-one", postbox="tests.postbox:PostboxProvider")
    install(monkeypatch, elsewhere, "planfix-two", postbox="tests.postbox:Other")

    with pytest.raises(BrokenProvider, match=r"more than once, by planfix-one 1\.5, planfix-two 1\.5"):
        provider_class("postbox")


def test_one_package_found_twice_is_no_conflict(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    install(monkeypatch, elsewhere / "a", "planfix-postbox", postbox="tests.postbox:PostboxProvider")
    install(monkeypatch, elsewhere / "b", "planfix-postbox", postbox="tests.postbox:PostboxProvider")

    assert provider_class("postbox") is PostboxProvider
