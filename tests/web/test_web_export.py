"""What the exporter refuses, and the tables that the page follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpm_o.cli.app import run
from minicpm_o.runtime.speech.reading import rule_patterns
from minicpm_o.web.voice import reading_tables, to_javascript


def test_options_and_models_that_it_does_not_heed_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                                              ) -> None:
    out = ["--out", str(tmp_path / "page")]
    for options, words in ((["nano", "--target", "toaster"], "exports to web, android, ios"),
                           (["openbmb/MiniCPM-o-2_6", "--target", "web"], "is for 'nano'"),
                           (["nano", "--target", "web", "--bits", "8"], "has no effect with --target web"),
                           (["nano"], "or nano with --target web, android, ios"),
                           (["nano", "--target", "web", "--no-audio"], "the page hears")):
        assert run(["export", *options, *out]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_reading_tables_are_plain_json() -> None:
    tables = reading_tables()
    assert json.loads(json.dumps(tables))["currencies"]["$"][0] == "dollar"
    assert [name for name, _ in tables["rules"]] == [name for name, _ in rule_patterns()]
    assert tables["emoji_names"]["😀"] == "grinning face"


def test_patterns_are_written_as_a_browser_reads_them() -> None:
    assert to_javascript(r"(?P<sign>[\-+])\"\-") == r'(?<sign>[\-+])"-'
    assert to_javascript(r"(?i:\b(dr|e\.g)\.)(?![A-Za-z])") == r"(?:\b([dD][rR]|[eE]\.[gG])\.)(?![A-Za-z])"
