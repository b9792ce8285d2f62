"""What the tests of the native engine share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def threads():
    """Sets the number of threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
