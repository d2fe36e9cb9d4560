"""The bundled policies, each laid out as a model repo of the Hub, and how they were made."""
