"""What a newcomer meets: the README, the version, the declared dependencies. Cheap, and without the network."""

import ast
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import scbayes as sb

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def names(requirements: list[str]) -> set[str]:
    """What is imported of each requirement."""
    found = {Requirement(requirement).name.replace("-", "_") for requirement in requirements}
    return {{"scikit_learn": "sklearn"}.get(name, name) for name in found}


def test_readme_has_two_set_up_commands_of_one_line():
    commands = [block.rstrip("\n") for block in blocks("bash")]
    assert len(commands) == 2
    assert [command for command in commands if "\n" in command or "\\" in command] == []
    # Each stands on its own: it makes its environment.
    assert [command for command in commands if not command.startswith("python3.12 -m venv .venv && ")] == []
    assert commands[0].endswith("-m pip install -q -e . && .venv/bin/python -m scbayes demo")
    assert commands[1].endswith('-m pip install -q -e ".[test]" && .venv/bin/python -m pytest -q')


def test_readme_has_no_other_code_that_looks_like_a_command():
    assert re.findall(r"^```(\w*)", README, flags=re.MULTILINE).count("") == len(blocks("bash")) + len(blocks("python"))


def test_quick_start_compiles_and_names_what_exists():
    (quick_start,) = blocks("python")
    tree = ast.parse(quick_start)
    compile(tree, "README.md", "exec")
    used = set(re.findall(r"\bsb\.(\w+)\.(\w+)\(", quick_start))
    assert used >= {("tl", "fit"), ("get", "fit"), ("pl", "loss")}
    assert [f"sb.{room}.{name}" for room, name in sorted(used) if name not in getattr(sb, room).__all__] == []


@pytest.mark.parametrize("page", ["README.md", *sorted(path.name for path in (ROOT / "docs").glob("*.md"))])
def test_links_between_pages_lead_somewhere(page):
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_version_is_stated_once():
    # Fails as well where scbayes was installed before the version changed: install it again.
    assert sb.__version__ == PROJECT["version"]
    assert not re.search(r"__version__\s*=", (ROOT / "scbayes" / "__init__.py").read_text(encoding="utf-8"))


def test_changelog_has_a_place_for_what_comes_next():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)
    assert headings[0] == "Unreleased"


def test_python_is_recent_enough():
    wanted = (ROOT / ".python-version").read_text(encoding="utf-8").strip()
    assert wanted in SpecifierSet(PROJECT["requires-python"])
    assert f"Programming Language :: Python :: {wanted}" in PROJECT["classifiers"]


def test_licence_goes_with_the_package_and_the_data():
    assert "the scbayes developers" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    for pattern in PROJECT["license-files"]:
        assert list(ROOT.glob(pattern)), pattern
    assert (ROOT / "scbayes" / "py.typed").is_file()


def top_level_imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


#: Files that are of an extra as a whole, and are imported inside functions.
OF_EXTRAS = {"scbayes/models/_network.py"}


def test_files_of_extras_are_imported_where_they_are_used():
    hard = []
    for path in sorted((ROOT / "scbayes").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module.replace(".", "/") + ".py" in OF_EXTRAS:
                hard.append(f"{path.relative_to(ROOT)}: {node.module}")
    assert hard == []
    assert all((ROOT / path).is_file() for path in OF_EXTRAS)


def test_every_import_is_a_declared_dependency():
    declared = names(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    # Extras for users, not for developers, may be imported too: where they are used, inside functions.
    optional = set().union(*(names(extras[extra]) for extra in set(extras) - {"test", "docs", "dev"}))
    missing = []
    for path in sorted((ROOT / "scbayes").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        at_import = {node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
        for name in top_level_imports(tree) - set(sys.stdlib_module_names) - {"scbayes"} - declared:
            hard = any(name in top_level_imports(node) for node in at_import)
            hard = hard and path.relative_to(ROOT).as_posix() not in OF_EXTRAS
            if hard or name not in optional:
                missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert missing == []


def test_wheel_gets_the_data_without_the_script_that_makes_them():
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["sources"]["data"] == "scbayes/data"
    assert "data" in wheel["only-include"]
    assert "data/build.py" in wheel["exclude"]
    assert importlib.import_module("scbayes.datasets").pancreas().n_obs > 0
