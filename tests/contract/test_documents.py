"""README and docs agree with the tree: links, commands, modules, files, and the generated command reference."""

import ast
import importlib.util
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from pydantic import BaseModel

from docs import commands
from thinwire.receiver.config import Settings
from thinwire.receiver.store.tables import HUB
from thinwire.sender.config import SenderConfig
from thinwire.sender.outbox.tables import CLINIC
from thinwire.shared import errors
from thinwire.shared.storage.migrations import Schema

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [ROOT / name / "thinwire" for name in ("shared", "sender", "receiver")]
COMMANDS = dict(each for name, program in commands.programs().items() for each in commands.commands(program, name))
"""Each command by the words that call it."""
MOST_LINES = 90
"""Of the README."""

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^(?: {4}|\t).*$", re.MULTILINE)
BLOCK = re.compile(r"(?:^    .*\n|^\n(?=    ))+", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"\bthinwire-(?:sender|receiver)(?: +[^\s`·<]+)*")
MAKE = re.compile(r"^make ([a-z-]+)")
FILE = re.compile(r"^(?:shared|sender|receiver|tests|benchmarks|docs|demo|proto)/[\w./*-]+$")
METRIC = re.compile(r"\bthinwire_(?!dot_)[a-z_]+\b")
EXIT_CODE = re.compile(r"^\| (\d+) \| (.*?) \|", re.MULTILINE)
MODULE = re.compile(r"^thinwire(?:\.[A-Za-z_]\w*)+$")
DOCUMENT = re.compile(r"\bdocs/[\w/-]+\.md\b")

Place = tuple[str, str]
"""Where something stands, for the message, and the words themselves."""


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_resolves(document: Path) -> None:
    text = INDENTED.sub("", FENCED.sub("", document.read_text(encoding="utf-8")))
    broken = [link for link in LINK.findall(text) if not link.startswith(("http://", "https://"))]
    assert [link for link in broken if not _resolves(document, link)] == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        links = {link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8"))}
        found = {(page.parent / link).resolve() for link in links if link and "://" not in link}
        found |= {each for folder in found if folder.is_dir() for each in folder.glob("*.md")}
        new |= {path for path in found if path.suffix == ".md"} - reached
    assert set(DOCUMENTS) - reached == set()


def test_the_command_reference_is_current() -> None:
    assert commands.PAGE.read_text(encoding="utf-8") == commands.reference(), "run make commands"


def test_every_command_that_is_named_exists() -> None:
    named = [*_in_documents(), *_in_code()]
    assert len(named) > 100
    wrong = [f"{where}: {words}: {fault}" for where, words in named if (fault := _fault(words))]
    assert wrong == []


def test_a_wrong_command_is_noticed() -> None:
    assert _fault("thinwire-sender sned study.dcm") == "no command sned"
    assert _fault("thinwire-receiver account adds a.lund") == "no command adds"
    assert _fault("thinwire-sender send study.dcm --urgently") == "no option --urgently"
    assert _fault("thinwire-sender send study.dcm --urgent") == ""


@pytest.mark.parametrize(
    ("page", "settings"),
    [("technician", SenderConfig), ("deidentification", SenderConfig), ("administration", Settings)],
)
def test_every_setting_that_is_shown_is_valid(page: str, settings: type[BaseModel]) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = [textwrap.dedent(block).strip() for block in BLOCK.findall(text)]
    shown = [tomllib.loads(block) for block in blocks if block.startswith(("[", "identity = "))]
    assert shown
    for each in shown:
        settings(**each)


@pytest.mark.parametrize(("page", "schema"), [("store-format", HUB), ("outbox-format", CLINIC)])
def test_a_format_is_of_the_databases_version_and_has_every_table(page: str, schema: Schema) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert text.partition("\n")[0].endswith(f"version {schema.version}")
    assert [name for name in schema.tables.tables if f"`{name}`" not in text] == []


def test_every_exit_code_is_told_with_its_errors() -> None:
    page = (ROOT / "docs/developer.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    told = {name: int(code) for code, names in EXIT_CODE.findall(page) for name in CODE.findall(names)}
    ours = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.ThinwireError)]
    assert told == {
        each.__name__: each.code for each in ours if "code" in vars(each) and each is not errors.ThinwireError
    }


