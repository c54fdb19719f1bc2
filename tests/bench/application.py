"""The handler of servers.py once more, for gunicorn."""

import os


def application(environ, start_response):
    body = b"%d\n" % os.getpid()
    head = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", head)
    return [body]
