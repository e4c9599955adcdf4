"""What strangers send: each is answered in one sentence, by a server that goes on and tells nothing of itself."""

import io
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import META, Served, Visitor
from PIL import Image

import gradcam
from gradcam.ui import guard
from gradcam.ui import page as ui
from gradcam.ui.launch import serve
from gradcam.ui.models import Models
from gradcam.ui.rail import EXAMPLES

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Page, expect

expect.set_options(timeout=120_000)

LION = EXAMPLES[1].read_bytes()
SCRIPT = "<script>document.title = 'owned'</script>"
ARRIVE = "The picture did not arrive: upload it again."
STRANGE = "That is not a request this page makes: reload the page, or see how its API is asked."
ADDRESS = "Pictures are not fetched from addresses: save the picture, and upload the file."


@pytest.fixture(scope="module")
def lion(visitor: Visitor) -> dict[str, Any]:
    """The lion, uploaded."""
    return visitor.upload(LION, "lion.jpg")


@pytest.fixture(autouse=True)
def _lives_on(visitor: Visitor, lion: dict[str, Any]) -> Iterator[None]:
    """After each bad input a good one has its right answer."""
    yield
    best = visitor.call("predict", lion, "")[0]
    assert best == pytest.approx({"index": 291, "label": "lion", "probability": 0.897}, abs=1e-3)


def is_sentence(answer: Any, given: str = "") -> None:
    """One line, which names no place on the server that was not in the question, and shows no code."""
    assert isinstance(answer, str)
    assert answer[0].isalpha()
    assert answer[-1] in ".?"
    assert answer.isprintable()
    assert len(answer) < 500
    discloses_nothing(answer.replace(given, "") if given else answer)
    assert "/" not in answer or "/" in given


def discloses_nothing(answer: str) -> None:
    places = (str(Path.home()), str(Path(gradcam.__file__).parent), "site-packages", "Traceback", 'File "', ".py")
    assert [place for place in places if place in answer] == []


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, pixels: bytes = b"", bits: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header says what it likes."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0), b"IDAT" + pixels, b"IEND")
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("lion.jpg", LION)
    return buffer.getvalue()


