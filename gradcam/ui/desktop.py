"""A window of its own for the page."""

import os
import shutil
import subprocess
import tempfile
import webbrowser
from importlib.util import find_spec

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
FLAGS = ("--no-first-run", "--window-size=1440,900")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")  # it asks nobody anything


def show(url: str) -> bool:
    """Open a window and return when it is closed; or, False, a tab of the browser, which does not say when it is.

    The window is pywebview's if that is installed, else Chromium's without its controls.
    """
    if _webview(url) or _chromium(url):
        return True
    webbrowser.open(url)
    return False


def _webview(url: str) -> bool:
    if not find_spec("webview"):
        return False
    import webview

    webview.create_window("Grad-CAM", url, width=1440, height=900)
    try:
        webview.start()
    except webview.errors.WebViewException:  # it is installed without any of the toolkits that it draws with
        return False
    return True


def _chromium(url: str) -> bool:
    chromium = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if chromium is None:
        return False
    # With a profile of its own it does not hand the page to a Chromium that already runs, and return at once.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [f"--app={url}", f"--user-data-dir={profile}", *FLAGS, *QUIET]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--no-sandbox")  # for root it has none, and refuses to start
        return subprocess.run([chromium, *flags], check=False, stderr=subprocess.DEVNULL).returncode == 0
