"""A DTLS client with Mbed TLS: sends a line and prints the answer. Arguments: host, port."""

import socket
import sys
from contextlib import suppress

from mbedtls import tls


def block(call, *arguments):
    while True:
        with suppress(tls.WantReadError, tls.WantWriteError):
            return call(*arguments)


configuration = tls.DTLSConfiguration(validate_certificates=False)
plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
plain.settimeout(20)
client = tls.ClientContext(configuration).wrap_socket(plain, server_hostname=None)
client.connect((sys.argv[1], int(sys.argv[2])))
block(client.do_handshake)
block(client.send, b"hello from mbedtls\n")
print(block(client.recv, 2048).decode(), end="")
