"""S3 with boto3 as the client and moto's server, in a process of its own, as the service."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from harness import TIMEOUT, environment

from endless_py import upgrade

boto3 = pytest.importorskip("boto3", reason="pip install 'endless-py[test]'")
pytest.importorskip("moto.server", reason="pip install 'endless-py[test]'")

pytestmark = pytest.mark.slow
CONTENT = os.urandom(300_000)
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0)
server.start()
print("port", server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def endpoint():
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with server:
        found = None
        for line in server.stdout:
            found = re.match(r"port (\d+)", line)
            if found:
                break
        assert found, "moto's server did not start"
        yield f"http://127.0.0.1:{found[1]}"
        server.stdin.close()
        server.wait(TIMEOUT)


@pytest.fixture
def bucket(endpoint, request, monkeypatch):
    """A client and a new bucket; credentials and region are where boto3 looks for them."""
    kind = getattr(request, "param", "plain")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=endpoint)
    name = f"bucket-{kind}-{os.urandom(4).hex()}"
    client.create_bucket(Bucket=name)
    if kind == "versioned":
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    yield client, name
    client.close()


def fetch(source, folder, known=None, beside=()):
    into = folder / f"into{len(list(folder.iterdir()))}"
    into.mkdir()
    return source.fetch(known, into, beside)


@pytest.mark.parametrize("bucket", ["plain", "versioned"], indirect=True)
def test_an_object_is_fetched_once_until_it_or_what_is_beside_it_changes(
    bucket, endpoint, tmp_path
):
    client, name = bucket
    client.put_object(Bucket=name, Key="deploy/app-1.2.pyz", Body=CONTENT)
    source = upgrade.S3Source(name, "deploy/app-1.2.pyz", endpoint_url=endpoint)
    assert str(source) == f"s3://{name}/deploy/app-1.2.pyz"
    artifact = fetch(source, tmp_path)
    assert artifact.path.read_bytes() == CONTENT
    assert (artifact.path.name, artifact.version) == ("app-1.2.pyz", "1.2")
    known = upgrade.Known("1.2", None, artifact.marks)
    assert fetch(source, tmp_path, known) is None
    client.put_object(
        Bucket=name, Key="deploy/app-1.2.pyz", Body=b"new", Metadata={"version": "1.3"}
    )
    artifact = fetch(source, tmp_path, known)
    assert (artifact.path.read_bytes(), artifact.version) == (b"new", "1.3")
    # and with what lies beside it, when that comes late too
    beside = ["SHA256SUMS", "{name}.sig"]
    client.put_object(Bucket=name, Key="deploy/SHA256SUMS", Body=b"sums")
    artifact = fetch(source, tmp_path, upgrade.Known(None, None, artifact.marks), beside)
    assert (artifact.path.parent / "SHA256SUMS").read_bytes() == b"sums"
    known = upgrade.Known(None, None, artifact.marks)
    assert fetch(source, tmp_path, known, beside) is None
    client.put_object(Bucket=name, Key="deploy/app-1.2.pyz.sig", Body=b"signed")
    artifact = fetch(source, tmp_path, known, beside)
    assert (artifact.path.parent / "app-1.2.pyz.sig").read_bytes() == b"signed"


def test_a_transfer_that_breaks_goes_on_and_what_cannot_be_fetched_says_so(bucket, tmp_path):
    """The client is real; the first body it gives is cut."""
    from botocore.exceptions import IncompleteReadError

    client, name = bucket
    client.put_object(Bucket=name, Key="app.pyz", Body=CONTENT)
    asked = []

    class Cut:
        def __init__(self, body):
            self._body = body

        def iter_chunks(self, size):
            yield next(self._body.iter_chunks(100_000))
            raise IncompleteReadError(actual_bytes=1, expected_bytes=2)

        def close(self):
            self._body.close()

    class Client:
        head_object = staticmethod(client.head_object)

        @staticmethod
        def get_object(**arguments):
            asked.append(arguments.get("Range"))
            answer = client.get_object(**arguments)
            return {**answer, "Body": Cut(answer["Body"])} if len(asked) == 1 else answer

    artifact = fetch(upgrade.S3Source(name, "app.pyz", Client()), tmp_path)
    assert artifact.path.read_bytes() == CONTENT
    assert asked == [None, "bytes=100000-"]
    with pytest.raises(upgrade.Refused, match="larger than the limit of 1000 bytes"):
        fetch(upgrade.S3Source(name, "app.pyz", client, max_size=1000), tmp_path)
    with pytest.raises(upgrade.SourceError, match=f"cannot fetch s3://{name}/nothing.*404"):
        fetch(upgrade.S3Source(name, "nothing", client), tmp_path)


def test_boto3_is_only_needed_by_those_who_use_it(tmp_path):
    (tmp_path / "boto3.py").write_text("raise ImportError('not there')")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from endless_py import upgrade\n"
        "assert 'boto3' not in sys.modules\n"
        "try: upgrade.S3Source('bucket', 'app.pyz')\n"
        "except upgrade.UpgradeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert "pip install 'endless-py[s3]'" in done.stdout, done.stderr
