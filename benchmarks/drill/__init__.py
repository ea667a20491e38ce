"""Fault drills: two gateways, three engines and a Redis on loopback, of which parts are killed, paused and moved."""
