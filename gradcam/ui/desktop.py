"""A window of its own for the page."""

import shutil
import subprocess
import tempfile
import webbrowser
from importlib.util import find_spec

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")


def show(url: str) -> bool:
    """Open a window and return when it is closed; or, False, a tab of the browser, which does not say when it is.

    The window is pywebview's if that is installed, else Chromium's without its controls.
    """
    if find_spec("webview"):
        import webview

        webview.create_window("Grad-CAM", url, width=1440, height=900)
        webview.start()
        return True
    chromium = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if chromium is None:
        webbrowser.open(url)
        return False
    # With a profile of its own it does not hand the page to a Chromium that already runs, and return at once.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = f"--app={url}", f"--user-data-dir={profile}", "--no-first-run", "--window-size=1440,900"
        subprocess.run([chromium, *flags], check=False, stderr=subprocess.DEVNULL)
    return True
