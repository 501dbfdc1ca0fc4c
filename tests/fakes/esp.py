"""Moved to providers.testing.fake; goes when all fakes import it from there."""

from providers.testing.fake import Call, FakeEsp, FakeHarness, Handler, Hold, run_forever, running

__all__ = ["Call", "FakeEsp", "FakeHarness", "Handler", "Hold", "run_forever", "running"]
