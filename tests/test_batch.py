import os
from pathlib import Path

import pytest

from gradcam.batch import Manifest, find_pictures, safe, shown


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tabby", "tabby"),
        ("jack-o'-lantern", "jack-o-lantern"),
        ("../../etc/passwd", "etc-passwd"),
        ('a\\b:c*?"<>|\n\0d', "a-b-c-d"),
        ("crane (bird)", "crane-bird"),
        ("犬 Ölkäfer", "犬-Ölkäfer"),
        ("-- ", "_"),
        ("", "_"),
        ("...", "_"),
        ("!..!", "_"),
        ("!!!.png", "png"),
        (".hidden.", "hidden"),
        ("x" * 300, "x" * 64),
        ("é" * 33, "é" * 32),
        ("犬" * 33, "犬" * 21),  # 63 bytes; a 22nd would be cut in the middle
    ],
)
def test_a_name_is_safe_on_any_system(text: str, name: str) -> None:
    assert safe(text) == name


def test_folders_are_searched_for_what_is_called_like_a_picture(tmp_path: Path) -> None:
    wanted = ["a.jpg", "a.png", "b.JPEG", "sub/a.jpg", "sub/deep er/c.webp"]
    others = ["notes.txt", "d.svg", ".hidden.jpg", ".cache/e.jpg", "out/a.jpg", "jpg"]
    for file in wanted + others:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "folder.png").mkdir()
    found = find_pictures([tmp_path], tmp_path / "out")
    assert list(found) == [tmp_path / file for file in wanted]
    assert list(found.values()) == ["a.jpg", "a.png", "b.JPEG", "sub/a.jpg", "sub/deep-er/c.webp"]


def test_a_name_without_a_letter_leads_nowhere_else(tmp_path: Path) -> None:
    pictures = ["!!!.png", "!!!/a.png", "!.!/b.png", "!..!/c.png"]
    for file in pictures:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    found = find_pictures([tmp_path, tmp_path / "!!!.png"], tmp_path / "out")
    assert {str(picture.relative_to(tmp_path)): name for picture, name in found.items()} == dict(
        zip(pictures, ["png", "_/a.png", "_/b.png", "_/c.png"], strict=True)
    )


def test_a_picture_that_is_named_is_taken_whatever_it_is_called_and_once(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / ".b").touch()
    paths = [tmp_path / ".b", tmp_path, tmp_path / "a.jpg"]
    assert find_pictures(paths, Path("out")) == {tmp_path / ".b": "b", tmp_path / "a.jpg": "a.jpg"}


def test_results_may_lie_above_the_pictures(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").touch()
    assert list(find_pictures([tmp_path / "sub"], tmp_path).values()) == ["a.jpg"]


def test_results_beside_the_pictures_are_told_apart_however_the_folder_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.png").touch()
    (tmp_path / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert list(find_pictures([Path()], tmp_path / "out")) == [Path("a.jpg")]
    assert list(find_pictures([tmp_path], Path("out"))) == [tmp_path / "a.jpg"]
    with pytest.raises(ValueError, match="the results would go there too; give another folder"):
        find_pictures([tmp_path], Path())


def test_a_folder_without_pictures_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"There are no pictures in .*; expected files that end in .*\.jpeg, \.jpg"):
        find_pictures([tmp_path], Path("out"))


def test_no_two_pictures_have_one_name(tmp_path: Path) -> None:
    pictures = [tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg", tmp_path / "z" / "A.JPG", tmp_path / "a.jpg.2"]
    manifest = Manifest(tmp_path / "out", {})
    for picture in pictures:
        manifest.add(picture, manifest.name(picture, picture.name), {"error": "gone"})
    names = ["a.jpg", "a.jpg.2", "A.JPG.3", "a.jpg.2.2"]
    assert [record["name"] for record in manifest.records.values()] == names
    # A later run, which sees them in another order and with a new one among them, calls them the same.
    later = Manifest(tmp_path / "out", {})
    assert later.name(tmp_path / "a.jpg", "a.jpg") == "a.jpg.4"
    assert [later.name(picture, picture.name) for picture in reversed(pictures)] == names[::-1]


def test_a_path_of_any_bytes_can_be_printed() -> None:
    assert shown(Path(os.fsdecode(b"sub/\xff.jpg"))) == "sub/\ufffd.jpg"
    assert shown(Path("sub/犬.jpg")) == "sub/犬.jpg"
