"""Mailchimp as a provider. Start reading at `provider.py`; quirks are in docs/providers/mailchimp.md."""

from providers.mailchimp.provider import MailchimpProvider, MailchimpSettings

__all__ = ["MailchimpProvider", "MailchimpSettings"]
