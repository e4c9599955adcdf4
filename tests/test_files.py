"""files.replacing: whatever goes wrong, what was there before is still there, whole, and nothing else."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from gradcam.files import replacing


@contextmanager
def disk_with_room_for(count: int) -> Iterator[None]:
    """Let no file grow beyond `count` bytes: the system itself then breaks off writing, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good"
    path.write_text("good")
    return path


def untouched(path: Path) -> bool:
    return path.read_text() == "good" and list(path.parent.iterdir()) == [path]


def test_the_new_file_replaces_the_old_one_when_it_is_whole(good: Path) -> None:
    with replacing(good) as temporary:
        temporary.write_text("new")
        assert good.read_text() == "good"
        assert temporary.parent == good.parent  # else renaming would copy, and a copy can break off
    assert good.read_text() == "new"
    assert list(good.parent.iterdir()) == [good]


def test_the_folder_is_made(tmp_path: Path) -> None:
    with replacing(tmp_path / "a" / "b" / "new") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a" / "b" / "new").read_text() == "new"


def test_a_full_disk_leaves_the_old_file(good: Path) -> None:
    with (
        pytest.raises(OSError, match=r"^.*/good could not be written \(.+\); what was there before is unchanged\.$"),
        disk_with_room_for(1000),
        replacing(good) as temporary,
    ):
        temporary.write_bytes(bytes(2000))
    assert untouched(good)


def test_a_full_disk_breaks_off_torch_in_one_sentence(good: Path) -> None:
    with (
        pytest.raises(OSError, match=r"^.*/good could not be written \(.+\); what was there before is unchanged\.$"),
        disk_with_room_for(10_000),
        replacing(good) as temporary,
    ):
        torch.save(torch.zeros(100_000), temporary)
    assert untouched(good)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug")])
def test_an_interruption_leaves_the_old_file(good: Path, error: BaseException) -> None:
    def break_off(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)), replacing(good) as temporary:
        break_off(temporary)
    assert untouched(good)


def test_a_failed_rename_leaves_the_old_file(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match=r"good could not be written \(Permission denied\)"), replacing(good) as temporary:
        temporary.write_text("new")
    assert untouched(good)
