"""Mautic as a provider. Start reading at `provider.py`; quirks are in docs/providers/mautic.md."""

from providers.mautic.provider import MauticProvider, MauticSettings

__all__ = ["MauticProvider", "MauticSettings"]
