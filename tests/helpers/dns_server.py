"""A nameserver on loopback whose records a test changes at any time."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


@dataclass
class DnsServer:
    """Answers over UDP.

    Attributes:
        records: texts of the records by name and type, such as {("engines.test.", "A"): ["127.0.0.2"]}.
        rcode: what it answers instead, such as SERVFAIL; None where it answers from its records.
        silent: whether it answers nothing at all.
        asked: how many questions came.
    """

    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    rcode: dns.rcode.Rcode | None = None
    silent: bool = False
    asked: int = 0

    def __post_init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.socket.getsockname())

    def serve(self) -> None:
        """Answers until the socket is closed."""
        while True:
            wire, peer = self.socket.recvfrom(2**16)
            if not wire:
                return
            self.asked += 1
            if not self.silent:
                self.socket.sendto(self._answer(dns.message.from_wire(wire)).to_wire(), peer)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        if self.rcode is not None:
            answer.set_rcode(self.rcode)
            return answer
        name = question.name.to_text()
        texts = self.records.get((name, dns.rdatatype.to_text(question.rdtype)), [])
        if texts:
            answer.answer.append(dns.rrset.from_text(name, 0, "IN", question.rdtype, *texts))
        elif not any(other == name for other, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer


@contextmanager
def dns_server(records: dict[tuple[str, str], list[str]]) -> Iterator[DnsServer]:
    """A nameserver with these records, until the block ends."""
    server = DnsServer(dict(records))
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", server.socket.getsockname())
        thread.join()
        server.socket.close()
