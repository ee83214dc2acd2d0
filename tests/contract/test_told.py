"""An error that leaves the machine, or that a log keeps, says nothing of its folders: by the words of every error, and
by what crosses the link and the reading room."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.two_ends import TwoEnds, samples
from thinwire.shared import errors
from thinwire.shared.errors import BadConfiguration, ThinwireError, as_ours, told

ROOT = Path(__file__).parents[2]
SOURCES = [each for name in ("shared", "sender", "receiver") for each in sorted((ROOT / name).rglob("*.py"))]
OURS = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, ThinwireError)}
PLACES = frozenset(("path", "folder", "root", "data_folder"))
"""Names of variables that hold a path."""
SECRET = "/srv/clinics/SMITH^JOHN"


def kinds_of(node: ast.AST) -> set[str]:
    """The classes that an except clause names."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def raised(tree: ast.AST, caught: dict[str, set[str]]) -> Iterator[tuple[ast.Call, dict[str, set[str]]]]:
    """Each call of one of our errors, with the classes of the exceptions that have a name there."""
    for node in ast.iter_child_nodes(tree):
        inner = caught
        if isinstance(node, ast.ExceptHandler) and node.name:
            inner = {**caught, node.name: kinds_of(node.type) if node.type else {"BaseException"}}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OURS:
            yield node, inner
        yield from raised(node, inner)


def tells(value: ast.expr, caught: dict[str, set[str]]) -> bool:
    """Whether a value within an error's words is a path, or another library's whole message."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "str" and value.args:
        return tells(value.args[0], caught)
    if isinstance(value, ast.Name):
        return value.id in PLACES or not caught.get(value.id, set()) <= OURS
    return isinstance(value, ast.Attribute) and value.attr.lstrip("_") in PLACES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_error_tells_a_path_or_the_words_of_another_library(source: Path) -> None:
    """A wrong setting alone may: it stays at its machine (`as_ours`)."""
    if "training" in source.parts:
        return
    found = [
        f"line {call.lineno}"
        for call, caught in raised(ast.parse(source.read_text(encoding="utf-8")), {})
        if isinstance(call.func, ast.Name) and call.func.id != "BadConfiguration"
        for part in ast.walk(call)
        if isinstance(part, ast.FormattedValue) and tells(part.value, caught)
    ]
    assert found == []


@pytest.mark.parametrize(
    "error",
    [
        BadConfiguration(f"no bundle in {SECRET}", f"Correct {SECRET}/config.toml."),
        FileNotFoundError(2, "No such file or directory", SECRET),
        KeyError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_error_that_crosses_names_a_path(tmp_path: Path, error: Exception) -> None:
    ends = TwoEnds(tmp_path)
    (sample,) = samples(1, size=3000)
    ends.accept(sample)
    ends.make_parts()
    ends.refusals.append(error)  # type: ignore[arg-type]
    link = ends.carry()
    crossed = b"".join(each.SerializeToString() for each in link.arrived)
    assert b"SMITH" not in crossed
    assert b"refus" in crossed or any(each.WhichOneof("message") == "refusal" for each in link.arrived)
    assert "SMITH" not in f"{as_ours(error)} {as_ours(error).remedy}"


def test_an_error_of_another_library_is_logged_without_its_words() -> None:
    assert "SMITH" not in told(KeyError(SECRET))


def test_grpc_tells_no_clinic_the_words_of_an_unforeseen_error() -> None:
    """gRPC sends them as the call's status, unless the handler catches every exception itself."""
    service = ast.parse((ROOT / "receiver/thinwire/receiver/transport/service.py").read_text(encoding="utf-8"))
    (server,) = (each for each in service.body if isinstance(each, ast.ClassDef) and each.name == "HubServer")
    calls = [
        each
        for each in server.body
        if isinstance(each, ast.AsyncFunctionDef) and [argument.arg for argument in each.args.args][-1] == "context"
    ]
    assert {each.name for each in calls} == {"Join", "Renew", "Connect"}
    for each in calls:
        caught = {
            name
            for node in ast.walk(each)
            if isinstance(node, ast.ExceptHandler) and node.type
            for name in kinds_of(node.type)
        }
        assert "Exception" in caught, each.name


def test_the_words_of_an_error_of_files_are_the_system_s() -> None:
    """`strerror` may hold any text, a file's name too; `errors.reason_of` tells by the number. Of a connection it may
    be one of getaddrinfo, which no number of the system tells."""
    of_connections = {"guard.py", "connection.py"}
    found = [path for path in SOURCES if path.name not in of_connections and ".strerror" in path.read_text("utf-8")]
    assert [path.relative_to(ROOT).as_posix() for path in found] == ["shared/thinwire/shared/errors.py"]
