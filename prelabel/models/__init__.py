"""The networks: one role per stage, one file per network, weights loaded only on demand."""
