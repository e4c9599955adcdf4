"""Write files so that a half-written one never replaces a good one, and tell one file's content from another's."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; rename it to `path` when the block succeeds.

    When the block fails the temporary file is removed and `path` is as it was. Raises OSError with one
    sentence when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{path} could not be written ({reason}); what was there before is unchanged.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def sha256(path: Path) -> str:
    """The hash of a file's content, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
