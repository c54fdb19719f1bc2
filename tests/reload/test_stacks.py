"""What hangs is named before it is ended: new code before it serves, old code after its drain."""

from __future__ import annotations

import os
import signal
import time

import pytest
from custom_code import SERVE, custom
from harness import first, get, until

# The time runs out once the new code hangs, however long a busy machine takes as far as that.
START = """
def ready_timeout(server):
    return 1.5 if (folder / "hangs").exists() else 60.0
ThreadingHTTPServer.ready_timeout = property(ready_timeout)
"""
HANGS = {
    "before a server is made": """
def culprit(): (folder / "hangs").touch(); time.sleep(3600)
culprit()
""",
    "after a server is made": """
def culprit(): (folder / "hangs").touch(); time.sleep(3600)
other = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
culprit()
""",
    "in a thread": """
def culprit(): (folder / "hangs").touch(); time.sleep(3600)
thread = threading.Thread(target=culprit)
thread.start()
thread.join()
""",
    "with the interpreter held": """
import re
def culprit(): (folder / "hangs").touch(); re.match("(a+)+$", "a" * 64 + "b")
culprit()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("where", first(HANGS))
def test_new_code_that_hangs_before_it_is_ready_has_its_stacks_in_the_log(where, tmp_path):
    with custom(tmp_path, START + SERVE) as program:
        pid = program.wait_serving()
        (tmp_path / "code").write_text(START + HANGS[where] + SERVE)
        os.kill(pid, signal.SIGHUP)
        until((tmp_path / "hangs").exists)
        time.sleep(0.1)  # from there to the hanging call
        get(program.port)  # which has it look at the time anew
        program.wait("reload failed: .*killed by SIGKILL.*was not ready within 1.5 s")
        text = program.text.partition("reload failed")[0]
        assert "most recent call first" in text
        assert "in culprit" in text
        (tmp_path / "hangs").unlink()
        (tmp_path / "code").write_text(START + SERVE)
        new = program.reload(1, pid)
        program.wait_alone(new)
        os.kill(new, signal.SIGWINCH)  # it means nothing again once it serves
        assert get(program.port).startswith("1 ")
        assert program.text.count("most recent call first") == text.count("most recent call first")
        program.stop(new)


@pytest.mark.slow
def test_a_kept_pid_whose_program_does_not_end_is_started_anew_all_the_same(tmp_path):
    settings = "ThreadingHTTPServer.keep_pid, ThreadingHTTPServer.exit_grace = True, 0.5\n"
    stays = "\nthreading.Thread(target=time.sleep, args=(3600,)).start()"
    with custom(tmp_path, settings + SERVE + stays) as program:
        pid = program.wait_serving()
        (tmp_path / "code").write_text(settings + SERVE)
        os.kill(pid, signal.SIGHUP)
        program.wait("the program has not ended; it is ended now")
        program.wait(rf"\[{pid}\] generation 1: serves ")
        program.wait_alone(pid)
        assert get(program.port).startswith(f"1 {pid} ")
        program.stop(pid)
