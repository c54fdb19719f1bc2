"""The program section beside this test, under the supervisord of PyPI's supervisor."""

from __future__ import annotations

from managed import Scenarios, Supervisord


class TestSupervisord(Scenarios):
    manager = Supervisord
