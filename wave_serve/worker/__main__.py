"""The worker process, run as `python -m wave_serve.worker`.

Standard input holds requests and standard output one answer for each: 8 bytes of length, then a pickle. A request is
(operation, arguments); an answer is (True, result) or (False, message). It ends with its input.
"""

import os
import pickle
import signal
import sys
from typing import BinaryIO

from wave_serve.worker.operations import LENGTH, OPERATIONS


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answers requests until there are no more."""
    while head := source.read(LENGTH.size):
        operation, arguments = pickle.loads(source.read(*LENGTH.unpack(head)))  # noqa: S301 - from the gateway itself
        try:
            answer = (True, OPERATIONS[operation](*arguments))
        except ValueError as error:
            answer = (False, str(error))
        data = pickle.dumps(answer, protocol=5)
        sink.write(LENGTH.pack(len(data)))
        sink.write(data)
        sink.flush()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the gateway, which drains and then ends this process's input
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that nothing that prints can break an answer
    serve(sys.stdin.buffer, answers)
