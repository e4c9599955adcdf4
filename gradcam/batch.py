"""Many pictures -> files and a manifest: found, explained one by one, and continued where a run was stopped."""

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from . import render
from .files import replacing
from .images import FORMATS
from .logits import NO_RIVAL
from .pipeline import Question, Result

Record = dict[str, Any]
NOT_READ = (  # how pictures of other kinds end
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".ico", ".exr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)


class Manifest:
    """What became of each picture: `manifest.json` in the folder, which is written last, by `close`.

    Until then a journal beside it takes one line a picture, so that whatever ends a run, the next one knows what is
    done. A record has the run's settings (JSON values), the picture's `file`, the `name` that its overlays begin with,
    when it was `modified`, and either what `write_overlays` returns or an `error`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Read what earlier runs left in `folder`. Raises ValueError if their settings were others, OSError."""
        self.settings = dict(settings)
        self._manifest, self._journal = folder / "manifest.json", folder / "manifest.jsonl"
        self.records: dict[str, Record] = {record["file"]: record for record in self._earlier()}
        self._names = {record["name"].casefold() for record in self.records.values()}

    def has(self, picture: Path) -> bool:
        """Whether the picture, as it is now, was explained by this run or an earlier one."""
        record = self.records.get(str(picture), {"error": None})
        return "error" not in record and record["modified"] == _modified(picture)

    def name(self, picture: Path, wish: str) -> str:
        """What the picture's overlays are to be called: `wish`, with a number after it if another picture has that."""
        if str(picture) in self.records:
            return str(self.records[str(picture)]["name"])
        names = (f"{wish}.{number}" if number > 1 else wish for number in count(1))
        name = next(name for name in names if name.casefold() not in self._names)  # some disks know no case
        self._names.add(name.casefold())
        return name

    def add(self, picture: Path, name: str, outcome: Record) -> None:
        """Record what became of a picture. Raises OSError."""
        record = {"file": str(picture), "name": name, "modified": _modified(picture), **self.settings, **outcome}
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        with self._journal.open("a") as journal:
            journal.write(f"\n{json.dumps(record)}")  # the line break first: it ends a line that was cut short
        self.records[str(picture)] = record

    def close(self) -> None:
        """Write the manifest, in the order of the files' names. Raises OSError."""
        records = [record for _, record in sorted(self.records.items())]
        with replacing(self._manifest) as temporary:
            temporary.write_text(json.dumps(records, indent=2) + "\n")
        self._journal.unlink(missing_ok=True)

    def _earlier(self) -> list[Record]:
        records = []
        try:
            if self._manifest.exists():
                records += json.loads(self._manifest.read_bytes())
            for line in self._journal.read_text().splitlines() if self._journal.exists() else ():
                with suppress(ValueError):
                    records.append(json.loads(line))
            others = {key: r[key] for r in records for key in self.settings if r[key] != self.settings[key]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._manifest} is the manifest of something else; give another folder.") from error
        if others:
            told = ", ".join(f"{key} {value!r}, now {self.settings[key]!r}" for key, value in others.items())
            raise ValueError(f"{self._manifest.parent} holds a run with other settings ({told}); give another folder.")
        return records


def find_pictures(paths: Iterable[Path], out: Path) -> dict[Path, str]:
    """The pictures among `paths` and in the folders among them, each with a name that is safe for a file.

    Folders are searched to the bottom, in order, for files called like pictures; hidden ones and those in `out` are
    passed over. Below a folder the name keeps the sub-folders. Raises ValueError for a folder without pictures, or
    one that is `out`.
    """
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    found: dict[Path, str] = {}
    for path in paths:
        if not path.is_dir():
            found.setdefault(path, safe(path.name))
            continue
        if path.resolve() == out.resolve():
            raise ValueError(f"The pictures are in {path} and the results would go there too; give another folder.")
        inside = _inside(path, suffixes, out)
        if not inside:
            raise ValueError(
                f"There are no pictures in {path}; expected files that end in {', '.join(sorted(suffixes))}."
            )
        for picture in inside:
            found.setdefault(picture, "/".join(map(safe, picture.relative_to(path).parts)))
    return found


def left_aside(folders: Iterable[Path], out: Path) -> set[Path]:
    """The files in folders that `find_pictures` passes over though they are called like pictures, of other kinds."""
    return {picture for folder in folders for picture in _inside(folder, NOT_READ, out)}


def _inside(folder: Path, suffixes: Collection[str], out: Path) -> list[Path]:
    """The files below a folder that end in one of `suffixes`, in order, without hidden ones and those in `out`."""
    here, there = folder.resolve(), out.resolve()
    results = folder / there.relative_to(here) if there.is_relative_to(here) else None
    return [
        picture
        for picture in sorted(folder.rglob("*"))
        if picture.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in picture.relative_to(folder).parts)
        and results not in picture.parents
        and picture.is_file()
    ]


def write_overlays(result: Result, folder: Path, name: str) -> Record:
    """Write one overlay a map into `folder`, on one scale, and a strip of them when they are several.

    Returns {"classes": [{"class", "index", "probability", "versus", "overlay"}...], "strip"}, files relative to
    `folder`. Small pictures are enlarged, their pixels kept as squares. Raises OSError.
    """
    inspection = result.inspection
    strip = f"{name}--strip.png" if len(result.asked) > 1 else None
    if strip:
        _save(result.strip(), folder / strip)  # first, since it fails if one of the maps cannot be shown
    picture, framing = render.crisp(inspection.picture, inspection.framing)
    classes = []
    for class_, rival in result.asked:
        prediction = inspection.prediction(class_)
        file = f"{name}--{safe(f'{class_}-{prediction.label}')}"
        question: Question = class_
        versus = None
        if rival != NO_RIVAL:
            question, versus = (class_, rival), inspection.prediction(rival).label
            file += f"--not-{safe(f'{rival}-{versus}')}"
        overlay = render.overlay(picture, result.map(question), framing, full=result.full)
        _save(overlay, folder / f"{file}.png")
        classes.append(
            {
                "class": prediction.label,
                "index": class_,
                "probability": prediction.probability,
                "versus": versus,
                "overlay": f"{file}.png",
            }
        )
    return {"classes": classes, "strip": strip}


def safe(text: str) -> str:
    """`text` as a file's name, or part of one, on any system: letters, digits, _, . and single dashes.

    At most 64 bytes, of which the first and the last are no dot and no dash: neither hidden, nor a folder above.
    """
    return re.sub(r"[^\w.]+", "-", text).encode()[:64].decode(errors="ignore").strip("-.") or "_"


def shown(path: Path) -> str:
    """A path as it can be printed, whatever bytes it has."""
    return os.fsencode(path).decode(errors="replace")


def _modified(path: Path) -> float | None:
    """When a file was last written, in seconds; None when it is gone."""
    return path.stat().st_mtime if path.exists() else None


def _save(picture: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, "PNG", compress_level=1)  # the default takes four times as long for a tenth less
