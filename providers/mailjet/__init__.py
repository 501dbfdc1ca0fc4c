"""Mailjet. Start reading at `provider.py`; quirks: docs/providers/mailjet.md."""

from providers.mailjet.provider import MailjetProvider, MailjetSettings

__all__ = ["MailjetProvider", "MailjetSettings"]
