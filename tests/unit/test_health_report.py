"""The health check's report: for machines, as a table, as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from health_facts import DIGEST, facts, write_report


def test_all_is_well(tmp_path: Path) -> None:
    code, output = write_report(tmp_path, facts())
    assert code == 0, output
    report = json.loads((tmp_path / "health.json").read_text())
    assert report["ok"] is True
    assert {"name": "page prometheus 9002", "ok": True, "detail": "asks for a password"} in report["checks"]
    assert report["not_deployed"] == [{"name": "Grafana", "reason": "its image comes from a registry or an archive"}]
    assert "Warning: the front on one takes passwords unencrypted." in report["notes"]
    versions = {(entry["where"], entry["what"]): entry["version"] for entry in report["versions"]}
    assert versions["two", "system"] == "Debian GNU/Linux 12 (bookworm), kernel 6.18.0"
    assert versions["one", "Docker engine"] == "20.10.24"
    assert versions["PROD-STACK_tf_serving", "image"] == "tensorflow/serving:2.20.0"
    assert versions["model pets", "stable"] == f"2, {DIGEST}"
    assert versions["one", "haproxy"] == "2.6.12"
    assert {("controller", "ansible-core"), ("controller", "tf2x.serving")} <= set(versions)

    table = (tmp_path / "health.txt").read_text()
    assert "note  Grafana is not deployed: its image comes from a registry or an archive" in table

    page = (tmp_path / "health.html").read_text()
    assert page.count('<figure class="chart">') == 4
    assert "Nothing was recorded" not in page
    assert re.findall(r'(?:src|href)="(?!data:,")', page) == []
    assert "url(" not in page and "@import" not in page
    for check in report["checks"]:
        assert check["name"] in page and check["detail"] in page


def test_what_is_wrong_comes_first_and_is_text(tmp_path: Path) -> None:
    hosts = facts()
    hosts["one"]["__health_check_targets"] = {"status": 503, "msg": "<script>alert(1)</script>"}
    hosts["one"]["__health_check_recorded"] = {"status": -1, "msg": "no <connection>"}
    hosts["one"]["__health_check_builds"] = {"status": -1}
    code, output = write_report(tmp_path, hosts)
    assert code != 0
    assert "prometheus one" in output
    page = (tmp_path / "health.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert re.findall(r"<td>(ok|FAIL)</td>", page)[:2] == ["FAIL", "ok"]
    assert "did not answer: no &lt;connection&gt;" in page


def test_nothing_answers(tmp_path: Path) -> None:
    silent = {"__health_check_host": {"unreachable": True, "msg": "no route"}}
    code, _output = write_report(tmp_path, {"one": dict(silent), "two": dict(silent)})
    assert code != 0
    assert not json.loads((tmp_path / "health.json").read_text())["ok"]
    assert "host one" in (tmp_path / "health.html").read_text()
