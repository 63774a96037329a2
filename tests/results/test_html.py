"""The page as text: small, whole, and deaf to what stands in the names of runs."""

import json
import re

from written_runs import write_metrics, write_run

from sparsebench.app.cli.report import read
from sparsebench.results.render.charts import picture
from sparsebench.results.render.html import TEMPLATE, page


def page_of(folder, **more):
    shown, damaged = picture(read(folder).rows, base=folder)
    return page(shown, **{"title": "t", "notes": damaged, "sources": [], "made": "now", **more})


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_template_is_small_and_asks_for_nothing_from_outside():
    text = TEMPLATE.read_text(encoding="utf-8")
    assert len(text.encode()) < 40_000
    assert set(re.findall(r"https?://[^\s\"')]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text
    assert "default-src 'none'" in text
    assert re.findall(r"\{\{(\w+)\}\}", text) == ["title", "data"]


def test_what_a_run_is_called_is_never_markup(tmp_path):
    evil = "</script><script>alert(1)</script>"
    write_run(tmp_path / "a", method=evil, model="<!--", config={"optimizer": {"lr": evil}})
    text = page_of(tmp_path, title=evil, notes=[evil + "\u2028"])
    assert text.count("</script>") == TEMPLATE.read_text(encoding="utf-8").count("</script>")
    found = data_of(text)
    assert found["rows"][0]["method"] == evil
    assert found["notes"] == [evil + "\u2028"]
    assert "<title>&lt;/script&gt;" in text


def test_numbers_that_json_cannot_say_are_null(tmp_path):
    folder = write_run(tmp_path / "a", images_per_second=float("nan"), seconds=float("inf"))
    write_metrics(folder, epochs=2)
    (row,) = data_of(page_of(tmp_path))["rows"]
    assert row["images_per_second"] is None
    assert row["seconds"] is None
    assert row["runs"][0]["folder"] == "a/"
    assert len(row["runs"][0]["at"]) == len(row["runs"][0]["curves"]["val_accuracy"]) == 3
