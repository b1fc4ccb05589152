from __future__ import annotations

import pytest

from support.courierlab import Lab


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)
