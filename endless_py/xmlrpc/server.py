"""The standard library's xmlrpc.server, with servers that can be replaced while they run.

Set `protocol_version = "HTTP/1.1"` on the request handler, and clients keep their
connections over a reload.
"""

from __future__ import annotations

import xmlrpc.server as _std
from xmlrpc.server import (
    CGIXMLRPCRequestHandler,
    DocCGIXMLRPCRequestHandler,
    DocXMLRPCRequestHandler,
    ServerHTMLDoc,
    SimpleXMLRPCDispatcher,
    SimpleXMLRPCRequestHandler,
    XMLRPCDocGenerator,
    list_public_methods,
    resolve_dotted_attribute,
)

from endless_py.socketserver import TCPServer

__all__ = [
    "CGIXMLRPCRequestHandler",
    "DocCGIXMLRPCRequestHandler",
    "DocXMLRPCRequestHandler",
    "DocXMLRPCServer",
    "MultiPathXMLRPCServer",
    "ServerHTMLDoc",
    "SimpleXMLRPCDispatcher",
    "SimpleXMLRPCRequestHandler",
    "SimpleXMLRPCServer",
    "XMLRPCDocGenerator",
    "list_public_methods",
    "resolve_dotted_attribute",
]


class SimpleXMLRPCServer(TCPServer, _std.SimpleXMLRPCServer):
    """xmlrpc.server.SimpleXMLRPCServer, replaceable while it runs."""


class MultiPathXMLRPCServer(SimpleXMLRPCServer, _std.MultiPathXMLRPCServer):
    """xmlrpc.server.MultiPathXMLRPCServer, replaceable while it runs."""


class DocXMLRPCServer(SimpleXMLRPCServer, _std.DocXMLRPCServer):
    """xmlrpc.server.DocXMLRPCServer, replaceable while it runs."""
