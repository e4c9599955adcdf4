"""What starts the page: its flags, and what it costs to import."""

import json
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen
from xml.etree import ElementTree

import gradio
import pytest
import timm
import torch
from conftest import Served, connected
from gradio_client import handle_file
from gradio_client.exceptions import AppError, AuthenticationError
from PIL import Image
from timm.models import save_for_hf
from torch import nn

import app
import gradcam
from gradcam.classifiers import WEIGHTS, Bundled
from gradcam.errors import ModelError
from gradcam.ui import page
from gradcam.ui.models import Models, here
from gradcam.ui.rail import EXAMPLES

# Gradio's statistics of its own queue use what pandas has since deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\.queueing")


def test_importing_the_package_does_not_import_gradio() -> None:
    code = "import sys, gradcam; assert 'gradio' not in sys.modules; gradcam.launch; assert 'gradio' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_installation_has_every_package_and_the_weights() -> None:
    root = Path(gradcam.__file__).parent.parent
    told = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packages = {".".join(file.parent.relative_to(root).parts) for file in (root / "gradcam").rglob("__init__.py")}
    assert set(told["packages"]) == packages | {"gradcam.weights"}
    assert told["package-dir"] == {"gradcam.weights": WEIGHTS.relative_to(root).as_posix()}
    kinds = {file.suffix for file in (root / "gradcam").rglob("*") if file.is_file()} - {".py", ".pyc"}
    assert {f"*{kind}" for kind in kinds} == set(told["package-data"]["gradcam.ui"])


def test_the_page_is_served_before_any_network_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Bundled] = []
    monkeypatch.setattr(Bundled, "load", lambda row: made.append(row))
    page = gradcam.launch("efficientnet_lite0", block=False)
    assert urlopen(page.local_url).status == 200
    page.close()
    assert made == []


def test_a_model_that_does_not_exist_ends_in_one_sentence() -> None:
    started = subprocess.run([sys.executable, "app.py", "--model", "resnet1"], capture_output=True, text=True)
    assert started.returncode == 1
    assert started.stderr.startswith("There is no model 'resnet1'; did you mean ")
    assert started.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"host": "1.2.3.4"}, "The page cannot be served at 1.2.3.4 (Cannot assign requested address): choose another"),
        ({"host": "no such host"}, "The page cannot be served at no such host (Name or service not known): choose "),
        ({"host": "x" * 64}, "The page cannot be served at xxxxxxxx"),
        ({"port": 70000}, "The page cannot be served at 127.0.0.1, port 70000 (bind(): port must be 0-65535): choose "),
        ({"device": "abacus"}, "There is no device 'abacus' here: use cpu"),
        ({"checkpoint": "my.pth"}, "checkpoint came without a model: name its architecture, such as "),
        ({"labels": "names.txt"}, "labels came without a model: name its architecture, such as "),
        ({"model": "resnet18", "checkpoint": "no.pth"}, "There is no checkpoint no.pth."),
        ({"model": "cifar10", "labels": "no.txt"}, "The labels no.txt cannot be opened (No such file or directory)."),
        ({"data": Path("no data")}, "no data/test is not a CIFAR-10 folder: expected one sub-folder for each class"),
        ({"auth": "secret"}, "--auth takes a name and a password with a colon between them, such as --auth me:"),
        ({"auth": ":secret"}, "--auth takes a name and a password with a colon between them, such as --auth me:"),
    ],
)
def test_a_wrong_flag_ends_in_one_sentence(flags: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SystemExit) as ended:
        app.main(**flags)
    assert str(ended.value.code).startswith(sentence)
    assert "\n" not in str(ended.value.code)


