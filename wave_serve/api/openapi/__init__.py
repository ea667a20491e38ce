"""The OpenAPI document: endpoints, bodies, answers and errors. `docs` serves it; tests hold answers against it."""
