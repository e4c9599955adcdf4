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
