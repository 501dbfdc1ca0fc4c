"""GNU Mailman 3: the provider, and what it knows of who is on a list."""

from providers.mailman3.provider import Mailman3Provider, Mailman3Settings

__all__ = ["Mailman3Provider", "Mailman3Settings"]
