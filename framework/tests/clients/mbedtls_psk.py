"""A client with Mbed TLS and a pre-shared key: sends a line, and prints the answer or why it was refused.

Arguments: tls or dtls, host, port, the identity with Python's escapes, the key in hexadecimal,
and the cipher suite in the library's spelling if only one is offered.
"""

import socket
import sys
from contextlib import suppress

from mbedtls import exceptions, tls


def block(call, *arguments):
    while True:
        with suppress(tls.WantReadError, tls.WantWriteError):
            return call(*arguments)


scheme, host, port, identity, key, *suites = sys.argv[1:]
key = (identity.encode().decode("unicode_escape"), bytes.fromhex(key))
if scheme == "dtls":
    configuration = tls.DTLSConfiguration(validate_certificates=False, pre_shared_key=key, ciphers=suites or None)
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
else:
    configuration = tls.TLSConfiguration(validate_certificates=False, pre_shared_key=key, ciphers=suites or None)
    plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
plain.settimeout(20)
client = tls.ClientContext(configuration).wrap_socket(plain, server_hostname=None)
client.connect((host, int(port)))
try:
    block(client.do_handshake)
    block(client.send, b"hello from mbedtls\n")
    print(block(client.recv, 2048).decode(), end="")
except (exceptions.TLSError, OSError) as error:
    print(f"refused: {error}")
