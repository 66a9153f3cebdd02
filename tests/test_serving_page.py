"""The page at ``/`` in a real browser: what a person does with it, and what it does not let happen."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regraft.records.results import ExportResult
from tests.hostile import encoded, photo
from tests.server import Server, running

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(exported: ExportResult) -> Iterator[Server]:
    with running(exported.out, "--max-body", "1MB") as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    with api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page, which may ask nobody but its server."""
    opened = browser.new_page(viewport={"width": 375, "height": 700})
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.goto(server.address)
    yield opened
    opened.close()
    assert [url for url in asked if not url.startswith((server.address, "blob:", "data:"))] == []
    assert faults == []


def texts(page: Any, where: str, count: int) -> list[str]:
    """The texts of so many elements, once there are as many."""
    from playwright.sync_api import expect

    found = page.locator(where)
    expect(found).to_have_count(count, timeout=30_000)
    return [text.strip() for text in found.all_inner_texts()]


def test_pictures_become_a_gallery(page: Any, crops: Path) -> None:
    paths = sorted(crops.glob("*/00[0-2].jpg"))
    page.set_input_files("#pick", paths[:1])
    assert texts(page, ".card:not(.waiting) h2", 1) == [paths[0].parent.name]
    assert page.locator("#status").inner_text().startswith(f"{paths[0].name}: {paths[0].parent.name}, ")
    page.set_input_files("#pick", paths[1:])
    assert sorted(texts(page, ".card:not(.waiting) h2", 6)) == sorted(path.parent.name for path in paths)
    assert sorted(texts(page, ".card:first-child .bars .class", 2)) == ["flower", "palace"]
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1], "the page is wider than a phone"
    page.click("#clear")
    assert texts(page, ".card", 0) == []


def test_a_picture_is_pasted(page: Any, crops: Path) -> None:
    data = list((crops / "palace" / "000.jpg").read_bytes())
    page.evaluate("""(data) => {
        const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(data)], "pasted.jpg", { type: "image/jpeg" }));
        dispatchEvent(new ClipboardEvent("paste", { clipboardData: held }));
    }""", data)
    assert texts(page, ".card:not(.waiting) h2", 1) == ["palace"]


def test_a_picture_is_dropped(page: Any, crops: Path) -> None:
    data = list((crops / "flower" / "000.jpg").read_bytes())
    page.evaluate("""(data) => {
        const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(data)], "dropped.jpg", { type: "image/jpeg" }));
        dispatchEvent(new DragEvent("drop", { dataTransfer: held }));
    }""", data)
    assert texts(page, ".card:not(.waiting) h2", 1) == ["flower"]


def test_what_has_no_answer_says_why(page: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(encoded(photo(), "JPEG")[:400])
    (tmp_path / "huge.jpg").write_bytes(bytes(2 * 2**20))
    (tmp_path / "<img src=x onerror=alert(1)>.jpg").write_bytes(b"no picture")
    page.set_input_files("#pick", sorted(tmp_path.iterdir()))
    reasons = " ".join(texts(page, ".failed .reason", 3))
    assert "The picture is damaged" in reasons
    assert "It has 2 MB; this server takes up to 1 MB." in reasons
    assert "no image of a known format" in reasons
    assert "<img src=x onerror=alert(1)>.jpg" in texts(page, ".name", 3)


def test_unknown_and_decision_are_shown(page: Any, server: Server, crops: Path) -> None:
    """As a model with a measure of them answers."""
    answer = {"predictions": [{"label": "palace", "probability": 0.6, "unknown": True, "decision": "ask",
                               "probabilities": {"flower": 0.4, "palace": 0.6}}]}
    page.route(f"{server.address}/predict", lambda route: route.fulfill(json=answer))
    page.set_input_files("#pick", crops / "palace" / "000.jpg")
    assert texts(page, ".notes span", 2) == ["unlike what the model learned", "ask a person"]


def test_it_is_used_without_a_mouse(page: Any) -> None:
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["pick", "camera", "A"]


class AnotherPage(http.server.BaseHTTPRequestHandler):
    """An empty page of another origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_another_page_sends_nothing(browser: Any, server: Server, crops: Path) -> None:
    """A simple POST needs no preflight; the server must refuse it by its origin."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), AnotherPage) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        heard = page.evaluate("""(address) => fetch(address, { method: "POST", mode: "no-cors", body: "x" })
            .then(() => "an answer", () => "nothing")""", f"{server.address}/predict")
        assert heard == "nothing"
        assert 'route="other",status="403"} 1.0' in server.get("/metrics").text
        page.close()
        other.shutdown()
