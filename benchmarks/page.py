"""Print what the page costs beyond the network: from an upload to five maps, another class, and the start.

    pip install -r requirements-dev.txt && apt-get install chromium
    python -m benchmarks.page

*From an upload to five maps*: a visitor's Chromium gets pictures that neither it nor the server has seen. The time runs
from the choice of the file, in the browser, until the large overlay, the picture below it and the five thumbnails are
decoded and painted. The bare pipeline, with which it is compared picture by picture, is `explain(path, classifier,
classes="top5")` in the same process: reading the file, one forward pass, five maps, and nothing drawn. Its classes must
be those on the page. The parts come from the clocks of both sides, and add up to the whole, picture by picture.

*Another class*: the page's handler, called on the server with another class, against the plain forward pass. *The
start*: from the start of `python app.py` to its first answer, against that of `python -c "import gradio, torch, timm"`
to the end of the imports.

What is compared alternates in random order, so that a slow moment of the machine meets all; medians.
"""

import argparse
import functools
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import gradio as gr
import numpy as np
import torch
from gradio.utils import get_upload_folder
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from gradcam import Classifier, explain
from gradcam.cifar10.weights import hardware
from gradcam.images import read
from gradcam.pipeline import Inspection
from gradcam.ui import markup, models, page
from gradcam.ui.launch import serve
from gradcam.ui.look import Look
from gradcam.ui.models import Loaded, Models
from gradcam.ui.rail import AUTOMATIC, EXAMPLES, Subject

from .cost import installed

SIZES = {"web, 0.8 megapixels": (1024, 768), "phone, 12 megapixels": (4032, 3024)}
WARM_UP = 3  # runs that do not count
REST = "rest of the handler"

# Seconds since 1970: of the choice of a file; of the DOM with all seven pictures, other than before; of their paint.
WATCH = """
() => {
    const now = () => (performance.timeOrigin + performance.now()) / 1000
    const shown = () => [...document.querySelectorAll('.comparison img, .answer img')]
    const before = new Set(shown().map(image => image.src))
    performance.clearResourceTimings()
    window.painted = new Promise(resolve => {
        const times = {}
        document.addEventListener('change', () => { times.chosen = now() }, { capture: true, once: true })
        new MutationObserver(async (_, observer) => {
            const images = shown()
            if (images.length != 7 || images.some(image => before.has(image.src))) return
            observer.disconnect()
            times.arrived = now()
            await Promise.all(images.map(image => image.decode()))
            requestAnimationFrame(() => {  // the next task runs when this frame is painted
                const { port1, port2 } = new MessageChannel()
                port1.onmessage = () => {
                    times.painted = now()
                    for (const entry of performance.getEntriesByType('resource').reverse())
                        for (const [name, path] of [['upload', '/upload?'], ['question', '/queue/join']])
                            if (entry.name.includes(path)) {
                                times[`${name}Starts`] = (performance.timeOrigin + entry.startTime) / 1000
                                times[`${name}Ends`] = (performance.timeOrigin + entry.responseEnd) / 1000
                            }
                    resolve(times)
                }
                port2.postMessage(null)
            })
        }).observe(document.body, { attributes: true, childList: true, subtree: true })
    })
}
"""

Seconds = dict[str, float]


class Call(NamedTuple):
    """From when to when something ran, in seconds since 1970, and how long without the watched calls within it."""

    name: str
    start: float
    end: float
    own: float


class Clock:
    """Notes the calls of watched functions."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._here = threading.local()

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._here.within = getattr(self._here, "within", 0.0), 0.0
            start = time.time()
            try:
                return function(*args, **kwargs)
            finally:
                end = time.time()
                self.calls.append(Call(name, start, end, end - start - self._here.within))
                self._here.within = outer + end - start

        return timed

    def own(self, whole: Call) -> Seconds:
        """What a call and those within it took themselves, by name."""
        seconds: Seconds = defaultdict(float)
        for call in self.calls:
            if whole.start <= call.start and call.end <= whole.end:
                seconds[call.name] += call.own
        return seconds

    def watch_page(self) -> None:
        """Watch what the page's handlers spend their time on."""
        for owner, method, name in (
            (Inspection, "__init__", "reading and forward pass"),
            (Inspection, "explain", "maps"),
            (models, "shrunk", "shrinking to the screen"),
            (Look, "draw", "drawing"),
            (markup, "data_url", "JPEG and base64"),
        ):
            setattr(owner, method, self.watched(name, getattr(owner, method)))


