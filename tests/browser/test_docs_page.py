"""The reference of the API, in a real browser in front of a real gateway."""

from __future__ import annotations

import re

import pytest
from accessibility import contrasts, overflow, small_targets
from playwright.sync_api import expect


def test_every_operation_is_explained(gateway, visit):
    opened = visit(gateway, "/docs")
    page = opened.page
    schema = gateway.get("/openapi.json").json
    operations = [
        (path, method, operation) for path, ways in schema["paths"].items() for method, operation in ways.items()
    ]
    assert len(operations) >= 7
    for path, method, operation in operations:
        part = page.locator(f"#{operation['operationId']}")
        expect(part.get_by_role("heading").first).to_have_text(
            re.compile(rf"^\s*{method.upper()}\s+{re.escape(path)}\s*$")
        )
        expect(part).to_contain_text(operation["summary"])
        for parameter in operation.get("parameters", ()):
            expect(part.locator("dt", has_text=parameter["name"])).to_have_count(1)
        for media_type in operation.get("requestBody", {}).get("content", {}):
            expect(part.get_by_role("heading", name=media_type)).to_have_count(1)
        for status, answer in operation["responses"].items():
            expect(part).to_contain_text(status)
            expect(part).to_contain_text(answer["description"].split("\n")[0].replace("`", ""))
        example = part.locator("pre").first
        expect(example).to_contain_text("curl")
        expect(example).to_contain_text(opened.origin + path.replace("{name}", "NAME"))


def test_every_shape_and_error_is_explained(gateway, visit):
    page = visit(gateway, "/docs").page
    shapes = gateway.get("/openapi.json").json["components"]["schemas"]
    for name, shape in shapes.items():
        part = page.locator(f"#shape-{name}")
        for field in shape["properties"]:
            expect(part.locator("dt > code:first-child", has_text=re.compile(f"^{field}$"))).to_have_count(1)
    errors = page.locator("#errors")
    for code in shapes["Error"]["properties"]["code"]["enum"]:
        expect(errors.get_by_text(code, exact=True)).to_have_count(1)
    expect(errors).to_contain_text("limits.max_upload_bytes")


def test_its_links_lead_somewhere(gateway, visit):
    page = visit(gateway, "/docs").page
    targets = page.evaluate(
        "[...new Set([...document.querySelectorAll('a')].map((link) => link.getAttribute('href')))]"
    )
    anchors = [target for target in targets if target.startswith("#")]
    assert len(anchors) > 10
    assert [anchor for anchor in anchors if page.locator(f"[id='{anchor[1:]}']").count() != 1] == []
    assert {gateway.get(target).status for target in targets if not target.startswith("#")} == {200}


def test_an_example_works_as_it_stands(gateway, visit):
    page = visit(gateway, "/docs").page
    models = (
        page.locator("article", has=page.get_by_role("heading", name="GET /models")).locator("pre").first.inner_text()
    )
    assert gateway.get(models.removeprefix("curl ").partition(f":{gateway.port}")[2]).status == 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(gateway, visit, scheme):
    page = visit(
        gateway, "/docs", viewport={"width": 320, "height": 640}, color_scheme=scheme, has_touch=True, is_mobile=True
    ).page
    for summary in page.locator("summary").all():
        summary.tap()
    assert overflow(page) == 0
    assert small_targets(page) == []
    assert {text: ratio for text, ratio in contrasts(page).items() if ratio < 4.5} == {}


def test_without_javascript(gateway, visit):
    page = visit(gateway, "/docs", java_script_enabled=False).page
    expect(page.get_by_text("curl -F file=@cat.jpg http://gateway:9000/model/predict/", exact=True)).to_be_visible()
