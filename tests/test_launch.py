"""What `python app.py` hands on to `launch`, and `launch` to the page, its models and its server."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from gradio.themes import Base
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import app
import gradcam
from gradcam import Classifier
from gradcam.images import Framing
from gradcam.ui import desktop, guard, page
from gradcam.ui.models import Models
from gradcam.ui.rail import EXAMPLES

MODULE = sys.modules["gradcam.ui.launch"]  # whose name in the package is the function's
FLAGS = {
    "model": "resnet18",
    "labels": "names.txt",
    "checkpoint": "my.pth",
    "device": "cuda:1",
    "host": "0.0.0.0",
    "port": 8000,
    "share": True,
    "auth": ("me", "se:cret"),
    "public": True,
    "desktop": True,
    "data": Path("cifar"),
}
NOTHING = dict.fromkeys(FLAGS) | {"share": False, "public": False, "desktop": False}


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_is_handed_to_launch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[dict[str, Any]] = []
    monkeypatch.setattr("gradcam.ui.launch", lambda model, **flags: handed.append({"model": model} | flags))
    program = typer.Typer()
    program.command()(app.main)
    value = FLAGS[name]
    told = [] if value is True else [":".join(value) if isinstance(value, tuple) else str(value)]
    for flags, expected in (([], NOTHING), ([f"--{name}", *told], NOTHING | {name: value})):
        answer = CliRunner().invoke(program, flags, catch_exceptions=False)
        assert (answer.exit_code, answer.output) == (0, "")
        assert handed.pop() == expected


class Served:
    """Stands in for the page: what it was made of, what it is served with, and what became of it."""

    local_url, share_url = "http://127.0.0.1:1/", "https://abc.gradio.live"

    def __init__(self, models: Models, data: Path | None) -> None:
        self.models, self.data = models, data
        self.options: dict[str, Any] = {}
        self.happened: list[str] = []

    def launch(self, **options: Any) -> None:
        self.options = options
        self.happened.append("served")

    def block_thread(self) -> None:
        self.happened.append("waited for")

    def close(self) -> None:
        self.happened.append("closed")


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is built or served."""
    monkeypatch.setattr(page, "build", Served)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def preprocess(picture: Image.Image) -> tuple[torch.Tensor, Framing]:
    return torch.full((3, 8, 12), 0.5), Framing(picture.size, (0, 0, *picture.size))


@pytest.fixture(scope="module")
def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, list("abcdefghij"), preprocess, "test_resnet")


def launched(*args: Any, **options: Any) -> Any:
    return gradcam.launch(*args, **options, block=False)


def test_the_server_is_asked_for_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = launched(host="127.0.0.1", port=port, auth=("me", "secret")).options
    assert (options["server_name"], options["server_port"]) == ("127.0.0.1", port)
    assert (options["auth"], options["mcp_server"], options["share"]) == (("me", "secret"), False, False)

    options = launched().options
    assert (options["server_name"], options["server_port"], options["auth"]) == (None, None, None)
    assert options["mcp_server"] is True
    monkeypatch.setattr(MODULE, "find_spec", lambda _: None)
    assert launched().options["mcp_server"] is False
    assert launched(share=True).options["share"] is True


def test_the_server_keeps_to_the_limits_and_shows_nothing_else() -> None:
    options = launched().options
    assert options["allowed_paths"] == [str(path) for path in EXAMPLES]
    assert (options["max_file_size"], options["state_session_capacity"]) == (32 * 2**20, 256)
    (limits,) = options["app_kwargs"]["middleware"]
    assert limits.cls is guard.Limits
    assert set(options["app_kwargs"]) == {"middleware", "exception_handlers", "lifespan"}
    assert (options["enable_monitoring"], options["run_history"], options["footer_links"]) == (False, False, [])
    assert (options["prevent_thread_lock"], options["ssr_mode"], options["pwa"]) == (True, False, True)
    assert isinstance(options["theme"], Base)
    assert {name: Path(options[name]).name for name in ("css_paths", "favicon_path")} == {
        "css_paths": "style.css",
        "favicon_path": "icon.svg",
    }
    assert options["js"] == (Path(page.__file__).parent / "page.js").read_text("utf-8")