PHOTO = Image.open(EXAMPLES[1]).convert("RGB")
UNKNOWN, BROKEN = (
    " is not a picture of a known format, whatever its name says",
    " cannot be decoded (damaged, cut short",
)
NO_PICTURES = {
    "nothing": (b"", " is empty: save or upload it again."),
    "one byte": (b"\x89", UNKNOWN),
    "null bytes": (bytes(5000), UNKNOWN),
    "text": (b"Just some text.", UNKNOWN),
    "path as text": (b"/etc/passwd", UNKNOWN),
    "zip": (zipped(), UNKNOWN),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", UNKNOWN),
    "page": (f"<html>{SCRIPT}</html>".encode(), UNKNOWN),
    "svg with script": (f'<svg xmlns="http://www.w3.org/2000/svg">{SCRIPT}</svg>'.encode(), UNKNOWN),
    "svg with an entity": (b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>', UNKNOWN),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", UNKNOWN),
    "icon": (encoded(PHOTO.resize((32, 32)), "ICO"), UNKNOWN),
    "photoshop": (b"8BPS\x00\x01" + bytes(20), UNKNOWN),
    "jpeg, only begun": (LION[:20], BROKEN),
    "jpeg, cut in its header": (LION[:200], BROKEN),
    "jpeg, cut in half": (LION[: len(LION) // 2], BROKEN),
    "png, only begun": (b"\x89PNG\r\n\x1a\n", BROKEN),
    "png, cut in half": (encoded(PHOTO, "PNG")[:40_000], BROKEN),
    "png, pixels missing": (png(64, 64), BROKEN),
    "png, pixels garbled": (png(64, 64, b"no zlib stream at all"), BROKEN),
    "png of no width": (png(0, 64), BROKEN),
    "png that claims to be huge": (png(100_000, 100_000), " pixels and at most 65 million are accepted"),
    "png of the largest numbers": (png(2**31 - 1, 2**31 - 1), " pixels and at most 65 million are accepted"),
    "png that unpacks to much": (
        png(9000, 9000, zlib.compress(bytes(9000 * 1126), 9), bits=1, colour=0),
        " is 9000 x 9000 pixels and at most 65 million are accepted: scale it down first.",
    ),
    "png, one row of pixels": (png(20_000, 1), " is 20000 x 1 pixels, one side more than 100 times the other: crop it"),
    "gif of zero frames": (b"GIF89a\x10\x00\x10\x00\x00\x00\x00;", BROKEN),
    "gif, cut short": (encoded(PHOTO, "GIF")[:300], BROKEN),
    "webp, cut short": (encoded(PHOTO, "WEBP")[:1000], BROKEN),
    "bmp of the largest numbers": (
        b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
        " million are accepted",
    ),
    "tiff, cut short": (encoded(PHOTO, "TIFF")[:1000], BROKEN),
    "tiff without a picture": (b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", BROKEN),
}


@pytest.mark.parametrize(("content", "sentence"), NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_is_no_picture(visitor: Visitor, content: bytes, sentence: str) -> None:
    answer = visitor.call("predict", visitor.upload(content), "")
    is_sentence(answer)
    assert answer.startswith("The file 'picture.png'")
    assert sentence in answer


GREY = PHOTO.convert("L")
UNUSUAL = {
    "16 bits": encoded(Image.fromarray(np.asarray(GREY, np.uint16) * 257), "PNG"),
    "CMYK": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "one bit": encoded(PHOTO.convert("1"), "PNG"),
    "palette, transparent": encoded(PHOTO.quantize(16), "PNG", transparency=0),
    "grey with alpha": encoded(GREY.convert("LA"), "PNG"),
    "one pixel": encoded(PHOTO.resize((1, 1)), "PNG"),
    "animated": encoded(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90)]),
    "text behind it": LION + SCRIPT.encode(),
}


@pytest.mark.parametrize("content", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_pictures_are_pictures(visitor: Visitor, served: Served, content: bytes) -> None:
    expected = gradcam.explain(content, served.models.get(served.models.default).classifier).inspection.top()
    answer = visitor.call("predict", visitor.upload(content, "lion.txt"), "")
    assert [row["label"] for row in answer] == [prediction.label for prediction in expected]
    assert [row["probability"] for row in answer] == pytest.approx([p.probability for p in expected], abs=1e-4)


NAMES = {
    "script": (f"{SCRIPT}.png", True),
    "attribute": ('"><img src=x onerror=alert(1)>.png', True),
    "new lines": ("a\nb\r\nc.png", True),
    "right to left": ("\u202egnp.exe", True),
    "unicode": ("狮子 🦁.png", True),
    "accents apart": ("e\u0301.png", True),
    "very long": ("x" * 3000 + ".png", True),
    "climbing": ("../../../../etc/passwd", True),
    "of Windows": ("C:\\Windows\\win.ini", True),
    "hidden": (".ssh", True),
    "format fields": ("%s%n{0}{x}.png", True),
    "shell": ("$(reboot);`id`|rm -rf *.png", True),
    "null byte": ("a\0b.png", True),
    "nothing left": ("///", True),
    "upwards": ("..", False),
}


@pytest.mark.parametrize(("name", "accepted"), NAMES.values(), ids=NAMES)
def test_names_of_files(visitor: Visitor, name: str, accepted: bool) -> None:
    answer = visitor.http.post("upload", files={"files": (name, b"no picture")})
    if not accepted:
        assert (answer.status_code, answer.json()) == (400, {"detail": "Invalid file name: .."})
        return
    file = Path(answer.json()[0])
    assert file.parent.parent == Path(guard.get_upload_folder())
    sentence = visitor.call("predict", {"path": str(file), "meta": META}, "")
    is_sentence(sentence)
    assert UNKNOWN in sentence
    assert visitor.call("predict", visitor.upload(LION, name), "")[0]["label"] == "lion"


PATHS = {
    "nothing": (None, ARRIVE),
    "number": (7, ARRIVE),
    "list": ([[[]]], ARRIVE),
    "text": ("/etc/passwd", ARRIVE),
    "no mark": ({"path": "/etc/passwd"}, ARRIVE),
    "of the system": ({"path": "/etc/passwd", "meta": META}, ARRIVE),
    "of the process": ({"path": "/proc/self/environ", "meta": META}, ARRIVE),
    "endless": ({"path": "/dev/zero", "meta": META}, ARRIVE),
    "of the program": ({"path": gradcam.__file__, "meta": META}, ARRIVE),
    "relative": ({"path": "weights/manifest.json", "meta": META}, ARRIVE),
    "climbing": ({"path": f"{guard.get_upload_folder()}/../../etc/passwd", "meta": META}, ARRIVE),
    "folder": ({"path": guard.get_upload_folder(), "meta": META}, ARRIVE),
    "absent": ({"path": f"{guard.get_upload_folder()}/absent.png", "meta": META}, ARRIVE),
    "file address": ({"path": "file:///etc/passwd", "meta": META}, ARRIVE),
    "other scheme": ({"path": "ftp://127.0.0.1/x.png", "meta": META}, ARRIVE),
    "empty path": ({"path": "", "meta": META}, ARRIVE),
    "null byte": ({"path": "a\0b", "meta": META}, ARRIVE),
    "half a character": ({"path": "\ud800", "meta": META}, ARRIVE),
    "too long": ({"path": "a" * 5000, "meta": META}, ARRIVE),
    "mark of another type": ({"path": "x", "meta": "gradio.FileData"}, STRANGE),
    "address": ({"path": "http://127.0.0.1:1/x.png", "meta": META}, ADDRESS),
    "address of metadata": ({"path": "http://169.254.169.254/latest/meta-data", "meta": META}, ADDRESS),
    "public address": ({"path": "https://huggingface.co/x.png", "meta": META}, ADDRESS),
    "address deep inside": ([{"x": [{"path": "https://huggingface.co/x.png", "meta": META}]}], ADDRESS),
    "only an address": ({"url": "http://127.0.0.1:1/x.png", "meta": META}, ARRIVE),
    "data URL": ({"url": "data:image/png;base64," + "A" * 500_000}, ARRIVE),
    "data URL as path": ({"path": "data:image/png;base64," + "A" * 500_000, "meta": META}, ARRIVE),
}


@pytest.mark.parametrize(("picture", "sentence"), PATHS.values(), ids=PATHS)
def test_only_what_was_uploaded_is_read(visitor: Visitor, picture: Any, sentence: str) -> None:
    assert visitor.call("predict", picture, "") == sentence


def test_a_link_in_the_uploads_leads_nowhere(visitor: Visitor, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    PHOTO.save(secret)
    link = Path(guard.get_upload_folder()) / f"{secrets.token_hex(8)}.png"
    link.symlink_to(secret)
    try:
        assert visitor.call("predict", {"path": str(link), "meta": META}, "") == ARRIVE
    finally:
        link.unlink()


PLAIN = "The model, the method and the layer are given by name, as text."
PLAIN_CLASS = "The class is given by its label or index."
RANGE = "efficientnet_lite0 has no class {}: its 1000 classes are 0 to 999."
ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown model": ({"model": "resnet1"}, "There is no model 'resnet1'; did you mean "),
    "script as model": ({"model": SCRIPT}, f"There is no model {SCRIPT!r} "),
    "endless model": ({"model": "x" * 100_000}, f"There is no model '{'x' * 80}' "),
    "number as model": ({"model": 7}, PLAIN),
    "list as model": ({"model": ["cifar10"]}, PLAIN),
    "nothing as model": ({"model": None}, PLAIN),
    "path as model": ({"model": "../../etc/passwd"}, "There is no model '../../etc/passwd' "),
    "null byte as model": ({"model": "\0"}, "There is no model '\\x00' "),
    "half a character as model": ({"model": "\ud800"}, "There is no model '\\ud800' "),
    "unknown class": ({"class_": "lionn"}, "efficientnet_lite0 has no class 'lionn'; did you mean lion"),
    "script as class": ({"class_": SCRIPT}, f"efficientnet_lite0 has no class {SCRIPT!r} "),
    "class behind the last": ({"class_": "1000"}, RANGE.format(1000)),
    "class before the first": ({"class_": -1}, RANGE.format(-1)),
    "huge class": ({"class_": 10**30}, RANGE.format(10**30)),
    "endless class": ({"class_": "9" * 5000}, RANGE.format("9" * 80)),
    "fraction as class": ({"class_": 1.5}, PLAIN_CLASS),
    "infinite class": ({"class_": 1e999}, PLAIN_CLASS),
    "no number as class": ({"class_": float("nan")}, PLAIN_CLASS),
    "nothing as class": ({"class_": None}, PLAIN_CLASS),
    "object as class": ({"class_": {"path": "x"}}, PLAIN_CLASS),
    "unknown method": ({"method": "no such"}, "there is no method 'no such'; choose one of gradcam, "),
    "dunder as method": ({"method": "__class__"}, "there is no method '__class__'; choose one of gradcam, "),
    "list as method": ({"method": ["gradcam"]}, PLAIN),
    "unknown layer": ({"layer": "no.such"}, "the network has no layer 'no.such'"),
    "attribute as layer": ({"layer": "__class__"}, "the network has no layer '__class__'"),
    "script as layer": ({"layer": SCRIPT}, "the network has no layer "),
    "number as layer": ({"layer": 4}, PLAIN),
    "layer without a grid": ({"layer": "classifier"}, "layer 'classifier' cannot be explained: no grid of the picture"),
}


@pytest.mark.parametrize(("asked", "sentence"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(visitor: Visitor, lion: dict[str, Any], asked: dict[str, Any], sentence: str) -> None:
    given = {"model": "", "class_": "", "method": "gradcam", "layer": ""} | asked
    answer = visitor.call("explain", lion, *given.values())
    is_sentence(answer, str(*asked.values()))
    assert sentence in answer


JSON = {"Content-Type": "application/json"}
REQUESTS: dict[str, tuple[str, bytes, int]] = {
    "no JSON": ("call/predict", b"data", 422),
    "nothing": ("call/predict", b"", 422),
    "a list": ("call/predict", b"[]", 422),
    "no data": ("call/predict", b"{}", 422),
    "data of another type": ("call/predict", b'{"data": "x"}', 422),
    "nested deeply": ("call/predict", b'{"data":' + b"[" * 100_000, 400),
    "unknown endpoint": ("call/no_such", b'{"data": []}', 422),
    "unknown event": ("queue/join", b'{"data": [], "fn_index": 9999, "session_hash": "x"}', 422),
    "event of another type": ("queue/join", b'{"data": [], "fn_index": {}, "session_hash": "x"}', 422),
    "no session": ("queue/join", b'{"data": [], "fn_index": 0}', 400),
    "past the queue": ("run/predict", b'{"data": [null, ""]}', 404),
    "too long": ("call/predict", b'{"data": ["data:image/png;base64,' + b"A" * 2_000_000 + b'"]}', 413),
    "much too long": ("queue/join", b"A" * 20_000_000, 413),
    "download for me": ("file=https://huggingface.co/x.png", b"", 404),
    "fetch for me": ("proxy=https://huggingface.co/x.png", b"", 404),
    "keep my state on disk": ("deep_link?session_hash=x", b"", 404),
    "convert my video": ("process_recording", b"", 404),
    "call a component": ("component_server", b"{}", 404),
    "edit the program": ("vibe-edit", b'{"prompt": "x"}', 404),
}


@pytest.mark.parametrize(("path", "body", "status"), REQUESTS.values(), ids=REQUESTS)
def test_requests_that_the_page_never_makes(visitor: Visitor, path: str, body: bytes, status: int) -> None:
    answer = visitor.http.post(path, content=body, headers=JSON)
    assert answer.status_code == status
    assert len(answer.text) < 500
    discloses_nothing(answer.text)
    assert answer.json()["detail"][0].isupper()


@pytest.mark.parametrize("path", ["file=/etc/passwd", "file=weights/manifest.json", f"file={gradcam.__file__}"])
def test_no_file_of_the_server_is_served(visitor: Visitor, path: str) -> None:
    answer = visitor.http.get(path)
    assert answer.status_code == 403
    assert answer.json() == {"detail": f"File not allowed: {path.removeprefix('file=')}."}


def test_statistics_are_not_public(served: Served) -> None:
    for path in ("monitoring", "monitoring/summary", "monitoring/x"):
        assert httpx.get(served.url + path).status_code == 403


@pytest.mark.parametrize("number", [1, 3])
def test_uploads_above_the_limit(visitor: Visitor, number: int) -> None:
    files = [("files", (f"{index}.png", bytes(guard.MOST_UPLOAD // number + 2**17))) for index in range(number)]
    answer = visitor.http.post("upload", files=files)
    assert answer.status_code == 413
    assert answer.text in (
        "File size exceeded maximum allowed size of 33554432 bytes.",
        '{"detail":"The picture has more than the 32 MB that are accepted: save it smaller, as JPEG or PNG."}',
    )


GARBAGE = [None, "x", -1, 1e308, [[["x"]]], {"__type__": "update", "value": {"path": "/etc/passwd"}}]


@pytest.mark.parametrize("value", GARBAGE, ids=str)
def test_the_events_of_the_page_itself(visitor: Visitor, served: Served, lion: dict[str, Any], value: Any) -> None:
    """Each of them, after a picture was shown, with a wrong value in all its arguments."""
    session, config = secrets.token_hex(8), httpx.get(f"{served.url}config").json()
    asked = [lion, "efficientnet_lite0", "automatic", "gradcam", None, None, None, 0.65, "turbo", 0, False, False]
    events = [event for event in config["dependencies"] if event["backend_fn"] and event["targets"]]
    (ask,) = (event for event in events if event["api_name"] == "ask_or_stay")
    assert "Where the evidence for lion is" in visitor.trigger(session, ask["id"], [None, None, *asked])
    for event in events:
        answer = visitor.trigger(session, event["id"], [value for _ in event["inputs"]], {"value": value})
        assert '"msg":"process_completed"' in answer
        assert '"error":null' not in answer
        discloses_nothing(answer)


OWNED = "document.title = 'owned'"
LABELS = [f'<img src=x onerror="{OWNED}">{index}' for index in range(5)] + [
    f"<script>{OWNED}</script>",
    f'" onmouseover="{OWNED}" x="',
    f"'}}); {OWNED} //",
    f"</title></style></textarea><svg onload={OWNED.replace(' ', '')}>",
    "\u202egnp.exe",
]
FILES = {
    "page.png": NO_PICTURES["page"],
    "script.svg.png": NO_PICTURES["svg with script"],
    "huge.png": NO_PICTURES["png that claims to be huge"],
    "bomb.png": NO_PICTURES["png that unpacks to much"],
    "thin.png": NO_PICTURES["png, one row of pixels"],
    "webp.png": NO_PICTURES["webp, cut short"],
    f"{OWNED.replace(' ', '')}<img src=x onerror={OWNED.replace(' ', '')}>.png": NO_PICTURES["text"],
    '"><b>bold.png': NO_PICTURES["gif of zero frames"],
    "a\nb.png": NO_PICTURES["png, pixels garbled"],
    "\u202egnp.exe.png": NO_PICTURES["jpeg, cut in half"],
    "狮子 🦁.png": NO_PICTURES["nothing"],
    "x" * 240 + ".png": NO_PICTURES["zip"],
}


def test_what_is_no_picture_on_the_page(page: Page, tmp_path: Path) -> None:
    """Each is told, the next is looked at, and what was shown stays."""
    dialogs: list[object] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog))
    page.get_by_role("button", name="Example: lion").click()
    large, alert = page.locator(".comparison .evidence"), page.get_by_role("alert")
    expect(large).to_have_attribute("alt", "Where the evidence for lion is")
    for name, (content, sentence) in FILES.items():
        (tmp_path / name).write_bytes(content)
        page.locator("#picture input[type=file]").set_input_files(tmp_path / name)
        expect(alert).to_contain_text(sentence)
        expect(alert).to_contain_text("The file ")
        is_sentence(alert.inner_text())
        expect(large).to_have_attribute("alt", "Where the evidence for lion is")
        page.locator(".answer").nth(0).click()
        expect(alert).to_have_count(0)
    assert page.title() == "Grad-CAM"
    assert dialogs == []


def test_a_picture_above_the_limit_is_told_on_the_page(page: Page, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(guard.MOST_UPLOAD + 1))
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "large.png")
    expect(page.get_by_role("alert")).to_have_text(guard.TOO_LARGE)
    is_sentence(guard.TOO_LARGE)


def test_labels_are_text(browser: Browser) -> None:
    """Everything on the page that names a class shows its name, and runs nothing of it."""
    blocks = serve(ui.build(Models(gradcam.load("cifar10", labels=LABELS))))
    context = browser.new_context()
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.goto(blocks.local_url)
    page.get_by_role("button", name="Example: lion").click()
    best = page.locator(".answer .label").first
    expect(best).to_be_visible(timeout=120_000)
    assert best.inner_text() in LABELS
    titles = [answer.get_attribute("title") for answer in page.locator(".answer").all()]
    assert set(titles) < set(LABELS)
    page.get_by_role("combobox", name="Any class").click()
    expect(page.get_by_role("option")).to_have_count(10)
    page.keyboard.press("Escape")
    for name in ("The same in Python", "Through the network"):
        page.get_by_role("button", name=name).click()
    page.get_by_role("tab", name="Why this and not that").click()
    page.get_by_role("button", name="All methods").click()
    expect(page.locator("#methods img")).not_to_have_count(0)
    assert page.locator("img[src=x], [onerror], [onmouseover]").count() == 0
    assert page.title() == "Grad-CAM"
    context.close()
    blocks.close()
