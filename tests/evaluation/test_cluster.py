"""Two Ray workers on this machine give the report of one process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from minicpm_o.api import MiniCPMO
from minicpm_o.cli.evaluate import open_model
from minicpm_o.errors import OptionError
from minicpm_o.evaluation.cluster import Workers, over_ray
from minicpm_o.evaluation.local import run_local

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


def test_two_workers_give_the_report_of_one_process(cluster: None, model: MiniCPMO, nano: Path, samples: Path,
                                                    data: Any, tmp_path: Path) -> None:
    data.images("images", "1.png")
    (data.root / "images" / "cat.jpg").write_bytes((samples / "photo.jpg").read_bytes())
    data.rows("images_qa.jsonl", [
        {"id": f"{place}", "image": image, "type": kind, "question": question, "answers": answers}
        for place, (image, kind, question, answers) in enumerate([
            ("cat.jpg", "open", "What animal is this?", ["cat"]), ("cat.jpg", "open", "What colour is it?", ["brown"]),
            ("1.png", "open", "What colour is it?", ["red"]), ("1.png", "yesno", "Is it red?", ["yes"]),
            ("cat.jpg", "yesno", "Is there a cat?", ["yes"]), ("cat.jpg", "yesno", "Is there a dog?", ["no"])])])
    spread = over_ray(partial(open_model, str(nano), 1), data.root, Workers(2))
    shown: list[str] = []
    many = run_local(model, data.root, blind=True, report_path=tmp_path / "many.json", spread=spread,
                     progress=lambda name, done, total: shown.append(name))
    one = run_local(model, data.root, blind=True, report_path=tmp_path / "one.json")
    assert [(line.name, line.n, line.metrics, line.blind) for line in many.tasks] == [
        (line.name, line.n, line.metrics, line.blind) for line in one.tasks]
    assert shown.count("all questions") == 11, "two blind questions are the same"


def test_workers_are_counted() -> None:
    with pytest.raises(OptionError, match="0 workers"):
        Workers(0)
