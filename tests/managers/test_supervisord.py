"""The program section beside this test, under the supervisord of PyPI's supervisor."""

from __future__ import annotations

import pytest
from managed import Scenarios, Supervisord

pytestmark = pytest.mark.slow


class TestSupervisord(Scenarios):
    manager = Supervisord
