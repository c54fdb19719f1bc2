"""Programs from PyPI, not a line of them changed, under `python -m endless_py run`.

python tests/third_party/unmodified.py puts the table into endless_py/docs/running.md anew.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import xmlrpc.client
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import commands
from harness import ROOT, TIMEOUT, Program, environment, free_port, until
from secure import certificate, client_context

PAGE = ROOT / "endless_py" / "docs" / "running.md"
TABLE = re.compile(r"(<!-- programs -->\n)(.*?)(<!-- /programs -->)", re.S)
RELOADS = 5
_PAUSE = 0.01  # seconds between two requests of a client: the machine has others to serve

WSGI = """
import time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.3)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"end"]
"""
FLASK = """
import time

import flask

app = flask.Flask(__name__)

@app.route("/")
def index():
    return "end"

@app.route("/slow")
def slow():
    time.sleep(0.3)
    return "end"

if __name__ == "__main__":
    app.run(port=PORT)
"""
DJANGO = """
import sys
import time

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, DEBUG=True, SECRET_KEY="none", LOGGING_CONFIG=None)

def slow(request):
    time.sleep(0.3)
    return HttpResponse("end")

urlpatterns = [path("", lambda request: HttpResponse("end")), path("slow", slow)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
"""


class Case:
    """One program: how it is started, asked, and broken."""

    options: tuple[str, ...] = ()
    paths: tuple[str, ...] = ("/",)
    files: dict[str, str] = {}  # noqa: RUF012
    tls = False
    script = ""  # what is broken, where it is not the package
    env: dict[str, str] = {}  # noqa: RUF012
    kept = True  # a client may keep its connection, if the server says so

    def __init__(self, name: str, package: str, words: str, **more: object) -> None:
        """package is what pip calls it; in the words FOLDER and PORT are replaced.

        more: module is the one whose new version does not start, else the package's name.
        """
        self.name, self.package, self.words = name, package, words
        self.module = package
        self.prepare = self.ask = None
        vars(self).update(more)

    def version(self) -> str:
        return importlib.metadata.version(self.package)

    def asker(self, port: int, path: str):
        """Return a function that asks once, on a connection of its own."""
        if self.ask is not None:
            return lambda: self.ask(port)

        def ask() -> None:
            connection = self.connect(port)
            with contextlib.closing(connection):
                fetch(connection, path)

        return ask

    def connect(self, port: int) -> http.client.HTTPConnection:
        if self.tls:
            return http.client.HTTPSConnection(
                "127.0.0.1", port, timeout=TIMEOUT, context=client_context()
            )
        return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)


def fetch(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    connection.request("GET", path, headers={"Host": "127.0.0.1"})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, (response.status, body[:200])
    return response


class Clients:
    """Ask without a pause; `lost` has what went wrong, `closed` counts kept connections' ends."""

    def __init__(self, case: Case, port: int) -> None:
        self.answers = self.closed = 0
        self.lost: list[str] = []
        self._stopping = threading.Event()
        askers = [case.asker(port, path) for path in (*case.paths, *case.paths)]
        work = [lambda ask=ask: self._once(ask) for ask in askers]
        if case.ask is None and case.kept:
            work.append(lambda: self._kept(case, port))
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in work]

    def _run(self, work) -> None:
        while not self._stopping.is_set():
            try:
                work()
            except Exception as error:
                self.lost.append(repr(error))
            self._stopping.wait(_PAUSE)

    def _once(self, ask) -> None:
        ask()
        self.answers += 1

    def _kept(self, case: Case, port: int) -> None:
        connection = case.connect(port)
        with contextlib.closing(connection):
            asked = 0
            while not self._stopping.is_set():
                try:
                    response = fetch(connection, case.paths[0])
                except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                    if not asked:
                        raise
                    self.closed += 1  # between two requests and unasked, which HTTP allows
                    return
                asked += 1
                self.answers += 1
                self._stopping.wait(_PAUSE)
                if response.will_close:
                    return

    def more(self, count: int = 5) -> None:
        """Wait for so many more answers."""
        wanted, deadline = self.answers + count, time.monotonic() + TIMEOUT
        while self.answers < wanted:
            assert time.monotonic() < deadline, self.lost[-3:]
            time.sleep(0.01)

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT)


