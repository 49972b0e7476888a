"""Opens the page for browsers in headless Chromium, from a server of static files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

from browser import NODE_MODULES, Browser, driver, lacking, served
from gluon_compress import models
from gluon_compress.data.images import read_image
from gluon_compress.deployment import Predictor, deploy
from gluon_compress.models.family import family_of
from runtimes import EVERY, classifier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking()), reason=f"there is no {lacking()}"),
    pytest.mark.skipif("onnx" not in EVERY, reason="onnx is not installed"),
]
ROOT = Path(__file__).resolve().parents[2]
RUNTIME = "node_modules/onnxruntime-web/dist/"
WIDE, NARROW, NARROWEST = 1280, 360, 320
TAB, HOME, END, RIGHT = "\ue004", "\ue011", "\ue010", "\ue014"
SETTLED = (
    "document.getElementById('photo').ariaBusy === 'false' && "
    "(document.getElementById('error').textContent || "
    "!document.getElementById('choose').disabled)"
)
ROWS = """
return [...document.querySelectorAll("#rows tr")].map((row) =>
  [row.children[0], ...row.querySelectorAll("data")]
    .map((cell) => cell.value ?? cell.textContent));
"""
FITS = "return document.documentElement.scrollWidth <= window.innerWidth"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with driver() as number:
        yield number


@pytest.fixture(scope="module")
def browser(port) -> Iterator[Browser]:
    """Return a browser that has no camera, for which phone.test is this machine."""
    window = Browser(port, "--host-resolver-rules=MAP phone.test 127.0.0.1")
    yield window
    window.close()


def copied(folder: Path, target: Path, *, without: str = "") -> Path:
    """Return a copy of a deployed folder after ``npm install``, less one file."""
    target.mkdir()
    (target / RUNTIME).mkdir(parents=True)
    files = [(path, target / path.name) for path in folder.iterdir()]
    needed = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
    place = NODE_MODULES / "onnxruntime-web" / "dist"
    files += [(place / name, target / RUNTIME / name) for name in needed]
    for source, copy in files:
        if source.name != without:
            copy.symlink_to(source)
    return target


@pytest.fixture(scope="module")
def detector_folder(net, inputs, tmp_path_factory) -> Path:
    """Return a tiny detector as it is deployed for browsers."""
    folder = tmp_path_factory.mktemp("deployed") / "detector"
    deploy(net, folder, "tiny", formats=["web", "onnx-int8"], images=inputs)
    return folder


@pytest.fixture(scope="module")
def page(detector_folder, tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """Return a tiny detector's folder, and the address of its page."""
    folder = copied(detector_folder, tmp_path_factory.mktemp("page") / "detector")
    with served(folder) as address:
        yield folder, address


def opened(browser: Browser, address: str) -> Browser:
    """Open a page and wait until it can be used, or says why it cannot."""
    browser.size(WIDE)
    browser.open(address)
    browser.wait(SETTLED)
    return browser


def give(browser: Browser, photo: Path) -> None:
    """Choose a photo and wait for its results."""
    browser.run(
        "for (const id of ['status', 'error'])"
        "  document.getElementById(id).textContent = ''"
    )
    browser.type("#file", str(photo))
    browser.wait(
        "['status', 'error'].some((id) => document.getElementById(id).textContent) && "
        "document.getElementById('photo').ariaBusy === 'false'"
    )


def everything(browser: Browser) -> None:
    """Show results of any score."""
    script = "const s = document.getElementById('score'); s.value = 0; s.oninput()"
    browser.run(script)


def choose_model(browser: Browser, precision: str) -> None:
    options = browser.run(
        "return [...document.getElementById('model').options].map((o) => o.text)"
    )
    (index,) = [i for i, text in enumerate(options) if text.startswith(precision)]
    browser.run(
        "const m = document.getElementById('model'); m.selectedIndex = arguments[0];"
        "return m.onchange()",
        index,
    )
    browser.wait(SETTLED)


def assert_same(
    browser: Browser, folder: Path, photo: Path, precision: str, *, lost: float = 0
) -> int:
    """Check the page's boxes against the predictor's; return how many there are.

    Parameters
    ----------
    lost : float
        Share of the boxes that may differ: of boxes that are as good as equal, NMS
        keeps either.
    """
    assert browser.text("#error") == ""
    predictor = Predictor(folder, "onnxruntime", precision=precision)
    ids, scores, boxes = predictor([read_image(photo)])[0]
    found = [(predictor.classes[i], s, b) for i, s, b in zip(ids, scores, boxes)]
    shown = [
        (name, float(score), np.array(box.split(), float))
        for name, score, box in browser.run(ROWS)
    ]
    for rows, others in ((found, shown), (shown, found)):
        assert len(unmatched(rows, others)) <= lost * len(rows)
    return len(shown)


