"""The Deployment of the page: its fields are Kubernetes's; its life is played with a process."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from harness import ROOT, TIMEOUT, Program, connect, environment, free_port, get

yaml = pytest.importorskip("yaml")  # comes with kubernetes-validate
MANIFEST = (Path(__file__).parent / "deployment.yaml").read_text()
DEPLOYMENT, SERVICE = yaml.safe_load_all(MANIFEST)
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
OPTIONS = dict(
    word[2:].split("=", 1) for word in CONTAINER["command"] if word.startswith("--") and "=" in word
)
FASTER = 10  # times than in the manifest
SHOP = """
import time
def app(environ, start_response):
    if environ["PATH_INFO"].startswith("/slow"):
        time.sleep(float(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Length", "3")])
    return [b"end"]
"""


def test_the_manifest_is_that_of_the_page():
    assert (
        f"```yaml\n{MANIFEST}```"
        in (ROOT / "endless_py" / "docs" / "several_machines.md").read_text()
    )


@pytest.mark.parametrize("number", [0, 1])
def test_kubernetes_knows_every_field(number):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    document = [DEPLOYMENT, SERVICE][number]
    newest = kubernetes_validate.latest_version()
    kubernetes_validate.validate(document, newest, strict=True)
    document = yaml.safe_load(yaml.safe_dump(document))
    document["spec"]["stopDelay"] = 10
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, newest, strict=True)


def test_its_parts_fit_each_other():
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert OPTIONS["bind"].endswith(f":{ports['web']}")
    assert OPTIONS["health"].endswith(f":{ports['health']}")
    assert SERVICE["spec"]["ports"][0]["targetPort"] in ports
    for name, path in (("readiness", "/readyz"), ("startup", "/livez"), ("liveness", "/livez")):
        assert CONTAINER[f"{name}Probe"]["httpGet"] == {"path": path, "port": "health"}
    needed = float(OPTIONS["stop-delay"]) + float(OPTIONS["graceful-timeout"])
    assert POD["terminationGracePeriodSeconds"] >= needed + 10
    readiness = CONTAINER["readinessProbe"]
    notices = readiness["periodSeconds"] * readiness["failureThreshold"]
    assert float(OPTIONS["stop-delay"]) >= 2 * notices


class Pod:
    """The container's process, and a kubelet's view of it. All times are FASTER."""

    def __init__(self, folder: Path):
        (folder / "shop").mkdir()
        (folder / "shop" / "web.py").write_text(SHOP)
        self.port, self.health = free_port(), free_port()
        given = {
            "bind": f"127.0.0.1:{self.port}",
            "health": f"127.0.0.1:{self.health}",
            **{n: str(float(OPTIONS[n]) / FASTER) for n in ("stop-delay", "graceful-timeout")},
        }
        words = [
            f"--{word[2:].split('=')[0]}={given[word[2:].split('=')[0]]}" if "=" in word else word
            for word in CONTAINER["command"]
        ]
        self.grace = POD["terminationGracePeriodSeconds"] / FASTER
        self.program = Program(
            command=[sys.executable, *words[1:]],
            cwd=folder,
            env=environment(ENDLESS_PY_KEEP_PID="1"),
        )
        self.program.wait_serving(count=2)

    def probe(self, name: str) -> int:
        path = CONTAINER[f"{name}Probe"]["httpGet"]["path"]
        try:
            url = f"http://127.0.0.1:{self.health}{path}"
            return urllib.request.urlopen(url, timeout=TIMEOUT).status
        except urllib.error.HTTPError as error:
            return error.code

    def delete(self) -> float:
        """TERM, as the kubelet does; return when."""
        os.kill(self.program.pid, signal.SIGTERM)
        return time.monotonic()

    def must_have_ended(self, told: float) -> float:
        """Return how many seconds it took; at the end of its grace the kubelet would kill it."""
        try:
            self.program.process.wait(max(0.0, told + self.grace - time.monotonic()))
        except Exception:
            pytest.fail(f"it would be killed:\n{self.program.text}")
        return time.monotonic() - told


@pytest.fixture
def pod(tmp_path):
    pod = Pod(tmp_path)
    with pod.program:
        yield pod


@pytest.mark.slow
def test_a_pod_that_is_deleted_serves_whom_nobody_has_told_yet(pod):
    """Endpoints are taken away in every node's own time; clients come until then."""
    assert [pod.probe(name) for name in ("startup", "readiness", "liveness")] == [200] * 3
    answers: list[str] = []
    slow = threading.Thread(target=lambda: answers.append(get(pod.port, "/slow?2")))
    slow.start()
    kept = connect(pod.port)
    told = pod.delete()
    pod.program.wait("goes on accepting")
    assert (pod.probe("readiness"), pod.probe("liveness")) == (503, 200)
    served = 0
    # The last of a cluster's nodes hears of it shortly before the delay is over.
    while time.monotonic() < told + 0.8 * float(OPTIONS["stop-delay"]) / FASTER:
        assert get(pod.port) == "end"
        kept.request("GET", "/")
        assert kept.getresponse().read() == b"end"
        served += 2
    kept.close()
    slow.join(TIMEOUT)
    took = pod.must_have_ended(told)
    assert (answers, pod.program.process.returncode) == (["end"], 0)
    assert took >= float(OPTIONS["stop-delay"]) / FASTER
    print(f"{served} requests served after TERM; it ended after {took:.1f} of {pod.grace:g} s")
    assert served > 20


@pytest.mark.slow
def test_what_outlasts_the_graceful_timeout_is_cut_before_the_kill(pod):
    """By a process that says so and cleans up, instead of one that is gone."""

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            get(pod.port, "/slow?60")

    slow = threading.Thread(target=ask)
    slow.start()
    time.sleep(0.2)
    took = pod.must_have_ended(pod.delete())
    slow.join(TIMEOUT)
    assert "drain time is over: cuts " in pod.program.text
    print(f"it ended after {took:.1f} of {pod.grace:g} s")
