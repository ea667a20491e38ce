"""Which upstream keeps which response, for requests that go on from one or ask for it again."""

from collections import OrderedDict
from dataclasses import dataclass

MOST = 2**14  # responses remembered; an older one is as good as lost


@dataclass(frozen=True)
class KeptResponse:
    """A response in the store of an upstream.

    Attributes:
        base_url: of the upstream, which alone knows whether it still has it.
        key: name of the API key that asked for it.
        tokens: of its prompt and answer; None while it is not complete.
    """

    base_url: str
    key: str | None
    tokens: int | None


class KeptResponses:
    """A bounded memory of the responses that passed, by their ids."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()

    def note(self, response_id: str, base_url: str, key: str | None, tokens: int | None) -> None:
        """Remembers a response; what is told last of it counts. One that another key has stays that key's."""
        held = self._kept.get(response_id)
        if held is not None and held.key != key:
            return
        self._kept[response_id] = KeptResponse(base_url, key, tokens)
        self._kept.move_to_end(response_id)
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def find(self, response_id: str, key: str | None) -> KeptResponse | None:
        """The response, where it is that key's."""
        found = self._kept.get(response_id)
        return found if found is not None and found.key == key else None
