"""From a YAML file to a tree of texts that know their line and column, with `${...}` filled in.

Scalars stay as they are written: what they mean is decided by the setting that reads them. Anchors and aliases work.
Tags, merge keys and repeated keys are refused. `${NAME}` is an environment variable, `${file:PATH}` the text of a
file (without its last line end; a relative path starts at the folder of the YAML file), `$$` a `$`. What was filled in
is not searched again.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import yaml

from providers.base import redact

MAX_FILE_BYTES = 1_000_000
MAX_INSERTED_BYTES = 65_536

_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(
    _TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "seq", "map")
)
_REFERENCE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[^{}]*)(?P<end>\})?)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_QUOTED_BY_YAML = re.compile(r" (['\"])[^'\"]{4,}\1")


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """Where something begins; the first line and the first column are 1."""

    line: int
    column: int


@dataclass(frozen=True, order=True, slots=True)
class Fault:
    """What is wrong at one place of a file. `text` holds no secret."""

    line: int
    column: int
    text: str


class ConfigError(Exception):
    """A file that cannot be used. `faults` holds everything that is wrong with it, in the order of the file."""

    def __init__(self, path: Path, faults: Sequence[Fault]) -> None:
        self.path = path
        self.faults = sorted(set(faults))
        super().__init__("\n".join(f"{path}:{fault.line}:{fault.column}: {fault.text}" for fault in self.faults))


@dataclass(frozen=True, slots=True)
class Scalar:
    """One text. `written` is how the file has it; `text` is filled in, None when that failed and was told."""

    place: Place
    written: str = field(repr=False)
    text: str | None = field(repr=False)
    null: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    place: Place
    nodes: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping: the nodes by key, and where each key stands."""

    place: Place
    nodes: "dict[str, Node]" = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)


Node: TypeAlias = Scalar | Items | Section


@dataclass
class Document:
    """A file that was read. Whoever reads on adds to `faults`."""

    path: Path
    root: Node
    faults: list[Fault]

    def fault(self, place: Place, text: str) -> None:
        self.faults.append(Fault(place.line, place.column, text))

    def raise_faults(self) -> None:
        """Raises ConfigError when there is any fault."""
        if self.faults:
            raise ConfigError(self.path, self.faults)


def quoted(text: str) -> str:
    """`text` for a sentence about it: in quotes, on one line, shortened, without addresses and keys."""
    shown = redact(text)
    return '"' + "".join(c if c.isprintable() else " " for c in shown[:40]) + ("…" if len(shown) > 40 else "") + '"'


def read_document(path: Path, env: Mapping[str, str]) -> Document:
    """Reads a file. Raises ConfigError when it cannot be read or is not YAML; other faults are in the document."""
    text = _file_text(path)
    loader = yaml.SafeLoader("")
    tree = _Tree(path.parent, env)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        root: Node = tree.node(node) if node else Section(Place(1, 1))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        raise ConfigError(path, [_fault_after(before, "a control character, which YAML does not allow")]) from error
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        if error.context_mark and mark and error.context_mark.line != mark.line:
            problem += f" (begun in line {error.context_mark.line + 1})"
        raise ConfigError(path, [_syntax_fault(text, problem, mark)]) from None  # the cause quotes the file
    except RecursionError:
        raise ConfigError(path, [_syntax_fault(text, "nested too deeply", loader.get_mark())]) from None
    except (ValueError, OverflowError):  # numbers in escapes and directives that are out of range
        raise ConfigError(path, [_syntax_fault(text, "a number out of range", loader.get_mark())]) from None
    return Document(path, root, tree.faults)


def _file_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            body = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(path, [Fault(1, 1, f"cannot be read: {_why(error)}")]) from error
    if len(body) > MAX_FILE_BYTES:
        raise ConfigError(path, [Fault(1, 1, f"too large: more than {MAX_FILE_BYTES} bytes")])
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = body[: error.start].decode("utf-8-sig", "replace")
        raise ConfigError(path, [_fault_after(before, "not UTF-8; save the file in this encoding")]) from None


def _fault_after(before: str, text: str) -> Fault:
    return Fault(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1, text)


