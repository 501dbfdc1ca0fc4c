"""ActiveCampaign, API v3. Quirks: docs/providers/activecampaign.md."""

from providers.activecampaign.provider import ActiveCampaignProvider, ActiveCampaignSettings

__all__ = ["ActiveCampaignProvider", "ActiveCampaignSettings"]
