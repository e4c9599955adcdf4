"""Sixteen visitors at once: every answer is the one computed alone, and memory stays flat."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import connected
from gradio_client import handle_file
from PIL import Image

from gradcam import explain, load
from gradcam.ui.rail import EXAMPLES

VISITORS, WARM_UP, REQUESTS = 16, 192, 300  # warm: each picture was asked of each model with each method
PAGE = os.sysconf("SC_PAGE_SIZE")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


class Server(NamedTuple):
    """The program as strangers meet it, in a process of its own."""

    url: str
    process: int

    def resident(self) -> int:
        """Bytes of memory."""
        return int(Path(f"/proc/{self.process}/statm").read_text("ascii").split()[1]) * PAGE


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    command = [sys.executable, "app.py", "--public", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield Server(process.stdout.readline().split()[-1], process.pid)
        process.terminate()


class Question(NamedTuple):
    picture: Path
    model: str
    class_: int
    method: str


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    """Different pictures, models, classes and methods in turn; no two of them are the same."""
    folder = tmp_path_factory.mktemp("pictures")
    pictures = []
    for turn, example in product(range(12), EXAMPLES):
        pictures.append(folder / f"{turn}-{example.stem}.png")
        picture = Image.open(example).convert("RGB").resize((160 + 8 * turn, 160))
        picture.rotate(30 * turn, fillcolor="grey").save(pictures[-1])
    kinds = list(product(("efficientnet_lite0", "cifar10"), ("gradcam", "layercam")))
    questions = []
    for index in range(WARM_UP + REQUESTS):
        model, method = kinds[(index + index // len(pictures)) % len(kinds)]
        questions.append(Question(pictures[index % len(pictures)], model, index % 10, method))
    assert len(set(questions)) == len(questions)
    return questions


@pytest.fixture(scope="module")
def alone(questions: list[Question]) -> list[tuple[Any, Any]]:
    """What each is answered here, one after the other: probabilities and map."""
    classifiers = {name: load(name, device="cpu") for name in ("efficientnet_lite0", "cifar10")}
    answers = []
    for question in questions[WARM_UP:]:
        result = explain(question.picture, classifiers[question.model], question.class_, question.method)
        answers.append((result.inspection, result.map(question.class_)))
    return answers


def test_sixteen_visitors(server: Server, questions: list[Question], alone: list[tuple[Any, Any]]) -> None:
    clients = [connected(server.url, download_files=False) for _ in range(VISITORS)]

    def visit(first: int, last: int, number: int) -> list[dict[str, Any]]:
        """One visitor asks, one after the other, every sixteenth question."""
        mine = questions[first + number : last : VISITORS]
        return [clients[number].predict(handle_file(picture), *rest, api_name="/explain")[0] for picture, *rest in mine]

    def all_visit(first: int, last: int) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(VISITORS) as pool:
            each = list(pool.map(lambda number: visit(first, last, number), range(VISITORS)))
        return [each[index % VISITORS][index // VISITORS] for index in range(last - first)]

    all_visit(0, WARM_UP)
    warm = server.resident()
    records = all_visit(WARM_UP, len(questions))
    grown = server.resident() / warm - 1

    assert len(records) == REQUESTS
    for question, record, (inspection, saliency) in zip(questions[WARM_UP:], records, alone, strict=True):
        assert record["picture"]["name"] == question.picture.name
        assert (record["model"], record["method"]) == (question.model, question.method)
        assert record["class"]["index"] == question.class_
        assert [row["index"] for row in record["top5"]] == [row.index for row in inspection.top()]
        # Both processes do the same sums; only the order in which threads add them may differ.
        for row in [record["class"], *record["top5"]]:
            assert row["probability"] == pytest.approx(inspection.probabilities[row["index"]], rel=1e-4, abs=1e-7)
        np.testing.assert_allclose(record["map"], saliency, rtol=1e-4, atol=1e-5 * max(saliency.max(), 1e-6))
    assert grown < 0.05
