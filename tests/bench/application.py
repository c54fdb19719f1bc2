"""The handler of servers.py once more, for gunicorn."""

import os

from burn import burn


def application(environ, start_response):
    if environ["PATH_INFO"] == "/burn":
        burn(int(environ["QUERY_STRING"]))
    body = b"%d\n" % os.getpid()
    head = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", head)
    return [body]
