"""The shell of the project agrees with what is in it: README, NOTICE, requirements, no address of any one machine."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README_zh.md")
IGNORED = {".git", ".venv", "build", "dist", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
TEXT = {".py", ".md", ".txt", ".toml", ".yml", ".yaml", ".json", ".jsonl", ".sh", ".cfg", ".svg", ""}


def files() -> list[Path]:
    """Every file of the project: git's list, or the tree without what is built."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not IGNORED & set(path.relative_to(ROOT).parts)]


def words(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def headings(name: str) -> list[int]:
    """Levels of the headings outside code."""
    prose = re.sub(r"```.*?```", "", words(ROOT / name), flags=re.DOTALL)
    return [len(mark) for mark in re.findall(r"^(#+) ", prose, flags=re.MULTILINE)]


def code(name: str) -> list[str]:
    """Lines of the code blocks without comments."""
    blocks = re.findall(r"^```(?:bash|python)\n(.*?)^```", words(ROOT / name), flags=re.DOTALL | re.MULTILINE)
    lines = [re.sub(r"\s+#.*$", "", line).rstrip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def commands(name: str) -> list[list[str]]:
    """Every minicpm-o command of a README, in words."""
    return [shlex.split(line)[1:] for line in code(name) if line.startswith("minicpm-o ")]


def test_readmes_keep_in_step() -> None:
    assert headings("README.md") == headings("README_zh.md"), "the READMEs have different headings"
    assert code("README.md") == code("README_zh.md"), "the READMEs have different commands"


@cache
def help_of(*verb: str) -> str:
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-m", "minicpm_o", *verb, "--help"], capture_output=True, text=True,
                          env=environment)
    assert done.returncode == 0, f"minicpm-o {' '.join(verb)} --help: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("command", commands("README.md"), ids=" ".join)
def test_readme_commands_exist(command: list[str]) -> None:
    verb = command[: 2 if command[0] in ("eval", "data") else 1]
    text = help_of(*verb)
    for option in (word for word in command if word.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", text), f"minicpm-o {' '.join(verb)} has no {option}"


def test_readme_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", words(ROOT / "Makefile"), flags=re.MULTILINE))
    named = {match for name in READMES for match in re.findall(r"\bmake ([a-z-]+)", words(ROOT / name))}
    assert named <= targets


@pytest.mark.parametrize("name", [*READMES, "MODEL_CARD.md", "docs/architecture.md"])
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", words(ROOT / name))
    missing = [link for link in links if not (ROOT / name).parent.joinpath(link).exists()]
    assert not missing, f"{name} links to {missing}"


def test_numbers_are_those_of_the_reports() -> None:
    done = subprocess.run([sys.executable, "benchmarks/readme_numbers.py", "--check"], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr


def test_drawing_is_drawn_from_its_table() -> None:
    done = subprocess.run([sys.executable, "-c", "import draw; print(draw.draw(), end='')"], cwd=ROOT / "docs",
                          capture_output=True, text=True, check=True)
    assert done.stdout == words(ROOT / "docs" / "architecture.svg"), "run `make docs`"


def test_no_place_of_one_machine() -> None:
    """No path of a machine and no address of a package index, in any file."""
    folders = "|".join(("work", "home", "root", "Users"))
    indices = "|".join((r"pypi\.org", "pythonhosted", r"registry\.npmjs", r"download\.pytorch", r"deb\.debian"))
    options = "|".join(("index-url", "extra-index", "find-links", "trusted-host"))
    pattern = re.compile(rf"(?<![\w.~-])/(?:{folders})/\w|{indices}|--(?:{options})")
    found = []
    for path in files():
        if path.suffix not in TEXT or path == Path(__file__) or path.stat().st_size > 5_000_000:
            continue
        for number, line in enumerate(words(path).replace("--no-emit-index-url", "").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_notice_names_every_part() -> None:
    from minicpm_o.checkpoints.parts import NANO_PARTS

    notice = words(ROOT / "NOTICE")
    for part in NANO_PARTS:
        assert f"[{part.name}]" in notice, f"NOTICE does not name the part {part.name}"
        for package in part.packages:
            stem, _, number = package.name.rpartition("-")
            named = package.name in notice or (number.isdigit() and stem in notice and f"-{number}" in notice)
            assert named and package.version in notice, f"NOTICE does not name {package.pin}"


def test_notice_names_every_asset_folder() -> None:
    notice = words(ROOT / "NOTICE")
    for path in files():
        parts = path.relative_to(ROOT).parts
        if parts[:2] == ("minicpm_o", "assets") and len(parts) > 3:
            named = "/".join(parts[:3]) in notice
            assert named or "/".join(parts) in notice, f"NOTICE says nothing of {'/'.join(parts)}"


def test_requirements_are_pinned_and_hashed() -> None:
    for name in ("base", "serve", "dev", "bench", "lmms"):
        text = words(ROOT / "requirements" / f"{name}.txt").replace("\\\n", "")
        for line in (line for line in text.splitlines() if line and not line.startswith("#")):
            assert re.match(r"[\w.\[\]-]+==\S+", line) and "--hash=sha256:" in line, f"{name}.txt: {line[:80]}"


def test_requirements_cover_the_project() -> None:
    """Whatever pyproject.toml asks for is pinned; dev.txt pins all of base.txt the same way."""
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([\w.-]+==[\w.+!]+)", words(ROOT / "requirements" / name), flags=re.MULTILINE))

    block = re.search(r"^dependencies = \[(.*?)^\]", words(ROOT / "pyproject.toml"), flags=re.DOTALL | re.MULTILINE)
    assert block
    wanted = set(re.findall(r'"([\w-]+)', block.group(1)))
    assert wanted <= {pin.split("==")[0] for pin in pins("base.txt")}, "run `make lock`"
    assert pins("base.txt") <= pins("serve.txt") & pins("dev.txt"), "run `make lock`"


def test_version_has_one_value() -> None:
    import minicpm_o

    version = re.search(r'^version = "(.+)"', words(ROOT / "pyproject.toml"), flags=re.MULTILINE)
    assert version and version.group(1) == minicpm_o.__version__
    assert f"## {minicpm_o.__version__}" in words(ROOT / "CHANGELOG.md")
