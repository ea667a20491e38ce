"""The page at `/`, for a first look at a model: one static file, and the route that serves it."""
