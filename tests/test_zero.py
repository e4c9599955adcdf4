"""ZeroGPU: a stand-in for Hugging Face's package, which forks as that does, and the same answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import gradcam
from gradcam.ui.rail import EXAMPLES

LION = EXAMPLES[1]

# Unlike theirs, it forks anew for each call.
SPACES = """
import multiprocessing
import torch

assert not torch.cuda.is_initialized()
fork, calls, none_free = multiprocessing.get_context("fork"), 0, False

def GPU(task, duration):
    def lent(*arguments):
        global calls
        calls += 1
        if none_free:
            from gradio import Error
            raise Error("No GPU was available", print_exception=False)
        here, there = fork.Pipe()
        def run():
            torch.set_num_threads(1)  # a fork has lost the threads that its parent computes with
            there.send(task(*there.recv()))
        process = fork.Process(target=run, daemon=True)
        process.start()
        there.close()
        here.send(arguments)
        answer = here.recv()
        process.join()
        return answer
    return lent
"""

VISIT = """
import json, os, sys
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

server, grad = os.getpid(), torch.autograd.grad
def in_a_fork(*arguments, **options):
    assert os.getpid() != server
    return grad(*arguments, **options)
torch.autograd.grad = in_a_fork

import gradcam, spaces
page = gradcam.launch(block=False)
client, picture = Client(page.local_url, verbose=False, httpx_kwargs={"timeout": 300}), handle_file(sys.argv[1])
def ask(**asked):
    try:
        return client.predict(picture, **asked, api_name="/explain")[0]
    except AppError as error:
        return str(error)
answers = [ask(class_="tiger"), ask(model="cifar10", method="layercam"), ask(layer="blocks.5"), ask(layer="none")]
spaces.none_free = True
answers += ask(class_="teapot"), ask(class_="lion"), spaces.calls
page.close()
print(json.dumps(answers))
"""


def test_the_network_runs_in_forks_and_answers_the_same(tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text(SPACES, "utf-8")
    environment = os.environ | {"SPACES_ZERO_GPU": "true", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", VISIT, str(LION)]
    visited = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=900)
    tiger, small, early, unknown, new, known, calls = json.loads(visited.stdout.splitlines()[-1])

    for answer, model, class_, method, layer in (
        (tiger, "efficientnet_lite0", "tiger", "gradcam", None),
        (small, "cifar10", None, "layercam", None),
        (early, "efficientnet_lite0", None, "gradcam", "blocks.5"),
    ):
        classifier = gradcam.load(model, device="cpu")
        top = gradcam.explain(LION, classifier).inspection.top()
        class_ = class_ or top[0].label
        result = gradcam.explain(LION, classifier, [*(best.label for best in top), class_], method, layer)
        assert [best["label"] for best in answer["top5"]] == [best.label for best in top]
        np.testing.assert_allclose(
            answer["class"]["probability"], result.inspection.prediction(class_).probability, 1e-4
        )
        np.testing.assert_allclose(answer["map"], result.map(class_), atol=1e-4 * result.full)
        assert answer["layer"] == result.inspection.target.layer
    assert "the network has no layer 'none'" in unknown
    assert "No GPU was available" in new
    assert known["class"]["label"] == "lion"
    assert calls == 2 + 2 + 2 + 1 + 1 + 0