@pytest.mark.parametrize(
    ("why", "public"), [({}, False), ({"public": True}, True), ({"share": True}, True), ("space", True)], ids=str
)
def test_whether_strangers_visit(
    why: Any, public: bool, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "space":
        monkeypatch.setattr(MODULE, "get_space", lambda: "somebody/gradcam")
        why = {}
    assert launched(**why).models.public is public
    assert launched(classifier, **why).models.public is public


def test_a_model_on_the_list_is_the_one_to_start_with() -> None:
    models = launched("cifar10", device="cpu").models
    assert (models.names, models.default, models.device) == (["efficientnet_lite0", "cifar10"], "cifar10", "cpu")
    models = launched().models
    assert (models.default, models.device) == ("efficientnet_lite0", None)


@pytest.mark.parametrize("labels", [list("abcdefghij"), "names.txt", Path("names.txt"), dict(enumerate("abcdefghij"))])
def test_a_network_of_ones_own(
    labels: Any, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("\n".join("abcdefghij"), "utf-8")
    models = launched(network, preprocess=preprocess, labels=labels).models
    own = models.get("Sequential").classifier
    assert own.model is network
    assert own.labels == tuple("abcdefghij")
    assert own.preprocess(Image.new("RGB", (4, 4)))[0].shape == own.input_size == (3, 8, 12)
    assert models.default == "Sequential"
    assert models.code("Sequential") == "Classifier(model, labels, preprocess)"


def test_a_classifier_of_ones_own(classifier: Classifier) -> None:
    models = launched(classifier).models
    assert models.get("test_resnet").classifier is classifier
    assert models.code("test_resnet") == "classifier"


@pytest.mark.parametrize(
    ("model", "given", "code"),
    [
        ("resnet18", {}, "load('resnet18')"),
        (
            "resnet18",
            {"checkpoint": Path("in/my.pth"), "labels": "in/names.txt"},
            "load('resnet18', checkpoint='in/my.pth', labels='in/names.txt')",
        ),
        ("resnet18", {"labels": ["a", "b"]}, "load('resnet18', labels=labels)"),
        ("efficientnet_lite0", {"checkpoint": "in/my.pth"}, "load('efficientnet_lite0', checkpoint='in/my.pth')"),
        (
            "resnet18",
            {"checkpoint": "in/my.pth", "labels": Path("in/names.txt"), "public": True},
            "load('resnet18', checkpoint='my.pth', labels='names.txt')",
        ),
        ("local-dir:/mine", {}, "load('local-dir:/mine')"),
        ("Local-Dir:/mine", {"public": True}, "load('local-dir:folder')"),
    ],
)
def test_a_model_by_name_is_loaded_with_all_that_came_with_it(
    model: str, given: dict[str, Any], code: str, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers are not told where its files lie."""
    loaded: list[tuple[Any, ...]] = []
    classifier = Classifier(network, preprocess=preprocess, name=model)
    monkeypatch.setattr(MODULE, "load", lambda *args: loaded.append(args) or classifier)
    models = launched(model, device="cpu", **given).models
    assert loaded == [(model, given.get("checkpoint"), given.get("labels"), "cpu")]
    name = "Sequential" if "folder" in code else model
    assert models.get(name).classifier is classifier
    assert models.names == list(dict.fromkeys([name, "efficientnet_lite0", "cifar10"]))
    assert models.code(name) == code


def test_a_bundled_model_with_labels_of_ones_own() -> None:
    models = launched("cifar10", labels=list("abcdefghij")).models
    assert models.get("cifar10").classifier.labels == tuple("abcdefghij")
    assert models.code("cifar10") == "load('cifar10', labels=labels)"


@pytest.mark.parametrize(("data", "handed"), [(None, None), ("cifar", Path("cifar")), (Path("cifar"), Path("cifar"))])
def test_the_folder_with_pictures_is_handed_on(data: Any, handed: Path | None) -> None:
    assert launched(data=data).data == handed


@pytest.mark.parametrize(
    ("options", "window", "happened"),
    [
        ({}, None, ["served", "waited for"]),
        ({"block": False}, None, ["served"]),
        ({"desktop": True}, True, ["served", "closed"]),
        ({"desktop": True}, False, ["served", "waited for"]),  # a tab of the browser does not say when it is closed
        ({"desktop": True, "block": False}, False, ["served"]),
    ],
    ids=str,
)
def test_how_long_it_is_served(
    options: dict[str, Any], window: bool | None, happened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(desktop, "show", lambda url: shown.append(url) or window)
    assert gradcam.launch(**options).happened == happened
    assert shown == ([] if window is None else [Served.local_url])
