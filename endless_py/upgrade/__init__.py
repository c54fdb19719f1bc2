"""A program that replaces itself: watch, fetch, check, swap, roll back.

    from endless_py import upgrade

    upgrade.watch("app.py")                                  # reload when it changes

    upgrade.Updater(                                         # fetch what changes elsewhere
        upgrade.HTTPSource("https://example.org/app.pyz"),
        "app.pyz",
        checks=[upgrade.SHA256()],
    ).start()

Nothing else in endless_py imports this package.
"""

from __future__ import annotations

from endless_py.upgrade.check import SHA256, Candidate, Check, NoDowngrade
from endless_py.upgrade.errors import Refused, SourceError, SwapError, UpgradeError
from endless_py.upgrade.github import GitHubSource
from endless_py.upgrade.look import Outcome
from endless_py.upgrade.reloading import Reloaded, reload_and_wait
from endless_py.upgrade.s3 import S3Source
from endless_py.upgrade.signature import Ed25519, statement
from endless_py.upgrade.sources import Artifact, FileSource, Known, Source
from endless_py.upgrade.starting import DryStart
from endless_py.upgrade.swap import Releases
from endless_py.upgrade.updater import Updater, status
from endless_py.upgrade.watching import Watch, watch
from endless_py.upgrade.web import HTTPSource
from endless_py.upgrade.worker import unpack

__all__ = [
    "SHA256",
    "Artifact",
    "Candidate",
    "Check",
    "DryStart",
    "Ed25519",
    "FileSource",
    "GitHubSource",
    "HTTPSource",
    "Known",
    "NoDowngrade",
    "Outcome",
    "Refused",
    "Releases",
    "Reloaded",
    "S3Source",
    "Source",
    "SourceError",
    "SwapError",
    "Updater",
    "UpgradeError",
    "Watch",
    "reload_and_wait",
    "statement",
    "status",
    "unpack",
    "watch",
]
