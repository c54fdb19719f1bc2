"""A setting that cannot be, or is misspelt, is an error where it is made; None is no limit."""

from __future__ import annotations

import http.server
import os
import signal
import threading
from pathlib import Path

import pytest
from harness import TIMEOUT, Program, get

import endless_py
from endless_py import GracefulMixIn, ThreadingHTTPServer
from endless_py._reload import settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("drain_timeout", -1),
        ("drain_timeout", float("nan")),
        ("drain_timeout", "30"),
        ("drain_timeout", True),
        ("drain_timeout", [5]),
        ("ready_timeout", 0),
        ("ready_timeout", "60"),
        ("keepalive_grace", -0.1),
        ("keep_pid", "yes"),
        ("tcp_nodelay", "on"),
        ("reuse_threads", "no"),
        ("ready_on_serve", None),
        ("max_handlers", True),
        ("pid_file", 3),
    ],
)
def test_what_a_setting_cannot_be_is_named(name, value):
    kind = type("Server", (ThreadingHTTPServer,), {name: value})
    with pytest.raises(ValueError, match=f"^{name} (must be|is) "):
        kind(("127.0.0.1", 0), None)
    if name in ("drain_timeout", "ready_timeout", "keep_pid", "pid_file"):
        with pytest.raises(ValueError, match=f"^{name} (must be|is) "):
            endless_py.listen(("127.0.0.1", 0), **{name: value})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("drain_timout", "drain_timeout"),
        ("drain_timeouts", "drain_timeout"),
        ("drian_timeout", "drain_timeout"),
        ("drainTimeout", "drain_timeout"),
        ("keep_alive_grace", "keepalive_grace"),
        ("max_handler", "max_handlers"),
        ("max_nandlers", "max_handlers"),
        ("rain_timeout", "drain_timeout"),
        ("pidfile", "pid_file"),
        ("read_timeout", None),
        ("retry_timeout", None),
        ("main_timeout", None),
        ("ax_handler", None),
        ("rdian_timeout", None),
        ("timeout", None),
        ("_pid_file", None),
    ],
)
def test_a_misspelt_setting_is_an_error_and_a_name_of_ones_own_is_none(name, meant):
    kind = type("Server", (ThreadingHTTPServer,), {name: 3})
    if meant is None:
        kind(("127.0.0.1", 0), None, bind_and_activate=False).server_close()
        return
    with pytest.raises(ValueError, match=f"has {name} = 3: is {meant} meant?"):
        kind(("127.0.0.1", 0), None)
    setattr(kind, meant, getattr(GracefulMixIn, meant))  # who has both means both
    kind(("127.0.0.1", 0), None, bind_and_activate=False).server_close()


def test_what_is_set_on_the_object_is_checked_when_it_serves():
    server = ThreadingHTTPServer(("127.0.0.1", 0), None, bind_and_activate=False)
    server.drain_timeot = 5
    with pytest.raises(ValueError, match="is drain_timeout meant"):
        server.serve_forever()
    del server.drain_timeot
    server.drain_timeout = -5
    with pytest.raises(ValueError, match="drain_timeout must be"):
        server.serve_forever()
    # Set while it serves it has to count as something.
    assert settings.seconds(server, "drain_timeout") == 60
    server.drain_timeout = None
    assert settings.seconds(server, "drain_timeout") == settings.NO_LIMIT
    server.server_close()


def test_listen_says_which_argument_is_meant():
    with pytest.raises(TypeError, match="no argument drain_timout; drain_timeout is one"):
        endless_py.listen(("127.0.0.1", 0), drain_timout=3)


class Between(GracefulMixIn):
    pass


@pytest.mark.parametrize("mixin", [GracefulMixIn, Between])
def test_the_mixin_on_the_wrong_side_is_an_error_that_says_the_right_order(mixin):
    with pytest.raises(TypeError, match=rf"class Mine\({mixin.__name__}, ThreadingHTTPServer\)"):
        type("Mine", (http.server.ThreadingHTTPServer, mixin), {})
    kind = type("Mine", (mixin, http.server.ThreadingHTTPServer), {})

    class Own(http.server.HTTPServer):
        pass

    type("Both", (Own, kind), {})  # its own class to the left overrides, as it should


NO_LIMIT = """
class Server(ThreadingHTTPServer):
    drain_timeout = ready_timeout = keepalive_grace = None
server = Server(("127.0.0.1", 0), Handler)
server.serve_forever()
"""


def test_none_is_no_limit_and_a_second_order_still_ends_it(tmp_path):
    (tmp_path / "code").write_text(NO_LIMIT)
    with Program("custom.py", tmp_path) as program:
        pid = program.wait_serving()
        new = program.reload(1, pid)
        program.wait("is ready after .*, however long that takes")
        program.wait_alone(new)

        asking = threading.Thread(target=_ask, args=(program.port,))
        asking.start()
        while not Path(tmp_path, "slow").exists():
            asking.join(0.01)
        os.kill(new, signal.SIGTERM)
        program.wait("SIGTERM; finishing 1 requests, however long that takes")
        os.kill(new, signal.SIGTERM)
        program.wait_alone(None)
        asking.join(TIMEOUT)


def _ask(port):
    with pytest.raises((OSError, http.client.HTTPException)):
        get(port, "/slow")
