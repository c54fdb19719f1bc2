"""Lets the tests import their harness by name, however pytest was started."""

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("managed")
sys.path.insert(0, str(Path(__file__).resolve().parent))
