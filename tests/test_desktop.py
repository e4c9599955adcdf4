"""The window of `python app.py --desktop`: a real one on a virtual screen, and what comes in its place."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import installed

from gradcam.ui import desktop

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture
def screen() -> Iterator[str]:
    """The name of a virtual screen."""
    command = [installed("Xvfb"), "-displayfd", "1", "-screen", "0", "1600x1000x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        yield f":{server.stdout.readline().strip()}"
        server.terminate()


def test_closing_the_window_ends_the_program(screen: str, browser: "Browser", tmp_path: Path) -> None:
    """The window is Chromium's own; a wrapper only asks it to tell where it can be watched."""
    wrapper = tmp_path / "chromium"
    chromium = installed("chromium", "google-chrome")
    wrapper.write_text(f'#!/bin/sh\nexec {chromium} "$@" --remote-debugging-port=0 --disable-gpu 2>&1\n')
    wrapper.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "DISPLAY": screen}
    program = subprocess.Popen(
        [sys.executable, "app.py", "--desktop"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert program.stdout is not None
        url = program.stdout.readline().strip().removeprefix("The page is at ")
        told = next(filter(None, (re.match(r"DevTools listening on (\S+)", line) for line in program.stdout)))
        context = browser.browser_type.connect_over_cdp(told[1], timeout=120_000).contexts[0]
        context.set_default_timeout(120_000)
        page = context.pages[0] if context.pages else context.wait_for_event("page")
        page.get_by_role("group", name="Examples").wait_for()
        assert page.url == url
        page.wait_for_function("outerWidth === 1440 && outerHeight === 900")  # the screen may take a moment
        assert page.evaluate("matchMedia('(display-mode: standalone)').matches")
        page.close()
        program.communicate(timeout=120)
        assert program.returncode == 0
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.communicate()


@pytest.mark.parametrize("script", [None, "exit 1"])
def test_without_a_window_the_page_is_a_tab_of_the_browser(
    script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Chromium, and with one that finds no screen."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    stand_in(tmp_path, monkeypatch, script)
    assert desktop.show("http://127.0.0.1:1/") is False
    assert opened == ["http://127.0.0.1:1/"]


@pytest.mark.parametrize(("user", "unprotected"), [(0, True), (1000, False)])
def test_chromium_keeps_its_sandbox_where_it_can(
    user: int, unprotected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    stand_in(tmp_path, monkeypatch, f'echo "$@" >{tmp_path}/flags')
    assert desktop.show("http://127.0.0.1:1/") is True
    flags = (tmp_path / "flags").read_text("utf-8").split()
    assert flags[0] == "--app=http://127.0.0.1:1/"
    assert ("--no-sandbox" in flags) is unprotected


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    """Make this script the only Chromium there is."""
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(desktop, "find_spec", lambda _: None)
    if script is not None:
        (folder / "chromium").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "chromium").chmod(0o755)
