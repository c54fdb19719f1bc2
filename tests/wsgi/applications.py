"""Applications of three frameworks; each answers with its generation and pid, and may wait."""

import time

import endless_py


def answer():
    found = endless_py.state()
    return f"{found['generation']} {found['pid']} end"


def pause(query):
    if query:
        time.sleep(float(query))


def flask_app():
    import flask

    app = flask.Flask(__name__)

    @app.route("/")
    @app.route("/<path:path>")
    def index(path=""):
        pause(flask.request.query_string.decode())
        return answer()

    return app


def django_app():
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import re_path

    def index(request):
        pause(request.META["QUERY_STRING"])
        return HttpResponse(answer())

    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=(re_path("", index),), SECRET_KEY="x")
    django.setup()
    return get_wsgi_application()


def bottle_app():
    import bottle

    app = bottle.Bottle()

    @app.route("/")
    @app.route("/<path:path>")
    def index(path=""):
        pause(bottle.request.query_string)
        return answer()

    return app


def plain(environ, start_response):
    pause(environ["QUERY_STRING"])
    body = answer().encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


def environment(environ, start_response):
    import os

    start_response("200 OK", [])
    lines = [os.getcwd(), os.environ.get("COLOUR", ""), environ["wsgi.url_scheme"]]
    return ["\n".join(lines).encode()]


class holder:
    application = staticmethod(plain)


number = 5


def nothing():
    return None
