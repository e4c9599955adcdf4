"""Reading CIFAR-10: the pixels and classes that come out, and one clear sentence for what cannot be read."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator
from functools import partial
from http.client import IncompleteRead
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from gradcam.cifar10 import data
from gradcam.cifar10.data import DataError, read_split
from gradcam.cifar10.network import CLASSES


def noise(seed: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures a class; the seed of each is ten times its class, plus 0 or 1."""
    for index, name in enumerate(CLASSES):
        (tmp_path / "test" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(noise(10 * index + i)).save(tmp_path / "test" / name / f"{i}.png")
    return tmp_path


def test_a_folder_is_read_class_by_class(folder: Path) -> None:
    pictures, labels = read_split("test", folder)
    assert pictures.dtype == torch.uint8
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    for i, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
        np.testing.assert_array_equal(picture.permute(1, 2, 0), noise(10 * label + i % 2))


def test_one_picture_in_so_many_is_read(folder: Path) -> None:
    pictures, labels = read_split("test", folder, every=3)
    assert labels.tolist() == [0, 1, 3, 4, 6, 7, 9]
    np.testing.assert_array_equal(pictures[1].permute(1, 2, 0), noise(11))


def test_hidden_files_are_no_pictures(folder: Path) -> None:
    (folder / "test" / "cat" / ".DS_Store").write_bytes(b"\0")
    assert len(read_split("test", folder)[1]) == 20


def wrong_folder(folder: Path) -> None:
    (folder / "test").rename(folder / "tests")


def missing_class(folder: Path) -> None:
    (folder / "test" / "deer").rename(folder / "test" / "elk")


def empty_class(folder: Path) -> None:
    for path in (folder / "test" / "frog").iterdir():
        path.unlink()


def another_size(folder: Path) -> None:
    Image.fromarray(noise(0, (48, 40))).save(folder / "test" / "ship" / "0.png")


def cut_short(folder: Path) -> None:
    path = folder / "test" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:500])


def no_picture(folder: Path) -> None:
    (folder / "test" / "truck" / "notes.txt").write_text("blue ones are missing")


def folder_for_picture(folder: Path) -> None:
    (folder / "test" / "bird" / "more").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (wrong_folder, r"test is not a CIFAR-10 folder: expected one .* Give --data the folder that holds train/ and"),
        (missing_class, r"test has no sub-folder deer: every class needs one"),
        (empty_class, r"test/frog is empty; every class needs at least one picture\.$"),
        (another_size, r"test/ship/0\.png is 48x40 pixels; CIFAR-10 pictures are 32x32\."),
        (cut_short, r"test/dog/1\.png cannot be read as a picture; copy it again or remove it\.$"),
        (no_picture, r"test/truck/notes\.txt cannot be read as a picture; copy it again or remove it\.$"),
        (folder_for_picture, r"test/bird/more cannot be read as a picture; copy it again or remove it\.$"),
    ],
)
def test_a_folder_that_is_not_as_expected_is_told(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(DataError, match=message):
        read_split("test", folder)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small archive in the official layout, where torchvision is made to download it from."""

    def batch(seed: int, labels: list[int]) -> bytes:
        rows = [noise(seed + i).transpose(2, 0, 1).ravel() for i in range(len(labels))]
        return pickle.dumps({"data": np.stack(rows), "labels": labels})

    members = {
        "data_batch_1": batch(0, [6, 9]),
        "data_batch_2": batch(2, [4]),
        "test_batch": batch(3, [3, 8, 8]),
        "batches.meta": pickle.dumps({"label_names": list(CLASSES)}),
    }
    path = tmp_path / "official" / "small.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

    sums = {name: hashlib.md5(content).hexdigest() for name, content in members.items()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=path.parent))
    Thread(target=server.serve_forever).start()
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{path.name}")
    monkeypatch.setattr(CIFAR10, "filename", path.name)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    monkeypatch.setattr(data, "DOWNLOADS", tmp_path / "downloads")
    yield path
    server.shutdown()
    server.server_close()


def test_the_official_release_is_downloaded_and_read(archive: Path) -> None:
    for split, seed, expected in (("train", 0, [6, 9, 4]), ("test", 3, [3, 8, 8])):
        pictures, labels = read_split(split)
        assert labels.tolist() == expected
        for i, picture in enumerate(pictures):
            np.testing.assert_array_equal(picture.permute(1, 2, 0), noise(seed + i))


def test_nothing_is_downloaded_unasked(archive: Path) -> None:
    with pytest.raises(DataError, match=r"^CIFAR-10 is not in .*downloads, or damaged\.$"):
        read_split("test", download=False)
    read_split("test")
    assert read_split("test", every=2, download=False)[1].tolist() == [3, 8]


def test_torchvision_numbers_the_classes_as_we_do(archive: Path) -> None:
    assert tuple(CIFAR10(str(archive.parent), download=True).classes) == CLASSES


def test_a_truncated_download_is_told_and_the_next_one_replaces_it(archive: Path) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"could not be downloaded to .*downloads \(.*corrupted\)\. Check the network"):
        read_split("test")
    archive.write_bytes(whole)
    assert read_split("test")[1].tolist() == [3, 8, 8]


@pytest.mark.parametrize(
    "error",
    [
        URLError("Temporary failure in name resolution"),
        OSError(28, "No space left on device"),
        IncompleteRead(b"", 170_498_071),
        EOFError("Compressed file ended before the end-of-stream marker was reached"),
        tarfile.ReadError("unexpected end of data"),
    ],
)
def test_a_download_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(data, "CIFAR10", fail)
    with pytest.raises(
        DataError, match=r"^CIFAR-10 could not be downloaded to [^(]* \(.+\)\. .*or give --data a folder"
    ):
        read_split("train")
