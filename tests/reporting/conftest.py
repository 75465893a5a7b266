"""The small folder of studies that the tests of `otdrg evaluate` score."""

from tests.evaluation.conftest import cache, data  # noqa: F401
