"""Arithmetic on MIMO-OFDM channels: beams and precoders, and prediction without a foundation model."""