class Outcome:
    """What a trial has shown."""

    def __init__(self) -> None:
        self.requests = self.closed = self.reloads = 0
        self.lost: list[str] = []
        self.bad = self.term = ""


def trial(case: Case, folder: Path, reloads: int = RELOADS) -> Outcome:
    """Reload it so often under load, once more with a version that does not start, and stop it."""
    outcome, port = Outcome(), free_port()
    broken = folder / "broken"
    broken.mkdir()
    for name, text in case.files.items():
        (folder / name).write_text(text.replace("PORT", str(port)))
    if case.tls:
        certificate(folder)
    if case.prepare is not None:
        case.prepare(folder)
    words = case.words.replace("FOLDER", str(folder)).replace("PORT", str(port)).split()
    command = [sys.executable, "-m", "endless_py", "run", *case.options, *words]
    env = environment(PYTHONPATH=f"{broken}{os.pathsep}{ROOT}", HOME=str(folder), **case.env)
    with Program(command=command, cwd=folder, env=env) as running:
        pid = running.pid
        _wait_answer(case, port, running)
        with Clients(case, port) as clients:
            for _ in range(reloads):
                clients.more()
                old, pid = pid, _reload(pid)
                _wait_gone(running, old)
                outcome.reloads += 1
            clients.more()
            where = folder / case.script if case.script else broken / f"{case.module}.py"
            where.write_text("this is no Python\n")
            status, _, errors = commands.command("reload", pid)
            assert (status, "invalid syntax" in errors) == (1, True), (status, errors)
            clients.more()
            outcome.bad = "served on"
        outcome.requests, outcome.closed = clients.answers, clients.closed
        outcome.lost = clients.lost
        running.stop(pid)
        outcome.term = "clean"
    return outcome


def _wait_answer(case: Case, port: int, running: Program) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return case.asker(port, case.paths[0])()
        except Exception:
            if time.monotonic() > deadline or running.process.poll() is not None:
                raise
            time.sleep(0.05)


def _wait_gone(running: Program, pid: int) -> None:
    def gone() -> bool:
        running.process.poll()  # the first one is this process's to reap
        return pid not in running.pids()

    until(gone)


def _reload(pid: int) -> int:
    """Return the pid of the process that serves from then on."""
    status, said, errors = commands.command("reload", pid)
    assert status == 0, (said, errors)
    return int(re.search(r"pid (\d+) serves", said)[1])


# -- the programs -------------------------------------------------------------


def make_repository(folder: Path) -> None:
    subprocess.run(["hg", "init", str(folder / "repo")], check=True, env=_tools())


def make_git(folder: Path) -> None:
    from dulwich import porcelain

    (folder / "repo").mkdir()
    repo = porcelain.init(folder / "repo")
    (folder / "repo" / "file").write_text("end")
    porcelain.add(repo, [str(folder / "repo" / "file")])
    porcelain.commit(repo, b"end", author=b"A <a@example.org>", committer=b"A <a@example.org>")
    repo.close()


def make_site(folder: Path) -> None:
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text("# end\n")


def _tools() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def ask_dns(port: int) -> None:
    from dnslib import DNSRecord

    reply = DNSRecord.parse(DNSRecord.question("x").send("127.0.0.1", port, timeout=5))
    assert str(reply.rr[0].rdata) == "127.0.0.9"


def ask_git(port: int) -> None:
    from dulwich.client import TCPGitClient

    refs = TCPGitClient("127.0.0.1", port).fetch_pack(
        "repo", lambda refs, depth=None: [], None, lambda data: None
    )
    assert b"HEAD" in refs.refs


def ask_redis(port: int) -> None:
    import redis

    with redis.Redis("127.0.0.1", port) as client:
        client.set("a", "b")
        assert client.get("a") == b"b"


def ask_robot(port: int) -> None:
    with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}") as proxy:
        found = proxy.run_keyword("answer", [0.1])
        assert found["return"] == "end", found


