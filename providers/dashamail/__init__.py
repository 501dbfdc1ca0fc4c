"""DashaMail as a provider. Start reading at `provider.py`; quirks are in docs/providers/dashamail.md."""

from providers.dashamail.api import DashaMailSettings
from providers.dashamail.provider import DashaMailProvider

__all__ = ["DashaMailProvider", "DashaMailSettings"]