@pytest.mark.parametrize(
    ("model", "given", "sentence"),
    [
        (None, "preprocess", "preprocess came without a model: name its architecture, such as resnet18."),
        ("resnet18", "preprocess", "preprocess came with the name of a model, which takes checkpoint and labels."),
        (nn.Identity(), "checkpoint", "checkpoint came with a network of your own, which takes labels and preprocess."),
        ("classifier", "labels", "labels came with a Classifier, which has its own."),
    ],
    ids=str,
)
def test_an_argument_that_the_model_has_no_use_for_is_told(model: Any, given: str, sentence: str) -> None:
    model = gradcam.load("cifar10") if model == "classifier" else model
    with pytest.raises(ModelError, match=f"^{re.escape(sentence)}$"):
        gradcam.launch(model, **{given: "anything"}, block=False)


def test_labels_and_preprocess_cannot_be_mixed_up() -> None:
    with pytest.raises(TypeError, match="takes from 0 to 1 positional arguments but 2 were given"):
        gradcam.launch(nn.Identity(), ["cat", "dog"])  # type: ignore[misc]


def test_a_preprocess_that_takes_no_small_pictures_is_served() -> None:
    def squared(picture: Image.Image) -> torch.Tensor:
        if min(picture.size) < 100:
            raise ValueError("too small")
        return torch.zeros(3, 32, 32) + torch.tensor(picture.resize((1, 1)).getpixel((0, 0)))[:, None, None] / 255

    classifier = gradcam.Classifier(gradcam.load("cifar10").model, preprocess=squared)
    assert here(classifier).target == gradcam.Explainer(classifier.model, input_size=(3, 32, 32)).target


def test_a_port_that_is_taken_ends_in_one_sentence(served: Served) -> None:
    port = int(served.url.split(":")[-1].strip("/"))
    sentence = rf"^The page cannot be served at 127.0.0.1, port {port} \(Address already in use\): choose another"
    with pytest.raises(SystemExit, match=sentence):
        app.main(port=port)
    with pytest.raises(OSError, match=sentence):
        gradcam.launch(port=port)


def test_no_connection_leaves_the_machine() -> None:
    """From start to an explained picture, the server itself speaks to nobody but its visitor."""
    code = """
import socket
strangers, connect = [], socket.socket.connect
def watched(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        strangers.append(address)
    return connect(self, address)
resolve = socket.getaddrinfo
def named(host, *rest, **more):
    if host not in (None, "127.0.0.1", "::1", "localhost", "0.0.0.0"):
        strangers.append(host)
    return resolve(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = watched, named

from pathlib import Path
from urllib.request import urlopen
import gradio, gradcam
page = gradcam.launch(block=False)
assert urlopen(page.local_url).status == 200
picture = Path(gradio.__file__).parent / "media_assets" / "images" / "cheetah1.jpg"
assert gradcam.explain(picture, gradcam.load("efficientnet_lite0")).inspection.top(1)[0].label == "cheetah"
page.close()
print("strangers", strangers)
"""
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert started.stdout.splitlines()[-1] == "strangers []"


