"""Imports point one way, and the heavy ones stay where they are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "minicpm_o"
FREE = {"errors", "rates"}
BELOW = {
    "errors": set(),
    "rates": set(),
    "model": set(),
    "inputs": {"model"},
    "checkpoints": {"model"},
    "runtime": {"model", "inputs", "checkpoints"},
    "training": {"model", "inputs", "checkpoints", "runtime", "evaluation"},  # of evaluation its metrics: rewards
    "api": {"model", "inputs", "checkpoints", "runtime"},
    "auto": {"model", "inputs", "checkpoints", "runtime"},  # transformers' Auto classes
    "evaluation": {"model", "inputs", "checkpoints", "runtime", "api"},
    "server": {"model", "inputs", "checkpoints", "runtime", "api"},
    "portable": {"model", "inputs", "checkpoints", "runtime"},  # writes down what they know
    "web": {"model", "inputs", "checkpoints", "runtime", "portable"},  # for a browser
    "mobile": {"model", "inputs", "checkpoints", "runtime", "portable"},  # for a phone
    "cli": {"model", "inputs", "checkpoints", "runtime", "api", "auto", "evaluation", "server", "training", "web",
            "mobile"},
    "__init__": {"api"},
    "__main__": {"cli"},
}
"""Who may import whom; `errors` and `rates` are free to all."""
TORCH_ZONE = ("model/encoders/", "model/language/", "model/outputs/", "model/layers.py", "model/omni.py", "training/",
              "auto.py", "checkpoints/torch_loader.py", "runtime/torch_parts.py", "runtime/torch_voice.py")
NOT_IN_BASE = {"torch", "transformers", "peft"}
"""Packages that the base install does not bring."""


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "assets" not in path.parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("minicpm_o", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.AST, *, deep: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run; deep: those inside functions too. What only a type checker reads is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(ast.Module([other], []), deep=deep)
        elif deep or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imports(node, deep=deep)


def targets(path: Path, *, deep: bool) -> set[str]:
    """Dotted names of everything a module imports, relative imports resolved."""
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    found = set()
    for node in imports(ast.parse(path.read_text(encoding="utf-8")), deep=deep):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
            continue
        base = [] if node.level == 0 else package[: len(package) - node.level + 1]
        prefix = ".".join([*base, *([node.module] if node.module else [])])
        found.update(f"{prefix}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    layer = layer_of(path)
    assert layer in BELOW, f"{layer} is a new part of the package; say in BELOW what it may import"
    layers = {t.split(".")[1] for t in targets(path, deep=True) if t.startswith("minicpm_o.")}
    known = {name for name in layers if name in BELOW or (PACKAGE / name).exists()}
    wrong = known - BELOW[layer] - FREE - {layer}
    assert not wrong, f"{name_of(path)} imports {sorted(wrong)}; {layer} may import {sorted(BELOW[layer] | FREE)}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_base_modules_import_no_torch(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix().startswith(TORCH_ZONE):
        pytest.skip("part of the torch twin of the network")
    found = {t.split(".")[0] for t in targets(path, deep=True)} & NOT_IN_BASE
    assert not found, f"{name_of(path)} imports {sorted(found)}, which the base install does not bring"


def test_no_import_cycles() -> None:
    names = {name_of(path) for path in modules()}
    graph: dict[str, set[str]] = {}
    for path in modules():
        wanted = targets(path, deep=False)
        hits = {t for t in wanted if t in names} | {t.rpartition(".")[0] for t in wanted if t not in names}
        graph[name_of(path)] = (hits & names) - {name_of(path)}
    while leaves := [name for name, wants in graph.items() if not wants & set(graph)]:
        for name in leaves:
            del graph[name]
    assert not graph, f"these modules import each other in a circle: {sorted(graph)}"


@pytest.mark.parametrize("module", ["minicpm_o", "minicpm_o.cli"])
def test_importing_is_light(module: str) -> None:
    heavy = {"torch", "onnxruntime", "onnx", "transformers", "av", "gguf"}
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], f"`import {module}` pulls {done.stdout.strip()}"


def test_base_modules_import_without_torch() -> None:
    zone = [path for path in modules() if not path.relative_to(PACKAGE).as_posix().startswith(TORCH_ZONE)]
    names = [name_of(path) for path in zone if path.name != "__main__.py"]
    block = f"import sys; sys.modules.update(dict.fromkeys({sorted(NOT_IN_BASE)}))"
    code = f"{block}; import importlib; [importlib.import_module(name) for name in {names}]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