def _syntax_fault(text: str, problem: str, mark: yaml.Mark | None) -> Fault:
    # What the parser quotes may be part of a secret, for example a token that begins with `*`.
    problem = _QUOTED_BY_YAML.sub("", problem)
    line, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.splitlines()
    hint = '; inside [ ] and { } put "${...}" in quotes' if line < len(lines) and "${" in lines[line] else ""
    return Fault(line + 1, column + 1, f"not valid YAML: {problem}{hint}")


def _why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "not a usable path"


class _Tree:
    """Turns the parser's nodes into ours and collects what is wrong on the way."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.faults: list[Fault] = []
        self._folder = folder
        self._env = env
        self._done: dict[int, Node] = {}
        self._open: set[int] = set()

    def node(self, raw: yaml.Node) -> Node:
        if id(raw) in self._done:
            return self._done[id(raw)]
        place = _place(raw)
        if id(raw) in self._open:
            self._fault(place, "holds an alias of itself")
            return Scalar(place, "", None)
        self._open.add(id(raw))
        node: Node
        if raw.tag not in _KNOWN_TAGS:
            self._fault(place, "tags (!...) are not allowed; a text that begins with ! needs quotes")
            node = Scalar(place, "", None)
        elif isinstance(raw, yaml.MappingNode):
            node = self._section(raw)
        elif isinstance(raw, yaml.SequenceNode):
            node = Items(place, tuple(self.node(item) for item in raw.value))
        else:
            node = Scalar(place, raw.value, self._filled_in(raw.value, place), null=raw.tag == _TAG + "null")
        self._done[id(raw)] = node
        return node

    def _section(self, raw: yaml.MappingNode) -> Section:
        section = Section(_place(raw))
        for raw_key, raw_value in raw.value:
            place = _place(raw_key)
            if raw_key.tag == _TAG + "merge":
                self._fault(place, "merge keys (<<) are not allowed; write the settings out")
            elif not isinstance(raw_key, yaml.ScalarNode) or raw_key.tag not in _KNOWN_TAGS:
                self._fault(place, "a key must be a plain text")
            elif raw_key.value in section.keys:
                self._fault(place, f"this key is already there in line {section.keys[raw_key.value].line}")
            else:
                section.keys[raw_key.value] = place
                section.nodes[raw_key.value] = self.node(raw_value)
        return section

    def _filled_in(self, written: str, place: Place) -> str | None:
        faults_before = len(self.faults)
        text = written if _SURROGATE.search(written) else _REFERENCE.sub(lambda f: self._meaning(f, place), written)
        if _SURROGATE.search(text):
            self._fault(place, "holds what is not Unicode text")
        return text if len(self.faults) == faults_before else None

    def _meaning(self, found: re.Match[str], place: Place) -> str:
        """What one `$$` or `${...}` stands for; empty after a fault."""
        if found["dollar"]:
            return "$"
        name = found["name"]
        if not found["end"]:
            self._fault(place, "`${` without `}`; write `$$` where a `$` is meant")
        elif name.startswith("file:"):
            return self._text_of_file(name.removeprefix("file:"), place)
        elif not _VARIABLE.fullmatch(name):
            self._fault(place, "`${...}` holds no name of an environment variable; write `$$` where a `$` is meant")
        elif name not in self._env:
            self._fault(place, f"the environment variable {name} is not set")
        else:
            return self._env[name]
        return ""

    def _text_of_file(self, path: str, place: Place) -> str:
        try:
            with (self._folder / path).open("rb") as file:
                body = file.read(MAX_INSERTED_BYTES + 1)
            if len(body) <= MAX_INSERTED_BYTES:
                return body.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
            problem = f"is too large: more than {MAX_INSERTED_BYTES} bytes"
        except UnicodeDecodeError:
            problem = "is not UTF-8"
        except (OSError, ValueError) as error:
            problem = f"cannot be read: {_why(error)}"
        self._fault(place, f"the file {quoted(path)} {problem}")
        return ""

    def _fault(self, place: Place, text: str) -> None:
        self.faults.append(Fault(place.line, place.column, text))


def _place(raw: yaml.Node) -> Place:
    return Place(raw.start_mark.line + 1, raw.start_mark.column + 1)
