"""What layers cost on a target's own clock: tables of measured layers, and networks predicted from them."""
