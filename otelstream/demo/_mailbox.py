# SPDX-License-Identifier: Apache-2.0
"""A mail server on the loopback that delivers into a list: what a tool really did is written down by somebody else."""

from __future__ import annotations

import email
import smtplib
import socketserver
import threading
import time
from collections import Counter
from email.message import EmailMessage


class Mailbox:
    """Takes every mail after *seconds*, and logs it by its subject."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.log: Counter[str] = Counter()
        self._server = _Server(("127.0.0.1", 0), _Session)
        self._server.mailbox = self
        threading.Thread(target=self._server.serve_forever, name="mailbox", daemon=True).start()

    def send(self, to: str, subject: str, body: str) -> str:
        """Send a mail as any application does; return when the server has taken it."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "agent@harbour.test", to, subject
        message.set_content(body)
        host, port = self._server.server_address[:2]
        with smtplib.SMTP(str(host), int(port), local_hostname="localhost") as client:
            client.send_message(message)
        return "sent"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    mailbox: Mailbox


class _Session(socketserver.StreamRequestHandler):
    """One connection, in as much of SMTP as a client needs."""

    server: _Server

    def handle(self) -> None:
        self.wfile.write(b"220 mailbox\r\n")
        for line in self.rfile:
            command = line[:4].upper()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                self._take()
            self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n")
            if command == b"QUIT":
                return

    def _take(self) -> None:
        lines = []
        for line in self.rfile:
            if line == b".\r\n":
                break
            lines.append(line)
        time.sleep(self.server.mailbox.seconds)
        self.server.mailbox.log[str(email.message_from_bytes(b"".join(lines))["Subject"])] += 1
