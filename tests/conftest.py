"""Options of the whole suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-matrix",
        action="store_true",
        help="engine parity over every wavelet, head layout, head size and scaling (minutes more)",
    )
