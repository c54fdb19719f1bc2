import shutil
from pathlib import Path

from endless_py import upgrade


class Share(upgrade.Source):
    """The newest *.pyz in a folder."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def fetch(self, known, into, beside):
        newest = max(self.folder.glob("*.pyz"), key=lambda path: path.stat().st_mtime)
        if known is not None and known.marks.get("name") == newest.name:
            return None
        return upgrade.Artifact(Path(shutil.copy(newest, into)), marks={"name": newest.name})