def unmatched(rows: list, others: list) -> list:
    """Return the boxes that none of the others equals."""
    return [
        (name, score, box)
        for name, score, box in rows
        if not any(
            name == other and abs(score - s) < 0.02 and np.abs(box - b).max() < 1
            for other, s, b in others
        )
    ]


@pytest.fixture(scope="module")
def pictures(photos, tmp_path_factory) -> dict[str, Path]:
    """Return images of several kinds; the input of the net is 300 x 480."""
    folder = tmp_path_factory.mktemp("pictures")
    image = Image.open(photos[1]).convert("RGB")
    files = {
        "smaller": photos[0],
        "larger": folder / "larger.png",
        "otherwise": folder / "otherwise.png",
        "grey": folder / "grey.png",
        "turned": folder / "turned.jpg",
        "pixel": folder / "pixel.png",
    }
    image.resize((701, 533)).save(files["larger"])
    image.resize((700, 200)).save(files["otherwise"])
    image.resize((500, 400)).convert("L").save(files["grey"])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.resize((640, 480)).save(files["turned"], exif=exif, quality=95)
    image.resize((1, 1)).save(files["pixel"])
    return files


def test_page_finds_what_the_predictor_finds(browser, page, pictures):
    folder, address = page
    opened(browser, address)
    counts = []
    for photo in pictures.values():
        give(browser, photo)
        everything(browser)
        counts.append(assert_same(browser, folder, photo, "float32", lost=0.03))
    assert min(counts) > 0
    assert max(counts) > 10
    assert browser.messages() == []


def test_page_classifies_as_the_predictor_does(browser, photos, tmp_path):
    deploy(classifier(), tmp_path / "classifier", "tiny", formats=["web"])
    folder = copied(tmp_path / "classifier", tmp_path / "page")
    with served(folder) as address:
        give(opened(browser, address), photos[2])
        rows = browser.run(ROWS)
        predictor = Predictor(folder, "onnxruntime")
        ids, shares = predictor([read_image(photos[2])])[0]
        assert [name for name, _ in rows] == [predictor.classes[i] for i in ids]
        np.testing.assert_allclose([float(s) for _, s in rows], shares, atol=1e-3)
        assert browser.text("#status").startswith(rows[0][0])
        assert not browser.run(
            "return document.getElementById('score').checkVisibility()"
        )


def test_page_loads_nothing_from_elsewhere(browser, page):
    _, address = page
    opened(browser, address)
    names = browser.run(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert len(names) > 2
    assert all(name.startswith((address, "data:")) for name in names)


@pytest.mark.parametrize("width", [WIDE, NARROW, NARROWEST])
def test_page_fits_the_screen(browser, page, photos, tmp_path, width):
    browser.size(width)
    if width == WIDE:
        opened(browser, page[1])
        give(browser, photos[3])
    everything(browser)
    assert len(browser.run(ROWS)) > 10
    assert browser.run(FITS)
    targets = browser.run(
        "return [...document.querySelectorAll('button, select')]"
        ".filter((element) => element.checkVisibility())"
        ".map((element) => element.getBoundingClientRect().height)"
    )
    assert min(targets) >= 44
    browser.screenshot(tmp_path / "page.png")
    shot = cv2.imread(str(tmp_path / "page.png"))
    assert shot.shape[1] == width * (1 if width == WIDE else 2)


def test_page_is_used_without_a_mouse(browser, page, photos):
    opened(browser, page[1])
    give(browser, photos[3])
    browser.run("document.getElementById('choose').focus()")
    for name in ("camera", "score", "model"):
        browser.press(TAB)
        assert browser.run("return document.activeElement.id") == name
    assert browser.label("#choose") == "Choose a photo"
    assert browser.label("#score") == "Score threshold"
    assert browser.label("#model") == "Model"
    assert browser.label("#canvas").startswith("Photo. ")
    browser.run("document.getElementById('score').focus()")
    browser.press(HOME)
    lowest = len(browser.run(ROWS))
    assert lowest > 10
    browser.press(RIGHT)
    assert browser.text("#least") == "0.02"
    browser.press(END)
    assert browser.text("#least") == "1.00"
    assert len(browser.run(ROWS)) < lowest
    browser.wait("document.getElementById('status').textContent === 'No object.'")
    roles = browser.run(
        "return ['status', 'error'].map((id) => document.getElementById(id).role)"
    )
    assert roles == ["status", "alert"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("manifest.json", "manifest.json is missing on the server (404)"),
        ("anchors.npy", "anchors.npy is missing on the server (404)"),
        ("tiny.onnx", "tiny.onnx is missing on the server (404)"),
        ("ort.wasm.bundle.min.mjs", "ONNX Runtime Web is missing"),
        ("ort-wasm-simd-threaded.wasm", "npm install"),
        ("worker.js", "scripts cannot be loaded"),
        ("preprocess.js", "scripts cannot be loaded"),
    ],
)
def test_missing_file_is_named(browser, detector_folder, tmp_path, name, words):
    folder = copied(detector_folder, tmp_path / "page", without=name)
    with served(folder) as address:
        opened(browser, address)
        assert words in browser.text("#error")
        assert browser.run("return document.getElementById('choose').disabled")


