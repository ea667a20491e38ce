"""Bounds on what a client may send before anyone has looked at who it is: the head of a request."""

from wave_serve.errors import ApiError, Code


class HeadBounds:
    """Counts the head of one request after another, and the trailers behind a chunked body, while they arrive.

    The connection tells it what the parser has found and how much was read. It raises ApiError 414 or 431 as soon as
    more than `max_bytes` bytes or `max_headers` headers have come, whether or not they end; it keeps none of them.
    """

    def __init__(self, max_bytes: int, max_headers: int) -> None:
        self._max_bytes = max_bytes
        self._max_headers = max_headers
        self.begin()

    def begin(self) -> None:
        """The first byte of a request."""
        self._url = 0
        self._found = 0  # bytes of the parts that are complete
        self._headers = 0
        self.body()

    def url(self, part: bytes) -> None:
        """A part of the request's target."""
        self._url += len(part)
        self._add(len(part))

    def header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, that has come whole."""
        self._headers += 1
        if self._headers > self._max_headers:
            message = f"The request has more than {self._max_headers} headers."
            raise ApiError(431, message, code=Code.REQUEST_HEAD_TOO_LARGE)
        self._add(len(name) + len(value) + len(": \r\n"))

    def body(self) -> None:
        """A part of the body, which has bounds of its own; what was read up to here is no head."""
        self._unfinished = 0
        self._begun_in_this_read = True

    def read(self, size: int) -> None:
        """The next `size` bytes have been parsed, and the request is not complete.

        The parser holds a header until the whole of it has come, so they count though it may not have told of them.
        Where the request began or a part of its body ended among them it is not known how many belong to the head, and
        none counts: keep `size` well below the bound.
        """
        if not self._begun_in_this_read:
            self._unfinished += size
        self._begun_in_this_read = False
        if self._unfinished > self._max_bytes:
            raise self._too_many_bytes()

    def _add(self, size: int) -> None:
        self._found += size
        if self._found > self._max_bytes:
            raise self._too_many_bytes()

    def _too_many_bytes(self) -> ApiError:
        if self._url > self._max_bytes // 2:
            message = f"The request's URL is too long: URL and headers may have {self._max_bytes} bytes."
            return ApiError(414, message, code=Code.REQUEST_URL_TOO_LONG)
        message = f"The request's head is too large: URL and headers may have {self._max_bytes} bytes."
        return ApiError(431, message, code=Code.REQUEST_HEAD_TOO_LARGE)
