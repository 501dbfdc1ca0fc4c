"""ActiveCampaign. Start reading at `provider.py`; quirks are in docs/providers/activecampaign.md."""

from providers.activecampaign.provider import ActiveCampaignProvider, ActiveCampaignSettings

__all__ = ["ActiveCampaignProvider", "ActiveCampaignSettings"]
