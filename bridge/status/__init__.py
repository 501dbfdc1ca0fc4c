"""The admin port: a status page for people, `/readyz` and `/metrics` for machines."""
