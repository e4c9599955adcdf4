"""Fixtures that several modules share."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of sample pictures that are not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the sample data in ../shared/data is absent")
    return SHARED_DATA
