"""SendGrid as a provider. Start reading at `provider.py`; quirks are in docs/providers/sendgrid.md."""

from providers.sendgrid.provider import SendgridProvider, SendgridSettings

__all__ = ["SendgridProvider", "SendgridSettings"]