def with_manifest(folder: Path, target: Path, **changes) -> Path:
    """Return a copy of a page whose manifest states something else."""
    copied(folder, target, without="manifest.json")
    manifest = json.loads((folder / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return target


def test_unknown_postprocess_is_said_in_words(browser, detector_folder, tmp_path):
    folder = with_manifest(
        detector_folder, tmp_path / "page", postprocess={"kind": "heat"}
    )
    with served(folder) as address:
        opened(browser, address)
        assert '"heat"' in browser.text("#error")


@pytest.mark.parametrize("name", ["tiny.onnx", "anchors.npy"])
def test_altered_file_is_named(browser, detector_folder, tmp_path, name):
    folder = copied(detector_folder, tmp_path / "page", without=name)
    data = bytearray((detector_folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with served(folder) as address:
        opened(browser, address)
        assert browser.text("#error").startswith(f"{name} is not the file")


def test_file_that_is_no_image_is_named_and_the_next_one_works(
    browser, page, photos, tmp_path
):
    opened(browser, page[1])
    (tmp_path / "words.jpg").write_text("not an image")
    give(browser, tmp_path / "words.jpg")
    assert "words.jpg” is not an image" in browser.text("#error")
    give(browser, photos[0])
    assert browser.text("#error") == ""
    assert "object" in browser.text("#status").lower()


def test_names_of_classes_are_text_only(browser, detector_folder, photos, tmp_path):
    names = ["<img src=x onerror=document.title='bad'>", "&amp;", "a" * 200]
    folder = with_manifest(detector_folder, tmp_path / "page", classes=names)
    with served(folder) as address:
        opened(browser, address).size(NARROW)
        give(browser, photos[0])
        everything(browser)
        assert {row[0] for row in browser.run(ROWS)} <= set(names)
        assert browser.run("return document.images.length") == 0
        assert browser.run(FITS)


def test_missing_camera_is_said_in_words(browser, page):
    opened(browser, page[1])
    browser.click("#camera")
    words = browser.wait("document.getElementById('error').textContent")
    assert words.startswith("No camera was found")
    assert "choose a photo" in words


def test_page_without_https_works_but_for_the_camera(browser, page, photos):
    folder, address = page
    opened(browser, address.replace("localhost", "phone.test"))
    assert not browser.run("return window.isSecureContext")
    browser.click("#camera")
    assert "https://" in browser.wait("document.getElementById('error').textContent")
    give(browser, photos[0])
    everything(browser)
    assert assert_same(browser, folder, photos[0], "float32", lost=0.03) > 0


def test_camera_is_followed_until_it_is_stopped(port, page):
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    window = Browser(port, *flags)
    try:
        opened(window, page[1])
        everything(window)
        window.click("#camera")
        window.wait("Number(document.getElementById('frames').textContent) > 0")
        window.wait("document.querySelectorAll('#rows tr').length > 0")
        assert window.text("#camera") == "Stop the camera"
        assert window.label("#canvas").startswith("Photo. ")
        choose_model(window, "int8")
        window.click("#camera")
        assert window.text("#camera") == "Start the camera"
        assert window.text("#error") == ""
        assert window.run("return document.getElementById('rate').hidden")
    finally:
        window.close()


def test_released_model_on_real_images(browser, shared_data, tmp_path):
    name = "ssd_300_resnet50_v1d_compact_s_bccd"
    net = models.load(ROOT / "model_zoo" / name)
    files = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:2]
    images, _ = family_of(net).preprocess(net).read(files)
    folder = tmp_path / "edge"
    deploy(net, folder, name, formats=["onnx-int8", "web"], images=images)
    page = copied(folder, tmp_path / "page")
    with served(page) as address:
        opened(browser, address)
        for precision in ("int8", "float32"):
            choose_model(browser, precision)
            for photo in files:
                give(browser, photo)
                everything(browser)
                assert assert_same(browser, page, photo, precision) > 20