def ask_jsonrpc(port: int) -> None:
    import jsonrpclib

    proxy = jsonrpclib.ServerProxy(f"http://127.0.0.1:{port}")
    try:
        assert proxy.answer() == "end"
    finally:
        proxy("close")()


WERKZEUG = WSGI + "\nfrom werkzeug.serving import run_simple\n"
SLOW = ("/", "/slow")
CASES = [
    Case(
        "werkzeug, threaded",
        "werkzeug",
        "-- serve.py",
        files={"serve.py": WERKZEUG + "run_simple('127.0.0.1', PORT, app, threaded=True)\n"},
        paths=SLOW,
    ),
    Case(
        "werkzeug, forking",
        "werkzeug",
        "-- serve.py",
        files={"serve.py": WERKZEUG + "run_simple('127.0.0.1', PORT, app, processes=4)\n"},
        paths=SLOW,
    ),
    Case(
        "werkzeug, TLS",
        "werkzeug",
        "-- serve.py",
        files={
            "serve.py": WERKZEUG + "run_simple('127.0.0.1', PORT, app, threaded=True, "
            "ssl_context=('cert', 'key'))\n"
        },
        paths=SLOW,
        tls=True,
    ),
    Case(
        "Flask, `flask run`",
        "flask",
        "flask --app app run --port PORT",
        files={"app.py": FLASK},
        paths=SLOW,
    ),
    Case(
        "Flask, `--debug`: its reloader stays off",
        "flask",
        "flask --app app run --debug --port PORT",
        files={"app.py": FLASK},
        paths=SLOW,
    ),
    Case(
        "Django, `runserver`: its reloader stays off",
        "django",
        "-- manage.py runserver 127.0.0.1:PORT",
        files={"manage.py": DJANGO},
        paths=SLOW,
    ),
    Case(
        "Django, `runserver --noreload`",
        "django",
        "-- manage.py runserver --noreload 127.0.0.1:PORT",
        files={"manage.py": DJANGO},
        paths=SLOW,
    ),
    Case(
        "Radicale, with `--take-hup`",
        "radicale",
        "-m radicale --server-hosts 127.0.0.1:PORT --auth-type none "
        "--storage-filesystem-folder FOLDER/calendars",
        paths=("/.web/",),
        options=("--take-hup",),
    ),
    Case(
        "pypiserver",
        "pypiserver",
        "pypi-server run -i 127.0.0.1 -p PORT --server wsgiref FOLDER",
    ),
    Case("moto_server", "moto", "moto_server -p PORT", paths=("/moto-api/data.json",)),
    Case(
        "bottle",
        "bottle",
        "-m bottle --bind 127.0.0.1:PORT app:app",
        files={"app.py": WSGI},
        paths=SLOW,
    ),
    Case(
        "Paste",
        "paste",
        "-- serve.py",
        script="serve.py",
        files={
            "serve.py": WSGI
            + "\nfrom paste import httpserver\nhttpserver.serve(app, '127.0.0.1', PORT)\n"
        },
        paths=SLOW,
    ),
    Case(
        "prometheus_client",
        "prometheus-client",
        "-- serve.py",
        module="prometheus_client",
        files={
            "serve.py": "import time\nimport prometheus_client\n"
            "prometheus_client.start_http_server(PORT)\nwhile True:\n    time.sleep(1)\n"
        },
    ),
    Case(
        "ws4py on wsgiref",
        "ws4py",
        "-- serve.py",
        kept=False,  # it says that it keeps it, and closes it
        files={
            "serve.py": WSGI
            + """
from wsgiref.simple_server import make_server
from ws4py.server.wsgirefserver import WebSocketWSGIRequestHandler, WSGIServer
server = make_server("127.0.0.1", PORT, app, WSGIServer, WebSocketWSGIRequestHandler)
server.initialize_websockets_manager()
server.serve_forever()
server.server_close()
"""
        },
    ),
    Case(
        "robotremoteserver, with `--take-hup`",
        "robotremoteserver",
        "-- serve.py",
        files={
            "serve.py": """
import time
import robotremoteserver

class Library:
    def answer(self, seconds):
        time.sleep(seconds)
        return "end"

robotremoteserver.RobotRemoteServer(Library(), "127.0.0.1", PORT)
"""
        },
        ask=ask_robot,
        options=("--take-hup",),
    ),
    Case(
        "jsonrpclib-pelix",
        "jsonrpclib-pelix",
        "-- serve.py",
        module="jsonrpclib",
        files={
            "serve.py": "from jsonrpclib.SimpleJSONRPCServer import SimpleJSONRPCServer\n"
            "server = SimpleJSONRPCServer(('127.0.0.1', PORT), logRequests=False)\n"
            "server.register_function(lambda: 'end', 'answer')\nserver.serve_forever()\n"
        },
        ask=ask_jsonrpc,
    ),
    Case(
        "dnslib, UDP",
        "dnslib",
        "-m dnslib.fixedresolver -a 127.0.0.1 -p PORT -f zone",
        files={"zone": ". 60 IN A 127.0.0.9\n"},
        ask=ask_dns,
    ),
    Case(
        "fakeredis",
        "fakeredis",
        "-- serve.py",
        files={
            "serve.py": "from fakeredis import TcpFakeServer\n"
            "TcpFakeServer(('127.0.0.1', PORT)).serve_forever()\n"
        },
        ask=ask_redis,
    ),
    Case("uploadserver", "uploadserver", "-m uploadserver --bind 127.0.0.1 PORT"),
    Case(
        "WsgiDAV on wsgiref",
        "wsgidav",
        "wsgidav --host 127.0.0.1 --port PORT --root FOLDER --auth anonymous --server wsgiref",
    ),
    Case(
        "MkDocs, `serve`",
        "mkdocs",
        "mkdocs serve -a 127.0.0.1:PORT",
        prepare=make_site,
        files={"mkdocs.yml": "site_name: end\n"},
    ),
    Case(
        "Pelican, `--listen`",
        "pelican",
        "pelican --listen -o FOLDER -b 127.0.0.1 -p PORT",
        files={"index.html": "end\n"},
    ),
    Case(
        "Dulwich, `daemon`: git's protocol",
        "dulwich",
        "dulwich daemon -l 127.0.0.1 -p PORT FOLDER",
        prepare=make_git,
        ask=ask_git,
    ),
    Case(
        "Mercurial, `hg serve`, with `--take-hup`",
        "mercurial",
        "hg serve -R FOLDER/repo -a 127.0.0.1 -p PORT",
        prepare=make_repository,
        module="hgdemandimport",  # its command imports that first
        env={"HGDEMANDIMPORT": "disable"},  # its lazy imports fail where two requests are the first
        options=("--take-hup",),
    ),
]