def test_every_metric_is_told_and_no_other() -> None:
    pages = [ROOT / "docs" / f"{page}.md" for page in ("administration", "technician", "hardening")]
    told = {name.removesuffix("_total") for page in pages for name in METRIC.findall(page.read_text(encoding="utf-8"))}
    strings = (_strings(ast.parse(path.read_text(encoding="utf-8"))) for path in _modules("metrics.py"))
    assert told == {text for found in strings for text in found if METRIC.fullmatch(text)}


def test_every_make_target_and_module_to_run_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wrong = []
    for where, words in _code_in_documents():
        if (made := MAKE.match(words)) and made[1] not in targets:
            wrong.append(f"{where}: make {made[1]}")
        if ran := re.search(r"python -m (benchmarks[\w.]*)", words):
            path = ROOT / Path(*ran[1].split("."))
            if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
                wrong.append(f"{where}: {ran[0]}")
    assert wrong == []


def test_every_file_and_module_that_is_named_exists() -> None:
    wrong = []
    for where, words in _code_in_documents():
        for each in words.split(", "):
            if FILE.match(each) and not any(ROOT.glob(each.rstrip("/"))):
                wrong.append(f"{where}: {each}")
            if MODULE.match(each) and not _is_module(each):
                wrong.append(f"{where}: {each}")
    assert wrong == []


def test_every_document_that_code_names_exists() -> None:
    folders = [*SOURCES, ROOT / "benchmarks", ROOT / "tests", ROOT / "demo"]
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".html", ".toml")]
    named = [(path, name) for path in paths for name in DOCUMENT.findall(path.read_text(encoding="utf-8"))]
    assert [f"{path.relative_to(ROOT)}: {name}" for path, name in named if not (ROOT / name).is_file()] == []


def _resolves(document: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = document.parent / name if name else document
    if not target.exists():
        return False
    return not anchor or anchor in set(_anchors(target.read_text(encoding="utf-8")))


def _anchors(text: str) -> Iterator[str]:
    """As GitHub makes them of headings."""
    for heading in HEADING.findall(FENCED.sub("", text)):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _code_in_documents() -> Iterator[Place]:
    """Words between backquotes, and lines of indented and fenced blocks."""
    for path in DOCUMENTS:
        text, where = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        blocks = [*FENCED.findall(text), *INDENTED.findall(text)]
        yield from ((where, words) for words in CODE.findall(text))
        yield from ((where, line.strip()) for block in blocks for line in block.splitlines())


def _in_documents() -> list[Place]:
    return [(where, words) for where, line in _code_in_documents() for words in COMMAND.findall(line)]


def _in_code() -> list[Place]:
    """Commands in the strings of the code (remedies, help texts, output) and in the pages' templates."""
    found: list[Place] = []
    for path in (each for folder in SOURCES for each in sorted(folder.rglob("*"))):
        if path.suffix == ".py":
            texts: Iterable[str] = _strings(ast.parse(path.read_text(encoding="utf-8")))
        elif path.suffix in (".html", ".toml"):
            texts = [path.read_text(encoding="utf-8")]
        else:
            continue
        where = str(path.relative_to(ROOT))
        found += [(where, words) for text in texts for words in COMMAND.findall(" ".join(text.split()))]
    return found


def _modules(name: str) -> Iterator[Path]:
    return (path for folder in SOURCES for path in folder.rglob(name))


def _strings(tree: ast.AST) -> Iterator[str]:
    """Every string, an f-string with X for each value."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def _fault(words: str) -> str:
    """The error of a command line, or nothing. Prose after the command is not judged, options are."""
    given = [word.strip("[].,;:()'\"") for word in words.split()]
    names = [*takewhile(lambda word: word and not word.startswith("-"), given)]
    path = next((" ".join(names[:size]) for size in (3, 2) if " ".join(names[:size]) in COMMANDS), "")
    if not path:
        groups = {known.rpartition(" ")[0] for known in COMMANDS}
        unknown = next((name for at, name in enumerate(names, 1) if " ".join(names[:at]) not in groups), "")
        return f"no command {unknown}" if unknown else ""
    known = {option for parameter in COMMANDS[path].params for option in parameter.opts} | {"--help"}
    options = (word.partition("=")[0] for word in given if word.startswith("--"))
    return next((f"no option {option}" for option in options if option not in known), "")


def _is_module(name: str) -> bool:
    """A module, or a public name in one."""
    if _source(name) is not None:
        return True
    module, _, member = name.rpartition(".")
    source = _source(module)
    return source is not None and re.search(rf"\b{member}\b", source) is not None


def _source(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    if spec is None:
        return None
    return Path(spec.origin).read_text(encoding="utf-8") if spec.origin else ""
