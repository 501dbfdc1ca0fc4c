"""UniSender and its international twin Selzy. Start reading at `provider.py`; quirks: docs/providers/unisender.md."""

from providers.unisender.api import UniSenderSettings
from providers.unisender.provider import UniSenderProvider

__all__ = ["UniSenderProvider", "UniSenderSettings"]
