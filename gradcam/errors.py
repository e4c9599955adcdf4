"""What is wrong with what somebody gave, told in one sentence."""

import difflib
from collections.abc import Sequence


class InputError(ValueError):
    """Something that was given cannot be used; the message tells who gave it what is wrong and what to do."""


class ModelError(InputError):
    """A model, its weights, its labels or a class of it cannot be had; the message says what to do."""


def suggest(name: str, known: Sequence[str], first: Sequence[str] = ()) -> str:
    """The end of a sentence that names what was perhaps meant: `first`, then what of `known` comes close."""
    close = list(dict.fromkeys([*first, *difflib.get_close_matches(name[:80], known, 3)]))[:4]
    return f"; did you mean {', '.join(close)}?" if close else ""


def reason(error: Exception) -> str:
    """The first line of an error, short enough to stand in a sentence of ours."""
    return (str(error) or type(error).__name__).partition("\n")[0][:200].rstrip(".")
