"""Request headers, parsed without the library's mail parser where that changes nothing.

http.client.parse_headers() takes a third of the time of a small request. Headers that are whole in
the reader's buffer and of the plainest form are parsed here, to an equal HTTPMessage; whatever
else comes, malformed or merely unusual, is left to it untouched.
"""

from __future__ import annotations

import functools
import io
import sys
import types

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Callable

_LONGEST = 65536  # bytes; http.client refuses longer lines
_MOST = 99  # http.client refuses more headers


def quick_parser(client: Any) -> Callable[..., Any]:
    """Return a parse_headers() for this module, http.client, that does the same faster."""
    import re  # late, as a server without HTTP does not need it

    plain = re.compile(rb"(?:[!-9;-~]+:[^\r\n]*\r\n){0,%d}\r\n" % _MOST)
    nested = re.compile(rb"multipart|message", re.IGNORECASE)  # types that have defects of a body
    standard_class = client.HTTPMessage
    source_parse = standard_class().policy.header_source_parse

    def parse_headers(fp: Any, _class: Any = standard_class) -> Any:
        if _class is standard_class and type(fp) is io.BufferedReader:
            found = plain.match(fp.peek(1))
            if found is not None and found.end() < _LONGEST and not nested.search(found[0]):
                message = standard_class()
                for line in fp.read(found.end()).decode("iso-8859-1").split("\r\n")[:-2]:
                    message.set_raw(*source_parse([line]))
                message.set_payload("")
                return message
        return client.parse_headers(fp, _class)

    return parse_headers


@functools.lru_cache(maxsize=4)
def with_quick_parser(function: Any) -> Any:
    """Return a copy of BaseHTTPRequestHandler.parse_request() that parses headers faster."""
    package, client = sys.modules["http"], sys.modules["http.client"]
    if function.__globals__.get("http") is not package or function.__closure__:
        return function  # not the code that this is meant for
    quick = types.SimpleNamespace(**{**vars(client), "parse_headers": quick_parser(client)})
    names = types.SimpleNamespace(**{**vars(package), "client": quick})
    return types.FunctionType(
        function.__code__,
        {**function.__globals__, "http": names},
        function.__name__,
        function.__defaults__,
    )
