"""The address that the gateway listens on, as people write it and as a URL needs it."""

import ipaddress


def plain_host(host: str) -> str:
    """The host without the brackets that an IPv6 address has in a URL: `[::1]` is `::1`."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def local_url(host: str, port: int) -> str:
    """The URL under which a server that listens on `host` can be reached from this machine.

    An address that stands for all of the machine's (`0.0.0.0`, `::`) gives the loopback address of its family.
    """
    host = plain_host(host)
    address = _ip_address(host)
    if address is None:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    if address.version == 6:
        host = f"[{host.replace('%', '%25')}]"  # a zone such as %eth0, as RFC 6874 writes it
    return f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    address = _ip_address(plain_host(host))
    return plain_host(host) == "localhost" if address is None else address.is_loopback


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
