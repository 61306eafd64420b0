"""Rows: start lines, targets, versions, and the one `Host` of a request.

Owns no code that runs; `rows.py` says what a row is and where its ideas come from.
"""

from tests.hostility.rows import CHUNKED, Row, passes, refused, request, sent

_BAD_START = (
    ("a tab behind the method", "Http11Probe", b"GET\t/x HTTP/1.1"),
    ("a tab before the version", "Http11Probe", b"GET /x\tHTTP/1.1"),
    ("LF before the version", "HTTP Garden", b"GET /x\nHTTP/1.1"),
    ("a space behind the version", "RFC 9112, 3", b"GET /x HTTP/1.1 "),
    ("a space before the method", "HTTP Garden", b" GET /x HTTP/1.1"),
    ("no method", "HTTP Garden", b" /x HTTP/1.1"),
    ("no target", "Http11Probe", b"GET  HTTP/1.1"),
    ("a method in small letters", "RFC 9110, 9.1", b"get /x HTTP/1.1"),
    ("a method nobody knows", "RFC 9110, 9.1", b"FOO /x HTTP/1.1"),
    ("a method that begins well", "HTTP Garden", b'G=":<> /x HTTP/1.1'),
    ("NUL in the method", "HTTP Garden", b"G\0T /x HTTP/1.1"),
    ("a long method", "Http11Probe", b"A" * 5000 + b" /x HTTP/1.1"),
    ("version 1.2", "RFC 9112, 2.3", b"GET /x HTTP/1.2"),
    ("version 1.32", "HTTP Garden", b"GET /x HTTP/1.32"),
    ("version 2.0", "RFC 9112, 2.3", b"GET /x HTTP/2.0"),
    ("version 3.0", "RFC 9112, 2.3", b"GET /x HTTP/3.0"),
    ("version 0.9 in words", "RFC 9112, 2.3", b"GET /x HTTP/0.9"),
    ("version 01.1", "Http11Probe", b"GET /x HTTP/01.1"),
    ("version 1.01", "Http11Probe", b"GET /x HTTP/1.01"),
    ("version 1", "Http11Probe", b"GET /x HTTP/1"),
    ("version 1.1x", "HTTP Garden", b"GET /x HTTP/1.1x"),
    ("a version that overflows", "HTTP Garden", b"GET /x HTTP/4294967295.255"),
    ("a version in small letters", "RFC 9112, 2.3", b"GET /x http/1.1"),
    ("a space inside the version", "Http11Probe", b"GET /x HTTP/ 1.1"),
    ("CR inside the version", "HTTP Garden", b"GET /x HTTP/\r\r1.1"),
    ("another protocol's name", "llhttp", b"GET /x ICE/1.0"),
    ("another protocol's method", "llhttp", b"DESCRIBE rtsp://h/x HTTP/1.1"),
    ("a target that is no path", "HTTP Garden", b"GET ! HTTP/1.1"),
    ("a target that is a query", "RFC 9112, 3.2", b"GET ?x HTTP/1.1"),
    ("an asterisk without OPTIONS", "RFC 9112, 3.2", b"GET * HTTP/1.1"),
    ("an authority without CONNECT", "RFC 9112, 3.2", b"GET h:80 HTTP/1.1"),
    ("a URL of another scheme", "RFC 9112, 3.2", b"GET ftp://h/x HTTP/1.1"),
    ("a URL without a host", "RFC 9112, 3.2", b"GET http:/x HTTP/1.1"),
    ("a URL with an empty host", "RFC 9110, 4.2.1", b"GET http:///a HTTP/1.1"),
    ("a URL with half an address", "RFC 9110, 4.2.1", b"GET http://[::1/a HTTP/1.1"),
    ("a URL that is no locator", "RFC 9112, 3.2", b"GET mailto:x HTTP/1.1"),
    ("a backslash in a URL's host", "Kettle 2019", b"GET http://h\\@evil/x HTTP/1.1"),
    ("a fragment in a URL's host", "Http11Probe", b"GET http://h#/x HTTP/1.1"),
    ("NUL in the path", "Http11Probe", b"GET /a\0b HTTP/1.1"),
    ("a control character in the path", "Http11Probe", b"GET /a\x01b HTTP/1.1"),
    ("DEL in the path", "Http11Probe", b"GET /a\x7fb HTTP/1.1"),
    ("a vertical tab in the path", "Http11Probe", b"GET /a\x0bb HTTP/1.1"),
    ("bytes above ASCII in the path", "Http11Probe", b"GET /\xc3\xa9 HTTP/1.1"),
    ("overlong UTF-8 in the path", "Http11Probe", b"GET /\xc0\xaf HTTP/1.1"),
    ("a space in the path", "RFC 9112, 3", b"GET /a b HTTP/1.1"),
    ("the preface of HTTP/2 as a request", "RFC 9112, 2.3", b"PRI * HTTP/1.1"),
)

