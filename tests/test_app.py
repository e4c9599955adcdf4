"""What starts the page: its flags, and what it costs to import."""

import subprocess
import sys


def test_importing_the_package_does_not_import_gradio() -> None:
    code = "import sys, gradcam; assert 'gradio' not in sys.modules; gradcam.launch; assert 'gradio' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_that_does_not_exist_ends_in_one_sentence() -> None:
    started = subprocess.run([sys.executable, "app.py", "--model", "resnet1"], capture_output=True, text=True)
    assert started.returncode == 1
    assert started.stderr.startswith("There is no model 'resnet1'; did you mean ")
    assert started.stderr.count("\n") == 1


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