# -- the table ----------------------------------------------------------------


def table(rows: list[tuple[Case, Outcome]]) -> str:
    head = (
        "| program | version | lines changed | reloads | requests | lost | kept connections closed "
        "| a version that does not start | TERM |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    closed = ["" if case.ask or not case.kept else found.closed for case, found in rows]
    return head + "".join(
        f"| {case.name} | {case.version()} | 0 | {found.reloads} | {found.requests} "
        f"| {len(found.lost)} | {ends} | {found.bad} | {found.term} |\n"
        for (case, found), ends in zip(rows, closed)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Try programs from PyPI, and list them.")
    parser.add_argument("--only", help="those that have this in their names; the page stays")
    only = parser.parse_args().only
    rows = []
    for case in CASES:
        if only and only.lower() not in case.name.lower():
            continue
        folder = Path(tempfile.mkdtemp())
        began = time.monotonic()
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # all that the program has said
                rows.append((case, trial(case, folder)))
            found = rows[-1][1]
            print(case.name, vars(found), f"{time.monotonic() - began:.1f} s", flush=True)
        except Exception:  # the others are tried all the same
            lines = [line for line in traceback.format_exc().splitlines() if '"GET ' not in line]
            print(case.name, "FAILED", "\n".join(lines[-40:]), flush=True)
        finally:
            shutil.rmtree(folder)
    if not only:
        PAGE.write_text(TABLE.sub(lambda m: m[1] + table(rows) + m[3], PAGE.read_text()))


if __name__ == "__main__":
    main()
