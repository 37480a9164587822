"""A DTLS client with Mbed TLS that fragments its ClientHello: sends a line and prints the answer.

Arguments: host, port, key.

With fragments of 512 bytes and a long server name the hello takes two records, which Mbed TLS puts into one datagram.
"""

import socket
import sys
from contextlib import suppress

from mbedtls import tls


def block(call, *arguments):
    while True:
        with suppress(tls.WantReadError, tls.WantWriteError):
            return call(*arguments)


host, port, key = sys.argv[1:]
configuration = tls.DTLSConfiguration(
    validate_certificates=False,
    pre_shared_key=("alice", bytes.fromhex(key)),
    max_fragmentation_length=tls.MaxFragmentLength(1),
)
plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
plain.settimeout(20)
name = ".".join(["a" * 60] * 4)
client = tls.ClientContext(configuration).wrap_socket(plain, server_hostname=name)
client.connect((host, int(port)))
block(client.do_handshake)
block(client.send, b"hello from mbedtls\n")
print(block(client.recv, 2048).decode(), end="")