def handler(blocks: gr.Blocks, name: str) -> Any:
    """What Gradio calls on an event of the page, by the name of the function."""
    return next(function for function in blocks.fns.values() if function.name == name)


def photographs(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """JPEG files of different parts of the examples, with noise: a smooth picture would be too small a file."""
    rng = np.random.default_rng(0)
    paths = []
    for index in range(count):
        picture = read(EXAMPLES[index % len(EXAMPLES)])
        left, top = rng.uniform(0, 0.3, 2) * picture.size
        right, bottom = picture.size - rng.uniform(0, 0.3, 2) * picture.size
        pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, (left, top, right, bottom)), np.int16)
        pixels = (pixels + rng.integers(-6, 7, pixels.shape)).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{size[0]}-{index}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def measure_upload(visitor: Page, picture: Path, classifier: Classifier, clock: Clock) -> Seconds:
    """The parts of one upload, their sum, and the bare pipeline. Stops when the page shows other classes than that."""
    taken: Seconds = {}
    labels: list[str] = []

    def bare() -> None:
        start = time.perf_counter()
        result = explain(picture, classifier, classes="top5")
        taken["bare pipeline"] = time.perf_counter() - start
        labels.extend(result.title(asked) for asked in result.asked)

    def upload() -> None:
        clock.calls.clear()
        visitor.evaluate(WATCH)
        visitor.locator("#picture input[type=file]").set_input_files(picture)
        at = visitor.evaluate("painted")
        asked = max((call for call in clock.calls if call.name == REST), key=lambda call: call.end - call.start)
        taken.update(
            {
                "browser: the file is chosen": at["uploadStarts"] - at["chosen"],
                "upload, there and back": at["uploadEnds"] - at["uploadStarts"],
                "browser: the question is put": at["questionStarts"] - at["uploadEnds"],
                "queue": asked.start - at["questionStarts"],
                **clock.own(asked),
                "the answer's way into the page": at["arrived"] - asked.end,
                "browser: decoding and painting": at["painted"] - at["arrived"],
                "whole": at["painted"] - at["chosen"],
            }
        )

    for step in random.sample([bare, upload], 2):
        visitor.wait_for_timeout(500)  # what the page asks after an answer, and nobody waits for, is over
        step()
    if (shown := visitor.locator(".answer .label").all_inner_texts()) != labels:
        raise SystemExit(f"The page shows {shown} and the bare pipeline {labels}.")
    taken["whole over the bare pipeline"] = taken["whole"] - taken["bare pipeline"]
    return taken


def measure_class(ask: Callable[..., Any], served: Models, picture: Path, clock: Clock) -> Seconds:
    """A plain forward pass, and the handler for another class: one of the five shown, and one that is not."""
    seen = served.get(served.default).see(picture)
    order = (-seen.inspection.probabilities).argsort().tolist()
    subject = Subject(picture, served.default, None, "gradcam", order[0])
    classifier, taken = seen.inspection.classifier, {}
    batch = classifier.as_batch(classifier.preprocess(seen.inspection.picture)[0])

    def forward() -> None:
        start = time.perf_counter()
        with torch.no_grad():
            classifier.model(batch)
        taken["a forward pass"] = time.perf_counter() - start

    def choose(class_: int) -> None:
        ask([], [], {"path": str(picture)}, served.default, AUTOMATIC, "gradcam", class_, subject, None, *Look())

    def change(name: str, class_: int) -> None:
        clock.calls.clear()
        choose(class_)
        taken[f"{name}: the handler"] = clock.calls[-1].end - clock.calls[-1].start
        taken[f"{name}: its maps"] = clock.own(clock.calls[-1])["maps"]

    choose(order[0])  # what the visitor sees before
    steps = [
        forward,
        functools.partial(change, "one of the five", order[1]),
        functools.partial(change, "any other", random.choice(order[5:])),
    ]
    for step in random.sample(steps, len(steps)):
        step()
    return dict(sorted(taken.items()))


