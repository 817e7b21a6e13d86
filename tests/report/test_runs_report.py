"""A run leaves a report with the sources of its settings, and succeeds without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_kd.cli.run import main
from recbole_kd.errors import KDError
from recbole_kd.report import page as page_module
from tests.support.runs import words


def test_a_run_leaves_a_report_and_succeeds_where_none_can_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("kd_beta: 2.5\n")
    arguments = [*words(tmp_path), f"--config_files={own}"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    (folder,) = (tmp_path / "saved").glob("MF-*")
    assert f"report: {folder / 'report.html'}" in shown
    sources = json.loads((folder / "result.json").read_text())["setting_sources"]
    assert sources["distilled"]["kd_beta"] == [2.5, f"file {own}"]
    assert sources["distilled"]["kd_k"] == [5, "command"]
    assert sources["teacher LightGCN"]["epochs"] == [2, "command"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"file {own}" in page and "Overlap rate and closure" in page

    def missing() -> str:
        raise KDError("Reports need plotly: pip install plotly")

    monkeypatch.setattr(page_module, "plotly_js", missing)
    assert main(arguments) == 0
    (second,) = set((tmp_path / "saved").glob("MF-*")) - {folder}
    assert (second / "result.json").is_file() and not (second / "report.html").exists()
    assert "no report was written (Reports need plotly" in (second / "run.log").read_text()
    assert "report:" not in capsys.readouterr().out.split("next:")[0].rsplit("result:")[1]
