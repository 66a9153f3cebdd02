"""The server over HTTP, without PyTorch: the same answers as through other doors, and what it refuses."""

from __future__ import annotations

import errno
import json
import re
import shutil
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import regraft
from regraft.data.view import view0
from regraft.errors import SettingsError
from regraft.records.results import ExportResult, TrainResult
from regraft.runtime import load_onnx
from regraft.serving.guard import OPEN
from regraft.serving.problems import KINDS, MEDIA_TYPE
from regraft.settings import ServeSettings
from tests.doors import json_of, regraft_cli
from tests.hostile import encoded, hostile_files, long_gif, looping_tiff, photo, png, write_hostile
from tests.server import Server, running

TOKEN = "sixteen letters!"  # noqa: S105
EVERYWHERE = "0.0.0.0"  # noqa: S104
BODY = 1_000_000


@pytest.fixture(scope="module")
def server(exported: ExportResult) -> Iterator[Server]:
    with running(exported.out, "--max-body", BODY, "--max-images", 20, "--upload-time", "2s") as one:
        yield one


@pytest.fixture(scope="module")
def picture(crops: Path) -> bytes:
    return (crops / "palace" / "000.jpg").read_bytes()


def problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    """The problem document of an answer, which must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    document: dict[str, Any] = answer.json()
    assert document["type"] == f"/docs#{kind}"
    assert document["status"] == status
    assert document["detail"]
    return document


def spoken(server: Server, *parts: bytes, end: bool = True) -> bytes:
    """What the server says to raw bytes, up to the end of the connection."""
    where = urlsplit(server.address)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        heard = b""
        try:
            for part in parts:
                connection.sendall(part)
            if end:
                connection.shutdown(socket.SHUT_WR)
        except OSError as error:  # who refuses may have ended the connection before all was said
            if error.errno not in (errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET):
                raise
        try:
            while chunk := connection.recv(65536):
                heard += chunk
        except ConnectionResetError:
            pass
        return heard


def head(server: Server, *lines: str) -> bytes:
    where = urlsplit(server.address)
    return "\r\n".join(["POST /predict HTTP/1.1", f"Host: {where.netloc}", *lines, "", ""]).encode()


def test_python_command_line_and_http_agree(server: Server, exported: ExportResult, crops: Path,
                                            tmp_path: Path) -> None:
    readable = [path for path, file in write_hostile(tmp_path) if file.outcome != "quarantined"
                and path.stat().st_size <= BODY]
    files = [*readable, *sorted(crops.glob("*/00[01].jpg"))]
    assert len(readable) >= 40
    python = regraft.load(exported.out).predict(files)
    command = json_of("predict", exported.out, *files)["predictions"]
    for path, expected, typed in zip(files, python, command, strict=True):
        answer = server.post(path.read_bytes())
        assert answer.status_code == 200, (path.name, answer.text)
        (served,) = answer.json()["predictions"]
        assert served["label"] == expected.label == typed["label"], path.name
        for name, probability in (expected.probabilities or {}).items():
            assert abs(served["probabilities"][name] - probability) <= 1e-4, path.name
            assert abs(typed["probabilities"][name] - probability) <= 1e-4, path.name


def test_unreadable_pictures_are_problems(server: Server) -> None:
    bombs = [long_gif(10_000), looping_tiff(), png(60_000, 60_000, 8, 0, b"")]
    bad = [(file.name, file.data) for file in hostile_files() if file.outcome == "quarantined"]
    for name, data in [*bad, *((f"bomb {number}", data) for number, data in enumerate(bombs))]:
        answer = server.post(data)
        assert answer.status_code in (415, 422), (name, answer.text)
        problem(answer, answer.status_code, {415: "format", 422: "unreadable"}[answer.status_code])


def test_several_pictures_come_back_in_order(server: Server, crops: Path) -> None:
    paths = sorted(crops.glob("*/00[0-3].jpg"))
    answer = server.post(*(path.read_bytes() for path in paths))
    assert [p["label"] for p in answer.json()["predictions"]] == [path.parent.name for path in paths]
    assert [p["path"] for p in answer.json()["predictions"]] == [f"{number}.jpg" for number in range(len(paths))]


def test_one_unreadable_picture_among_others_is_a_row_with_its_error(server: Server, picture: bytes) -> None:
    good, bad = server.post(picture, b"no picture").json()["predictions"]
    assert (good["label"], good["error"]) == ("palace", None)
    assert (bad["label"], "no image" in bad["error"]) == (None, True)
    both = problem(server.post(b"no picture", b""), 422, "unreadable")
    assert [row["path"] for row in both["images"]] == ["0.jpg", "1.jpg"]


def test_bodies_up_to_the_limit(server: Server, picture: bytes) -> None:
    at_limit = picture + bytes(BODY - len(picture))
    assert server.post(at_limit).json()["predictions"][0]["label"] == "palace"
    problem(server.post(at_limit + b"\0"), 413, "too-large")
    assert spoken(server, head(server, f"Content-Length: {10**15}"), end=False).startswith(b"HTTP/1.1 413")

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(BODY // 10)

    problem(server.client.post(f"{server.address}/predict", content=chunks()), 413, "too-large")
    assert not list(server.scratch.iterdir())


def test_ten_thousand_parts_are_refused(server: Server) -> None:
    parts = b'--b\r\nContent-Disposition: form-data; name="i"; filename="x"\r\n\r\n\r\n' * 10_000
    answer = server.client.post(f"{server.address}/predict", content=parts + b"--b--\r\n",
                        headers={"Content-Type": "multipart/form-data; boundary=b"})
    problem(answer, 413, "too-large")
    assert not list(server.scratch.iterdir())


@pytest.mark.parametrize("body", [
    b"", b"--b", b"--b\r\n\r\n", b"--b\r\nContent-Disposition: form-data; name=\"i\"\r\n\r\nx\r\n--b--\r\n",
    b"--b\r\nContent-Disposition: form-data; name=\"i\"; filename=\"x\"\r\n\r\nx", b"\0" * 1000, b"--b--\r\n"])
def test_forms_that_are_none_are_malformed(server: Server, body: bytes) -> None:
    problem(server.client.post(f"{server.address}/predict", content=body,
                       headers={"Content-Type": "multipart/form-data; boundary=b"}), 400, "malformed")


def test_lying_lengths_end_the_connection(server: Server, picture: bytes) -> None:
    """Too short a length cuts the picture off, too long a one the body."""
    short = spoken(server, head(server, f"Content-Length: {len(picture) - 200}"), picture)
    assert short.startswith(b"HTTP/1.1 422")
    for length in ("900000", "x", "9" * 30):
        heard = spoken(server, head(server, f"Content-Length: {length}"), picture)
        assert heard.startswith(b"HTTP/1.1 400"), length
        assert b"/docs#malformed" in heard
    assert server.get("/health").status_code == 200


def test_a_body_that_stays_away_is_given_up(server: Server) -> None:
    heard = spoken(server, head(server, "Content-Length: 1000"), b"some", end=False)
    assert heard.startswith(b"HTTP/1.1 408")


def test_foreign_hosts_and_pages_are_refused(server: Server, picture: bytes) -> None:
    problem(server.get("/", headers={"Host": "example.org"}), 421, "host")
    problem(server.get("/", headers={"Host": "127.0.0.1.example.org"}), 421, "host")
    problem(server.post(picture, headers={"Origin": "http://example.org"}), 403, "origin")
    problem(server.post(picture, headers={"Origin": "null"}), 403, "origin")
    problem(server.post(picture, headers={"Origin": "http://127.0.0.1:1"}), 403, "origin")
    problem(server.post(picture, headers={"Sec-Fetch-Site": "cross-site"}), 403, "origin")
    preflight = server.client.options(f"{server.address}/predict", headers={
        "Origin": "http://example.org", "Access-Control-Request-Method": "POST"})
    problem(preflight, 403, "origin")
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    assert server.post(picture, headers={"Origin": server.address}).status_code == 200


def test_a_token_is_asked_for(exported: ExportResult, picture: bytes) -> None:
    with running(exported.out, "--host", EVERYWHERE, "--allow-host", "models.example", "--token", TOKEN) as server:
        server.address = server.address.replace(EVERYWHERE, "127.0.0.1")
        problem(server.post(picture), 401, "token")
        problem(server.post(picture, headers={"Authorization": "Bearer wrong"}), 401, "token")
        known = {"Authorization": f"Bearer {TOKEN}", "Host": "models.example"}
        assert server.post(picture, headers=known).status_code == 200
        for path in OPEN:
            assert server.get(path).status_code == 200
        problem(server.get("/metrics"), 401, "token")


def test_addresses_that_others_reach_need_a_name_and_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGRAFT_TOKEN", raising=False)
    for options in ({}, {"token": TOKEN}, {"allow_host": ["a"]}, {"allow_host": ["a"], "token": "short"}):
        with pytest.raises(SettingsError, match="token"):
            regraft.serve("model.onnx", host=EVERYWHERE, **options)
    with pytest.raises(SettingsError, match="queue"):
        regraft.serve("model.onnx", max_images=10, queue=5)
    with pytest.raises(SettingsError, match="deadline: 'soon'"):
        regraft.serve("model.onnx", deadline="soon")


@pytest.mark.parametrize("given", ["models.example", ["models.example"], ("models.example",)])
def test_one_text_stands_for_a_list_of_one(given: str | Sequence[str]) -> None:
    assert ServeSettings("model.onnx", allow_host=given).allow_host == ("models.example",)


def test_a_port_in_use_is_named(exported: ExportResult) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = regraft_cli("serve", exported.out, "--port", taken.getsockname()[1])
    assert done.returncode == 2
    assert "--port 0" in done.stderr


def test_the_open_inference_protocol(server: Server, exported: ExportResult, picture: bytes) -> None:
    model = load_onnx(exported.out)
    pixels = view0(picture, model.preprocessing).pixels
    expected = model.run(pixels[None])
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, *pixels.shape]}
    where = f"{server.address}/v2/models/model/infer"
    listed = server.client.post(where, json={"id": "7", "inputs": [{**tensor, "data": pixels.tolist()}]}).json()
    assert (listed["id"], listed["model_name"]) == ("7", "model")
    probabilities, labels = listed["outputs"]
    np.testing.assert_allclose(probabilities["data"], expected[0], atol=1e-4)
    assert labels["data"] == ["palace"]
    start = json.dumps({"inputs": [tensor], "outputs": [{"name": "labels"}]}).encode()
    binary = server.client.post(where, content=start + pixels.tobytes(),
                        headers={"Inference-Header-Content-Length": str(len(start))}).json()
    assert [output["name"] for output in binary["outputs"]] == ["labels"]
    no_pixels: list[Any] = [[1], [[1], 2], ["x"], None, {}]
    wrong: list[Any] = [{}, {"inputs": []}, [], 7, {"inputs": [{**tensor, "shape": [1, 2, 3]}]},
                        *({"inputs": [{**tensor, "data": data}]} for data in no_pixels)]
    for body in wrong:
        problem(server.client.post(where, json=body), 400, "malformed")
    problem(server.client.post(where, content=b"[" * 100_000), 400, "malformed")
    problem(server.client.post(where.replace("/model/", "/other/"), json={}), 404, "not-found")
    assert server.get("/v2/models/model").json()["inputs"][0]["shape"] == [-1, *pixels.shape]
    assert server.get("/v2/health/ready").json() == {"ready": True}


def test_what_the_server_tells(server: Server, exported: ExportResult, picture: bytes) -> None:
    about = server.get("/classes").json()
    assert (about["classes"], about["digest"]) == (["flower", "palace"], exported.model_digest)
    server.post(picture)
    figures = server.get("/metrics").text
    assert re.search(r'^regraft_requests_total\{route="/predict",status="200"\} [1-9]', figures, flags=re.M)
    assert re.search(r'^regraft_images_total\{outcome="answered"\} [1-9]', figures, flags=re.M)
    described = server.get("/openapi.json").json()
    answer = described["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(answer["properties"]) == {"format_version", "predictions"}
    problem(server.get("/nothing"), 404, "not-found")
    problem(server.get("/predict"), 405, "method")


def test_pages_ask_nobody_else(server: Server) -> None:
    for path in ("/", "/docs"):
        page = server.get(path)
        assert "unsafe" not in page.headers["content-security-policy"]
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert re.findall(r"(?:src|href)=\"(?!/|data:)", page.text) == []
    assert [name for name in KINDS if f'<tr id="{name}">' not in server.get("/docs").text] == []


def test_more_than_it_can_do_is_refused_at_once(exported: ExportResult, picture: bytes) -> None:
    with running(exported.out, "--queue", 4, "--max-images", 4) as server, ThreadPoolExecutor(40) as clients:
        answers = list(clients.map(lambda _: server.post(picture), range(120)))
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert int(problem(answer, 503, "busy")["status"]) == 503
                assert int(answer.headers["Retry-After"]) >= 1
        assert server.post(picture).status_code == 200
        assert "regraft_images_inside 0.0" in server.get("/metrics").text


def test_it_ends_in_good_order(exported: ExportResult, crops: Path) -> None:
    pictures = [path.read_bytes() for path in sorted(crops.glob("*/*.jpg"))]
    with running(exported.out) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(server.post, *pictures)
        while "regraft_images_inside 0.0" in server.get("/metrics").text and not answer.done():
            time.sleep(0.001)
        document = server.stop()
        assert len(answer.result().json()["predictions"]) == len(pictures)
        assert (document["requests"], document["images"], document["model"]) == (1, len(pictures), "model")


def test_a_folder_is_served_by_its_export(exported: ExportResult, trained: TrainResult, picture: bytes,
                                          tmp_path: Path) -> None:
    with running(Path(exported.out).parent) as server:
        assert server.post(picture).json()["predictions"][0]["label"] == "palace"
    folder = tmp_path / "bare"
    shutil.copytree(trained.out, folder)
    with pytest.raises(AssertionError, match="regraft export"), running(folder):
        pass
    for name in ("model.onnx", "model.onnx.json"):
        shutil.copy(Path(exported.out).parent / name, folder)
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(-8, 2)
        file.write(struct.pack("<d", 0.0))
    with pytest.raises(AssertionError, match="regraft export"), running(folder):
        pass


def test_large_pictures_can_be_refused(exported: ExportResult) -> None:
    with running(exported.out, "--max-pixels", 100) as server:
        assert "more than 100" in problem(server.post(encoded(photo(), "PNG")), 422, "unreadable")["detail"]


def test_the_page_of_documentation_runs(server: Server, crops: Path, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    shutil.copy(crops / "palace" / "000.jpg", tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    exec(block.replace("http://127.0.0.1:8000", server.address), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out == "palace\n"
    kinds = dict(re.findall(r"^\| /docs#([\w-]+) \| (\d+) \|", page, flags=re.M))
    assert kinds == {name: str(kind.status) for name, kind in KINDS.items()}