def measure_start() -> Seconds:
    """Until the page answers, and until the imports alone are done."""
    taken: Seconds = {}

    def imports() -> None:
        start = time.perf_counter()
        code = "import gradio, torch, timm; print('done', flush=True)"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            taken["imports alone"] = time.perf_counter() - start

    def app() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        start = time.perf_counter()
        with subprocess.Popen([sys.executable, "app.py", "--port", str(port)], stdout=subprocess.DEVNULL) as process:
            while not answers(f"http://127.0.0.1:{port}/"):
                if process.poll() is not None:
                    raise SystemExit("The page did not start.")
                time.sleep(0.01)
            taken["page served"] = time.perf_counter() - start
            process.terminate()

    for step in random.sample([imports, app], 2):
        step()
    taken["ratio"] = taken["page served"] / taken["imports alone"]
    return taken


def answers(url: str) -> bool:
    """Whether a page is there."""
    try:
        with urlopen(url) as response:
            return response.status == 200
    except URLError:
        return False


def medians(runs: list[Seconds]) -> Seconds:
    """Of each part, without the first runs."""
    return {name: statistics.median(run[name] for run in runs[WARM_UP:]) for name in runs[0]}


def print_uploads(count: int, visitor: Page, loaded: Loaded, clock: Clock) -> None:
    columns = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, size in SIZES.items():
            pictures = photographs(Path(folder), size, WARM_UP + count)
            columns[title] = medians(
                [measure_upload(visitor, picture, loaded.classifier, clock) for picture in pictures]
            )
    print("\n| from an upload to five maps, ms |", " | ".join(columns), "|")
    print("|---|" + "--:|" * len(columns))
    for part in next(iter(columns.values())):
        print(f"| {part} |", " | ".join(f"{1000 * median[part]:.1f}" for median in columns.values()), "|")


def print_classes(count: int, ask: Callable[..., Any], served: Models, clock: Clock) -> None:
    with tempfile.TemporaryDirectory(dir=get_upload_folder()) as folder:
        pictures = photographs(Path(folder), SIZES["web, 0.8 megapixels"], WARM_UP + count)
        median = medians([measure_class(ask, served, picture, clock) for picture in pictures])
    print("\n| another class | ms | of a forward pass |\n|---|--:|--:|")
    for part, seconds in median.items():
        print(f"| {part} | {1000 * seconds:.2f} | {seconds / median['a forward pass']:.1%} |")


def print_start(count: int) -> None:
    median = medians([measure_start() for _ in range(WARM_UP + count)])
    print("\n| the start | s |\n|---|--:|")
    for part, value in median.items():
        print(f"| {part} | {value:.2f} |")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="*", default=["upload", "class", "start"], help="default: %(default)s")
    parser.add_argument("--repetitions", type=int, default=20, metavar="N")
    arguments = parser.parse_args()
    count = arguments.repetitions
    random.seed(0)

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        packages = ", ".join(f"{name} {installed(name)}" for name in ("torch", "timm", "gradio", "pillow"))
        threads, load = torch.get_num_threads(), os.getloadavg()[0]
        print(f"{hardware(torch.device('cpu'))}, {threads} threads, load {load:.1f}")
        print(f"Python {platform.python_version()}, {packages}, Chromium {chromium.version}; n = {count}", flush=True)

        clock = Clock()
        clock.watch_page()
        served = Models()
        blocks = serve(page.build(served))
        ask = handler(blocks, "ask_or_stay")
        ask.fn = clock.watched(REST, ask.fn)
        if "upload" in arguments.what:
            visitor = chromium.new_page(viewport={"width": 1440, "height": 900})
            visitor.goto(blocks.local_url)
            visitor.get_by_role("group", name="Examples").wait_for()
            print_uploads(count, visitor, served.get(served.default), clock)
        if "class" in arguments.what:
            print_classes(count, ask.fn, served, clock)
        chromium.close()
    blocks.close()
    if "start" in arguments.what:
        print_start(count)


if __name__ == "__main__":
    main()
