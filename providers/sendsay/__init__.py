"""Sendsay as a provider. Start reading at `provider.py`; quirks are in docs/providers/sendsay.md."""

from providers.sendsay.api import SendsaySettings
from providers.sendsay.provider import SendsayProvider

__all__ = ["SendsayProvider", "SendsaySettings"]
