"""How the house is built: who may import whom, what an import may touch, how long a file may be."""

import ast
import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).parents[1]
PACKAGES = ("zoo", "guides", "experiments")
FORBIDDEN = {"zoo": {"guides", "experiments"}, "guides": {"experiments"}, "experiments": set()}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HOT = [
    path
    for path in FILES
    if path == ROOT / "zoo" / "weights.py"
    or path.is_relative_to(ROOT / "zoo" / "objectives")
    or path.is_relative_to(ROOT / "guides")
]
MAX_LINES = 250

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
each_hot_file = pytest.mark.parametrize("path", HOT, ids=lambda path: str(path.relative_to(ROOT)))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def run(code: str) -> None:
    """Runs code in a process of its own, whose complaint fails the test."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr


def imported_roots(tree: ast.Module) -> set[str]:
    """The top-level packages that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@each_file
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    back = imported_roots(ast.parse(path.read_text("utf-8"))) & FORBIDDEN[package]
    assert not back, f"{package} imports {back}; imports go zoo <- guides <- experiments"


@each_file
def test_files_hold_one_idea(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: it holds two ideas"


@each_file
def test_modules_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert path.name.startswith("_") and not tree.body or ast.get_docstring(tree)


@each_hot_file
def test_the_hot_path_never_waits_for_the_device(path: Path) -> None:
    calls = [
        f"line {node.lineno}: .{node.func.attr}()"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("item", "tolist", "cpu")
    ]
    assert not calls


def test_import_zoo_takes_no_torch() -> None:
    run("""
        import sys, zoo, guides, experiments
        zoo.__version__, dir(zoo)
        heavy = {"torch", "pyro", "numpy", "arviz"} & sys.modules.keys()
        assert not heavy, heavy
    """)


def test_imports_leave_torch_and_pyro_as_they_were() -> None:
    modules = [
        module_name(path)
        for path in FILES
        if path.relative_to(ROOT).parts[0] in ("zoo", "guides") and path.name != "__main__.py"
    ]
    run(f"""
        import importlib
        import numpy, pyro, torch

        def state():
            return dict(
                dtype=torch.get_default_dtype(),
                device=torch.get_default_device(),
                grad=torch.is_grad_enabled(),
                anomaly=torch.is_anomaly_enabled(),
                threads=torch.get_num_threads(),
                deterministic=torch.are_deterministic_algorithms_enabled(),
                validation=torch.distributions.Distribution._validate_args,
                pyro=pyro.settings.get(),
                store=sorted(pyro.get_param_store().keys()),
                handlers=len(pyro.poutine.runtime._PYRO_STACK),
                torch_rng=torch.get_rng_state().tolist(),
                numpy_rng=numpy.random.get_state()[1].tolist(),
            )

        before = state()
        for name in {modules}:
            importlib.import_module(name)
            after = state()
            changed = [key for key in before if after[key] != before[key]]
            assert not changed, f"importing {{name}} changes {{changed}}"
    """)


@pytest.mark.parametrize("name", zoo.__all__)
def test_public_names_are_what_they_say(name: str) -> None:
    value = getattr(zoo, name)
    assert callable(value) and value.__name__ == name
    assert value.__doc__


def test_public_functions_are_not_hidden_by_modules_of_the_same_name() -> None:
    taken = [name for name in zoo.__all__ if (ROOT / "zoo" / f"{name}.py").exists()]
    assert not taken, f"after `import zoo.{taken[0]}` the name would be the module"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'nonesuch'"):
        zoo.nonesuch  # noqa: B018
    with pytest.raises(AttributeError, match="module 'guides' has no attribute 'nonesuch'"):
        importlib.import_module("guides").nonesuch  # noqa: B018
