"""What a wheel holds: the files that are no code as well."""

import fnmatch
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_file_beside_the_code_is_in_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = [
        f"{'' if package == '*' else package.replace('.', '/') + '/'}{'*/' if package == '*' else ''}{pattern}"
        for package, each in settings["package-data"].items()
        for pattern in each
    ]
    files = [
        path.relative_to(ROOT).as_posix()
        for package in ("bridge", "providers")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert "bridge/locale/ru/LC_MESSAGES/bridge.po" in files
    assert [file for file in files if not any(fnmatch.fnmatch(file, pattern) for pattern in patterns)] == []
