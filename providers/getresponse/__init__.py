"""GetResponse. Start reading at `provider.py`; quirks: docs/providers/getresponse.md."""

from providers.getresponse.api import GetResponseSettings
from providers.getresponse.provider import GetResponseProvider

__all__ = ["GetResponseProvider", "GetResponseSettings"]
