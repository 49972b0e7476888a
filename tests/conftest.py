from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real images beside the checkout, or skip the test."""
    if not SHARED.is_dir():
        pytest.skip(f"real images are needed in {SHARED}")
    return SHARED
