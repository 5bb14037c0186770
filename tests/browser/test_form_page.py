"""The page that classifies images, in a real browser in front of a real gateway."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
from typing import Any

import pytest
from accessibility import contrasts, overflow, small_targets
from gateway_process import Gateway, encode_image
from PIL import Image
from playwright.sync_api import Locator, Page, expect
from stub_protobuf import float_tensor
from stub_serving import wait_until

TEXT = b"this is a text"


def picture(red: int, green: int, size: tuple[int, int] = (40, 30)) -> bytes:
    return encode_image(Image.new("RGB", size, (red, green, 0)))


RED, GREEN = picture(250, 25), picture(50, 200)


def file(name: str, content: bytes, kind: str = "image/png") -> dict[str, Any]:
    """A file as Playwright takes it."""
    return {"name": name, "mimeType": kind, "buffer": content}


def choose(page: Page, *files: dict[str, Any]) -> None:
    page.locator("#file").set_input_files(list(files))


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=name, exact=True))


def shown_scores(card: Locator) -> list[tuple[str, float]]:
    """Labels with what their meters say to assistive technology, from top to bottom."""
    meters = card.get_by_role("meter").all()
    return [
        (meter.get_attribute("aria-label").removeprefix("Score of "), float(meter.get_attribute("aria-valuenow")))
        for meter in meters
    ]


def answered_scores(gateway: Gateway, image: bytes) -> list[tuple[str, float]]:
    return [(item["label"], item["score"]) for item in gateway.upload(image).json["predictions"]]


def expect_classified(page: Page, gateway: Gateway, name: str, image: bytes) -> None:
    """The card of an image says what the gateway says about it."""
    one = card(page, name)
    expect(one.get_by_role("meter")).not_to_have_count(0)
    assert shown_scores(one) == answered_scores(gateway, image)


# ---- pictures come in


@pytest.mark.parametrize("path", ["/form", "/ui"])
def test_choosing_several_files(gateway, visit, path):
    page = visit(gateway, path).page
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Choose pictures", exact=True).click()
    assert chooser.value.is_multiple()
    chooser.value.set_files([file("red.png", RED), file("green.png", GREEN)])
    expect_classified(page, gateway, "red.png", RED)
    expect_classified(page, gateway, "green.png", GREEN)
    assert shown_scores(card(page, "red.png"))[0][0] == "red"
    assert shown_scores(card(page, "green.png"))[0][0] == "green"
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done")


def test_a_card_tells_all_about_its_prediction(gateway, stub, visit):
    stub.model.version = 7
    page = visit(gateway).page
    choose(page, file("red.png", RED))
    one = card(page, "red.png")
    expect(one).to_contain_text("Model pets, version 7")
    expect(one).to_contain_text(re.compile(r"\d ms, measured in this browser"))
    expect(one).to_contain_text(f"{len(RED)} bytes")
    (_label, best), (_other, second) = answered_scores(gateway, RED)
    expect(one).to_contain_text(f"{best * 100:.1f} %")
    expect(one).to_contain_text(f"{second * 100:.1f} %")
    track, filled = (one.locator(place).first.bounding_box()["width"] for place in (".meter", ".meter span"))
    assert filled / track == pytest.approx(best, abs=0.02)
    assert one.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 40


def test_dragging_files_from_outside_and_dropping_them(gateway, visit, tmp_path):
    page = visit(gateway).page
    paths = []
    for name, content in (("red.png", RED), ("green.png", GREEN)):
        (tmp_path / name).write_bytes(content)
        paths.append(str(tmp_path / name))
    box = page.locator("#drop").bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    devtools = page.context.new_cdp_session(page)

    def drag(kind: str) -> None:
        data = {"items": [], "files": paths, "dragOperationsMask": 1}
        devtools.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})

    drag("dragEnter")
    drag("dragOver")
    expect(page.locator("#drop")).to_have_class(re.compile(r"\bover\b"))
    drag("drop")
    expect(page.locator("#drop")).not_to_have_class(re.compile(r"\bover\b"))
    expect_classified(page, gateway, "red.png", RED)
    expect_classified(page, gateway, "green.png", GREEN)


def test_a_drop_beside_the_target_counts_as_well(gateway, visit):
    page = visit(gateway).page
    page.evaluate(
        """content => {
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], "red.png"));
            const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
            if (document.querySelector("h1").dispatchEvent(drop)) throw new Error("the browser would open the file");
        }""",
        base64.b64encode(RED).decode(),
    )
    expect_classified(page, gateway, "red.png", RED)


def test_pasting_a_picture(gateway, visit):
    page = visit(gateway, permissions=["clipboard-read", "clipboard-write"]).page
    page.evaluate(
        """async (content) => {
            const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
            const picture = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
        }""",
        base64.b64encode(GREEN).decode(),
    )
    page.keyboard.press("Control+V")
    # The clipboard encodes pictures anew, so only their pixels stay.
    expect(page.get_by_role("meter")).to_have_count(2)
    assert shown_scores(page.locator(".card")) == answered_scores(gateway, GREEN)


def test_at_most_two_requests_at_once(gateway, stub, visit):
    stub.delay = 60
    page = visit(gateway).page
    choose(page, *(file(f"{number}.png", RED) for number in range(5)))
    wait_until(lambda: len(stub.calls) == 2)
    expect(page.get_by_text("Asking the model")).to_have_count(2)
    expect(page.get_by_text("Waiting for its turn")).to_have_count(3)
    assert len(stub.calls) == 2
    stub.released.set()
    expect(page.get_by_role("status")).to_have_text("5 of 5 pictures done")
    expect(page.get_by_role("meter")).to_have_count(10)


# ---- labels and models


def test_many_labels(visit, stub, new_gateway):
    labels = [f"label {number}" for number in range(8)]
    stub.model.outputs = {"scores": (1, (-1, 8))}
    stub.model.answer = lambda pixels: float_tensor((1, 8), [0.3, 0.0, 0.1, 0.4, 0.05, 0.08, 0.06, 0.01])
    gateway = new_gateway(model={"labels": labels})
    page = visit(gateway).page
    choose(page, file("red.png", RED))
    one = card(page, "red.png")
    expect(one.get_by_role("meter")).to_have_count(5)
    one.get_by_text("3 more labels").click()
    expect(one.get_by_role("meter")).to_have_count(8)
    assert shown_scores(one) == answered_scores(gateway, RED)


def test_scores_that_are_no_shares(gateway, stub, visit):
    stub.model.answer = lambda pixels: float_tensor((1, 2), [-3.5, 12.25])
    page = visit(gateway).page
    choose(page, file("red.png", RED))
    expect(card(page, "red.png").locator(".value")).to_have_text(["12.25", "-3.5"])


def test_nearly_certain_is_not_shown_as_certain(gateway, stub, visit):
    stub.model.answer = lambda pixels: float_tensor((1, 2), [1e-7, 0.9999999])
    page = visit(gateway).page
    choose(page, file("red.png", RED))
    expect(card(page, "red.png").locator(".value")).to_have_text(["> 99.9 %", "< 0.1 %"])


def test_one_model_is_not_a_choice(gateway, visit):
    page = visit(gateway).page
    choose(page, file("red.png", RED))
    expect_classified(page, gateway, "red.png", RED)
    expect(page.get_by_label("Model", exact=True)).to_be_hidden()


def test_choosing_a_model(visit, stub, new_gateway):
    models = {"pets": {"labels": ["red", "green"]}, "paints": {"labels": ["crimson", "olive"]}}
    gateway = new_gateway(models=models)
    page = visit(gateway).page
    expect(page.get_by_label("Model", exact=True)).to_have_value("pets")
    choose(page, file("red.png", RED))
    one = card(page, "red.png")
    expect(one).to_contain_text("Model pets")
    stub.model.name = "paints"
    page.get_by_label("Model", exact=True).select_option("paints")
    one.get_by_role("button", name="Run again").click()
    expect(one).to_contain_text("Model paints")
    assert [label for label, _score in shown_scores(one)] == ["crimson", "olive"]
    expect(one.locator("code")).to_contain_text("/models/paints/predict")


def test_without_the_list_of_models(gateway, visit):
    opened = visit(gateway, "/healthz")
    # No configuration makes the gateway refuse this list and nothing else.
    opened.page.route("**/models", lambda route: route.fulfill(status=404))
    page = opened.open("/form")
    choose(page, file("red.png", RED))
    expect_classified(page, gateway, "red.png", RED)


# ---- when it goes wrong


def test_a_text_file(gateway, visit):
    page = visit(gateway).page
    choose(page, file("notes.txt", TEXT, "text/plain"), file("red.png", RED))
    one = card(page, "notes.txt")
    expect(one).to_contain_text("This is not a picture that the service can read")
    expect(one).to_contain_text(gateway.upload(TEXT).message)
    expect(one).to_contain_text("No preview")
    expect_classified(page, gateway, "red.png", RED)
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done, 1 failed")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "The file is empty", id="empty"),
        pytest.param(encode_image(Image.effect_noise((99, 99), 9), "JPEG")[:-900], "The picture is cut off", id="cut"),
        pytest.param(RED[:60], "The picture is", id="damaged"),
    ],
)
def test_broken_pictures(gateway, visit, content, words):
    page = visit(gateway).page
    choose(page, file("broken.jpg", content))
    expect(card(page, "broken.jpg")).to_contain_text(words)
    expect(card(page, "broken.jpg")).to_contain_text(gateway.upload(content).message)


def test_a_file_that_is_too_large(visit, new_gateway):
    gateway = new_gateway(limits={"max_upload_bytes": 100_000})
    page = visit(gateway).page
    choose(page, file("large.bmp", encode_image(Image.new("RGB", (300, 200)), "BMP"), "image/bmp"))
    one = card(page, "large.bmp")
    expect(one).to_contain_text("The file is too large")
    expect(one).to_contain_text("100000 bytes allowed")
    expect(one).to_contain_text("Save the picture smaller")


def test_a_picture_with_too_many_pixels(visit, new_gateway):
    page = visit(new_gateway(limits={"max_image_pixels": 1000})).page
    choose(page, file("large.png", RED))
    expect(card(page, "large.png")).to_contain_text("The picture has too many pixels")


def test_overload_and_trying_again(visit, stub, new_gateway):
    gateway = new_gateway(limits={"max_in_flight": 1, "max_queued": 0})
    stub.delay = 60
    page = visit(gateway).page
    choose(page, file("1.png", RED), file("2.png", RED))
    failed = page.get_by_role("listitem").filter(has_text="The service is busy")
    expect(failed).to_have_count(1)
    expect(failed).to_contain_text("Try again in a second.")
    stub.released.set()
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done, 1 failed")
    failed.get_by_role("button", name="Run again").click()
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done")
    expect(page.get_by_role("meter")).to_have_count(4)


def test_too_many_requests_of_one_client(visit, stub, new_gateway):
    gateway = new_gateway(limits={"max_in_flight_per_client": 1})
    stub.delay = 60
    page = visit(gateway).page
    choose(page, file("1.png", RED), file("2.png", RED))
    refused = page.get_by_role("listitem").filter(has_text="Too many requests came from here at once")
    expect(refused).to_contain_text("Try again in a second.")
    stub.released.set()
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done, 1 failed")


def test_a_model_that_is_not_there_and_trying_all_again(gateway, stub, visit):
    stub.model.state = "LOADING"
    page = visit(gateway).page
    choose(page, file("1.png", RED), file("2.png", GREEN))
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done, 2 failed")
    expect(card(page, "1.png")).to_contain_text("The model gave no answer that can be used")
    expect(card(page, "1.png")).to_contain_text(re.compile(r"name the request [\w-]+\."))
    stub.model.state = "AVAILABLE"
    page.get_by_role("button", name="Try failed ones again").click()
    expect_classified(page, gateway, "1.png", RED)
    expect_classified(page, gateway, "2.png", GREEN)
    expect(page.get_by_role("button", name="Try failed ones again")).to_be_hidden()


def test_a_gateway_that_has_gone(visit, new_gateway):
    gateway = new_gateway()
    opened = visit(gateway)
    gateway.stop()
    choose(opened.page, file("red.png", RED))
    one = card(opened.page, "red.png")
    expect(one).to_contain_text("No answer came")
    expect(one).to_contain_text("Check the network and try again.")
    assert [text for text in opened.complaints if "ERR_CONNECTION_REFUSED" in text]
    opened.complaints.clear()


def test_an_answer_that_is_not_the_gateways(gateway, visit):
    page = visit(gateway).page
    # What a proxy between browser and gateway says when it cannot reach the latter.
    page.route("**/predict/", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    choose(page, file("red.png", RED))
    expect(card(page, "red.png")).to_contain_text("The answer was HTTP 502, without an explanation.")


# ---- API keys


def key_declaration(key: str, *scopes: str) -> dict[str, Any]:
    return {"name": f"key of {'-'.join(scopes)}", "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": scopes}


def test_no_key_is_asked_for_where_none_is_needed(gateway, visit):
    page = visit(gateway).page
    choose(page, file("red.png", RED))
    expect_classified(page, gateway, "red.png", RED)
    expect(page.get_by_label("API key")).to_be_hidden()


def test_an_api_key(visit, new_gateway):
    keys = [key_declaration("right-key", "predict"), key_declaration("metrics-key", "metrics")]
    gateway = new_gateway(api_keys=keys)
    page = visit(gateway).page
    choose(page, file("red.png", RED))
    one, field = card(page, "red.png"), page.get_by_label("API key")
    expect(one).to_contain_text("This service asks for an API key")
    for key, words in (
        ("wrong-key", "This service asks for an API key"),
        ("metrics-key", "The API key does not open this"),
        ("right-key", "Model pets"),
    ):
        with page.expect_response("**/predict/"):
            field.fill(key)
            field.press("Enter")
        expect(one).to_contain_text(words)
    expect(field).to_be_hidden()
    expect(one.locator("code")).to_contain_text('-H "Authorization: Bearer $API_KEY"')
    assert "right-key" not in page.content()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_an_api_key_that_is_given_before_the_first_refusal_comes(visit, new_gateway):
    gateway = new_gateway(api_keys=[key_declaration("right-key", "predict")])
    page = visit(gateway).page
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    held: list[Any] = []
    page.route("**/predict/", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/predict/"):
        choose(page, file("red.png", RED))
    with page.expect_response("**/models"):
        field.fill("right-key")
        field.press("Enter")
    held[0].continue_()
    expect(card(page, "red.png")).to_contain_text("Model pets")
    expect(field).to_be_hidden()


# ---- cards


def test_removing_a_card_frees_its_preview(gateway, visit):
    page = visit(gateway).page
    page.evaluate(
        """() => {
            window.freed = [];
            const revoke = URL.revokeObjectURL;
            URL.revokeObjectURL = (url) => { window.freed.push(url); revoke.call(URL, url); };
        }"""
    )
    choose(page, file("1.png", RED), file("2.png", RED), file("3.png", RED))
    expect(page.get_by_role("status")).to_have_text("3 of 3 pictures done")
    previews = [image.get_attribute("src") for image in page.locator(".card img").all()]
    assert [url.partition(":")[0] for url in previews] == ["blob"] * 3
    assert page.evaluate("window.freed") == []
    page.get_by_role("button", name="Remove 1.png").click()
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done")
    assert page.evaluate("window.freed") == previews[:1]
    page.get_by_role("button", name="Remove all").click()
    assert page.evaluate("window.freed") == previews
    expect(page.locator(".card")).to_have_count(0)
    expect(page.get_by_role("status")).to_be_empty()


def test_removing_a_card_gives_its_turn_to_the_next(gateway, stub, visit):
    stub.delay = 60
    page = visit(gateway).page
    choose(page, *(file(f"{number}.png", RED) for number in range(3)))
    wait_until(lambda: len(stub.calls) == 2)
    page.get_by_role("button", name="Remove 0.png").click()
    wait_until(lambda: len(stub.calls) == 3)
    stub.released.set()
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done")


HOSTILE_NAMES = ["red.png", 'it\'s; a "cat", \\ & $(touch owned) 100%.png', "Gr\u00fcn und r\u00f6t.png", " - .png"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_the_command_does_what_the_page_did(gateway, visit, tmp_path, name):
    page = visit(gateway, permissions=["clipboard-read", "clipboard-write"]).page
    choose(page, file(name, RED))
    one = page.locator(".card")
    expect(one.get_by_role("meter")).to_have_count(2)
    one.get_by_text("As a command").click()
    one.get_by_role("button", name="Copy").click()
    expect(one.get_by_role("button", name="Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == one.locator("code").inner_text()
    (tmp_path / name).write_bytes(RED)
    ran = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.stdout == gateway.upload(RED).body.decode(), ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_copying_without_the_clipboard_interface(gateway, visit):
    page = visit(gateway, permissions=["clipboard-read"]).page
    # As over plain HTTP from another host, which loopback is exempt from.
    page.evaluate("Object.defineProperty(navigator.clipboard, 'writeText', { value: undefined })")
    choose(page, file("red.png", RED))
    one = card(page, "red.png")
    one.get_by_text("As a command").click()
    one.get_by_role("button", name="Copy").click()
    expect(one.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith("curl -F 'file=@red.png'")


def test_names_are_text_and_nothing_else(gateway, visit):
    page = visit(gateway).page
    name = "<img src=x onerror=alert(1)>.png"
    choose(page, file(name, RED))
    expect(card(page, name).get_by_role("meter")).to_have_count(2)
    assert page.locator("img").count() == 1


# ---- for everybody


def test_by_keyboard_alone(gateway, visit):
    page = visit(gateway).page

    def tab_to(wanted: Locator) -> None:
        for _unused in range(30):
            page.keyboard.press("Tab")
            focused = page.locator(":focus-visible")
            if wanted.evaluate("(wanted) => wanted === document.activeElement"):
                shown = page.locator("#drop .button") if wanted.get_attribute("type") == "file" else focused
                assert float(shown.evaluate("node => parseFloat(getComputedStyle(node).outlineWidth)")) >= 2
                return
        raise AssertionError(f"Tab does not lead to {wanted}")

    # Whoever only begins to listen with the key press may be too late.
    page.on("filechooser", lambda chooser: None)
    tab_to(page.locator("#file"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([file("red.png", RED), file("notes.txt", TEXT)])
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done, 1 failed")
    tab_to(card(page, "red.png").locator("summary"))
    page.keyboard.press("Enter")
    expect(card(page, "red.png").locator("code")).to_be_visible()
    tab_to(card(page, "notes.txt").get_by_role("button", name="Run again"))
    with page.expect_response("**/predict/") as answer:
        page.keyboard.press("Space")
    assert answer.value.status == 415
    tab_to(card(page, "notes.txt").get_by_role("button", name="Remove"))
    page.keyboard.press("Enter")
    expect(card(page, "notes.txt")).to_have_count(0)
    expect(card(page, "red.png").get_by_role("button", name="Remove")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#file")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(gateway, visit, scheme):
    page = visit(gateway, color_scheme=scheme).page
    choose(page, file("red.png", RED), file("notes.txt", TEXT))
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done, 1 failed")
    page.get_by_text("As a command").first.click()
    brightness = sum(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"))
    assert brightness < 150 if scheme == "dark" else brightness > 600
    measured = contrasts(page)
    assert len(measured) > 15
    assert {text: ratio for text, ratio in measured.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone(visit, stub, new_gateway, width):
    models = {"pets": {"labels": ["red", "a label of very many letters" * 4]}, "other": {"labels": ["a", "b"]}}
    gateway = new_gateway(models=models)
    page = visit(gateway, viewport={"width": width, "height": 640}, has_touch=True, is_mobile=True).page
    assert overflow(page) == 0
    choose(page, file("red.png", RED), file("a-name-without-any-end-" * 8 + ".txt", TEXT))
    expect(page.get_by_role("status")).to_have_text("2 of 2 pictures done, 1 failed")
    for summary in page.locator("summary").all():
        summary.tap()
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    assert overflow(page) == 0
    assert small_targets(page) == []


def test_reduced_motion(gateway, stub, visit):
    stub.delay = 60
    page = visit(gateway, reduced_motion="reduce").page
    choose(page, file("red.png", RED))
    expect(page.get_by_text("Asking the model")).to_be_visible()
    assert page.evaluate("document.getAnimations().length") == 0


def test_without_javascript(gateway, visit, tmp_path):
    page = visit(gateway, java_script_enabled=False).page
    page.locator("input[type=file]").set_input_files(file("red.png", RED))
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("body")).to_contain_text('"label": "red"')
    assert page.url.endswith("/model/predict/")


def test_nothing_else_may_run_on_the_page(gateway, visit):
    opened = visit(gateway)
    page = opened.page
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = true'}))")
    page.evaluate("document.body.setAttribute('onclick', 'window.ran = true'); document.body.click()")
    assert page.evaluate("window.ran") is None
    assert page.evaluate("fetch('http://127.0.0.2:1/').then(() => 'sent', () => 'refused')") == "refused"
    assert len([text for text in opened.complaints if "Content Security Policy" in text]) >= 3
    opened.complaints.clear()
