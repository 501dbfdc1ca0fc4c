"""The sandbox as a provider. Start reading at `provider.py`; quirks are in docs/providers/sandbox.md."""

from providers.sandbox.provider import SandboxProvider, SandboxSettings

__all__ = ["SandboxProvider", "SandboxSettings"]
