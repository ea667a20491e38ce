"""Health check of the image: status 0 where the gateway on port 8000 of this container says that it is ready."""

import http.client
import sys

# Not urllib, which would ask a proxy that the environment names.
connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=4)
try:
    connection.request("GET", "/ready")
    answer = connection.getresponse()
    sys.stdout.write(answer.read().decode("utf-8", "replace"))
except OSError as error:
    sys.exit(f"no answer: {error}")
sys.exit(answer.status != http.HTTPStatus.OK)
