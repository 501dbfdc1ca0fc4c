"""Steps of the store's schema, run by Alembic when the bridge starts."""
