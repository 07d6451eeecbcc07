"""The structure of the package: imports point one way, form no cycle and stay cheap; no file grows too long."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "flash_vstream"
# A room may import from rooms of a lower rank and from itself. cli imports commands lazily, by module path.
RANKS = {
    "__init__": 0, "files": 0, "run_record": 0, "process": 0, "memory": 1, "options": 2, "video": 2, "model": 3,
    "features": 4, "engine": 4, "vllm_plugin": 4, "data": 5, "serve": 6, "train": 6, "eval": 7, "service": 7,
    "synthetic": 8, "cli": 9, "recipe": 10, "__main__": 10,
}  # fmt: skip
LAZY = {"flash_vstream.__init__"}  # exports names of upper rooms on first use
LONGEST_FILE = 330


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        found[".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)] = path
    return found


def imports_of(name: str, path: Path, known: set[str], with_lazy: bool) -> set[str]:
    """The modules of the package that a module imports; with_lazy: also those imported inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if with_lazy else tree.body
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    if path.name == "__init__.py":
        package = name.split(".")[:-1]
    targets: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                is_module = whole in known or f"{whole}.__init__" in known
                targets.add(whole if is_module else module)
    targets = {f"{target}.__init__" if f"{target}.__init__" in known else target for target in targets}
    return {target for target in targets if target in known}


def room(name: str) -> str:
    return name.split(".")[1]


def test_imports_point_down() -> None:
    known = modules()
    assert {room(name) for name in known} <= set(RANKS)
    wrong = [
        f"{name} imports {target}"
        for name, path in known.items()
        if name not in LAZY
        for target in imports_of(name, path, set(known), with_lazy=True)
        if RANKS[room(target)] > RANKS[room(name)]
        or (RANKS[room(target)] == RANKS[room(name)] > 0 and room(target) != room(name))
    ]
    assert wrong == []


def test_no_import_cycle() -> None:
    known = modules()
    graph = {name: imports_of(name, path, set(known), with_lazy=False) for name, path in known.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


def test_no_long_file() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("flash_vstream", {"torch", "transformers"}),
        ("flash_vstream.cli", {"torch", "transformers"}),
        ("flash_vstream.memory", {"transformers"}),
        ("flash_vstream.video", {"torch", "transformers"}),
        ("flash_vstream.eval.reporting.command", {"torch", "transformers", "flash_vstream.synthetic"}),
    ],
)
def test_an_import_stays_cheap(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*(name for name in {sorted(absent)!r} if name in sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
