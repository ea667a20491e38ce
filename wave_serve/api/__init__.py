"""The HTTP surface: the application and its endpoints, one file for each that does more than name its parts.

`run` serves the application. It imports everything below: gateway, relay, context, routing, request, exchange.
"""
