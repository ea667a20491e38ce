"""The four APIs in which a generation may be asked for, one file each, and what differs between them: the `Dialect`.

The endpoints, the fitting, the counter and the relay ask a dialect; none of them asks which one it is.
"""

from wave_serve.request.dialects.chat import CHAT
from wave_serve.request.dialects.completions import COMPLETIONS
from wave_serve.request.dialects.conversation import Conversation, Entry, Role
from wave_serve.request.dialects.dialect import Dialect
from wave_serve.request.dialects.find import DIALECTS, dialect_at, dialect_of
from wave_serve.request.dialects.messages import MESSAGES
from wave_serve.request.dialects.responses import RESPONSES

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "DIALECTS",
    "MESSAGES",
    "RESPONSES",
    "Conversation",
    "Dialect",
    "Entry",
    "Role",
    "dialect_at",
    "dialect_of",
]
