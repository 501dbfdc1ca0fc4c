"""listmonk as a provider. Start reading at `provider.py`; quirks are in docs/providers/listmonk.md."""

from providers.listmonk.provider import ListmonkProvider, ListmonkSettings

__all__ = ["ListmonkProvider", "ListmonkSettings"]
