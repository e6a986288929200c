"""The bundled model's weights and their card."""