_NO_HTTP = (
    ("LF for line ends", "RFC 9112, 2.2", b"GET /x HTTP/1.1\nHost: h\n\n"),
    ("LF behind the start line", "Http11Probe", b"GET /x HTTP/1.1\nHost: h\r\n\r\n"),
    ("CR for line ends", "Http11Probe", b"GET /x HTTP/1.1\rHost: h\r\r"),
    ("a simple request", "RFC 9112, 2.3", b"GET /x\r\n\r\n"),
    ("the preface of HTTP/2", "Http11Probe", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("a TLS hello", "h11", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x12\x34\r\n\r\n"),
    ("another server's banner", "h11", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    ("an answer", "llhttp", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("binary", "Http11Probe", bytes(range(128, 256)) + b"\r\n\r\n"),
)

_PASSES = (
    ("two spaces behind the method", "RFC 9112, 3", b"GET  /x HTTP/1.1", b"GET /x HTTP/1.1"),
    ("two spaces before the version", "RFC 9112, 3", b"GET /x  HTTP/1.1", b"GET /x HTTP/1.1"),
    ("an empty line in front", "RFC 9112, 2.2", b"\r\nGET /x HTTP/1.1", b"GET /x HTTP/1.1"),
    ("empty lines in front", "RFC 9112, 2.2", b"\r\n\r\n\r\nGET /x HTTP/1.1", b"GET /x HTTP/1.1"),
    ("LF in front", "RFC 9112, 2.2", b"\nGET /x HTTP/1.1", b"GET /x HTTP/1.1"),
    ("an asterisk with OPTIONS", "RFC 9112, 3.2", b"OPTIONS * HTTP/1.1", b"OPTIONS * HTTP/1.1"),
    ("a URL", "RFC 9112, 3.2", b"GET http://evil/a?b HTTP/1.1", b"GET /a?b HTTP/1.1"),
    ("a URL in capitals", "RFC 9112, 3.2", b"GET HTTP://EVIL:1/a HTTP/1.1", b"GET /a HTTP/1.1"),
    ("a URL without a path", "RFC 9112, 3.2", b"GET http://evil HTTP/1.1", b"GET / HTTP/1.1"),
    ("a URL with a query alone", "RFC 9112, 3.2", b"GET http://evil?x HTTP/1.1", b"GET /?x HTTP/1.1"),
    ("a URL with a password", "Kettle 2019", b"GET http://u:p@evil/a HTTP/1.1", b"GET /a HTTP/1.1"),
    ("a path like a host", "Kettle 2019", b"GET //evil/x HTTP/1.1", b"GET //evil/x HTTP/1.1"),
    ("a URL inside a path", "Kettle 2019", b"GET /http://evil/ HTTP/1.1", b"GET /http://evil/ HTTP/1.1"),
    ("an at sign in a path", "Kettle 2019", b"GET /@evil/ HTTP/1.1", b"GET /@evil/ HTTP/1.1"),
    ("a backslash in a path", "Http11Probe", b"GET /\\x HTTP/1.1", b"GET /\\x HTTP/1.1"),
    ("dots in a path", "Http11Probe", b"GET /a/../../b HTTP/1.1", b"GET /a/../../b HTTP/1.1"),
    ("line ends in percent signs", "Http11Probe", b"GET /%0d%0aX: HTTP/1.1", b"GET /%0d%0aX: HTTP/1.1"),
    ("NUL in percent signs", "Http11Probe", b"GET /%00 HTTP/1.1", b"GET /%00 HTTP/1.1"),
    ("a fragment", "Http11Probe", b"GET /x#y HTTP/1.1", b"GET /x#y HTTP/1.1"),
    ("RTSP, read as HTTP/1.0", "llhttp", b"GET /x RTSP/1.0", b"GET /x HTTP/1.1"),
    ("HTTP/1.0 with a Host", "RFC 9112, 3.2", b"GET /x HTTP/1.0", b"GET /x HTTP/1.1"),
)

_BAD_HOST = (
    ("no Host", "RFC 9112, 3.2", b""),
    ("two Hosts", "RFC 9112, 3.2", b"Host: a\r\nHost: b"),
    ("two equal Hosts", "RFC 9112, 3.2", b"Host: h\r\nHost: h"),
    ("two Hosts in other letters", "Kettle 2019", b"hOsT: h\r\nHost: evil"),
    ("an empty Host and another", "RFC 9112, 3.2", b"Host:\r\nHost: evil"),
    ("a list of Hosts", "Http11Probe", b"Host: h, evil"),
    ("a path in Host", "Http11Probe", b"Host: h/evil"),
    ("a user in Host", "Http11Probe", b"Host: u@h"),
    ("a scheme in Host", "RFC 9112, 3.2", b"Host: http://h"),
    ("a space in Host", "RFC 9112, 3.2", b"Host: h evil"),
    ("a query in Host", "RFC 9112, 3.2", b"Host: h?x"),
    ("a fragment in Host", "RFC 9112, 3.2", b"Host: h#x"),
    ("a backslash in Host", "Kettle 2019", b"Host: h\\evil"),
    ("a port in Host that is none", "RFC 9110, 7.2", b"Host: h:evil"),
    ("bytes above ASCII in Host", "RFC 9112, 3.2", b"Host: h\xe9"),
    ("NUL in Host", "HTTP Garden", b"Host: h\0.evil"),
    ("a folded Host", "RFC 9112, 5.2", b"Host: h\r\n evil"),
    ("a Host with a space before its colon", "RFC 9112, 5.1", b"Host : h"),
)

_GOOD_HOST = (
    ("an empty Host", "RFC 9112, 3.2", b"Host:"),
    ("a Host with a port", "RFC 9110, 7.2", b"Host: h:8080"),
    ("a Host with an empty port", "RFC 9110, 7.2", b"Host: h:"),
    ("an address of IPv6 in Host", "RFC 9110, 7.2", b"Host: [::1]:8080"),
    ("a Host with an underscore", "RFC 9110, 7.2", b"Host: my_host.local"),
    ("a Host with percent signs", "RFC 9110, 7.2", b"Host: a%20b"),
    ("a Host between tabs", "RFC 9112, 5", b"Host: \th\t"),
)

ROWS: tuple[Row, ...] = (
    *(refused(name, source, request(start=start)) for name, source, start in _BAD_START),
    *(refused(name, source, data) for name, source, data in _NO_HTTP),
    *(
        passes(name, source, request(start=start), sent(start=on), closes=start.endswith(b"1.0"))
        for name, source, start, on in _PASSES
    ),
    *(
        refused(name, source, request(start=b"GET /x HTTP/1.1", host=host))
        for name, source, host in _BAD_HOST
    ),
    *(
        passes(name, source, request(start=b"GET /x HTTP/1.1", host=host), sent(start=b"GET /x HTTP/1.1"))
        for name, source, host in _GOOD_HOST
    ),
    refused("CONNECT to an authority", "wire.md", request(start=b"CONNECT h:443 HTTP/1.1"), status=426),
    refused("CONNECT to nothing", "wire.md", request(start=b"CONNECT h:443 HTTP/1.1", host=b"")),
    refused("CONNECT to a path", "RFC 9112, 3.2", request(start=b"CONNECT /x HTTP/1.1"), status=426),
    refused("a URL without a Host", "RFC 9112, 3.2", request(start=b"GET http://h/x HTTP/1.1", host=b"")),
    passes(
        "HTTP/1.0 without a Host",
        "RFC 9112, 3.2",
        request(start=b"GET /x HTTP/1.0", host=b""),
        b"GET /x HTTP/1.1\r\nHost: upstream\r\n\r\n",
        closes=True,
    ),
    refused("HTTP/1.0 with two Hosts", "RFC 9112, 3.2", request(b"Host: evil", start=b"GET /x HTTP/1.0")),
    refused(
        "HTTP/1.0 with chunks",
        "RFC 9112, 6.1",
        request(CHUNKED, start=b"POST /x HTTP/1.0", body=b"0\r\n\r\n"),
    ),
    refused(
        "HTTP/1.0 with chunks that would stay",
        "RFC 9112, 6.1",
        request(CHUNKED, b"Connection: keep-alive", start=b"POST /x HTTP/1.0", body=b"0\r\n\r\n"),
    ),
    passes(
        "a request behind HTTP/1.0 that would stay",
        "wire.md",
        request(b"Connection: keep-alive", start=b"GET /x HTTP/1.0")
        + request(b"Content-Length: 5", b"X-Evil: 1", start=b"POST /evil HTTP/1.1", body=b"hello"),
        sent(start=b"GET /x HTTP/1.1"),
        closes=True,
    ),
    refused(
        "a request behind one that was refused",
        "wire.md",
        request(start=b"GET /x HTTP/1.1", host=b"") + request(b"Content-Length: 5", body=b"hello"),
    ),
    refused(
        "a long target", "Http11Probe", request(start=b"GET /" + b"y" * 20_000 + b" HTTP/1.1"), status=431
    ),
)
"""All of them."""
