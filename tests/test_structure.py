"""The shape of the package: who imports whom, what a public function looks like, how long things may be."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "scbayes"
SOURCES = sorted(PACKAGE.rglob("*.py"))

FACE = ["datasets", "get", "metrics", "pl", "pp", "tl"]
#: Below these rooms nothing knows AnnData: arrays in, arrays out.
NO_ANNDATA = {"counts", "inference", "models", "stats"}
#: What `import scbayes` must not load: each costs a good part of a second or more.
HEAVY = ["anndata", "jax", "matplotlib", "numba", "numpy", "numpyro", "pandas", "scanpy", "scipy", "seaborn"]

MAX_FILE, MAX_FUNCTION, MAX_POSITIONAL = 350, 70, 3
#: Functions of pp and tl that write nothing into AnnData, and so have no `copy`, with the reason.
NOT_IN_PLACE: dict[str, str] = {}
#: Files that may make a matrix dense, with the reason.
MAY_DENSIFY: dict[str, str] = {"scbayes/tl/_latent_cells.py": "a block of cells at a time, for networks"}
PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


# --- the import graph ------------------------------------------------------------------------------------------------


def house_rules() -> dict[str, set[str]]:
    """Read which room may import which from the table in docs/contributing.md: one place states the rule."""
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `scbayes/([^`]+)` \|[^|]*\| ([^|]*) \|$", text, flags=re.MULTILINE)
    return {room.removesuffix("/").removesuffix(".py"): set(re.findall(r"`(\w+)`", may)) for room, may in rows}


def room_of(path: Path) -> str:
    """Room of a source file: its folder in the package, or its name at the top ("" for the package itself)."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(source: str, package: str) -> Iterator[str]:
    """Absolute dotted names of everything that code inside `package` imports, wherever the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def rooms_imported(source: str, package: str, rooms: set[str]) -> set[str]:
    """Rooms that code imports; `scbayes` stands for the whole package, through which every room can be reached."""
    found = set()
    for name in imports(source, package):
        top, _, rest = name.partition(".")
        if top == "scbayes":
            inner = rest.split(".")[0]
            if inner in rooms:
                found.add(inner)
            elif not inner.startswith("__"):  # `from scbayes import __version__` reaches no room
                found.add("scbayes")
    return found


def import_graph(rules: dict[str, set[str]]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        package = ".".join(path.relative_to(ROOT).parts[:-1])
        used = rooms_imported(path.read_text(encoding="utf-8"), package, set(rules))
        graph.setdefault(room_of(path), set()).update(used - {room_of(path)})
    return graph


def test_the_rule_itself_has_no_way_back():
    rules = house_rules()
    assert set(FACE) | NO_ANNDATA | {"__main__", "state"} <= set(rules)
    assert rules["stats"] == set()
    assert set().union(*rules.values()) <= {*rules, "scbayes"}
    assert [room for room, may in rules.items() if "scbayes" in may] == ["__main__"]
    TopologicalSorter(rules).prepare()  # raises CycleError


def test_rooms_import_only_what_they_may():
    rules = house_rules()
    graph = import_graph(rules)
    del graph[""]  # the package reaches its rooms on first use
    assert set(graph) <= set(rules), "a room without a row in docs/contributing.md"
    assert {room: used - rules[room] for room, used in graph.items() if used - rules[room]} == {}


def test_rooms_below_state_know_no_anndata():
    offenders = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        if room_of(path) in NO_ANNDATA
        for name in imports(path.read_text(encoding="utf-8"), "scbayes")
        if name.split(".")[0] in {"anndata", "scanpy"}
    ]
    assert offenders == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import scbayes.stats._jit", {"stats"}),
        ("from scbayes.counts import Counts", {"counts"}),
        ("from scbayes import tl", {"tl"}),
        ("from . import _other", {"models"}),
        ("from ._other import f", {"models"}),
        ("from ..stats._jit import jit", {"stats"}),
        ("from .. import state", {"state"}),
        ("def f():\n    from scbayes.pl import loss", {"pl"}),
        ("import scbayes as sb", {"scbayes"}),
        ("from scbayes import __version__", set()),
        ("import scipy.stats", set()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_imports_are_seen_however_they_are_written(source, expected):
    rooms = {"counts", "models", "pl", "state", "stats", "tl"}
    assert rooms_imported(source, "scbayes.models", rooms) == expected


def test_import_is_light():
    code = f"import sys, scbayes; print(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == []


def test_the_face_of_the_package():
    import scbayes as sb

    assert set(sb.__all__) == {*FACE, "__version__"} == set(dir(sb))
    assert [name for name in FACE if getattr(sb, name).__name__ != f"scbayes.{name}"] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sb.nothing


# --- public functions ------------------------------------------------------------------------------------------------


def public_functions(room: str) -> dict[str, Callable]:
    module = importlib.import_module(f"scbayes.{room}")
    assert module.__all__, f"scbayes.{room} has no public names"
    members = {name: getattr(module, name) for name in module.__all__}
    return {name: member for name, member in members.items() if inspect.isfunction(inspect.unwrap(member))}


def section(doc: str, title: str) -> str:
    """Body of one section of a NumPy docstring, "" where there is none."""
    match = re.search(rf"^{title}\n-{{{len(title)}}}\n(.*?)(?=^\S[^\n]*\n-{{3,}}$|\Z)", doc, re.MULTILINE | re.DOTALL)
    return match[1] if match else ""


def documented(doc: str) -> set[str]:
    """Names in the `Parameters` section; `a, b : int` names two, `*args` and `**kwds` go without stars."""
    heads = re.findall(r"^(\S.*)$", section(doc, "Parameters"), flags=re.MULTILINE)
    return {name.strip("*` ") for head in heads for name in re.split(r"\s*:(?:\s|$)", head)[0].split(",")}


def faults(room: str, name: str, function: Callable) -> Iterator[str]:
    parameters = inspect.signature(function).parameters
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) > MAX_POSITIONAL:
        yield f"{len(positional)} positional parameters, at most {MAX_POSITIONAL}"
    if room in ("pp", "tl"):
        if next(iter(parameters), None) != "adata":
            yield "the first parameter is not `adata`"
        copy = parameters.get("copy")
        in_place = f"{room}.{name}" not in NOT_IN_PLACE
        if in_place and (copy is None or copy.kind is not copy.KEYWORD_ONLY or copy.default is not False):
            yield "in place, but has no keyword-only `copy=False`"
    doc = inspect.getdoc(function) or ""
    if documented(doc) != set(parameters):
        yield f"parameters documented and in the signature differ in {documented(doc) ^ set(parameters)}"
    if not section(doc, "Returns"):
        yield "no `Returns` section"
    if inspect.unwrap(function).__module__ != f"scbayes.{room}._{name}":
        yield f"lives in {function.__module__}, not in scbayes.{room}._{name}"


@pytest.mark.parametrize("room", FACE)
def test_public_functions(room):
    functions = public_functions(room)
    assert functions
    assert [f"{room}.{name}: {fault}" for name, f in functions.items() for fault in faults(room, name, f)] == []


@pytest.mark.parametrize("room", FACE)
def test_one_public_verb_a_file(room):
    verbs = public_functions(room)
    for path in sorted((PACKAGE / room).glob("_*.py")):
        names = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if is_function(node)}
        assert len(names & set(verbs)) <= 1, f"{path.name} has two public verbs"
        if path.stem[1:] in verbs:
            assert {name for name in names if not name.startswith("_")} == {path.stem[1:]}, path.name


def test_faults_are_found():
    def bad(adata, a, b, c, *, copy=True):
        """One line.

        Parameters
        ----------
        adata, a
            Two.
        d : int
            Not there.
        """

    found = " | ".join(faults("tl", "bad", bad))
    for word in ("4 positional", "`copy=False`", "Returns", "lives in"):
        assert word in found
    assert documented(inspect.getdoc(bad)) == {"adata", "a", "d"}


@pytest.mark.parametrize("room", FACE)
def test_api_page_lists_every_public_name(room):
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(rf"^ +{room}\.(\w+)$", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(importlib.import_module(f"scbayes.{room}").__all__)


# --- size, and what no file does -------------------------------------------------------------------------------------


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def length(function: ast.FunctionDef) -> int:
    """Lines of a function from `def` to its end, without its docstring."""
    first = function.body[0]
    has_doc = ast.get_docstring(function, clean=False) is not None
    doc = first.end_lineno - first.lineno + 1 if has_doc else 0
    return function.end_lineno - function.lineno + 1 - doc


def forbidden(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and kind of each call that makes a matrix dense, and of each use of pickles."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="toarray" | "todense"):
                yield node.lineno, "dense"
            case ast.Attribute(attr="read_pickle" | "to_pickle") | ast.Name(id="pickle"):
                yield node.lineno, "pickle"
            case ast.Import(names=names) if {alias.name.split(".")[0] for alias in names} & PICKLES:
                yield node.lineno, "pickle"
            case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] in PICKLES:
                yield node.lineno, "pickle"
            case ast.keyword(arg="allow_pickle", value=value) if not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                yield value.lineno, "pickle"


def test_files_and_functions_are_short():
    too_long = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT).as_posix()
        if (lines := len(text.splitlines())) > MAX_FILE:
            too_long.append(f"{where}: {lines} lines")
        functions = [node for node in ast.walk(ast.parse(text)) if is_function(node)]
        too_long += [f"{where}:{f.lineno} {f.name}: {length(f)} lines" for f in functions if length(f) > MAX_FUNCTION]
    assert too_long == []


def test_no_dense_copies_and_no_pickles():
    found = []
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        for line, kind in forbidden(ast.parse(path.read_text(encoding="utf-8"))):
            if kind == "pickle" or where not in MAY_DENSIFY:
                found.append(f"{where}:{line} {kind}")
    assert found == []
    assert [where for where in MAY_DENSIFY if not (ROOT / where).is_file()] == [], "exceptions for files that are gone"


def test_forbidden_things_are_found():
    code = "import pickle\nX.toarray()\nnp.load(f, allow_pickle=True)\nnp.load(f, allow_pickle=False)\nsparse.todense()"
    assert sorted(forbidden(ast.parse(code))) == [(1, "pickle"), (2, "dense"), (3, "pickle"), (5, "dense")]
