"""HTTPS servers with a certificate of their own, and clients for them."""

from __future__ import annotations

import http.client
import ssl
import subprocess

from custom_code import custom
from harness import TIMEOUT, Load, tool

SERVE = """
from endless_py import HTTPSServer, ThreadingHTTPSServer

class ForkingHTTPSServer(endless_py.ForkingMixIn, HTTPSServer):
    pass

class Server({kind}):
    {settings}

with Server(("127.0.0.1", 0), Handler, certfile=folder / "cert", keyfile=folder / "key") as server:
    server.serve_forever()
"""


def certificate(folder, name="localhost", password=None):
    words = [
        tool("openssl"),
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]
    words += ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    words += ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    words += ["-passout", f"pass:{password}"] if password else ["-nodes"]
    subprocess.run(words, check=True, capture_output=True)


def client_context(alpn=("http/1.1",)):
    # The default context reads all authorities of the system, which takes longer than a handshake.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    return context


def secure(port):
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=client_context())


def ask(client, path="/"):
    client.request("GET", path)
    response = client.getresponse()
    return response.read().decode(), response.getheader("Connection")


def get(port, path="/"):
    client = secure(port)
    try:
        return ask(client, path)[0]
    finally:
        client.close()


def serial(port):
    pem = ssl.get_server_certificate(("127.0.0.1", port))
    return ssl.PEM_cert_to_DER_cert(pem)


def https(folder, kind="ThreadingHTTPSServer", settings="pass"):
    if not (folder / "cert").exists():
        certificate(folder)
    return custom(folder, SERVE.format(kind=kind, settings=settings))


class SecureLoad(Load):
    """Clients that honour `Connection: close`, and keep their connections else."""

    def connect(self):
        return secure(self.address)
