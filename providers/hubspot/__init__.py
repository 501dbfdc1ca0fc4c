"""HubSpot. Start reading at `provider.py`; quirks are in docs/providers/hubspot.md."""

from providers.hubspot.provider import HubSpotProvider, HubSpotSettings

__all__ = ["HubSpotProvider", "HubSpotSettings"]
