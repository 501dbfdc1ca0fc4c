"""Klaviyo as a provider. Start reading at `provider.py`; quirks are in docs/providers/klaviyo.md."""

from providers.klaviyo.api import KlaviyoSettings
from providers.klaviyo.provider import KlaviyoProvider

__all__ = ["KlaviyoProvider", "KlaviyoSettings"]