@pytest.mark.parametrize("why", ["public", "share", "space"])
def test_strangers_have_the_models_on_the_list_and_no_other(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio.networking.setup_tunnel", _no_tunnel)
    if why == "space":
        monkeypatch.setattr(sys.modules["gradcam.ui.launch"], "get_space", lambda: "somebody/gradcam")
    page = gradcam.launch(block=False, public=why == "public", share=why == "share")
    client = connected(page.local_url)
    for name in ("resnet18", "hf-hub:timm/resnet18.a1_in1k", "local-dir:/etc"):
        with pytest.raises(AppError, match=f"There is no model '{name}' here: choose one of efficientnet_lite0, "):
            client.predict(handle_file(EXAMPLES[1]), name, api_name="/predict")
    assert client.predict(handle_file(EXAMPLES[1]), "cifar10", api_name="/predict")[0]["label"] in (
        "cat",
        "dog",
        "deer",
    )
    page.close()


def test_strangers_are_not_told_where_the_files_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "operator's folder"
    network = timm.create_model("test_resnet", num_classes=3)
    save_for_hf(network, place)
    torch.save(network.state_dict(), place / "my.pth")
    (place / "names.txt").write_text("a\nb\nc\n", "utf-8")
    built: list[Models] = []
    build = page.build
    monkeypatch.setattr(page, "build", lambda models, data: built.append(models) or build(models, data))
    for model, files, name, code in (
        (f"local-dir:{place}", {}, "ResNet", "load('local-dir:folder')"),
        (
            "test_resnet",
            {"checkpoint": place / "my.pth", "labels": str(place / "names.txt")},
            "test_resnet",
            "load('test_resnet', checkpoint='my.pth', labels='names.txt')",
        ),
    ):
        blocks = gradcam.launch(model, **files, public=True, block=False)
        client = connected(blocks.local_url)
        answer = client.predict(api_name="/models")
        assert answer["models"] == [name, "efficientnet_lite0", "cifar10"]
        with pytest.raises(AppError) as told:
            client.predict(handle_file(EXAMPLES[1]), class_="no such", api_name="/explain")
        assert str(told.value).startswith(f"{name} has no class 'no such'")
        assert built[-1].code(name) == code
        assert "operator" not in json.dumps([answer, client.config, str(told.value), code])
        blocks.close()


def test_without_a_tunnel_the_page_stays_up_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gradio.networking.setup_tunnel", _no_tunnel)
    page = gradcam.launch(block=False, share=True)
    assert capsys.readouterr().out == (
        f"The page is at {page.local_url}\n"
        "A share link could not be had (is there a network connection?); the page stays up on this machine.\n"
    )
    assert urlopen(page.local_url).status == 200
    page.close()


def test_a_share_link_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **_: "https://abc.gradio.live")
    page = gradcam.launch(block=False, share=True)
    assert capsys.readouterr().out.splitlines()[1:] == ["For others it is at https://abc.gradio.live"]
    page.close()


def test_a_page_with_a_password_lets_in_who_knows_it() -> None:
    page = gradcam.launch(block=False, auth=("me", "secret"))
    for wrong in (None, ("me", "wrong")):
        with pytest.raises((AuthenticationError, ValueError)):
            connected(page.local_url, auth=wrong)
    client = connected(page.local_url, auth=("me", "secret"))
    assert client.predict(api_name="/models")["default"] == "efficientnet_lite0"
    page.close()


def test_the_page_can_be_installed_as_an_app(served: Served) -> None:
    with urlopen(served.url) as page:
        assert '<link rel="manifest" href="/manifest.json"' in page.read().decode()
    with urlopen(f"{served.url}manifest.json") as answer:
        assert answer.headers.get_content_type() == "application/manifest+json"
        manifest = json.load(answer)
    assert (manifest["name"], manifest["start_url"], manifest["display"]) == ("Grad-CAM", "./", "standalone")
    (icon,) = manifest["icons"]
    with urlopen(urljoin(served.url, icon["src"])) as answer:
        assert answer.headers.get_content_type() == icon["type"] == "image/svg+xml"
        assert ElementTree.parse(answer).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_an_interrupt_ends_the_program_quietly() -> None:
    command = ["env", "--default-signal=INT", sys.executable, "app.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        url = program.stdout.readline().strip().removeprefix("The page is at ")
        assert urlopen(url).status == 200
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (0, "")


def test_an_interrupt_before_the_page_is_there_is_as_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, app; assert not {'gradcam', 'torch', 'gradio'} & set(sys.modules)"  # which take seconds
    subprocess.run([sys.executable, "-c", code], check=True)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradcam.ui.launch", interrupted)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 130


def test_a_script_waits_and_a_notebook_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[gradio.Blocks] = []
    monkeypatch.setattr(gradio.Blocks, "block_thread", lambda page: waits.append(page))
    script = gradcam.launch()
    assert waits == [script]
    script.close()
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    notebook = gradcam.launch()
    assert urlopen(notebook.local_url).status == 200
    assert waits == [script]
    notebook.close()


def _no_tunnel(**_: object) -> str:
    raise RuntimeError("Could not get share link from Gradio API Server.")
