"""nano for phones: what the graphs weigh, which operators they take, and who has kernels for them.

    python benchmarks/mobile_operators.py

Exits with 1 when a graph holds an operator that onnxruntime's processor kernels do not cover.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import common
from minicpm_o.mobile.coverage import Coverage, Operator, cover
from minicpm_o.mobile.export import HEARS, SEES, export_graphs
from minicpm_o.mobile.ort_format import SUFFIX, to_ort

NAME = "mobile"


def measure(work: Path) -> dict[str, Any]:
    """Size and coverage of every graph."""
    export_graphs(work)
    graphs = {}
    for name in (*SEES, *HEARS):
        source, target = work / f"{name}.onnx", work / f"{name}{SUFFIX}"
        to_ort(source, target)
        graphs[name] = {"mb": target.stat().st_size / 1e6, **as_dict(cover(target, source))}
    return {"graphs": graphs, "eight_bits_mb": eight_bits_mb()}


def eight_bits_mb() -> dict[str, float]:
    """What the language part weighs as Python has it, the alternative: its graph in 8 bits, and the word table."""
    from minicpm_o.checkpoints.hub import resolve

    folder = Path(resolve("nano"))
    return {name: (folder / name).stat().st_size / 1e6 for name in ("language.onnx.data", "embeddings.safetensors")}


def as_dict(found: Coverage) -> dict[str, Any]:
    return {"nodes": found.nodes, "nodes_offered": found.nodes_offered,
            "shares": {name: dataclasses.asdict(share) for name, share in found.shares.items()},
            "operators": [{**dataclasses.asdict(operator), "count": count}
                          for operator, count in sorted(found.operators.items(), key=lambda item: str(item[0]))],
            "without_kernel": [dataclasses.asdict(operator) for operator in found.without_kernel]}


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    head = ("graph", "MB", "nodes", "operators", "without a kernel", "NNAPI", "Core ML")
    rows = [(f"`{name}`", f"{graph['mb']:.1f}", graph["nodes"], len(kinds(graph)), len(graph["without_kernel"]),
             share(graph, "NNAPI"), share(graph, "Core ML")) for name, graph in report["graphs"].items()]
    sizes = {part: sum(report["graphs"][name]["mb"] for name in names) for part, names in
             (("seeing and answering", SEES), ("hearing", HEARS))}
    words = "; ".join(f"{part} {mb:.1f} MB" for part, mb in sizes.items())
    graph, words_table = report["eight_bits_mb"].values()
    return (f"{common.table(head, rows)}\n\nTogether: {words}. Python's own language part, in 8 bits: {graph:.1f} MB, "
            f"and {words_table:.1f} MB for the word table, which stands apart there.\n\n"
            f"{common.table(('operator', 'version', 'graphs', 'nodes', 'types of its inputs'), operators(report))}\n\n"
            f"{common.provenance(report)}\n")


def share(graph: dict[str, Any], whose: str) -> str:
    """A share of the nodes in per cent, and in how many pieces."""
    found = graph["shares"][whose]
    return f"{100 * found['nodes'] / graph['nodes_offered']:.0f} % in {found['partitions']}"


def kinds(graph: dict[str, Any]) -> set[tuple[str, str, int]]:
    return {(item["domain"], item["name"], item["version"]) for item in graph["operators"]}


def operators(report: dict[str, Any]) -> list[tuple[object, ...]]:
    """A row for every operator and version of any graph."""
    nodes: Counter[tuple[str, str, int]] = Counter()
    types: dict[tuple[str, str, int], set[str]] = {}
    for graph in report["graphs"].values():
        for item in graph["operators"]:
            key = item["domain"], item["name"], item["version"]
            nodes[key] += item["count"]
            types.setdefault(key, set()).update(name[len("tensor(") : -1] for name in item["types"] if name)
    return [(f"`{domain + '.' if domain else ''}{name}`", version,
             sum((domain, name, version) in kinds(graph) for graph in report["graphs"].values()), count,
             ", ".join(sorted(types[domain, name, version])))
            for (domain, name, version), count in sorted(nodes.items())]


def missing(report: dict[str, Any]) -> list[Operator]:
    """Operators without a kernel, of all graphs."""
    return [Operator(**{**item, "types": tuple(item["types"])})
            for graph in report["graphs"].values() for item in graph["without_kernel"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=common.RESULTS / f"{NAME}.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        report = {"name": NAME, "command": "python benchmarks/mobile_operators.py", "machine": common.machine(),
                  **measure(Path(work))}
    common.publish(args.out, report, markdown(report))
    if missing(report):
        sys.exit(f"without a kernel: {missing(report)}")


if __name__ == "__main__":
    main()
